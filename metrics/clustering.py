"""How well clusters of detected objects agree with classes.

All metrics here are read off one table: how often each cluster goes with each class, over the whole data set. In a
`MetricCollection` they share it. The pairs it counts come from `cluster_label_pairs`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from metrics._checks import check_ids, check_mask, check_numbers, check_shape
from metrics.average_precision import _pairwise_iou
from metrics.category_correspondence import PRESENT

MIN_IOU = 0.5  # from which a detection is of the object that it overlaps
NO_LABEL = -1


def matched_labels(presence: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, valid: Tensor) -> Tensor:
    """Classes of what is detected: a slot with presence of at least .5 has the class of the box it overlaps most.

    Their IoU is at least .5, or else the slot has no class. Several slots may have theirs from one and the same box. Of
    boxes that a slot overlaps equally, it takes the first. Where presence or a box is NaN, nothing is detected.

    Source: Zhu, Shen, Yu and Aguirre Sanchez, "GMAIR: Unsupervised Object Detection Based on Spatial Attention and
    Gaussian Mixture", 2021, appendix C. (The authors' program adds a pixel to the width and height of all boxes.)

    Args:
        presence: (B, K) in [0, 1].
        boxes: (B, K, 4) predictions, (x1, y1, x2, y2) in pixels, half-open.
        labels: (B, N) classes, at least 0; of any value in rows of padding.
        target_boxes: (B, N, 4) ground truth; rows of padding may hold anything.
        valid: (B, N) bool, which rows of the ground truth are objects.

    Returns:
        (B, K) int64, -1 where a slot has no class.

    Raises:
        ValueError: A shape or type is off.
    """
    check_shape("presence", presence, "B", "K")
    B, K = presence.shape
    check_shape("boxes", boxes, B, K, 4)
    check_shape("labels", labels, B, "N")
    check_shape("target_boxes", target_boxes, *labels.shape, 4)
    check_mask("valid", valid, *labels.shape)
    iou = _pairwise_iou(boxes.detach().float(), target_boxes.float()).masked_fill(~valid.unsqueeze(1), 0)
    iou, labels = F.pad(iou, (0, 1)), F.pad(labels, (0, 1))  # a maximum needs a row, even where there is none
    overlap, match = iou.max(dim=2)
    detected = (presence >= PRESENT) & (overlap >= MIN_IOU)
    return labels.long().gather(1, match).where(detected, NO_LABEL)


def cluster_label_pairs(
    clusters: Tensor, presence: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """The cluster and the class of each correct detection in a padded batch, by the rule of `matched_labels`.

    The number of pairs is data: this waits for a GPU.

    Args:
        clusters: (B, K) ids, of any value where nothing is detected.
        presence: (B, K) in [0, 1], as the rest in `matched_labels`.
        boxes: (B, K, 4).
        labels: (B, N).
        target_boxes: (B, N, 4).
        valid: (B, N) bool.

    Returns:
        Clusters and classes, (P,) each: image by image, in the order of slots.

    Raises:
        ValueError: A shape or type is off.
    """
    check_shape("clusters", clusters, *presence.shape)
    matched = matched_labels(presence, boxes, labels, target_boxes, valid)
    correct = matched != NO_LABEL
    return clusters[correct], matched[correct]


def match_clusters(contingency: Tensor) -> Tensor:
    """Names for clusters: the one-to-one matching with classes under which most objects are named rightly.

    Args:
        contingency: (G, C) counts of each cluster and class.

    Returns:
        (G,) int64, the class of each cluster; -1 for those left over where there are more clusters than classes.
    """
    clusters, classes = linear_sum_assignment(contingency.cpu().numpy(), maximize=True)
    names = torch.full((len(contingency),), NO_LABEL)
    names[torch.from_numpy(clusters)] = torch.from_numpy(classes)
    return names.to(contingency.device)


class _ContingencyMetric(Metric):
    """Counts how often each cluster goes with each class; subclasses make a figure of the table.

    Their states have the same names and values, so that a `MetricCollection` updates only one of them.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    contingency: Tensor
    unknown: Tensor

    def __init__(self, num_clusters: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_numbers(num_clusters=num_clusters, num_classes=num_classes)
        self.num_clusters = num_clusters
        self.num_classes = num_classes
        # Integers: exact at any size, and left alone where a model is cast to half precision.
        self.add_state("contingency", torch.zeros(num_clusters, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("unknown", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, clusters: Tensor, labels: Tensor) -> None:
        """Add pairs. Does not wait for a GPU.

        Args:
            clusters: (P,) integer ids in [0, num_clusters).
            labels: (P,) integer ids in [0, num_classes).

        Raises:
            ValueError: A shape or type is off.
        """
        check_ids("clusters", clusters, "P")
        check_ids("labels", labels, len(clusters))
        G, C = self.num_clusters, self.num_classes
        clusters, labels = clusters.long(), labels.long()
        known = (clusters >= 0) & (clusters < G) & (labels >= 0) & (labels < C)
        # What is not known goes last, and is reported by `compute`.
        cell = (clusters * C + labels).where(known, G * C)
        counts = torch.zeros(G * C + 1, dtype=torch.long, device=cell.device)
        counts.scatter_add_(0, cell, torch.ones_like(cell))
        self.contingency = self.contingency + counts[:-1].view(G, C)  # never in place: processes may share its memory
        self.unknown = self.unknown + counts[-1]

    def compute(self) -> Tensor:
        """Return the figure, a scalar in [0, 1]; NaN without any pair.

        Raises:
            ValueError: A cluster or label was out of range.
        """
        if self.unknown > 0:
            raise ValueError(
                f"{int(self.unknown)} pairs have ids out of range, expected clusters in [0, {self.num_clusters}) and "
                f"labels in [0, {self.num_classes})"
            )
        table = self.contingency.cpu()  # float64 is not to be had everywhere
        value = self._value(table) if table.any() else torch.tensor(torch.nan)
        return value.to(device=self.device, dtype=torch.float32)

    def _value(self, table: Tensor) -> Tensor:
        """The figure of (num_clusters, num_classes) counts that are not all 0."""
        raise NotImplementedError


class HungarianAccuracy(_ContingencyMetric):
    """Share of objects whose cluster stands for their class, under the best one-to-one matching of the two.

    Where there are more clusters than classes, the rest stands for none, and the reverse. NaN without any pair. Exact
    over processes whose data are uneven or empty.

    Source: the assignment is Kuhn's, "The Hungarian Method for the Assignment Problem", 1955; as a measure of
    clustering, Xie, Girshick and Farhadi, "Unsupervised Deep Embedding for Clustering Analysis", ICML 2016.

    Args:
        num_clusters: Clusters; may differ from `num_classes`.
        num_classes: Classes.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: A number is below 1.
    """

    def _value(self, table: Tensor) -> Tensor:
        names = match_clusters(table)
        named = names != NO_LABEL
        return table[named].gather(1, names[named].unsqueeze(1)).sum().double() / table.sum()


class ClusterPurity(_ContingencyMetric):
    """Share of objects that are of their cluster's most frequent class; several clusters may stand for one class.

    This is "ACC" in GMAIR's tables: never less than `HungarianAccuracy`, and 1 where each object has a cluster of its
    own. NaN without any pair. Exact over processes whose data are uneven or empty.

    Source: Zhu, Shen, Yu and Aguirre Sanchez, "GMAIR: Unsupervised Object Detection Based on Spatial Attention and
    Gaussian Mixture", 2021, eq. 16, which is also what the authors' program computes.

    Args:
        num_clusters: Clusters; may differ from `num_classes`.
        num_classes: Classes.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: A number is below 1.
    """

    def _value(self, table: Tensor) -> Tensor:
        return table.amax(dim=1).sum().double() / table.sum()


class NormalizedMutualInformation(_ContingencyMetric):
    """Mutual information of clusters and classes by the arithmetic mean of their entropies: 2 I(G, P) / (H(G) + H(P)).

    One cluster and one class: 1. One cluster and several classes, or the reverse: 0. NaN without any pair, where
    scikit-learn has 1. Exact over processes whose data are uneven or empty.

    Source: Zhu, Shen, Yu and Aguirre Sanchez, "GMAIR: Unsupervised Object Detection Based on Spatial Attention and
    Gaussian Mixture", 2021, eq. 17.

    Args:
        num_clusters: Clusters; may differ from `num_classes`.
        num_classes: Classes.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: A number is below 1.
    """

    def _value(self, table: Tensor) -> Tensor:
        counts = table.double()
        # Sums of whole numbers, divided once: a share is exactly 1 where there is but one cluster or class.
        joint, clusters, classes = (part / counts.sum() for part in (counts, counts.sum(dim=1), counts.sum(dim=0)))
        entropy = (torch.special.entr(clusters).sum() + torch.special.entr(classes).sum()) / 2
        if entropy == 0:
            return torch.tensor(1.0)
        information = torch.xlogy(joint, joint / torch.outer(clusters, classes).where(joint > 0, 1.0)).sum()
        return (information / entropy).clamp(0, 1)
