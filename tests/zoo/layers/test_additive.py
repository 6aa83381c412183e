import pytest
import torch
import torch.nn.functional as F

from zoo.layers.additive import add_up
from zoo.layers.boxes import attention_to_boxes


def _by_grid_sample(patches: torch.Tensor, center: torch.Tensor, size: torch.Tensor, H: int, W: int) -> torch.Tensor:
    """One object after the other, by the affine grid of its inverse attention."""
    canvas = patches.new_zeros(len(patches), patches.shape[2], H, W)
    for n in range(patches.shape[1]):
        (y, x), (h, w) = center[:, n].unbind(-1), size[:, n].unbind(-1)
        zero = torch.zeros_like(x)
        theta = torch.stack([torch.stack([1 / w, zero, -x / w], -1), torch.stack([zero, 1 / h, -y / h], -1)], 1)
        grid = F.affine_grid(theta, list(canvas.shape), align_corners=False)
        canvas = canvas + F.grid_sample(patches[:, n], grid, padding_mode="zeros", align_corners=False)
    return canvas


@pytest.mark.parametrize("channels", [1, 3])
def test_values_and_gradients_are_those_of_grid_sample(channels: int) -> None:
    torch.manual_seed(0)
    B, N, H, W = 3, 4, 17, 23
    patches = torch.rand(B, N, channels, 5, 7, dtype=torch.float64, requires_grad=True)
    center = (torch.rand(B, N, 2, dtype=torch.float64) * 2.4 - 1.2).requires_grad_()
    size = (torch.rand(B, N, 2, dtype=torch.float64) * 0.9 + 0.05).requires_grad_()
    ours = add_up(patches, attention_to_boxes(center, size, (H, W)), (H, W))
    theirs = _by_grid_sample(patches, center, size, H, W)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.rand_like(ours)
    for a, b in zip(
        torch.autograd.grad((weights * ours).sum(), [patches, center, size]),
        torch.autograd.grad((weights * theirs).sum(), [patches, center, size]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_attention_in_pixels() -> None:
    # centre of the image and a corner; half the height, a quarter of the width
    center, size = torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([[0.5, 0.25], [0.5, 0.25]])
    expected = torch.tensor([[15.0, 5.0, 25.0, 15.0], [-5.0, 15.0, 5.0, 25.0]])
    torch.testing.assert_close(attention_to_boxes(center, size, (20, 40)), expected)
