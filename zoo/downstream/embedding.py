"""Pictures of what a model has learned to tell apart: GMAIR's figure 2.

Figures are matplotlib's, made without pyplot and its state: `figure.savefig("embedding.pdf")` writes any format.
"""

import contextlib
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from metrics.clustering import NO_LABEL, match_clusters
from zoo.downstream.clustering import Clusters, Detections

Array = npt.NDArray[Any]
Curves = Mapping[str, Sequence[tuple[int, float]]]

TITLES = {"gmm": "Gaussian mixture", "categories": "the model's own categories"}
CURVES = {
    "ap50": "AP (IoU 0.5)",
    "hungarian_accuracy": "accuracy (one-to-one)",
    "cluster_purity": "ACC (purity)",
    "nmi": "NMI",
}
_NO_CLASS = "black"  # no class has it


def embed(what: Tensor, perplexity: float = 30.0, seed: int = 0) -> Array:
    """Embed vectors in the plane by t-SNE (van der Maaten and Hinton, JMLR 2008; scikit-learn's).

    Args:
        what: (D, A), at least 4.
        perplexity: Number of neighbours that count; lowered to (D - 1) / 3 where there are few vectors.
        seed: Of the embedding.

    Returns:
        (D, 2).

    Raises:
        ValueError: There are fewer than 4 vectors.
    """
    from sklearn.manifold import TSNE  # takes its time to import

    if len(what) < 4:
        raise ValueError(f"{len(what)} points are too few to embed: train the model for longer, or give it more scenes")
    init = "pca" if what.shape[1] > 1 else "random"
    tsne = TSNE(2, perplexity=min(perplexity, (len(what) - 1) / 3), init=init, random_state=seed)
    return tsne.fit_transform(what.numpy())


def draw_embedding(
    found: Detections,
    clusters: Mapping[str, Clusters],
    *,
    num_points: int = 3000,
    nearest: float = 0.5,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Figure:
    """Draw appearance vectors by t-SNE, coloured by true class, with the centres of clusters (GMAIR's figure 2 b to d).

    There is one panel for each division into clusters, all with the same points: the correct detections, or, in data
    without labels, all of them, coloured by cluster. Centres are embedded with the points. A centre, and the hull of
    its cluster's members that are nearest to it, have the colour of the class that the cluster stands for under the
    best one-to-one matching; they are black if that is none.

    Args:
        found: The detections.
        clusters: Divisions of them, by name.
        num_points: Most points to draw, a random choice.
        nearest: Share of a cluster's members in its hull, those nearest to the centre in the picture, in (0, 1]. (The
            paper has the 200 nearest vectors, of an untold number.)
        perplexity: See `embed`.
        seed: Of the choice and the embedding.

    Raises:
        ValueError: There is no detection, or fewer than 4 points and centres.
    """
    if not len(found.labels):
        raise ValueError("nothing was found that could be drawn: train the model for longer, or give it more scenes")
    known = found.labels != NO_LABEL
    shown = (known if known.any() else torch.ones_like(known)).nonzero().squeeze(1)
    chosen = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))[:num_points]
    shown = shown[chosen.sort().values]
    used = {name: division.centers.isfinite().all(dim=1) for name, division in clusters.items()}
    centers = [clusters[name].centers[rows] for name, rows in used.items()]
    embedded = embed(torch.cat([found.what[shown], *centers]), perplexity, seed)
    points, *places = np.split(embedded, np.cumsum([len(shown), *map(len, centers[:-1])]))

    figure = Figure(figsize=(5.2 * len(clusters), 5.4), layout="constrained")
    axes = figure.subplots(1, len(clusters), squeeze=False)[0]
    for ax, place, (name, division) in zip(axes, places, clusters.items(), strict=True):
        ids, num_clusters = division.ids[shown], len(division.centers)
        classes = found.labels[shown] if known.any() else ids
        table = torch.zeros(num_clusters, 1 + int(classes.max()), dtype=torch.long)
        table.index_put_((ids, classes), torch.ones_like(ids), accumulate=True)
        color_of = _colors(table.shape[1])
        names = match_clusters(table)
        for label in range(table.shape[1]):
            ax.scatter(*points[classes == label].T, s=4, color=color_of(label), linewidths=0, label=str(label))
        for number, center in zip(used[name].nonzero().squeeze(1).tolist(), place, strict=True):
            color, ink = color_of(int(names[number])), "white" if names[number] == NO_LABEL else "black"
            members = points[ids == number]
            distance = np.linalg.norm(members - center, axis=1)
            _draw_hull(ax, members[distance.argsort()[: round(nearest * len(members))]], color)
            ax.scatter(*center, s=140, color=color, edgecolors="black", linewidths=1.2, zorder=3)
            ax.annotate(str(number), center, ha="center", va="center", color=ink, fontsize=7, zorder=4)
        ax.set_title(_title(name, division.scores(found.labels)), fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
    axes[-1].legend(
        title="class" if known.any() else "cluster", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3,
        frameon=False, fontsize=8,
    )  # fmt: skip
    return figure


def read_curves(path: Path, stage: str = "val") -> dict[str, list[tuple[int, float]]]:
    """Read how the figures of `CURVES` went during training.

    Args:
        path: A run's metrics.csv.
        stage: "val" or "test".

    Returns:
        (step, value) of every validation, by the metric's name; metrics that the run does not have are left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no metrics.csv.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if "step" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has no column 'step': give the metrics.csv of a run folder")
        for row in rows:
            for name in CURVES:
                if row.get(f"{stage}/{name}"):
                    curves.setdefault(name, []).append((int(row["step"]), float(row[f"{stage}/{name}"])))
    return {name: curves[name] for name in CURVES if name in curves}


def draw_curves(curves: Curves) -> Figure:
    """Draw average precision, accuracies and NMI over training (GMAIR's figure 2 a).

    Args:
        curves: (step, value) pairs, by the metric's name, as of `read_curves`.

    Raises:
        ValueError: There is no curve.
    """
    if not curves:
        raise ValueError(f"no curve to draw: there is none of {', '.join(CURVES)}; has the run validated?")
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, curve in curves.items():
        style = "--" if name == "cluster_purity" else "-"  # often the same as the other accuracy
        ax.plot(*zip(*curve, strict=True), style, marker="o", markersize=3, label=CURVES.get(name, name))
    ax.set_xlabel("step")
    ax.set_ylim(-0.02, 1.02)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=8)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _colors(count: int) -> Any:
    """Colours of classes by number; they come round again after the last."""
    palette = colormaps["tab10" if count <= 10 else "tab20"]
    return lambda label: _NO_CLASS if label == NO_LABEL else palette(label % palette.N)


def _draw_hull(ax: Axes, points: Array, color: Any) -> None:
    """Fill the convex hull of (P, 2) points; none, where they are on a line."""
    if len(points) < 3:
        return
    with contextlib.suppress(QhullError):
        ax.fill(*points[ConvexHull(points).vertices].T, color=color, alpha=0.15, linewidth=0, zorder=0)


def _title(name: str, scores: Mapping[str, float]) -> str:
    figures = [f"{short} {scores[key]:.3f}" for key, short in (("hungarian_accuracy", "accuracy"), ("nmi", "NMI"))]
    title = TITLES.get(name, name)
    return title if np.isnan(scores["nmi"]) else f"{title}: {', '.join(figures)}"
