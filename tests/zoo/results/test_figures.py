"""Points of figures: what may be recorded, and how it is drawn."""

import json
from pathlib import Path

import pytest
from PIL import Image

from zoo.commands import figure
from zoo.downstream import crowding
from zoo.downstream.curves import draw_curves
from zoo.models import SPAIR
from zoo.results import figures

PANEL = figures.FIGURES["spair/3"].panels[0]


def point(**changes) -> dict[str, object]:
    own = {"figure": "spair/3", "panel": PANEL, "series": "a", "setting": "recipe", "x": 1, "y": 0.5, "seed": 0}
    return {**own, "scenes": 500, "steps": 10, "data": "digits", "source": "a command", **changes}


def test_a_point_replaces_the_one_that_it_measures_again(tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    figures.add([point(x=10), point(x=2), point(x=2, seed=1, y=0.7)], file)
    figures.add([point(x=2, y=0.25), point(figure="spair/2", x=3)], file)
    rows = figures.read("spair/3", file)
    assert [(row["x"], row["seed"], row["y"]) for row in rows] == [
        ("2", "0", "0.25"),
        ("2", "1", "0.7"),
        ("10", "0", "0.5"),
    ]
    assert len(figures.read("spair/2", file)) == 1
    assert figures.read("spair/4", file) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"figure": "spair/99"}, "no figure 'spair/99'"),
        ({"panel": "speed"}, "panel must be one of"),
        ({"setting": "ours"}, "setting must be one of"),
        ({"y": "nan"}, "y must be a finite number"),
        ({"x": "many"}, "x must be a finite number"),
        ({"colour": "red"}, "unknown .'colour'"),
    ],
)
def test_what_is_no_point_is_refused_and_nothing_written(changes: dict, message: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    figures.add([point()], file)
    before = file.read_text()
    with pytest.raises(ValueError, match=message):
        figures.add([point(x=7), point(**changes)], file)
    assert file.read_text() == before


def test_lines_are_means_over_seeds_and_panels_those_with_points() -> None:
    rows = [
        {k: str(v) for k, v in point(x=x, y=y, seed=s).items()} for x, y, s in ((1, 0.2, 0), (1, 0.4, 1), (3, 0.6, 0))
    ]
    rows += [{k: str(v) for k, v in point(series="b", setting="published", y=0.9).items()}]
    drawn = draw_curves(figures.FIGURES["spair/3"], rows)
    (ax,) = drawn.axes
    assert ax.get_title() == PANEL
    ours, theirs = ax.containers
    assert ours.lines[0].get_xydata().round(6).tolist() == [[1, 0.3], [3, 0.6]]
    assert (ours.get_label(), theirs.get_label()) == ("a (recipe)", "b (published)")
    assert theirs.lines[0].get_markerfacecolor() == "white"
    assert ax.get_ylim() == (0, 1)


def test_every_recorded_figure_is_drawn(tmp_path: Path) -> None:
    recorded = {row["figure"] for row in figures.recorded.read(figures.POINTS)}
    assert recorded
    for name in recorded:
        figures.add(figures.read(name), tmp_path / "again.csv")  # all are such as may be recorded
        with Image.open(figure.draw(name, tmp_path / "out.png")) as picture:
            assert picture.width > 500
            assert picture.getpixel((2, 2))[:3] == (255, 255, 255)  # light


def test_the_command_line_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for args, message in (
        (["spair/7", "--rows", "none.csv"], "no point of spair/7 is recorded in none.csv; --run"),
        (["spair/4", "--run"], "come of training"),
        (["spair/7", "--run"], "name them by --ckpt_path"),
        (["gmair/training", "--run"], "name their folders by --ckpt_path"),
        (
            ["gmair/training", "--run", "--ckpt_path", "runs/none"],
            r"no runs/none/run.json: is this the folder of a run",
        ),
        (["spair/6"], "drawn of a checkpoint: name one by --ckpt_path"),
        (["spair/6", "--ckpt_path", "a", "b"], "name one by --ckpt_path"),
        (["spair/6", "--ckpt_path", "nobody"], "no checkpoint 'nobody'"),
        (["spair/5", "--ckpt_path", "spair-multimnist-recipe"], "of SetGameDataModule: .* on MultiMNISTDataModule"),
        (["spair/3", "--ckpt_path", "best"], "--ckpt_path is for --run"),
        (["spair/3", "--run", "--num_scenes", "0"], "--num_scenes 0 must be at least 1"),
        (["spair/3", "--run", "--ckpt_path", "nothing"], "nothing"),
    ):
        with pytest.raises(SystemExit, match=message):
            figure.main(args)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        figure.main(["spair/99"])


def test_validations_of_runs_are_points(tmp_path: Path) -> None:
    history = [{"step": 500, "ap50": 0.5, "nmi": None}, {"step": 1000, "ap50": 0.75, "cluster_purity": 0.6, "nmi": 0.4}]
    about = {"experiment": "gmair", "changes": "", "data": "digits", "seed": 3}
    (tmp_path / "run.json").write_text(json.dumps({**about, "history": history}))
    rows, out = tmp_path / "rows.csv", tmp_path / "out.png"
    figure.main(["gmair/training", "--run", "--ckpt_path", str(tmp_path), "--rows", str(rows), "--out", str(out)])
    found = {(row["panel"], row["x"]): row["y"] for row in figures.read("gmair/training", rows)}
    ap, purity, nmi = figures.FIGURES["gmair/training"].panels
    assert found == {(ap, "0.5"): "0.5", (ap, "1.0"): "0.75", (purity, "1.0"): "0.6", (nmi, "1.0"): "0.4"}
    assert {row["setting"] for row in figures.read("gmair/training", rows)} == {"paper"}
    assert out.is_file()
    (tmp_path / "run.json").write_text(json.dumps({**about, "history": [{"step": 1, "mse": 0.1}]}))
    with pytest.raises(SystemExit, match="no validation with ap50, cluster_purity, nmi"):
        figure.main(["gmair/training", "--run", "--ckpt_path", str(tmp_path), "--rows", str(rows)])


def test_connected_components_are_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(
        crowding, "points", lambda _, series, model, data, __: measured.append((series, model, data)) or []
    )
    list(figure.run("spair/3", ["ConnComp"], 5))
    ((series, model, data),) = measured
    assert (series, model, data["class"]) == ("ConnComp", None, "MultiMNISTDataModule")


def test_scenes_are_drawn_of_a_checkpoint_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = SPAIR(backbone_channels=8, encoder_hidden=[8], decoder_hidden=[8], what_dim=4)
    options = {"source": "synthetic", "num_train": 1, "num_val": 1, "num_test": 3, "data_dir": str(tmp_path)}
    model.data_record = {"class": "SpaceInvadersDataModule", "name": "frames", "init_args": options}
    model.save_pretrained("mine")
    figure.main(["spair/6", "--ckpt_path", "mine"])
    with Image.open("spair-6.png") as picture:
        assert picture.width > 3 * 160  # whole frames, side by side
        assert picture.height > 3 * 210
    with pytest.raises(SystemExit, match=r"--out cards.svg: pictures have no format .svg; .png will do"):
        figure.main(["spair/6", "--ckpt_path", "mine", "--out", "cards.svg"])
