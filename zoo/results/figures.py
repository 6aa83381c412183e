"""The papers' figures as recorded points (figures.csv), which `python -m zoo figure PAPER/NUMBER` draws.

A row is a point: `figure` (spair/3), `panel` (what y is, one of the figure's panels), `series` (the line it is on),
`setting` (paper, recipe, baseline, or published: a point of the paper's own), `x`, `y`, `seed` of training, `scenes`
that y is a mean over, `steps` of training, `data` that was tested on, and `source`: the command that yields the row, or
where a published point stands. A published point may stand only beside the same model, data and metric.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from zoo.results import table as recorded

POINTS = Path(__file__).with_name("figures.csv")
COLUMNS = ("figure", "panel", "series", "setting", "x", "y", "seed", "scenes", "steps", "data", "source")
SETTINGS = ("paper", "recipe", "baseline", "published")
_KEY = ("figure", "panel", "series", "setting", "data", "x", "seed")


@dataclass(frozen=True)
class About:
    """What a figure shows.

    Attributes:
        title: In a line.
        x: What x is.
        panels: What y is, panel by panel, from left to right; rows name them.
        x_scale: "log" for sizes of training sets.
    """

    title: str
    x: str
    panels: tuple[str, ...]
    x_scale: Literal["linear", "log"] = "linear"


# of "gmair/training": what a run's validations call its panels
VALIDATED = dict(zip(("ap50", "cluster_purity", "nmi"), ("AP (IoU 0.5)", "cluster purity (ACC)", "NMI"), strict=True))
_AP, _COUNT_ERROR, _COUNT_01 = "AP (IoU 0.1 to 0.9, 11 recalls)", "absolute count error", "0-1 count error"
FIGURES = {
    "spair/2": About("Scattered digits of 48x48 px", "digits in an image", (_AP,)),
    "spair/3": About(
        "Whole 84x84 images with more digits than in training", "digits in an image", (_AP, _COUNT_ERROR, _COUNT_01)
    ),
    "spair/4": About("Addition of five digits", "training examples", ("accuracy",), "log"),
    "gmair/training": About("GMAIR over training", "thousand steps", tuple(VALIDATED.values())),
    "spair/7": About("Lateral connections in crowded scenes", "digits in an image", (_AP, _COUNT_ERROR, _COUNT_01)),
}


def read(figure: str, path: Path = POINTS) -> list[dict[str, str]]:
    """Recorded points of a figure; none, if there are none."""
    return [row for row in recorded.read(path) if row["figure"] == figure]


def add(rows: Iterable[dict[str, object]], path: Path = POINTS) -> None:
    """Record points; one of the same figure, panel, series, setting, data, x and seed is replaced.

    Raises:
        ValueError: A row's figure, panel or setting is none that there is, a column is lacking or unknown, or x or y is
            no finite number. Nothing is written then.
    """
    known = {tuple(row[key] for key in _KEY): row for row in recorded.read(path)}
    for given in rows:
        row = {name: "" if value is None else str(value) for name, value in given.items()}
        _check(row)
        known[tuple(row[key] for key in _KEY)] = row
    recorded.write(sorted(known.values(), key=_order), COLUMNS, path)


def _check(row: dict[str, str]) -> None:
    if row.keys() != set(COLUMNS):
        lacking, unknown = sorted(set(COLUMNS) - row.keys()), sorted(row.keys() - set(COLUMNS))
        raise ValueError(f"a point has the columns {', '.join(COLUMNS)}: lacking {lacking}, unknown {unknown}")
    about = FIGURES.get(row["figure"])
    if about is None:
        raise ValueError(f"no figure {row['figure']!r}: there are {', '.join(FIGURES)}")
    for name, allowed in (("panel", about.panels), ("setting", SETTINGS)):
        if row[name] not in allowed:
            raise ValueError(f"{row['figure']}: {name} must be one of {list(allowed)}, got {row[name]!r}")
    for name in ("x", "y"):
        try:
            finite = isfinite(float(row[name]))
        except ValueError:
            finite = False
        if not finite:
            raise ValueError(f"{row['figure']}: {name} must be a finite number, got {row[name]!r}")


def _order(row: dict[str, str]) -> tuple[object, ...]:
    panels = FIGURES[row["figure"]].panels if row["figure"] in FIGURES else ()
    panel = panels.index(row["panel"]) if row["panel"] in panels else len(panels)
    return row["figure"], panel, row["setting"], row["series"], row["data"], float(row["x"]), row["seed"]
