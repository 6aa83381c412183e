"""What each addition of the zoo's to a paper's model is worth: recipes trained without one of them.

`python -m zoo results add RUN --without NAME` records such a run in zoo/results/ablations.csv, NAME being the addition
as the recipe's class names it, or `nothing` for the recipe itself where it was trained for as long. Beside them stands
the recipe's own run from zoo/results/results.csv, where that is as long. `python -m zoo results ablations` prints the
table: what changes with the addition is its worth.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from zoo.results import table as recorded

ABLATIONS = Path(__file__).with_name("ablations.csv")
NOTHING = "nothing"
COLUMNS = ("without", *recorded.COLUMNS)
_KEY = ("experiment", "data", "without", "steps", "seed")
_METRICS = (*recorded.HEADLINES, "negative_elbo")


def add(runs: Iterable[Path], without: str, path: Path = ABLATIONS) -> None:
    """Record runs of a recipe without one addition; one of the same recipe, data, addition, steps and seed is replaced.

    Raises:
        FileNotFoundError: A folder has no run.json: training did not end there.
        ValueError: The run was not tested.
    """
    rows = {tuple(row[key] for key in _KEY): row for row in recorded.read(path)}
    for run in runs:
        row = {"without": without, **recorded.row(run)}
        rows[tuple(row[key] for key in _KEY)] = row
    recorded.write([rows[key] for key in sorted(rows)], COLUMNS, path)


def table(path: Path = ABLATIONS, runs: Path = recorded.RECORDED) -> str:
    """Markdown: for each recipe a line of itself, then one without each addition, means over seeds."""
    rows = recorded.read(path)
    groups: dict[tuple[str, ...], dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        key = (row["experiment"], row["data"], row["steps"])
        groups.setdefault(key, {}).setdefault(row["without"], []).append(row)
    own: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in recorded.read(runs):  # the recipes themselves, as they are
        if not row["changes"]:
            own.setdefault((row["experiment"], row["data"], row["steps"]), []).append(row)
    for setting, by_name in groups.items():
        if setting in own:
            by_name.setdefault(NOTHING, own[setting])
    metrics = [name for name in _METRICS if any(row.get(name) for row in rows)]
    head = ["recipe", "test data", "steps", "without", "seeds", *(recorded.TITLES.get(name, name) for name in metrics)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (experiment, data, steps), by_name in sorted(groups.items()):
        about = [experiment, data, steps]
        for without in sorted(by_name, key=lambda name: (name != NOTHING, name)):
            cells = []
            for name in metrics:
                values = [float(row[name]) for row in by_name[without] if row.get(name)]
                cells.append(f"{mean(values):.{3 if abs(mean(values)) < 10 else 1}f}" if values else "")
            seeds = ", ".join(sorted({row["seed"] for row in by_name[without]}))
            lines.append("| " + " | ".join([*about, without, seeds, *cells]) + " |")
            about = [""] * 3
    return "\n".join(lines)
