"""Agreement of predicted with true instance masks, image by image, on integer maps.

A map holds an id for each pixel: 0 is the background, any other non-negative integer a segment; ids may have gaps and
need not agree between the two maps. All scores follow from how many pixels each pair of ids shares, which is counted
exactly. The predicted background is a segment like any other, as in the published programs.

Sources: Karazija, Laina and Rupprecht, "ClevrTex: A Texture-Rich Benchmark for Unsupervised Multi-Object Segmentation",
2021 (ARI-FG and mIoU); Engelcke, Kosiorek, Parker Jones and Posner, "GENESIS", 2020 (segmentation covering); Sauvalle
and de La Fortelle, "Unsupervised Multi-object Segmentation Using Attention and Soft-argmax", 2023 (AST-Seg), which
reports all three.
"""

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from metrics._checks import check_shape

# Scores are summed as multiples of 2^-36: exact in any order, and on devices without float64.
FIXED_POINT = 2**36
_TIE = 1e-9  # relative: above what sums of IoUs are rounded by, below what they differ by


class _MeanOverImages(Metric):
    """Mean of one score over images, those left out for which it is not defined.

    Each subclass sums the scores of all its options, and under names of its own: `MetricCollection` shares one update
    among metrics whose states are equal after the first batch.

    Args:
        name: Of the score, as part of the names of the states.
        variants: How many numbers an image is given.
        variant: Which of them is this metric's.
        empty_score: Score of images for which it is not defined; null leaves them out.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: `empty_score` is outside [-1, 1].
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    def __init__(
        self, name: str, variants: int = 1, variant: int = 0, empty_score: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if empty_score is not None and not -1 <= empty_score <= 1:
            raise ValueError(f"empty_score is {empty_score}, expected a score in [-1, 1] or None")
        self.variant = variant
        self.empty_score = empty_score
        self._names = (f"{name}_total", f"{name}_images", f"{name}_empty")
        for state in self._names:
            self.add_state(state, torch.zeros(variants, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, mask: Tensor, target_mask: Tensor) -> None:
        """Add a batch; waits for the device.

        Args:
            mask: (B, H, W) predicted ids, non-negative integers, 0 background.
            target_mask: (B, H, W) true ids, the same.

        Raises:
            ValueError: A shape or type is off, or an id is negative.
        """
        scores, defined = self._score(_shared_pixels(mask, target_mask))
        added = (scores.where(defined, 0) * FIXED_POINT).round().long(), defined, ~defined
        for state, values in zip(self._names, added, strict=True):
            # never in place: spawned processes may share a state's memory
            setattr(self, state, getattr(self, state) + values.sum(dim=0).to(self.device))

    def compute(self) -> Tensor:
        """Return the mean, a scalar; NaN without any image that counts."""
        total, images, empty = (getattr(self, state)[self.variant].cpu().double() for state in self._names)
        total = total / FIXED_POINT
        if self.empty_score is not None:
            total, images = total + self.empty_score * empty, images + empty
        return (total / images).float().to(self.device)

    def _score(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, variants) float64, and for which images they are defined (B, variants) bool."""
        raise NotImplementedError


class ForegroundARI(_MeanOverImages):
    """ARI-FG: adjusted Rand index over the pixels of true objects, mean over images.

    What is predicted on the true background does not matter; on objects, the predicted background is a cluster. One
    where the two partitions agree, a single cluster or a single pixel included; about 0 where they are independent; 0
    where there is one true object and it is split.

    Images without objects are left out. The published programs take scikit-learn's value for an empty set, 1:
    `empty_score=1.0`.

    Source: Hubert and Arabie, "Comparing partitions", 1985; restricted to the foreground as in the ClevrTex benchmark.

    Args:
        empty_score: Score of an image without objects; null leaves it out of the mean.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: `empty_score` is outside [-1, 1].
    """

    def __init__(self, empty_score: float | None = None, **kwargs: Any) -> None:
        super().__init__("ari_fg", empty_score=empty_score, **kwargs)

    def _score(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        shared = shared[:, 1:]
        pixels = shared.sum(dim=(1, 2))
        # Ordered pairs of distinct pixels: integers below 2^63 up to 3e9 pixels, whereas their products are not.
        together = shared.square().sum(dim=(1, 2)) - pixels
        split = shared.sum(dim=2).square().sum(dim=1) - pixels - together
        merged = shared.sum(dim=1).square().sum(dim=1) - pixels - together
        apart = pixels.square() - pixels - together - split - merged
        both, true, predicted, neither = (pairs.double() for pairs in (together, split, merged, apart))
        chance = (both + true) * (true + neither) + (both + predicted) * (predicted + neither)
        ari = 2 * (both * neither - true * predicted) / chance
        ari = ari.masked_fill((split == 0) & (merged == 0), 1)
        return ari.unsqueeze(1), (pixels > 0).unsqueeze(1)


class MeanIoU(_MeanOverImages):
    """Mean IoU of true and predicted masks under the best one-to-one matching, mean over images.

    The matching maximises the summed IoU over all masks, the two backgrounds among them, so that an object may be
    matched with the predicted background. An image's score is the summed IoU by the number of pairs in which a mask is
    visible, true or predicted. Two conventions are published:

    - `include_background=True`: over all masks, as in the tables of AST-Seg. An empty prediction scores well above 0.
    - `include_background=False`: `mIoU_fg` of the ClevrTex benchmark. The true background is dropped after matching,
      with what it was matched with. Images without objects are left out.

    The published programs match tables of K + 1 true and K + 1 predicted masks, visible or not, so that a true and a
    predicted mask which share no pixel may make one pair, counted once. Which do is up to the order of the masks there.
    Here as many do as can, a true background that is nowhere to be seen among them, and of equally good matchings the
    one best for objects counts: the largest of the programs' values, whatever the order.

    With `strict` masks that share no pixel are no pair, and count twice. That is at most the published score, on hard
    images by up to 0.06; an image in which each object is found, and nothing else, has the same.

    Args:
        include_background: Whether the true background counts as a mask.
        strict: Masks that share no pixel are counted apart: not what is published.
        kwargs: Options of `torchmetrics.Metric`.
    """

    def __init__(self, include_background: bool, strict: bool = False, **kwargs: Any) -> None:
        super().__init__("iou", variants=4, variant=2 * strict + (not include_background), **kwargs)
        self.include_background, self.strict = include_background, strict

    def _score(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        iou = _iou(shared)
        chosen = torch.zeros_like(iou)
        weight = torch.ones(iou.shape[1], 1, dtype=iou.dtype)
        weight[1:] += _TIE  # of equal sums, the larger share to objects
        for image, table in enumerate((iou * weight).numpy()):
            rows, columns = linear_sum_assignment(table, maximize=True)
            chosen[image, rows, columns] = 1
        matched = iou * chosen
        with_background, objects = matched.sum(dim=(1, 2)), matched[:, 1:].sum(dim=(1, 2))
        true, predicted = shared.any(dim=2), shared.any(dim=1)
        num_true, num_predicted = true.sum(dim=1), predicted.sum(dim=1)
        # the background, or, where there is none, its empty row of the table, takes one predicted mask along
        scores = [
            with_background / torch.maximum(num_true, num_predicted),
            objects / torch.maximum(true[:, 1:].sum(dim=1), num_predicted - 1),
        ]
        pairs = num_true + num_predicted - (matched > 0).sum(dim=(1, 2))
        scores += [with_background / pairs, objects / (pairs - true[:, 0].long())]
        defined = torch.stack([true.any(dim=1), true[:, 1:].any(dim=1)], dim=1)
        return torch.stack(scores, dim=1), defined.repeat(1, 2)


class SegmentationCovering(_MeanOverImages):
    """MSC: mean over true segments of their largest IoU with any predicted segment, mean over images.

    Every true segment weighs the same, and several may be covered by one prediction; predictions in excess cost
    nothing. `foreground=True` is MSC-FG: the true background is no segment, and images without objects are left out.
    The published programs count those as 0: `empty_score=0.0`.

    Args:
        foreground: Whether the true background is left out.
        empty_score: Score of an image without a true segment that counts; null leaves it out of the mean.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: `empty_score` is outside [-1, 1].
    """

    def __init__(self, foreground: bool = True, empty_score: float | None = None, **kwargs: Any) -> None:
        super().__init__("covering", variants=2, variant=0 if foreground else 1, empty_score=empty_score, **kwargs)
        self.foreground = foreground

    def _score(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        best = _iou(shared).amax(dim=2)
        visible = shared.any(dim=2)
        sums = torch.stack([best[:, 1:].sum(dim=1), best.sum(dim=1)], dim=1)
        counts = torch.stack([visible[:, 1:].sum(dim=1), visible.sum(dim=1)], dim=1)
        return sums / counts, counts > 0


def _shared_pixels(mask: Tensor, target_mask: Tensor) -> Tensor:
    """Check two maps and count the pixels that each true id shares with each predicted id.

    Returns:
        (B, T, P) int64 in main memory; [:, 0] is the true background, [:, :, 0] the predicted one.

    Raises:
        ValueError: A shape or type is off, or an id is negative.
    """
    check_shape("target_mask", target_mask, "B", "H", "W")
    check_shape("mask", mask, *target_mask.shape)
    for name, value in (("mask", mask), ("target_mask", target_mask)):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise ValueError(f"{name} has type {value.dtype}, expected integer ids, 0 for the background")
    ids = torch.stack([target_mask.flatten(1).long(), mask.flatten(1).long()])  # (2, B, pixels)
    _, B, pixels = ids.shape
    if ids.numel() == 0:
        return torch.zeros(B, 1, 1, dtype=torch.long)
    lowest, *largest = torch.stack([ids.min(), *ids.amax(dim=(1, 2))]).tolist()
    if lowest < 0:
        raise ValueError(f"mask or target_mask holds the id {lowest}, expected non-negative ids, 0 for the background")
    if (largest[0] + 1) * (largest[1] + 1) > pixels:  # mostly gaps
        ids = _without_gaps(ids)
        largest = ids.amax(dim=(1, 2)).tolist()
    T, P = (number + 1 for number in largest)
    image = torch.arange(B, device=ids.device).unsqueeze(1)
    counts = torch.bincount(((image * T + ids[0]) * P + ids[1]).flatten(), minlength=B * T * P)
    return counts.view(B, T, P).cpu()


def _without_gaps(ids: Tensor) -> Tensor:
    """Renumber the ids of each row of (..., pixels) in rising order as 1, 2, ...; 0 stays 0."""
    ordered, order = ids.sort(dim=-1)
    rises = ordered.diff(dim=-1, prepend=torch.zeros_like(ordered[..., :1])) > 0
    return torch.empty_like(ids).scatter_(-1, order, rises.cumsum(dim=-1))


def _iou(shared: Tensor) -> Tensor:
    """IoU of each true with each predicted segment, (B, T, P) float64, 0 where a segment has no pixel."""
    union = shared.sum(dim=2, keepdim=True) + shared.sum(dim=1, keepdim=True) - shared
    return shared.double() / union.clamp(min=1)
