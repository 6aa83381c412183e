"""metrics.csv as people read it: the step first, figures of as many digits as mean something."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

_FIRST = ("step", "epoch", "train/loss", "train/", "val/loss", "val/", "test/")  # the rest, such as schedules, is last
_DIGITS = 6  # that count; float32 has hardly more


class _Columns(list[str]):
    """Names of columns, which the writer sorts whenever one is added."""

    def sort(self, **_: Any) -> None:  # type: ignore[override]
        """By `_FIRST`, then by name."""
        super().sort(key=lambda name: (self._place(name), name))

    @staticmethod
    def _place(name: str) -> int:
        return next(
            (i for i, each in enumerate(_FIRST) if name == each or (each[-1] == "/" and name.startswith(each))), 99
        )


class MetricsCSV(CSVLogger):
    """Lightning's CSVLogger with columns in the order of interest, and floats of six digits that count."""

    @property
    def experiment(self) -> _ExperimentWriter:
        """The writer."""
        writer = super().experiment
        if isinstance(writer, _ExperimentWriter) and not isinstance(
            writer.metrics_keys, _Columns
        ):  # on the first process
            writer.metrics_keys = _Columns(writer.metrics_keys)
        return writer

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # type: ignore[override]
        """Keep metrics for the next time that the file is written."""
        super().log_metrics({name: _short(value) for name, value in metrics.items()}, step)


def _short(value: Any) -> Any:
    value = value.item() if isinstance(value, Tensor) else value
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
