"""Pictures that compare recorded runs: metrics with error bars, and metrics against time."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from zoo.results import table as results


def draw_bars(rows: Sequence[Mapping[str, str]]) -> Figure | None:
    """Draw a bar for each experiment and metric: mean and standard deviation over seeds, each seed a dot.

    Papers' figures, from zoo/results/published.csv, are black strokes, where setting, data and metric are theirs.

    Args:
        rows: Of `zoo.results.table.read`.

    Returns:
        The figure; None where no run has a metric.
    """
    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault(_label(row), []).append(row)
    metrics = [name for name in results.HEADLINES if any(row.get(name) for row in rows)]
    if not metrics:
        return None
    figure = Figure(figsize=(2.2 + 2.6 * len(metrics), 1.3 + 0.45 * len(groups)), layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    shows_papers = False
    for ax, metric in zip(axes, metrics, strict=True):
        for i, own in enumerate(groups.values()):
            values = [float(row[metric]) for row in own if row.get(metric)]
            if values:
                spread = stdev(values) if len(values) > 1 else None
                error = {"ecolor": "0.2", "capsize": 3}
                ax.barh(i, mean(values), 0.6, xerr=spread, color=f"C{i % 10}", alpha=0.75, error_kw=error)
                text = f"{mean(values):.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
                ax.text(0.02, i, text, va="center", fontsize=7, zorder=5)
                ax.scatter(values, [i] * len(values), s=9, color="0.15", zorder=3, linewidths=0)
            paper = results.published(own[0]["experiment"], own[0]["changes"], own[0]["data"], metric)
            if paper is not None:
                shows_papers = True
                ax.plot([float(paper["mean"])] * 2, [i - 0.38, i + 0.38], color="black", linewidth=2.5, zorder=4)
        ax.set_title(results.TITLES.get(metric, metric), fontsize=10)
        ax.set_xlim(0, 1.02)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"], fontsize=8)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(groups)), list(groups), fontsize=8)
    axes[0].invert_yaxis()
    if shows_papers:
        handle = Line2D([], [], color="black", linewidth=2.5, label="paper")
        figure.legend(handles=[handle], loc="outside lower right", frameon=False, fontsize=8)
    return figure


def draw_progress(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw validation metrics against the time of training, a line for each run, a colour for each experiment.

    Args:
        records: Contents of `run.json`, with `history`.

    Returns:
        The figure; None where no run has validated.
    """
    histories = [(_label(record), record.get("history") or []) for record in records]
    metrics = [
        name for name in results.HEADLINES if any(point.get(name) is not None for _, own in histories for point in own)
    ]
    if not metrics:
        return None
    labels = list(dict.fromkeys(label for label, own in histories if own))
    longest = max(point["wall_s"] for _, own in histories for point in own)
    unit, seconds = ("minutes", 60) if longest < 3 * 3600 else ("hours", 3600)
    figure = Figure(figsize=(0.6 + 3.2 * len(metrics), 3.2 + 0.2 * len(labels)), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        for label, own in histories:
            points = [(point["wall_s"] / seconds, point[metric]) for point in own if point.get(metric) is not None]
            if points:
                color = f"C{labels.index(label) % 10}"
                ax.plot(*zip(*points, strict=True), color=color, marker="o", markersize=2.5, linewidth=1.2, alpha=0.8)
        ax.set_title(results.TITLES.get(metric, metric), fontsize=10)
        ax.set_xlabel(f"{unit} of training", fontsize=9)
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlim(left=0)
        ax.grid(alpha=0.3)
    handles = [Line2D([], [], color=f"C{i % 10}", label=label) for i, label in enumerate(labels)]
    figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize=8)
    return figure


def _label(run: Mapping[str, Any]) -> str:
    """An experiment on its data, in two lines; changes are cut short."""
    name, changes = run["experiment"], run["changes"]
    if changes:
        name += f" ({changes[:40]}{'...' * (len(changes) > 40)})"
    return f"{name}\n{run['data']}"
