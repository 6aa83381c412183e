"""GMAIR's overlap loss in its most direct PyTorch; see `straightforward`."""

import torch
import torch.nn.functional as F
from torch import Tensor


def overlap(
    color: Tensor,
    alpha: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    max_size: tuple[float, float] | None = None,
    color_edge: str = "repeat",
) -> Tensor:
    """Draw every object onto a canvas of its own with `grid_sample`; sum over objects, less the largest."""
    H, W = image_size
    x1, y1, x2, y2 = boxes.flatten(0, 1)[:, None].unbind(-1)
    x = 2 * (torch.arange(W, device=boxes.device) + 0.5 - x1) / (x2 - x1) - 1
    y = 2 * (torch.arange(H, device=boxes.device) + 0.5 - y1) / (y2 - y1) - 1
    grid = torch.stack([x[:, None].expand(-1, H, -1), y[:, :, None].expand(-1, -1, W)], -1)
    padding = {"repeat": "border", "zeros": "zeros"}[color_edge]
    colors = F.grid_sample(color.flatten(0, 1), grid, padding_mode=padding, align_corners=False)
    alphas = F.grid_sample(alpha.flatten(0, 1)[:, None], grid, align_corners=False)
    drawn = (colors.mean(1) * alphas[:, 0]).unflatten(0, boxes.shape[:2])  # (B, N, H, W)
    return (drawn.sum(1) - drawn.amax(1)).sum((1, 2))
