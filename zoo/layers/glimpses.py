"""Glimpses: patches read from images at axis-aligned boxes."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def extract_glimpses(image: Tensor, boxes: Tensor, size: int | tuple[int, int], padding: str = "zeros") -> Tensor:
    """Read a patch of `size` texels from each box by bilinear interpolation (Jaderberg et al. 2015).

    Texel (r, c) is read at the centre of its share of the box. All boxes of an image are read in one `grid_sample`,
    their grids stacked along the height, so that the image is never copied for each box.

    Args:
        image: (B, C, H, W).
        boxes: (B, N, 4) in pixels.
        size: (P, Q) of the patch, or one number for both.
        padding: What lies outside the image: "zeros", or "border" for the nearest edge pixel.

    Returns:
        (B, N, C, P, Q).
    """
    P, Q = (size, size) if isinstance(size, int) else size
    H, W = image.shape[-2:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    # align_corners=False: -1 and 1 are the image's outer edges
    y = (2 * y1 / H - 1)[..., None] + (2 * (y2 - y1) / H)[..., None] * _texel_centers(P, boxes)  # (B, N, P)
    x = (2 * x1 / W - 1)[..., None] + (2 * (x2 - x1) / W)[..., None] * _texel_centers(Q, boxes)  # (B, N, Q)
    N = boxes.shape[1]
    grid = torch.stack([x[:, :, None, :].expand(-1, -1, P, -1), y[:, :, :, None].expand(-1, -1, -1, Q)], -1)
    grid = rearrange(grid, "b n p q d -> b (n p) q d")
    glimpses = F.grid_sample(image, grid.to(image.dtype), padding_mode=padding, align_corners=False)
    return rearrange(glimpses, "b c (n p) q -> b n c p q", n=N)


def _texel_centers(size: int, like: Tensor) -> Tensor:
    """Centres of `size` texels that share [0, 1]."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
