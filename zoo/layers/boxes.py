"""Boxes: from a grid cell's where-code to pixels and back, and the trimming of boxes to what is drawn in them.

Boxes are (x1, y1, x2, y2) in absolute pixels, half-open; pixel (row 0, column 0) covers [0, 1) x [0, 1).
"""

import torch
from torch import Tensor


def grid_cells(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(row, column) of each cell of a grid in raster order: (height * width, 2) float."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns], -1).flatten(0, 1).to(device=device, dtype=torch.float32)


def where_to_cell_offsets(z_where: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Squash where-codes: SPAIR equations 2, 4 and 6, before pixels come in.

    Args:
        z_where: (..., 4) unbounded (y, x, h, w).
        bounds: (min, max) of the centre relative to its cell's top-left corner, in cells.

    Returns:
        offset_yx: (..., 2) in (min, max), in cells.
        size_hw: (..., 2) in (0, 1), in anchors.
    """
    yx, hw = z_where.sigmoid().split(2, -1)
    low, high = bounds
    return low + (high - low) * yx, hw


def cell_offsets_to_boxes(
    offset_yx: Tensor, size_hw: Tensor, cell: Tensor, cell_size: tuple[int, int], anchor: tuple[float, float]
) -> Tensor:
    """Boxes in pixels from squashed where-codes: SPAIR equations 3, 5 and 6.

    Args:
        offset_yx: (..., 2) centre relative to the cell's top-left corner, in cells.
        size_hw: (..., 2) in anchors.
        cell: (..., 2) row and column of each cell, broadcastable with the above.
        cell_size: (height, width) of a cell in pixels, (c_h, c_w) in the paper.
        anchor: (height, width) of the anchor in pixels, (a_h, a_w) in the paper.

    Returns:
        (..., 4) boxes (x1, y1, x2, y2).
    """
    center_yx = (cell + offset_yx) * offset_yx.new_tensor(cell_size)
    half_hw = 0.5 * size_hw * size_hw.new_tensor(anchor)
    return torch.cat([(center_yx - half_hw).flip(-1), (center_yx + half_hw).flip(-1)], -1)


def trim_boxes(boxes: Tensor, visible: Tensor, threshold: float) -> Tensor:
    """Cut off a box's empty border: the rows and columns of its patch in which nothing reaches the threshold.

    GMAIR, section 4. An object found inside a loose box is then scored for what it is.

    Args:
        boxes: (..., 4) in pixels.
        visible: (..., P, Q) how much each texel of the box's patch shows, at least 0.
        threshold: A row or column stays if any of its texels reaches this value, or lies between two that do.

    Returns:
        (..., 4) trimmed boxes. A box whose patch shows nothing is returned untrimmed.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    top, bottom = _extent(visible.amax(-1) >= threshold)
    left, right = _extent(visible.amax(-2) >= threshold)
    width, height = x2 - x1, y2 - y1
    return torch.stack([x1 + left * width, y1 + top * height, x1 + right * width, y1 + bottom * height], -1)


def _extent(on: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True of (..., P), as fractions of P; (0, 1) where all are False."""
    size = on.shape[-1]
    index = torch.arange(size, device=on.device)
    empty = ~on.any(-1)
    first = torch.where(on, index, size).amin(-1).masked_fill(empty, 0)
    last = torch.where(on, index, -1).amax(-1).masked_fill(empty, size - 1)
    return first / size, (last + 1) / size


def attention_to_boxes(center_yx: Tensor, size_hw: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes in pixels from the attention of the AIR family, which knows no grid.

    Args:
        center_yx: (..., 2) in [-1, 1], the image's edges.
        size_hw: (..., 2) in (0, 1], fractions of the image's height and width.
        image_size: (H, W) of the image in pixels.

    Returns:
        (..., 4) boxes (x1, y1, x2, y2).
    """
    size = size_hw.new_tensor(image_size)
    center, half = (center_yx + 1) / 2 * size, size_hw / 2 * size
    return torch.cat([(center - half).flip(-1), (center + half).flip(-1)], -1)
