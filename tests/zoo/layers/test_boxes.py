import math

import pytest
import torch

from zoo.layers.boxes import cell_offsets_to_boxes, grid_cells, trim_boxes, where_to_cell_offsets


def test_grid_cells():
    assert grid_cells(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_spair_equations_2_to_6():
    torch.manual_seed(0)
    height, width, bounds, cell_size, anchor = 3, 4, (-0.5, 1.5), (12, 10), (48.0, 36.0)
    z_where = torch.randn(2, height * width, 4, dtype=torch.float64)
    offset_yx, size_hw = where_to_cell_offsets(z_where, bounds)
    cells = grid_cells(height, width).double()
    boxes = cell_offsets_to_boxes(offset_yx, size_hw, cells, cell_size, anchor)
    assert boxes.shape == (2, 12, 4)

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    for b in range(2):
        for i in range(height):
            for j in range(width):
                z_y, z_x, z_h, z_w = z_where[b, i * width + j].tolist()
                center_y = (i + sigmoid(z_y) * (bounds[1] - bounds[0]) + bounds[0]) * cell_size[0]
                center_x = (j + sigmoid(z_x) * (bounds[1] - bounds[0]) + bounds[0]) * cell_size[1]
                h, w = sigmoid(z_h) * anchor[0], sigmoid(z_w) * anchor[1]
                expected = [center_x - w / 2, center_y - h / 2, center_x + w / 2, center_y + h / 2]
                assert boxes[b, i * width + j].tolist() == pytest.approx(expected)


def test_gradient_of_boxes():
    torch.manual_seed(0)

    def boxes(z_where: torch.Tensor) -> torch.Tensor:
        return cell_offsets_to_boxes(
            *where_to_cell_offsets(z_where, (-0.5, 1.5)), grid_cells(2, 2).double(), (12, 12), (48, 48)
        )

    assert torch.autograd.gradcheck(boxes, torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True))


def _trim(box: list[float], visible: list[list[float]], threshold: float) -> list[float]:
    """Literally: the extent of the texels that reach the threshold."""
    rows = [r for r, row in enumerate(visible) for value in row if value >= threshold]
    columns = [c for row in visible for c, value in enumerate(row) if value >= threshold]
    if not rows:
        return box
    x1, y1, x2, y2 = box
    texel_h, texel_w = (y2 - y1) / len(visible), (x2 - x1) / len(visible[0])
    return [
        x1 + min(columns) * texel_w,
        y1 + min(rows) * texel_h,
        x1 + (max(columns) + 1) * texel_w,
        y1 + (max(rows) + 1) * texel_h,
    ]


def test_trim_boxes():
    torch.manual_seed(0)
    corner, size = 30 * torch.rand(2, 5, 40, 2, dtype=torch.float64)
    boxes = torch.cat([corner, corner + size + 1], -1).requires_grad_()
    # from nothing visible to nearly all, on both sides of the threshold and exactly at it
    visible = torch.rand(5, 40, 6, 4) ** torch.linspace(1, 60, 40)[None, :, None, None]
    visible[:, ::7] = (visible[:, ::7] > 0.4).float() * 0.5
    visible[0, 0] = 0
    trimmed = trim_boxes(boxes, visible, 0.5)
    empty = 0
    for b in range(5):
        for n in range(40):
            expected = _trim(boxes[b, n].tolist(), visible[b, n].tolist(), 0.5)
            empty += expected == boxes[b, n].tolist()
            assert trimmed[b, n].tolist() == pytest.approx(expected)
    assert 0 < empty < 200  # both kinds were there
    assert torch.equal(trimmed[0, 0], boxes[0, 0])
    (gradient,) = torch.autograd.grad(trimmed.sum(), boxes)
    # each edge is a convex combination of two: the gradient's sum over a box's edges is that of four ones
    torch.testing.assert_close(gradient.sum(-1), torch.full((5, 40), 4.0, dtype=torch.float64))
