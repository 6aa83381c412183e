"""metrics.csv: the order of its columns, and its figures."""

import csv
from pathlib import Path

import torch

from zoo.callbacks.metrics_csv import MetricsCSV


def test_the_step_is_first_and_figures_are_short(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path, "run")
    logger.log_metrics({"train/kl": torch.tensor(1 / 3), "train/loss": -1234.56789, "schedule/lr": 1.23456789e-4}, 5)
    logger.save()
    logger.log_metrics({"val/ap50": 2 / 3, "epoch": 1, "val/loss": float("nan")}, 9)  # columns that came later
    logger.save()
    with Path(logger.log_dir, "metrics.csv").open() as file:
        head, first, second = csv.reader(file)
    assert head == ["step", "epoch", "train/loss", "train/kl", "val/loss", "val/ap50", "schedule/lr"]
    assert first == ["5", "", "-1234.57", "0.333333", "", "", "0.000123457"]
    assert second == ["9", "1", "", "", "nan", "0.666667", ""]
