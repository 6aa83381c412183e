import math

import pytest
import straightforward
import torch

from zoo.layers.glimpses import extract_glimpses


def _random_boxes(B: int, N: int, height: float, width: float) -> torch.Tensor:
    """Inside, across and beyond the border, of all sizes."""
    center = torch.rand(B, N, 2, dtype=torch.float64) * torch.tensor([width, height]) * 1.4 - 0.2 * width
    half = 0.3 + torch.rand(B, N, 2, dtype=torch.float64) * torch.tensor([width, height]) / 2
    return torch.cat([center - half, center + half], -1)


def _read(plane: list[list[float]], y: float, x: float, padding: str) -> float:
    """Bilinear interpolation at a point in pixels, pixel (row, column) having its value at its centre."""
    H, W = len(plane), len(plane[0])
    row, column = math.floor(y - 0.5), math.floor(x - 0.5)
    value = 0.0
    for r in (row, row + 1):
        for c in (column, column + 1):
            weight = (1 - abs(y - 0.5 - r)) * (1 - abs(x - 0.5 - c))
            if padding == "border":
                value += weight * plane[min(max(r, 0), H - 1)][min(max(c, 0), W - 1)]
            elif 0 <= r < H and 0 <= c < W:
                value += weight * plane[r][c]
    return value


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_texel_by_texel(padding):
    torch.manual_seed(0)
    (P, Q), (H, W) = (3, 5), (9, 13)
    image = torch.rand(2, 2, H, W, dtype=torch.float64)
    boxes = _random_boxes(2, 12, H, W)
    glimpses = extract_glimpses(image, boxes, (P, Q), padding)
    assert glimpses.shape == (2, 12, 2, P, Q)
    for b in range(2):
        for n in range(12):
            x1, y1, x2, y2 = boxes[b, n].tolist()
            ys = [y1 + (r + 0.5) / P * (y2 - y1) for r in range(P)]
            xs = [x1 + (q + 0.5) / Q * (x2 - x1) for q in range(Q)]
            for c in range(2):
                plane = image[b, c].tolist()
                expected = [[_read(plane, y, x, padding) for x in xs] for y in ys]
                torch.testing.assert_close(glimpses[b, n, c], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_one_image_copy_per_box(padding):
    torch.manual_seed(0)
    image = torch.rand(3, 3, 40, 56, dtype=torch.float64, requires_grad=True)
    boxes = _random_boxes(3, 17, 40, 56).requires_grad_()
    results = []
    for function in (extract_glimpses, straightforward.extract_glimpses):
        glimpses = function(image, boxes, 14, padding)
        results.append([glimpses, *torch.autograd.grad(glimpses.square().sum(), (image, boxes))])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference)


def test_box_on_the_pixel_grid_is_a_crop():
    image = torch.rand(1, 3, 20, 30)
    boxes = torch.tensor([[[5.0, 3.0, 12.0, 9.0], [23.0, 14.0, 30.0, 20.0]]])
    glimpses = extract_glimpses(image, boxes, (6, 7))
    torch.testing.assert_close(glimpses[:, 0], image[:, :, 3:9, 5:12])
    torch.testing.assert_close(glimpses[:, 1], image[:, :, 14:20, 23:30])


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_gradients(padding):
    torch.manual_seed(0)
    image = torch.rand(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    boxes = _random_boxes(2, 3, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, b: extract_glimpses(i, b, (3, 2), padding), (image, boxes))
