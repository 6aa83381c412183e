"""How well unsupervised categories agree with classes, each category standing for the class that suits the set best.

Categories are matched with classes one to one, over the whole data set and exactly: hits are a sum over matched pairs,
which is what linear assignment maximises. Where there are more categories than classes, the rest stands for none.
"""

import math
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from metrics._checks import check_ids, check_mask, check_numbers, check_shape

PRESENT = 0.5  # presence from which a slot holds an object


class _AssignedAccuracy(Metric):
    """Share of true objects that count as hits under the best matching of categories with classes.

    Each subclass names its table of hits differently: `MetricCollection` shares one update among metrics whose states
    are equal after the first batch.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    objects: Tensor
    undefined: Tensor
    unknown: Tensor

    def __init__(self, num_clusters: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_numbers(num_clusters=num_clusters, num_classes=num_classes)
        self.num_clusters = num_clusters
        self.num_classes = num_classes
        # Integers: exact at any size, and left alone where a model is cast to half precision.
        for state in ("objects", "undefined", "unknown"):
            self.add_state(state, torch.tensor(0), dist_reduce_fx="sum")

    def _count(self, category: Tensor, presence: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Check a batch, count its objects and return which slots hold one, (B, K) bool."""
        check_ids("category", category, "B", "K")
        check_shape("presence", presence, *category.shape)
        check_ids("labels", labels, len(category), "N")
        check_mask("valid", valid, *labels.shape)
        present = presence >= PRESENT
        # Summed up here and looked at in `compute`: no value is read, so a GPU is not waited for.
        self.objects = self.objects + valid.sum()  # never in place: spawned processes may share a state's memory
        self.undefined = self.undefined + presence.isnan().sum()
        self.unknown = self.unknown + (present & ((category < 0) | (category >= self.num_clusters))).sum()
        self.unknown = self.unknown + (valid & ((labels < 0) | (labels >= self.num_classes))).sum()
        return present

    def _best(self, hits: Tensor) -> Tensor:
        """The largest share of objects that one matching of (num_clusters, num_classes) `hits` reaches."""
        if self.unknown > 0:
            raise ValueError(
                f"{int(self.unknown)} ids are out of range, expected categories of present slots in "
                f"[0, {self.num_clusters}) and labels of valid rows in [0, {self.num_classes})"
            )
        table = hits.cpu().numpy()
        best = torch.tensor(table[linear_sum_assignment(table, maximize=True)].sum(), device=self.device)
        return torch.where(self.undefined > 0, torch.nan, best / self.objects)


class CategoryCorrespondence(_AssignedAccuracy):
    """Category correspondence rate of Discrete-AIR: places do not matter, only which classes an image holds.

    An image's hits are those of the multisets of its categories, renamed to classes, and of its true classes: for each
    class the smaller of the two numbers. The rate is all hits by all true objects, for the best matching of categories
    with classes over the whole data set. A missed object costs, an extra one does not.

    Slots with presence of at least .5 count. NaN without any true object and where a presence was NaN. Exact over
    processes whose data are uneven or empty.

    Source: Wang, Jamnik and Lio, "Discrete-AIR", 2019, section 4: R = max over p of in(f_p(O), T) / size(T), which the
    paper finds by trying the permutations.

    Args:
        num_clusters: Categories; may differ from `num_classes`.
        num_classes: Classes.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: A number is below 1.
    """

    hits: Tensor

    def __init__(self, num_clusters: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_clusters, num_classes, **kwargs)
        self.add_state("hits", torch.zeros(num_clusters, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, category: Tensor, presence: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add a batch.

        Args:
            category: (B, K) integer ids in [0, num_clusters), of any value where nothing is present.
            presence: (B, K) in [0, 1].
            labels: (B, N) integer ids in [0, num_classes), of any value in rows of padding.
            valid: (B, N) bool, which rows of the ground truth are objects.

        Raises:
            ValueError: A shape or type is off.
        """
        present = self._count(category, presence, labels, valid)
        predicted = _histogram(category, present, self.num_clusters)
        true = _histogram(labels, valid, self.num_classes)
        self.hits = self.hits + torch.minimum(predicted.unsqueeze(2), true.unsqueeze(1)).sum(dim=0)

    def compute(self) -> Tensor:
        """Return the rate, a scalar in [0, 1] or NaN.

        Raises:
            ValueError: A category or label was out of range.
        """
        return self._best(self.hits)


class LocationMatchedAccuracy(_AssignedAccuracy):
    """Share of true objects that have a prediction nearby with the right category.

    In each image predictions and objects are paired one to one, as many as can be with centres at most `max_distance`
    apart, of these pairings the one with the smallest sum of distances. A pair is a hit if its category stands for its
    class, for the best matching of categories with classes over the whole data set. The denominator is ALL true
    objects: one that is missed costs as much as one that is misnamed.

    Slots with presence of at least .5 count. NaN without any true object and where a presence was NaN; a box with a NaN
    pairs with nothing. Exact over processes whose data are uneven or empty.

    `update` waits for the device. Images are paired at once where no object and no prediction has two partners within
    reach, else one by one.

    Args:
        num_clusters: Categories; may differ from `num_classes`.
        num_classes: Classes.
        max_distance: Of centres, in pixels.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: A number is below 1, or the distance is negative or infinite.
    """

    paired: Tensor

    def __init__(self, num_clusters: int, num_classes: int, max_distance: float = 5.0, **kwargs: Any) -> None:
        super().__init__(num_clusters, num_classes, **kwargs)
        if not 0 <= max_distance < math.inf:
            raise ValueError(f"max_distance is {max_distance}, expected a finite number of pixels, at least 0")
        self.max_distance = max_distance
        self.add_state("paired", torch.zeros(num_clusters, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, category: Tensor, presence: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, valid: Tensor
    ) -> None:
        """Add a batch.

        Args:
            category: (B, K) integer ids in [0, num_clusters), of any value where nothing is present.
            presence: (B, K) in [0, 1].
            boxes: (B, K, 4) predictions, (x1, y1, x2, y2) in pixels.
            labels: (B, N) integer ids in [0, num_classes), of any value in rows of padding.
            target_boxes: (B, N, 4) ground truth; rows of padding may hold anything.
            valid: (B, N) bool, which rows of the ground truth are objects.

        Raises:
            ValueError: A shape or type is off.
        """
        present = self._count(category, presence, labels, valid)
        check_shape("boxes", boxes, *category.shape, 4)
        check_shape("target_boxes", target_boxes, *labels.shape, 4)
        image, slot, row = _pairs(_centres(boxes), present, _centres(target_boxes), valid, self.max_distance)
        cell = category[image, slot] * self.num_classes + labels[image, row]
        known = (cell >= 0) & (cell < self.paired.numel())  # what is not is reported by `compute`
        counts = torch.bincount(cell[known], minlength=self.paired.numel())
        self.paired = self.paired + counts.view_as(self.paired)

    def compute(self) -> Tensor:
        """Return the accuracy, a scalar in [0, 1] or NaN.

        Raises:
            ValueError: A category or label was out of range.
        """
        return self._best(self.paired)


def _histogram(ids: Tensor, counted: Tensor, size: int) -> Tensor:
    """How often each id occurs among those `counted` in each row of (B, K): (B, size) int64."""
    return ((ids.unsqueeze(2) == torch.arange(size, device=ids.device)) & counted.unsqueeze(2)).sum(dim=1)


def _centres(boxes: Tensor) -> Tensor:
    """(..., 4) boxes to (..., 2) float32 centres (x, y)."""
    boxes = boxes.detach().float()
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _pairs(centres: Tensor, present: Tensor, targets: Tensor, valid: Tensor, most: float) -> tuple[Tensor, ...]:
    """The pairing of `LocationMatchedAccuracy`: (P,) image, slot and row of every pair."""
    distance = torch.linalg.vector_norm(centres.unsqueeze(2) - targets.unsqueeze(1), dim=3)  # (B, K, N)
    near = (distance <= most) & present.unsqueeze(2) & valid.unsqueeze(1)
    # Where every slot and every row has one partner at most, that is the pairing.
    contested = (near.sum(dim=1) > 1).any(dim=1) | (near.sum(dim=2) > 1).any(dim=1)
    image, slot, row = (near & ~contested[:, None, None]).nonzero().unbind(1)
    found = [torch.stack([image, slot, row])]
    images = contested.nonzero().squeeze(1)
    # Out of reach costs more than all pairs within reach can together, so that as many as can be are within reach.
    far = (min(distance.shape[1:]) + 1) * (most + 1)
    for number, cost in zip(images.tolist(), distance.where(near, far)[images].cpu().numpy(), strict=True):
        slots, rows = linear_sum_assignment(cost)
        reached = cost[slots, rows] < far
        numbers = torch.full((int(reached.sum()),), number)
        pairs = [numbers, torch.from_numpy(slots[reached]), torch.from_numpy(rows[reached])]
        found.append(torch.stack(pairs).to(distance.device))
    return torch.cat(found, dim=1).unbind(0)
