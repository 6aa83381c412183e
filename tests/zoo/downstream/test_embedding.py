"""Pictures of appearance vectors: what is where, in which colour."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from sklearn.manifold import trustworthiness

from zoo.downstream import embedding
from zoo.downstream.clustering import Clusters, Detections
from zoo.downstream.embedding import draw_curves, draw_embedding, embed, read_curves, to_png


def planted(count: int = 60, num_classes: int = 3) -> tuple[Detections, torch.Tensor]:
    """Vectors around a corner for each class; cluster 4 - c has class c, and each tenth detection is no object."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(count) % num_classes
    what = 10 * torch.eye(num_classes)[classes] + torch.randn(count, num_classes, generator=generator)
    labels = classes.where(torch.arange(count) % 10 != 9, -1)
    return Detections(what=what, labels=labels, categories=None, ap50=1.0, num_scenes=count), 4 - classes


@pytest.fixture
def no_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two dimensions, so that places are known."""
    monkeypatch.setattr(embedding, "embed", lambda what, *_: what[:, :2].numpy())


def dots(figure: Figure, panel: int = 0) -> list[tuple[np.ndarray, tuple[float, ...], float]]:
    """(places, colour, size) of each scatter of a panel."""
    panels = [ax for ax in figure.axes if ax.get_title()]
    return [
        (np.asarray(c.get_offsets()), tuple(c.get_facecolor()[0]), c.get_sizes()[0])
        for c in panels[panel].collections
        if len(c.get_offsets())
    ]


def colours(num_classes: int) -> list[tuple[float, ...]]:
    color_of = embedding._colors(num_classes)
    return [to_rgba(color_of(label)) for label in range(num_classes)]


def test_neighbours_stay_neighbours() -> None:
    found, _ = planted(150)
    places = embed(found.what, seed=1)
    assert places.shape == (150, 2)
    assert trustworthiness(found.what.numpy(), places, n_neighbors=10) > 0.85
    np.testing.assert_array_equal(places, embed(found.what, seed=1))
    assert embed(torch.randn(5, 1)).shape == (5, 2)  # few points, one dimension
    with pytest.raises(ValueError, match="3 points are too few"):
        embed(torch.randn(3, 4))


@pytest.mark.usefixtures("no_embedding")
def test_points_have_the_colour_of_their_class_and_centres_of_the_matching() -> None:
    found, ids = planted()
    centers = torch.full((6, 3), torch.nan)  # clusters 0, 1 and 5 are empty
    for number in (2, 3, 4):
        centers[number] = found.what[ids == number].mean(0)
    twice = torch.where((ids == 2) & (torch.arange(60) < 18), 1, ids)  # part of class 2 has a cluster of its own
    more = centers.clone()
    more[1] = found.what[twice == 1].mean(0)
    own, mixture = Clusters(ids=ids, centers=centers), Clusters(ids=twice, centers=more)
    figure = draw_embedding(found, {"categories": own, "gmm": mixture})
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "the model's own categories: accuracy 1.000, NMI 1.000"
    assert titles[1].startswith("Gaussian mixture: accuracy 0.")
    expected = colours(3)
    for panel, division in enumerate((own, mixture)):
        drawn = dots(figure, panel)
        points = [d for d in drawn if d[2] < 50]
        assert [color for _, color, _ in points] == expected
        for label, (places, _, _) in enumerate(points):  # those of no class are not drawn
            np.testing.assert_allclose(np.sort(places, 0), np.sort(found.what[found.labels == label, :2].numpy(), 0))
        used = [number for number in range(6) if division.centers[number].isfinite().all()]
        for number, (place, color, _) in zip(used, [d for d in drawn if d[2] > 50], strict=True):
            np.testing.assert_allclose(place[0], division.centers[number, :2])
            assert color == (to_rgba("black") if number == 1 else expected[4 - number])


@pytest.mark.usefixtures("no_embedding")
def test_hulls_hold_the_nearest_members() -> None:
    found, ids = planted(300)
    known = found.labels >= 0
    found.what[~known] = 99.0  # what is no object is in no hull
    clusters = {"gmm": Clusters.around_averages(ids[known], found.what[known], 5)}
    clusters["gmm"] = Clusters(ids=ids, centers=clusters["gmm"].centers)
    areas = []
    for nearest in (0.2, 1.0):
        hulls = [patch.get_path() for patch in draw_embedding(found, clusters, nearest=nearest).axes[0].patches]
        assert len(hulls) == 3
        for number, hull in zip((2, 3, 4), hulls, strict=True):
            members = found.what[known & (ids == number), :2].numpy()
            # matplotlib takes a margin to one side or the other, as corners turn
            inside = np.any([hull.contains_points(members, radius=radius) for radius in (1e-6, -1e-6)], axis=0)
            assert round(nearest * len(members)) <= inside.sum() <= (nearest + 0.5) * len(members)
            assert hull.vertices.max() < 50
        areas.append(sum(np.ptp(hull.vertices, axis=0).prod() for hull in hulls))
    assert areas[0] < 0.6 * areas[1]


def test_nothing_found_is_said() -> None:
    found, ids = planted()
    nothing = Detections(**{**vars(found), "what": found.what[:0], "labels": found.labels[:0]})
    with pytest.raises(ValueError, match="nothing was found"):
        draw_embedding(nothing, {"gmm": Clusters(ids=ids[:0], centers=torch.eye(5))})


@pytest.mark.usefixtures("no_embedding")
def test_without_labels_clusters_give_the_colours() -> None:
    found, ids = planted()
    found = Detections(**{**vars(found), "labels": torch.full((60,), -1)})
    figure = draw_embedding(found, {"gmm": Clusters.around_averages(ids, found.what, 5)}, num_points=40)
    points = [d for d in dots(figure) if d[2] < 50]
    assert sum(len(places) for places, _, _ in points) == 40
    assert [color for _, color, _ in points] == colours(5)[2:]
    assert figure.axes[0].get_title() == "Gaussian mixture"
    assert figure.axes[0].get_legend().get_title().get_text() == "cluster"


def test_pictures_are_pngs_and_repeatable() -> None:
    found, ids = planted(40)
    clusters = {"gmm": Clusters.around_averages(ids, found.what, 5)}
    state = torch.get_rng_state()
    pngs = [to_png(draw_embedding(found, clusters)) for _ in range(2)]
    assert pngs[0] == pngs[1]
    assert torch.equal(state, torch.get_rng_state())
    assert Image.open(io.BytesIO(pngs[0])).format == "PNG"


METRICS = """epoch,step,train/loss,val/ap50,val/nmi,test/ap50
0,9,3.5,,,
0,10,,0.25,0.5,
0,20,,0.75,,
0,20,,,,0.9
"""


def test_curves_are_read_from_a_runs_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    curves = read_curves(path)
    assert curves == {"ap50": [(10, 0.25), (20, 0.75)], "nmi": [(10, 0.5)]}
    assert read_curves(path, "test") == {"ap50": [(20, 0.9)]}
    figure = draw_curves(curves)
    lines = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in figure.axes[0].lines}
    assert lines == {"AP (IoU 0.5)": [[10, 0.25], [20, 0.75]], "NMI": [[10, 0.5]]}
    (tmp_path / "curves.png").write_bytes(to_png(figure))
    assert Image.open(tmp_path / "curves.png").width > 500


@pytest.mark.parametrize(("content", "message"), [("a,b\n1,2\n", "no column 'step'"), ("", "no column 'step'")])
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_curves(path)
    with pytest.raises(ValueError, match="no curve to draw"):
        draw_curves({})
