"""Metrics of object-centric models: `torchmetrics.Metric` classes on plain padded tensors."""

from metrics.average_precision import AveragePrecision, GMAIRAveragePrecision, SPAIRAveragePrecision
from metrics.category_correspondence import CategoryCorrespondence, LocationMatchedAccuracy
from metrics.clustering import ClusterPurity, HungarianAccuracy, NormalizedMutualInformation, cluster_label_pairs
from metrics.counts import CountAccuracy, CountError
from metrics.reconstruction import ReconstructionError
from metrics.segmentation import ForegroundARI, MeanIoU, SegmentationCovering

__all__ = [
    "AveragePrecision",
    "CategoryCorrespondence",
    "ClusterPurity",
    "CountAccuracy",
    "CountError",
    "ForegroundARI",
    "GMAIRAveragePrecision",
    "HungarianAccuracy",
    "LocationMatchedAccuracy",
    "MeanIoU",
    "NormalizedMutualInformation",
    "ReconstructionError",
    "SPAIRAveragePrecision",
    "SegmentationCovering",
    "cluster_label_pairs",
]
