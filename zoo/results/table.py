"""Recorded runs, and the table of them, which `python -m zoo results` adds to and prints.

A run folder's `run.json` becomes a row of zoo/results/results.csv, and so does the `clustering.json` that `python -m
zoo cluster` leaves of a published checkpoint and a Gaussian mixture (GMAIR's "SPAIR + GMM"). The table has means and
standard deviations over seeds. It says of each setting whether it is its paper's or a recipe of the zoo's, and has a
paper's figure, from zoo/results/published.csv with its source, only beside the same setting's on the same data.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from zoo import configurations
from zoo.evaluation import METRIC_NAMES
from zoo.records import read_run

RECORDED = Path(__file__).with_name("results.csv")
PUBLISHED = Path(__file__).with_name("published.csv")
_KEY = ("experiment", "changes", "data", "seed")
_ABOUT = ("model", "revision", "steps", "parameters", "wall_s", "peak_memory_gb", "hardware", "torch")
COLUMNS = (*_KEY, *_ABOUT, *METRIC_NAMES, "negative_elbo", "loss")
_CLUSTERS = 10  # of `zoo cluster`, if nothing else is said
# where the configurations are that are the zoo's own, and those that say where to train: on several devices a step sees
# more images
_NO_PAPERS = ("recipes/", "trainer/")
# changes that leave a setting what it is: how far it is trained, how weights are chosen, on how many scenes tested
_NEUTRAL = re.compile(
    r"trainer\.(max_steps|max_time|val_check_interval|limit_val_batches|limit_test_batches|log_every_n_steps)"
    r"|checkpoint\.\w+|data\.init_args\.(data_dir|root|num_val|num_test|eval_batch_size|num_workers)"
)
_FROM_A_PAPER_S = re.compile(r"(?:^| )init=[\w-]+-paper(?= |$)")  # weights that were trained so, too
# what tables and plots show of a run, if no paper has a figure of its own for it
HEADLINES = (
    *("ap50", "count_accuracy", "category_correspondence", "hungarian_accuracy", "cluster_purity", "nmi"),
    *("ari_fg", "miou_fg", "miou_fg_strict"),
)
# of metrics, where there is room
TITLES = {
    "ap50": "AP (IoU 0.5)",
    "count_accuracy": "count accuracy",
    "category_correspondence": "category correspondence",
    "hungarian_accuracy": "accuracy (one-to-one)",
    "cluster_purity": "cluster purity (ACC)",
    "nmi": "NMI",
    "ari_fg": "ARI-FG",
    "miou_fg": "mIoU (foreground)",
    "mse": "squared error of a pixel",
}


def read(path: Path = RECORDED) -> list[dict[str, str]]:
    """Rows of a file of results; none, if it is not there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def setting(experiment: str, changes: str = "") -> Literal["paper", "recipe"]:
    """Whether a run has its paper's model, hyperparameters, data and protocol, or is a recipe: anything else.

    Args:
        experiment: The configurations it was started from, as in `spair` or `recipes/quick/spair`, joined by +.
        changes: What was changed in them, `key=value` pairs with a space between.
    """
    papers = {name for name in configurations.names() if not name.startswith(_NO_PAPERS)}
    return "paper" if papers.issuperset(experiment.split("+")) and not _departs(changes) else "recipe"


def _departs(changes: str) -> bool:
    """Whether changes to a configuration make it another setting."""
    others = _FROM_A_PAPER_S.sub("", changes)
    return not all(_NEUTRAL.fullmatch(key) for key in re.findall(r"(?:^| )([a-z][\w.+]*)=", others))


def row(run: Path) -> dict[str, str]:
    """A run's record as a row.

    Raises:
        FileNotFoundError: The folder has neither run.json nor clustering.json: training did not end there.
        ValueError: There are no metrics in it: the test that follows training did not end.
        RecordError: It is damaged.
    """
    clustering = run / "clustering.json"
    if clustering.is_file():
        return _clustering_row(json.loads(clustering.read_text(encoding="utf-8")))
    path = run / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: is this the folder of a run whose training has ended?")
    record = read_run(path)
    if not record.get("metrics"):
        raise ValueError(f"{path} has no metrics: the run was not tested (--test_after_fit true)")
    values = {**record, **record["metrics"]}
    return {name: _cell(values.get(name)) for name in COLUMNS}


def _cell(value: Any) -> str:
    """What is undefined, such as NMI where nothing was found, is empty."""
    return "" if value is None or value != value else str(value)


def _clustering_row(record: dict[str, Any]) -> dict[str, str]:
    values = {
        "experiment": f"{record['checkpoint']} + GMM",
        "changes": "" if record["num_clusters"] == _CLUSTERS else f"num_clusters={record['num_clusters']}",
        **{name: record[name] for name in ("data", "seed", "model", "ap50")},
        **record["gmm"],
    }
    return {name: _cell(values.get(name)) for name in COLUMNS}


def add(runs: Iterable[Path], path: Path = RECORDED) -> None:
    """Add runs to a file of results; a run of the same experiment, changes, data and seed is replaced."""
    rows = {tuple(r[key] for key in _KEY): r for r in [*read(path), *map(row, runs)]}
    write([rows[key] for key in sorted(rows)], COLUMNS, path)


def write(rows: Iterable[dict[str, str]], columns: Sequence[str], path: Path) -> None:
    """Write a file of results, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def table(path: Path = RECORDED) -> str:
    """Recorded runs as Markdown: a line for each experiment and metric, its mean and standard deviation over seeds."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for r in read(path):
        groups.setdefault((r["experiment"], r["changes"], r["data"]), []).append(r)
    head = ("setting", "configuration", "test data", "seeds", "steps", "minutes", "metric", "here", "paper")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (experiment, changes, data), rows in sorted(groups.items()):
        name = experiment + (f" `{changes}`" if changes else "")
        minutes = [float(r["wall_s"]) / 60 for r in rows if r["wall_s"]]
        about = [setting_of(experiment, changes), name, data, len(rows), rows[0]["steps"]]
        about += [f"{mean(minutes):.0f}" if minutes else ""]
        for metric in METRIC_NAMES:
            values = [float(r[metric]) for r in rows if r.get(metric)]
            figure = published(experiment, changes, data, metric)
            if values and (figure is not None or metric in HEADLINES):
                ours = _plus_minus(mean(values), stdev(values) if len(values) > 1 else None)
                theirs = _plus_minus(float(figure["mean"]), float(figure["std"] or 0) or None) if figure else ""
                lines.append("| " + " | ".join(str(cell) for cell in [*about, metric, ours, theirs]) + " |")
                about = [""] * len(about)
    return "\n".join(lines)


def published(experiment: str, changes: str, data: str, metric: str) -> dict[str, str] | None:
    """The paper's figure for a setting, if its data and metric are those of the row that asks.

    Digits of MNIST are MNIST's, however many are at hand; scikit-learn's are not.
    """
    if _departs(changes):
        return None
    return _figures().get((experiment, data.replace("-mnist10k-", "-mnist-"), metric))


@cache
def _figures() -> dict[tuple[str, str, str], dict[str, str]]:
    return {(figure["experiment"], figure["data"], figure["metric"]): figure for figure in read(PUBLISHED)}


def setting_of(experiment: str, changes: str) -> str:
    """Of a row: a checkpoint's clusters have the checkpoint's."""
    checkpoint, clusters, _ = experiment.partition(" + ")
    if clusters:
        return "recipe" if checkpoint.endswith("-recipe") else "paper"
    return setting(experiment, changes)


def _plus_minus(value: float, deviation: float | None) -> str:
    digits = 3 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")
