"""Metrics of object-centric models: `torchmetrics.Metric` classes on plain padded tensors.

- `average_precision`: boxes, by three conventions.
- `counts`: how many objects.
- `category_correspondence`, `clustering`: categories and appearances against classes.
- `segmentation`: masks.
- `reconstruction`: pixels.
"""

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
