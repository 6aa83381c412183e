"""Metrics of object-centric models: `torchmetrics.Metric` classes on plain padded tensors."""

from metrics.average_precision import AveragePrecision, SPAIRAveragePrecision
from metrics.counts import CountAccuracy, CountError

__all__ = ["AveragePrecision", "CountAccuracy", "CountError", "SPAIRAveragePrecision"]
