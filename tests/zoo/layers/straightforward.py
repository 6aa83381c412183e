"""What the papers' text says, in its most direct PyTorch: the yardstick of the tests' values and of the benchmarks.

Each has the signature of the function in `zoo.layers` that it stands for, and can be put in its place.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers.wavefront import Step


def render(
    color: Tensor,
    alpha: Tensor,
    importance: Tensor,
    boxes: Tensor,
    background: Tensor,
    method: str = "exact",
    max_size: tuple[float, float] | None = None,
    color_edge: str = "repeat",
) -> Tensor:
    """Draw every object onto a canvas of its own with `grid_sample`, then mix the canvases."""

    def paste(maps: Tensor, padding: str = "zeros") -> Tensor:
        canvases = F.grid_sample(maps.flatten(0, 1), grid, padding_mode=padding, align_corners=False)
        return canvases.unflatten(0, maps.shape[:2])

    C, (H, W) = color.shape[2], background.shape[-2:]
    x1, y1, x2, y2 = boxes.flatten(0, 1)[:, None].unbind(-1)
    x = 2 * (torch.arange(W, device=boxes.device) + 0.5 - x1) / (x2 - x1) - 1  # (B N, W), -1 to 1 in the box
    y = 2 * (torch.arange(H, device=boxes.device) + 0.5 - y1) / (y2 - y1) - 1
    grid = torch.stack([x[:, None].expand(-1, H, -1), y[:, :, None].expand(-1, -1, W)], -1)
    alpha, importance, background = alpha[:, :, None], importance[:, :, None], background[:, None]
    if method == "exact":
        o = paste(color, {"repeat": "border", "zeros": "zeros"}[color_edge])
        a, g = paste(torch.cat([alpha, importance], 2)).split([1, 1], 2)
        weighted, total = (g * (a * o + (1 - a) * background)).sum(1), g.sum(1)
    else:
        ga = importance * alpha
        weighted, opacity, total = paste(torch.cat([ga * color, ga, importance], 2)).sum(1).split([C, 1, 1], 1)
        weighted = weighted + (total - opacity) * background[:, 0]
    return torch.where(total > 0, weighted / torch.where(total > 0, total, 1), background[:, 0])


def extract_glimpses(image: Tensor, boxes: Tensor, size: int | tuple[int, int], padding: str = "zeros") -> Tensor:
    """One `grid_sample` for each box, of a copy of the image for each box."""
    P, Q = (size, size) if isinstance(size, int) else size
    (B, N), (C, H, W) = boxes.shape[:2], image.shape[1:]
    x1, y1, x2, y2 = boxes.flatten(0, 1).unbind(-1)
    zero = torch.zeros_like(x1)
    theta = torch.stack([(x2 - x1) / W, zero, (x1 + x2) / W - 1, zero, (y2 - y1) / H, (y1 + y2) / H - 1], -1).unflatten(
        -1, (2, 3)
    )
    grid = F.affine_grid(theta, [B * N, C, P, Q], align_corners=False)
    copies = image[:, None].expand(-1, N, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(copies, grid, padding_mode=padding, align_corners=False).unflatten(0, (B, N))


def encode_in_waves(
    step: Step, inputs: tuple[Tensor, ...], edge: Tensor, height: int, width: int, lookback: int = 1
) -> tuple[Tensor, ...]:
    """Cell by cell, row by row (SPAIR, section 4.3)."""
    L, B = lookback, len(inputs[0])
    objects: dict[tuple[int, int], Tensor] = {}
    outputs = []
    for i in range(height):
        for j in range(width):
            seen = [(i + di, j + dj) for di in range(-L, 1) for dj in range(-L, L + 1) if (di, dj) < (0, 0)]
            around = [objects.get(cell, edge.expand(B, -1)) for cell in seen]
            context = torch.stack(around, 1)[:, None] if around else edge.new_zeros(B, 1, 0, len(edge))
            k = i * width + j
            made, out = step(tuple(x[:, k : k + 1] for x in inputs), context)
            objects[i, j] = made[:, 0]
            outputs.append(out)
    return tuple(torch.cat(parts, 1) for parts in zip(*outputs, strict=True))
