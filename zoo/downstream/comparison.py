"""Pictures that compare recorded runs: metrics with error bars, and metrics against time."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from zoo.results import table as results
from zoo.results.pivot import short_names
from zoo.results.tested import NO_SHIFT

# Okabe and Ito's colours, which people with any colour vision tell apart
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_MARKS = "osD^vPX"  # for who prints in grey


def draw_bars(rows: Sequence[Mapping[str, str]]) -> Figure | None:
    """Draw a bar for each experiment and metric: mean and standard deviation over seeds, each seed a dot.

    Papers' figures, from zoo/results/published.csv, are black strokes, where setting, data and metric are theirs.

    Args:
        rows: Of `zoo.results.table.read`.

    Returns:
        The figure; None where no run has a metric.
    """
    metrics = [name for name in results.HEADLINES if any(row.get(name) for row in rows)]
    if not metrics:
        return None
    names = _names(rows)
    groups: dict[str, list[Mapping[str, str]]] = {}
    for name, row in zip(names, rows, strict=True):
        groups.setdefault(name, []).append(row)
    size = (1.0 + 0.075 * max(map(len, "\n".join(groups).split("\n"))) + 2.4 * len(metrics), 1.3 + 0.5 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    shows_papers = False
    for ax, metric in zip(axes, metrics, strict=True):
        for i, own in enumerate(groups.values()):
            values = [float(row[metric]) for row in own if row.get(metric)]
            if values:
                spread = stdev(values) if len(values) > 1 else None
                error = {"ecolor": "0.2", "capsize": 3}
                ax.barh(i, mean(values), 0.6, xerr=spread, color=_COLORS[i % len(_COLORS)], error_kw=error)
                text = f"{mean(values):.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
                # beside all bars, deviations and dots, none of which lies under it
                ax.text(1.04, i, text, va="center", fontsize=8)
                ax.scatter(values, [i] * len(values), s=9, color="0.15", zorder=3, linewidths=0)
            paper = results.published(own[0]["experiment"], own[0]["changes"], own[0]["data"], metric)
            if paper is not None:
                shows_papers = True
                ax.plot([float(paper["mean"])] * 2, [i - 0.38, i + 0.38], color="black", linewidth=2.5, zorder=4)
        ax.set_title(results.TITLES.get(metric, metric), fontsize=10, loc="left")
        ax.set_xlim(0, 1.75)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"], fontsize=8)
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines["bottom"].set_bounds(0, 1)
    axes[0].set_yticks(range(len(groups)), list(groups), fontsize=8)
    axes[0].invert_yaxis()
    dot = Line2D([], [], color="0.15", marker="o", markersize=3, linestyle="", label="one seed")
    stroke = Line2D([], [], color="black", linewidth=2.5, label="the paper's figure")
    figure.legend(
        handles=[dot, *([stroke] * shows_papers)], loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    return figure


def draw_progress(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw validation metrics of training, a colour for each experiment: above by steps, below by time.

    Lines are means over seeds, bands a standard deviation to either side; thin lines are single runs. Where seeds were
    not validated at the same steps, there are the single runs alone. By time, a mean is drawn at the seeds' mean time.

    Args:
        records: Contents of `run.json`, with `history`.

    Returns:
        The figure; None where no run has validated.
    """
    names = _names(records)
    histories = [(name, record.get("history") or []) for name, record in zip(names, records, strict=True)]
    metrics = [
        name for name in results.HEADLINES if any(point.get(name) is not None for _, own in histories for point in own)
    ]
    if not metrics:
        return None
    labels = list(dict.fromkeys(label for label, own in histories if own))
    longest = max(point["wall_s"] for _, own in histories for point in own)
    unit, seconds = ("minutes", 60) if longest < 3 * 3600 else ("hours", 3600)
    figure = Figure(figsize=(0.8 + 3.2 * len(metrics), 5.2 + 0.2 * len(labels)), layout="constrained")
    rows = figure.subplots(2, len(metrics), squeeze=False, sharey="row")
    for axes, key, scale, said in ((rows[0], "step", 1, "step"), (rows[1], "wall_s", seconds, f"{unit} of training")):
        for ax, metric in zip(axes, metrics, strict=True):
            for i, label in enumerate(labels):
                curves = [
                    [point for point in own if point.get(metric) is not None]
                    for name, own in histories
                    if name == label
                ]
                _draw_curves(ax, [curve for curve in curves if curve], key, scale, metric, _COLORS[i % len(_COLORS)])
            ax.set_title(results.TITLES.get(metric, metric), fontsize=10, loc="left")
            ax.set_xlabel(said, fontsize=9)
            ax.set_ylim(-0.02, 1.02)
            ax.set_xlim(left=0)
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=_COLORS[i % len(_COLORS)], label=label) for i, label in enumerate(labels)]
    figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize=8)
    return figure


def _draw_curves(
    ax: Axes, curves: Sequence[Sequence[Mapping[str, float]]], key: str, scale: float, metric: str, color: str
) -> None:
    """Draw one experiment's runs, and their mean and deviation, if they were validated at the same steps."""
    if not curves:
        return
    steps = [[point["step"] for point in curve] for curve in curves]
    alone = len(curves) == 1 or any(own != steps[0] for own in steps)
    for curve in curves:
        x, y = [point[key] / scale for point in curve], [point[metric] for point in curve]
        ax.plot(
            x,
            y,
            color=color,
            linewidth=1.6 if alone else 0.6,
            alpha=1 if alone else 0.4,
            marker="o" if alone else "",
            markersize=3,
        )
    if not alone:
        x = [mean(point[key] for point in points) / scale for points in zip(*curves, strict=True)]
        middle = [mean(point[metric] for point in points) for points in zip(*curves, strict=True)]
        spread = [stdev(point[metric] for point in points) for points in zip(*curves, strict=True)]
        low = [m - s for m, s in zip(middle, spread, strict=True)]
        high = [m + s for m, s in zip(middle, spread, strict=True)]
        ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        ax.plot(x, middle, color=color, marker="o", markersize=3, linewidth=1.8)


def _names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each run its experiment, without what all have in common, cut short; and its data, if they differ."""
    keys = [(run["experiment"], run["changes"]) for run in runs]
    different = list(dict.fromkeys(keys))
    short = short_names([" ".join(filter(None, key)) for key in different])
    own = {key: name if len(name) <= 60 else f"{name[:57]}..." for key, name in zip(different, short, strict=True)}
    if len(set(own.values())) < len(own):  # cut too short
        own = dict(zip(different, short, strict=True))
    several = len({run["data"] for run in runs}) > 1
    return [own[key] + (f"\n{run['data']}" if several else "") for key, run in zip(keys, runs, strict=True)]


def draw_shifts(values: Mapping[str, Mapping[str, float]], title: str = "AP (IoU 0.5) under shifts") -> Figure:
    """Draw a line for each checkpoint, and on it a mark for each shift.

    Args:
        values: Of each checkpoint, by shift, in [0, 1]; that of no shift is a stroke.
        title: What they are.
    """
    shifts = sorted({name for own in values.values() for name in own} - {NO_SHIFT})
    figure = Figure(figsize=(7.2, 1.5 + 0.3 * len(values)), layout="constrained", facecolor="white")
    ax = figure.subplots()
    for i, own in enumerate(values.values()):
        ax.plot([min(own.values()), max(own.values())], [i, i], color="0.8", linewidth=1, zorder=1)
        if NO_SHIFT in own:
            ax.plot([own[NO_SHIFT]] * 2, [i - 0.36, i + 0.36], color="black", linewidth=2, zorder=2)
        for k, name in enumerate(shifts):
            if name in own:
                ax.plot(own[name], i, marker=_MARKS[k % len(_MARKS)], color=_COLORS[k % len(_COLORS)], markersize=6)
    ax.set_yticks(range(len(values)), list(values), fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(-0.02, 1.02)
    ax.set_title(title, fontsize=10, loc="left")
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    marks = [
        Line2D([], [], color=_COLORS[k % len(_COLORS)], marker=_MARKS[k % len(_MARKS)], linestyle="", label=name)
        for k, name in enumerate(shifts)
    ]
    stroke = Line2D([], [], color="black", linewidth=2, label="as in training")
    figure.legend(handles=[stroke, *marks], loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
