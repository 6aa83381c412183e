"""The batch: what every datamodule yields and all that models, metrics and callbacks may read."""

from typing import TypedDict

from torch import Tensor


class Batch(TypedDict, total=False):
    """Tensors of B scenes, padded to N objects, stackable by PyTorch's default collation.

    Keys that a dataset lacks are absent, never faked. A dataset yields the same keys without the leading B.

    Attributes:
        image: (B, C, H, W) float32 in [0, 1]. All that training reads.
        boxes: (B, N, 4) float32, ground truth (x1, y1, x2, y2) in absolute pixels, half-open (x2 = x1 + width), as
            torchvision's XYXY; pixel (row 0, column 0) covers [0, 1) x [0, 1). Rows of padding are zero.
        tile_boxes: (B, N, 4) float32, the whole tiles that objects come in, where `boxes` are tight on their ink.
        labels: (B, N) int64, class of each box; 0 in rows of padding, where only `valid` tells.
        valid: (B, N) bool, which rows are objects; the rest is padding.
        mask: (B, H, W) int64 instance ids: 0 background, i + 1 is row i of `boxes`.
        target: (B,) int64, the answer of a downstream task.
        background: (B, C, H, W) float32 in [0, 1], what a trained background model sees behind the objects.
    """

    image: Tensor
    boxes: Tensor
    tile_boxes: Tensor
    labels: Tensor
    valid: Tensor
    mask: Tensor
    target: Tensor
    background: Tensor
