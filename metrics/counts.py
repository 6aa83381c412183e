"""How well the number of objects is told: presence of at least a threshold against the number of valid boxes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics._checks import check_mask, check_shape


class _CountMetric(Metric):
    """Counts objects on both sides; subclasses add up what they make of the difference.

    Each subclass names its sum differently: `MetricCollection` shares one update among metrics whose states are
    equal after the first batch.
    """

    is_differentiable = False
    full_state_update = False

    images: Tensor
    undefined: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected a presence in (0, 1]")
        self.threshold = threshold
        # Integers: exact at any size, and left alone where a model is cast to half precision.
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("undefined", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, presence: Tensor, target_valid: Tensor) -> None:
        """Add a batch.

        Args:
            presence: (B, K) in [0, 1].
            target_valid: (B, N) bool, which rows of the ground truth are objects.

        Raises:
            ValueError: A shape or type is off.
        """
        check_shape("presence", presence, "B", "K")
        check_mask("target_valid", target_valid, len(presence), "N")
        self.images = self.images + len(presence)  # never in place: spawned processes may share a state's memory
        self.undefined = self.undefined + presence.isnan().sum()
        self._add(((presence >= self.threshold).sum(dim=1) - target_valid.sum(dim=1)).abs())

    def _add(self, differences: Tensor) -> None:
        """Add to a sum of one's own what there is in |predicted - true| number of objects, (B,) int64."""
        raise NotImplementedError

    def _mean(self, total: Tensor) -> Tensor:
        """Return total / images; NaN (0 / 0) without images or where a presence was NaN."""
        return torch.where(self.undefined > 0, torch.nan, total / self.images)


class CountAccuracy(_CountMetric):
    """Share of images whose number of objects is told exactly, in [0, 1].

    Predicted are the slots with presence of at least `threshold`, true the valid boxes. NaN without any image and
    where a presence was NaN. Exact over processes whose data are uneven or empty.

    Two thresholds in one `MetricCollection` need `compute_groups=False`: torchmetrics shares an update among metrics
    of one kind whose states agree after the first batch.

    Args:
        threshold: Presence in (0, 1] from which a slot counts.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: The threshold is outside (0, 1].
    """

    higher_is_better = True

    correct: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(threshold, **kwargs)
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, differences: Tensor) -> None:
        self.correct = self.correct + (differences == 0).sum()

    def compute(self) -> Tensor:
        """Return the accuracy, a scalar in [0, 1] or NaN."""
        return self._mean(self.correct)


class CountError(_CountMetric):
    """Mean over images of |predicted - true| number of objects (`count_1norm` in SPAIR's code), in objects.

    Predicted are the slots with presence of at least `threshold`, true the valid boxes. NaN without any image and
    where a presence was NaN. Exact over processes whose data are uneven or empty.

    Two thresholds in one `MetricCollection` need `compute_groups=False`, as with `CountAccuracy`.

    Args:
        threshold: Presence in (0, 1] from which a slot counts.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: The threshold is outside (0, 1].
    """

    higher_is_better = False

    error: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(threshold, **kwargs)
        self.add_state("error", torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, differences: Tensor) -> None:
        self.error = self.error + differences.sum()

    def compute(self) -> Tensor:
        """Return the mean error, a scalar of at least 0 or NaN."""
        return self._mean(self.error)
