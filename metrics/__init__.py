"""Metrics of object-centric models: `torchmetrics.Metric` classes on plain padded tensors."""

from metrics.average_precision import AveragePrecision, SPAIRAveragePrecision
from metrics.category_correspondence import CategoryCorrespondence, LocationMatchedAccuracy
from metrics.counts import CountAccuracy, CountError
from metrics.reconstruction import ReconstructionError

__all__ = [
    "AveragePrecision",
    "CategoryCorrespondence",
    "CountAccuracy",
    "CountError",
    "LocationMatchedAccuracy",
    "ReconstructionError",
    "SPAIRAveragePrecision",
]
