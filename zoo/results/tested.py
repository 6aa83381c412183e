"""What trained checkpoints score on data that need not be their own, as recorded rows (tested.csv), and tables of them.

A row is a checkpoint on a data set, under a shift or none: `setting` (paper or recipe), `own` (yes: the kind of data
that it was trained on), `scenes` that were tested on, `steps` and `minutes` of training, `images_per_second` of
`forward` on the machine that measured, `probe` (accuracy of a linear probe for classes), metrics, and `source`, the
command that yields the row.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zoo.results import table as recorded

TESTED = Path(__file__).with_name("tested.csv")
KEY = ("checkpoint", "data", "shift")
METRICS = (*("ap50", "count_accuracy", "count_error", "ari_fg", "miou_fg"), *("hungarian_accuracy", "nmi", "mse"))
COLUMNS = (
    *KEY, "own", "setting", "scenes", "seed", "steps", "minutes", "images_per_second", "probe", *METRICS, "source"
)  # fmt: skip
_SHOWN = ("ap50", "count_accuracy", "ari_fg", "miou_fg", "hungarian_accuracy", "nmi", "probe")
_TITLES = {**recorded.TITLES, "probe": "probe: class", "nmi": "NMI"}
NO_SHIFT = "none"


def read(path: Path = TESTED) -> list[dict[str, str]]:
    """Recorded rows; none, if there are none."""
    return recorded.read(path)


def add(rows: Iterable[Mapping[str, object]], path: Path = TESTED) -> None:
    """Record rows; one of the same checkpoint, data and shift is replaced.

    Raises:
        ValueError: A row has a column that there is not, or lacks one of its key. Nothing is written then.
    """
    known = {tuple(row[key] for key in KEY): row for row in read(path)}
    for given in rows:
        row = {name: "" if value is None or value != value else str(value) for name, value in given.items()}
        if unknown := sorted(row.keys() - set(COLUMNS)):
            raise ValueError(f"a row has no column {unknown[0]!r}: there are {', '.join(COLUMNS)}")
        if lacking := [key for key in KEY if not row.get(key)]:
            raise ValueError(f"a row lacks its {lacking[0]}")
        known[tuple(row[key] for key in KEY)] = row
    recorded.write([known[key] for key in sorted(known)], COLUMNS, path)


def has(path: Path, checkpoint: str, data: str, shift: str, scenes: int, steps: int) -> bool:
    """Whether a row is recorded of these weights and so many scenes, or of all there are."""
    return any(
        (row["checkpoint"], row["data"], row["shift"], row["steps"]) == (checkpoint, data, shift, str(steps))
        and row["source"].endswith(f"--num_scenes {scenes}")
        for row in read(path)
    )


def matrix(path: Path = TESTED) -> str:
    """Markdown: checkpoints by data sets, data they were trained on first."""
    rows = [row for row in read(path) if row["shift"] == NO_SHIFT]
    shown = [name for name in _SHOWN if any(row[name] for row in rows)]
    head = ["checkpoint", "minutes", "test data", "trained on it", *(_TITLES.get(name, name) for name in shown)]
    lines = _head([*head, "images/s"])
    before = ""
    for row in sorted(rows, key=lambda row: (row["setting"], row["checkpoint"], row["own"] != "yes", row["data"])):
        first = row["checkpoint"] != before
        about = [row["checkpoint"], row["minutes"]] if first else ["", ""]
        cells = [_two(row[name]) for name in shown]
        lines.append(_line([*about, _short(row["data"]), row["own"], *cells, _rate(row["images_per_second"])]))
        before = row["checkpoint"]
    return "\n".join(lines)


def robustness(path: Path = TESTED) -> str:
    """Markdown: checkpoints by shifts, AP at an IoU of 0.5 on the kind of data that they were trained on."""
    rows = [row for row in read(path) if row["own"] == "yes"]
    names = sorted({row["shift"] for row in rows}, key=lambda name: (name != NO_SHIFT, name))
    lines = _head(["checkpoint", "test data", *names])
    for checkpoint in _checkpoints(rows):
        own = {row["shift"]: row for row in rows if row["checkpoint"] == checkpoint}
        data = own.get(NO_SHIFT, next(iter(own.values())))["data"]
        cells = [_two(own[name]["ap50"]) if name in own else "" for name in names]
        lines.append(_line([checkpoint, _short(data), *cells]))
    return "\n".join(lines)


def by_shift(metric: str = "ap50", path: Path = TESTED) -> dict[str, dict[str, float]]:
    """A metric of each checkpoint on its own kind of data by shift, papers' settings first."""
    rows = [row for row in read(path) if row["own"] == "yes" and row[metric]]
    return {
        name: {row["shift"]: float(row[metric]) for row in rows if row["checkpoint"] == name}
        for name in _checkpoints(rows)
    }


def _checkpoints(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [name for _, name in sorted({(row["setting"], row["checkpoint"]) for row in rows})]


def _short(data: str) -> str:
    """What tells data sets apart in a column."""
    parts = data.split("-")
    return "-".join(parts[: 4 if data.startswith("clevrtex") else 2])


def _two(text: str) -> str:
    return f"{float(text):.2f}" if text else ""


def _rate(text: str) -> str:
    return f"{float(text):.0f}" if text else ""


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
