"""Average precision of class-agnostic boxes, in the convention of PASCAL VOC and in those of SPAIR's and GMAIR's code.

Boxes are (x1, y1, x2, y2) in absolute pixels, half-open (x2 = x1 + width): no +1 but in GMAIR's, and a box without area
overlaps nothing. IoUs and scores are compared as float32.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from metrics._checks import check_mask, check_shape

Interpolation = Literal["all_points", "11_points"]
_GMAIR_POINTS = 1000  # of the curve
_SPAIR_IOUS = 9  # 0.1, 0.2, ..., 0.9


def _pairwise_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """IoU of every pair of (B, K, 4) and (B, N, 4) boxes: (B, K, N) in [0, 1], 0 where the union is empty."""
    left, top, right, bottom = boxes.unsqueeze(2).unbind(dim=3)
    target_left, target_top, target_right, target_bottom = targets.unsqueeze(1).unbind(dim=3)
    width = (torch.minimum(right, target_right) - torch.maximum(left, target_left)).clamp(min=0)
    height = (torch.minimum(bottom, target_bottom) - torch.maximum(top, target_top)).clamp(min=0)
    intersection = width * height
    area, target_area = (right - left) * (bottom - top), (target_right - target_left) * (target_bottom - target_top)
    return torch.where(intersection > 0, intersection / (area + target_area - intersection), 0.0)


def _ranked_iou(
    boxes: Tensor, scores: Tensor, target_boxes: Tensor, target_valid: Tensor, extra: int = 0
) -> tuple[Tensor, Tensor]:
    """Check a batch, order each image's predictions by falling score (ties keep slot order) and overlap them.

    Widths and heights of all boxes are `extra` pixels larger than given.

    Returns:
        The ordered scores, (B, K) float32, NaN where a box is NaN; and the IoU of each prediction, in that order, with
        each target, (B, K, max(N, 1)) float32, 0 for padding.

    Raises:
        ValueError: A shape or type is off.
    """
    check_shape("boxes", boxes, "B", "K", 4)
    B, K, _ = boxes.shape
    check_shape("scores", scores, B, K)
    check_shape("target_boxes", target_boxes, B, "N", 4)
    N = target_boxes.shape[1]
    check_mask("target_valid", target_valid, B, N)

    # `forward` enables gradients, and states that held them would keep the model's graphs alive.
    boxes, scores = boxes.detach().float(), scores.detach().float()
    scores = scores.masked_fill(boxes.isnan().any(dim=2), torch.nan)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4))
    boxes, target_boxes = (torch.cat([b[..., :2], b[..., 2:] + extra], dim=2) for b in (boxes, target_boxes.float()))
    iou = _pairwise_iou(boxes, target_boxes).masked_fill(~target_valid.unsqueeze(1), 0)
    return scores, F.pad(iou, (0, 0 if N else 1))  # one row of padding where there is none: a maximum needs a row


class _Pooled(Metric):
    """Keeps what was said of every slot, and of which image it is, for all images to be looked at together.

    States are lists of one-dimensional tensors of `self.dtype`, which torchmetrics lets a process without data lack.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, *states: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._seen = self._first = 0
        for state in states:
            self.add_state(state, [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the list states, whatever the precision of the model that holds this metric."""
        return torch.float32

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update, and return the value of this batch alone."""
        self._first = self._seen  # torchmetrics resets before a batch and merges after it: go on numbering
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._first = 0

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._seen = self._first

    def _number(self, images: int) -> Tensor:
        """The next images' places in their process, (images,); exact to 2^24."""
        numbers = torch.arange(self._seen, self._seen + images, dtype=self.dtype, device=self.device)
        self._seen += images
        return numbers


class AveragePrecision(_Pooled):
    """Average precision over the whole data set, in the convention of PASCAL VOC.

    The predictions of all images are pooled and sorted by score. Each takes its best ground truth over ALL boxes of
    its image, used or not. It is a hit if their IoU is strictly above the threshold and that box is unused, which it
    then uses up; otherwise it is a false positive, as are all predictions in images without objects. Every slot whose
    score is above `min_score` is a prediction.

    Ties keep input order: image, then slot. Several processes resolve ties between them by the image's position in
    its process, then by process, then by slot, which is the order of one process where images are dealt in turn, as
    by `DistributedSampler` without shuffling. With distinct scores no order matters.

    No ground truth at all: NaN. Ground truth, no prediction: 0. A NaN among scores or predicted boxes: NaN.

    `update` does not wait for a GPU, and its states do not depend on the options, so that a `MetricCollection` of
    several thresholds updates only one of them. They take 16 bytes a slot.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015
    (`all_points`, the rule since 2010); "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, eqs. 1 and 2
    (`11_points`).

    Args:
        iou_thresholds: IoUs in [0, 1); the result is the mean over them.
        interpolation: `all_points`, the area under the precision envelope; or `11_points`, the mean of the envelope at
            the recalls 0, 0.1, ..., 1, which are compared as integers (10 tp >= j n): .3, .6 and .7 as floats can
            lie a hair above the recall that is reached.
        min_score: A prediction's score is above this. At the default, slots with presence 0 predict nothing.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: No threshold, one outside [0, 1), or an unknown interpolation.
    """

    higher_is_better = True

    # Which ground truth a prediction takes does not depend on the others, so at threshold t it is a hit exactly if
    # rival <= t < overlap, where rival is the best overlap of the higher-ranked predictions that take the same one.
    # These two numbers a slot serve every threshold.
    scores: list[Tensor]
    overlaps: list[Tensor]
    rivals: list[Tensor]
    images: list[Tensor]
    num_targets: Tensor

    def __init__(
        self,
        iou_thresholds: Sequence[float] = (0.5,),
        interpolation: Interpolation = "all_points",
        min_score: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__("scores", "overlaps", "rivals", "images", **kwargs)
        self.iou_thresholds = tuple(iou_thresholds)
        if not self.iou_thresholds or not all(0 <= threshold < 1 for threshold in self.iou_thresholds):
            raise ValueError(f"iou_thresholds is {self.iou_thresholds}, expected at least one IoU, each in [0, 1)")
        if interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation is {interpolation!r}, expected one of {get_args(Interpolation)}")
        self.interpolation = interpolation
        self.min_score = min_score
        self.add_state("num_targets", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, boxes: Tensor, scores: Tensor, target_boxes: Tensor, target_valid: Tensor) -> None:
        """Add a batch. K and N may differ from one to the next.

        Args:
            boxes: (B, K, 4) predictions.
            scores: (B, K) confidences in [0, 1].
            target_boxes: (B, N, 4) ground truth; rows of padding may hold anything.
            target_valid: (B, N) bool, which rows of the ground truth are objects.

        Raises:
            ValueError: A shape or type is off.
        """
        scores, iou = _ranked_iou(boxes, scores, target_boxes, target_valid)
        B, K = scores.shape
        overlap, match = iou.max(dim=2, keepdim=True)
        best_claims = torch.zeros_like(iou).scatter_(2, match, overlap).cummax(dim=1).values
        rival = F.pad(best_claims, (0, 0, 1, 0))[:, :K].gather(2, match)
        self.scores.append(scores.flatten())
        self.overlaps.append(overlap.flatten())
        self.rivals.append(rival.flatten())
        self.images.append(self._number(B).repeat_interleave(K))
        self.num_targets = self.num_targets + target_valid.sum()

    def compute(self) -> Tensor:
        """Return the mean over the thresholds, a scalar in [0, 1] or NaN."""
        num_targets = int(self.num_targets)
        scores, overlaps, rivals, images = map(_pool, (self.scores, self.overlaps, self.rivals, self.images))
        if num_targets == 0 or scores.isnan().any():
            return torch.tensor(torch.nan, device=self.device)

        order = images.argsort(stable=True)
        order = order[scores[order].argsort(descending=True, stable=True)]
        order = order[: int((scores > self.min_score).sum())]
        overlaps, rivals = overlaps[order], rivals[order]
        values = []
        for threshold in torch.tensor(self.iou_thresholds):  # float32, as the overlaps
            hits = ((rivals <= threshold) & (overlaps > threshold)).nonzero().squeeze(1)
            # Precision where recall rises is all that the envelope needs: in between it only falls.
            precision = torch.arange(1, len(hits) + 1, dtype=torch.float64) / (hits + 1)
            envelope = precision.flip(0).cummax(dim=0).values.flip(0)
            if self.interpolation == "11_points":
                # The first hit with 10 tp >= j num_targets, as an index; there is a hit only from tp = 1.
                first = [max(-(-j * num_targets // 10), 1) - 1 for j in range(11)]
                values.append(envelope[[i for i in first if i < len(hits)]].sum() / 11)
            else:
                values.append(envelope.sum() / num_targets)
        return torch.stack(values).mean().to(device=self.device, dtype=torch.float32)


def _pool(state: list[Tensor] | Tensor) -> Tensor:
    """A list state as one vector, in main memory: float64 and reproducible sums are not to be had everywhere."""
    return dim_zero_cat(state).cpu() if len(state) else torch.zeros(0)


class SPAIRAveragePrecision(_Pooled):
    """Average precision as in the code of the SPAIR paper: for comparison with its figures, not for new ones.

    It differs from `AveragePrecision` (IoU .1:.1:.9, `11_points`) in that
    - it is computed for each 32 images, in their order, and averaged with the numbers of images as weights, however
      many come in an update;
    - a prediction takes its best ground truth among those of its image that are still UNUSED;
    - once all ground truth of an image is used, its further predictions are not counted: duplicates there cost
      nothing;
    - a batch with predictions but no ground truth is 0, one without predictions is NaN, and so is the mean then.

    Predictions are the slots with a score above 0. The code rounds presence to 0 or 1 first, so that its ties are
    resolved by input order; give it rounded scores to do the same. Recall and 0, 0.1, ..., 1 are compared exactly, as
    single precision has it under the NumPy of its time.

    Several processes make the batches of one, where images are dealt in turn, as by `DistributedSampler` without
    shuffling. `update` does not wait for a GPU. The states take 8 bytes a slot.

    Source: Crawford and Pineau, "Spatially Invariant Unsupervised Object Detection with Convolutional Neural
    Networks", AAAI 2019; the authors' auto_yolo, `models/core.py`, `mAP`.

    Args:
        images_per_batch: Images that are scored together; 32 in the code.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: `images_per_batch` is below 1.
    """

    higher_is_better = True

    scores: list[Tensor]
    marks: list[Tensor]
    num_slots: list[Tensor]
    num_targets: list[Tensor]
    places: list[Tensor]

    def __init__(self, images_per_batch: int = 32, **kwargs: Any) -> None:
        # of a slot its score and its marks; of an image how many slots and targets it has, and its place in its process
        super().__init__("scores", "marks", "num_slots", "num_targets", "places", **kwargs)
        if images_per_batch < 1:
            raise ValueError(f"images_per_batch is {images_per_batch}, expected at least 1")
        self.images_per_batch = images_per_batch

    def update(self, boxes: Tensor, scores: Tensor, target_boxes: Tensor, target_valid: Tensor) -> None:
        """Add images; arguments and errors as in `AveragePrecision.update`."""
        scores, iou = _ranked_iou(boxes, scores, target_boxes, target_valid)
        self.scores.append(scores.flatten())
        self.marks.append(self._marks(scores, iou, target_valid).flatten())
        self.num_slots.append(scores.new_full(scores.shape[:1], scores.shape[1]))
        self.num_targets.append(target_valid.sum(dim=1).to(self.dtype))
        self.places.append(self._number(len(scores)))

    def _marks(self, scores: Tensor, iou: Tensor, target_valid: Tensor) -> Tensor:
        """What becomes of (B, K) falling scores that overlap (B, K, N) with ground truth: (B, K), a number of 18 bits.

        Bit t says that the slot is a hit at threshold t, bit 9 + t that it is counted.
        """
        thresholds = torch.arange(1, _SPAIR_IOUS + 1, device=scores.device).div(10).unsqueeze(1)  # (T, 1)
        bits = 2.0 ** torch.arange(_SPAIR_IOUS, device=scores.device).unsqueeze(1)
        unused = F.pad(target_valid, (0, iou.shape[2] - target_valid.shape[1])).repeat(_SPAIR_IOUS, 1, 1)
        empty = ~target_valid.any(dim=1)
        marks = []
        for score, overlaps in zip(scores.unbind(1), iou.unbind(1), strict=True):
            # By rank, as each choice hangs on the ones before; thresholds and images (T, B) go together.
            counted = (score > 0) & (unused.any(dim=2) | empty)
            overlap, match = torch.where(unused, overlaps, -1.0).max(dim=2, keepdim=True)
            hit = (overlap.squeeze(2) > thresholds) & counted
            unused = unused.scatter(2, match, unused.gather(2, match) & ~hit.unsqueeze(2))
            marks.append((bits * (hit + 2**_SPAIR_IOUS * counted)).sum(dim=0))
        return torch.stack(marks, dim=1).to(self.dtype) if marks else torch.zeros_like(scores)

    def compute(self) -> Tensor:
        """Return the mean over images of their batches' values, a scalar in [0, 1] or NaN."""
        scores, marks = _pool(self.scores), _pool(self.marks).long()
        num_slots, num_targets, places = (
            _pool(state).long() for state in (self.num_slots, self.num_targets, self.places)
        )
        order = places.argsort(stable=True)  # of images
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        slots = rank.repeat_interleave(num_slots).argsort(stable=True)
        total = torch.zeros((), dtype=torch.float64)
        for batch in order.split(self.images_per_batch) if len(order) else ():
            own, slots = slots.tensor_split([int(num_slots[batch].sum())])
            total += len(batch) * self._value(scores[own], marks[own], int(num_targets[batch].sum()))
        return (total / len(order)).float().to(self.device)

    @staticmethod
    def _value(scores: Tensor, marks: Tensor, num_targets: int) -> Tensor:
        """Average precision of a batch, whose slots are in the order of images and, in each, of falling scores."""
        if scores.isnan().any() or not (scores > 0).any():
            return torch.tensor(torch.nan)
        bit = torch.arange(_SPAIR_IOUS).unsqueeze(1)  # (T, 1)
        hit, counted = (marks >> bit) & 1, (marks >> (bit + _SPAIR_IOUS)) & 1
        # Uncounted slots go last, where they lower precision and add no recall.
        order = (scores * counted).sort(dim=1, descending=True, stable=True).indices
        tp = hit.gather(1, order).cumsum(dim=1)
        precision = tp.double() / torch.arange(1, tp.shape[1] + 1)
        recalls = torch.arange(11).view(-1, 1, 1) * num_targets
        return torch.where(10 * tp >= recalls, precision, 0.0).amax(dim=2).mean()


class GMAIRAveragePrecision(Metric):
    """Average precision as in the code of the GMAIR paper: for comparison with its figures, not for new ones.

    It differs from `AveragePrecision` (IoU .5, `all_points`) in that
    - boxes are a pixel wider and higher in the IoU, which is at least .5 for a hit;
    - only slots with a score of at least .5 are predictions;
    - the curve has a point for each of the scores .999, .998, ..., 0, at which an image adds all its predictions at
      once as soon as the LOWEST of their scores is reached, and none before;
    - images without objects are left out, with their predictions.

    No ground truth at all: NaN, where the code has 0. Ground truth, no prediction: 0. A NaN among scores or predicted
    boxes: NaN. The code drops true boxes that begin left of the image; give it none of those to do the same.

    `update` does not wait for a GPU. The states are sums, of the same size for any number of images.

    Source: Zhu, Shen, Yu and Aguirre Sanchez, "GMAIR: Unsupervised Object Detection Based on Spatial Attention and
    Gaussian Mixture", 2021, appendix C; the authors' GMAIR-pytorch, `gmair/test/metric.py`, `mAP`.

    Args:
        kwargs: Options of `torchmetrics.Metric`.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    curve: Tensor
    num_targets: Tensor
    undefined: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Predictions, and hits among them, of the images that come in at each of the scores, falling.
        self.add_state("curve", torch.zeros(_GMAIR_POINTS, 2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("num_targets", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("undefined", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, boxes: Tensor, scores: Tensor, target_boxes: Tensor, target_valid: Tensor) -> None:
        """Add a batch; arguments and errors as in `AveragePrecision.update`."""
        scores, iou = _ranked_iou(boxes, scores, target_boxes, target_valid, extra=1)
        kept = scores >= 0.5
        overlap, match = iou.max(dim=2, keepdim=True)
        claims = (overlap >= 0.5) & kept.unsqueeze(2)
        # A box that several predictions take is one hit, whichever of them comes first: all come at once.
        hits = torch.zeros_like(iou, dtype=torch.bool).scatter_(2, match, claims).any(dim=1).sum(dim=1)
        added = torch.stack([kept.sum(dim=1), hits], dim=1) * target_valid.any(dim=1, keepdim=True)  # (B, 2)

        # How many of the scores 0, .001, ..., .999 the lowest reaches; a slot of score 1 stands in where none is kept.
        rising = torch.arange(_GMAIR_POINTS, device=scores.device) / _GMAIR_POINTS
        lowest = F.pad(scores.where(kept, 1.0), (0, 1), value=1.0).amin(dim=1)
        point = _GMAIR_POINTS - torch.searchsorted(rising, lowest, right=True)
        self.curve = self.curve.index_add(0, point, added)  # never in place: spawned processes may share its memory
        self.num_targets = self.num_targets + target_valid.sum()
        self.undefined = self.undefined + scores.isnan().sum()

    def compute(self) -> Tensor:
        """Return the average precision, a scalar in [0, 1] or NaN."""
        predicted, hits = self.curve.cumsum(dim=0).cpu().double().unbind(dim=1)
        precision = hits / predicted.clamp(min=1)
        envelope = precision.flip(0).cummax(dim=0).values.flip(0)
        area = (hits.diff(prepend=hits.new_zeros(1)) * envelope).sum() / self.num_targets.cpu()
        return torch.where(self.undefined.cpu() > 0, torch.nan, area).to(device=self.device, dtype=torch.float32)
