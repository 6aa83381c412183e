"""Pictures of the papers' figures from recorded points: light, and readable in print and without colour."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zoo.results.figures import About

# Okabe and Ito's colours, which the colour-blind tell apart, and marks for who prints in grey
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = "osD^vPX"
_STYLES = {"paper": "-", "recipe": "-", "baseline": "--", "published": ":"}


def draw_curves(about: About, rows: Sequence[Mapping[str, str]]) -> Figure:
    """Draw a panel for each quantity, a line for each series: means over seeds, with their standard deviation.

    Lines of the zoo are drawn through; baselines are dashed; a paper's own points are hollow and dotted.

    Args:
        about: What the figure shows.
        rows: Its points, of `zoo.results.figures.read`.

    Raises:
        ValueError: There is no point.
    """
    if not rows:
        raise ValueError("no points to draw")
    panels = [panel for panel in about.panels if any(row["panel"] == panel for row in rows)]
    series = list(dict.fromkeys((row["series"], row["setting"]) for row in rows))
    height = 3.1 + 0.2 * len(series)
    figure = Figure(figsize=(max(4.6, 3.4 * len(panels)), height), layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        for i, (name, setting) in enumerate(series):
            own = [row for row in rows if (row["panel"], row["series"], row["setting"]) == (panel, name, setting)]
            _draw_line(ax, own, i, setting, _label(name, setting))
        ax.set_title(panel, fontsize=10)
        ax.set_xlabel(about.x, fontsize=9)
        ax.set_xscale(about.x_scale)
        if about.x_scale == "linear":  # numbers of objects
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(bottom=0)
        if all(float(row["y"]) <= 1 for row in rows if row["panel"] == panel):
            ax.set_ylim(top=1)
        ax.tick_params(labelsize=8)
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(about.title, fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1, frameon=False, fontsize=8)
    return figure


def _draw_line(ax: Axes, rows: Sequence[Mapping[str, str]], number: int, setting: str, label: str) -> None:
    points: dict[float, list[float]] = {}
    for row in rows:
        points.setdefault(float(row["x"]), []).append(float(row["y"]))
    x = sorted(points)
    spread = [stdev(points[at]) if len(points[at]) > 1 else 0 for at in x]
    color = _COLORS[number % len(_COLORS)]
    ax.errorbar(
        x,
        [mean(points[at]) for at in x],
        spread if any(spread) else None,
        color=color,
        linestyle=_STYLES[setting],
        marker=_MARKS[number % len(_MARKS)],
        markersize=4,
        markerfacecolor="white" if setting == "published" else color,
        linewidth=1.4,
        capsize=2,
        label=label,
    )


def _label(series: str, setting: str) -> str:
    """What a line is, and whose: a recipe's is not the paper's."""
    return series if setting == "baseline" else f"{series} ({setting})"
