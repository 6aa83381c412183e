"""Patches under an affine map factorised into scale and shift, rotation, and skew (Discrete-AIR, equations 6 and 7).

A place is (..., 7): (x, y, width, height, angle, k_x, k_y), the patch's centre and size in pixels, its rotation in
radians (clockwise on the screen, where y points down) and its shears. Its matrix T^d maps patch coordinates, in which
the patch is [-1, 1] x [-1, 1], to image coordinates in pixels, in which pixel (row 0, column 0) is [0, 1) x [0, 1). A
patch is read with T^d and written with its inverse T^e. Pixels, not fractions of the image, keep a rotation one in
images that are not square.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers.precision import never_in_halves

PLACE_DIM = 7


@never_in_halves
def affine_matrix(place: Tensor) -> Tensor:
    """T^d = T_st T_r T_k (equation 6): patch coordinates to pixels.

    Args:
        place: (..., 7).

    Returns:
        (..., 3, 3).
    """
    x, y, width, height, angle, k_x, k_y = place.unbind(-1)
    zero, one, cos, sin = torch.zeros_like(x), torch.ones_like(x), angle.cos(), angle.sin()
    scale_shift = _matrix(width / 2, zero, x, zero, height / 2, y)
    rotation = _matrix(cos, -sin, zero, sin, cos, zero)
    skew = _matrix(1 + k_x * k_y, k_x, zero, k_y, one, zero)
    return scale_shift @ rotation @ skew


@never_in_halves
def affine_inverse(place: Tensor) -> Tensor:
    """T^e = T_k^-1 T_r^-1 T_st^-1 (equation 7): pixels to patch coordinates.

    Args:
        place: (..., 7), width and height above 0.

    Returns:
        (..., 3, 3), exactly the inverse of `affine_matrix`: no system is solved, as T_k has determinant 1.
    """
    x, y, width, height, angle, k_x, k_y = place.unbind(-1)
    zero, one, cos, sin = torch.zeros_like(x), torch.ones_like(x), angle.cos(), angle.sin()
    scale_shift = _matrix(2 / width, zero, -2 * x / width, zero, 2 / height, -2 * y / height)
    rotation = _matrix(cos, sin, zero, -sin, cos, zero)
    skew = _matrix(one, -k_x, zero, -k_y, 1 + k_x * k_y, zero)
    return skew @ rotation @ scale_shift


@never_in_halves
def read_patches(image: Tensor, matrix: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Read patches from images by bilinear interpolation; zero outside the image.

    Args:
        image: (B, C, H, W).
        matrix: (B, N, 3, 3) from `affine_matrix`.
        size: (P, Q) texels of a patch, or one number for both.

    Returns:
        (B, N, C, P, Q), each texel read at its centre.
    """
    P, Q = (size, size) if isinstance(size, int) else size
    H, W = image.shape[-2:]
    B, N = matrix.shape[:2]
    # align_corners=False: -1 and 1 are the image's outer edges
    pixels = _apply(matrix, 2 * _centers(Q, image) / Q - 1, 2 * _centers(P, image) / P - 1)
    grid = 2 * pixels / image.new_tensor([W, H]) - 1
    patches = F.grid_sample(image, grid.view(B, N * P, Q, 2), align_corners=False)  # all of an image's at once
    return patches.view(B, -1, N, P, Q).transpose(1, 2)


@never_in_halves
def write_patches(patches: Tensor, inverse: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Write patches onto a canvas by bilinear interpolation and add them up.

    Args:
        patches: (B, N, C, P, Q), any values; times presence, for what should not be drawn.
        inverse: (B, N, 3, 3) from `affine_inverse`.
        image_size: (H, W) of the canvas in pixels.

    Returns:
        (B, C, H, W), zero outside the patches but for one soft texel; values add up, past 1 too.
    """
    return _write_layers(patches, inverse, image_size).sum(1)


@torch.no_grad()
@never_in_halves
def largest_patch(
    cover: Tensor, presence: Tensor, inverse: Tensor, image_size: tuple[int, int], threshold: float | None = None
) -> Tensor:
    """Give each pixel to the object that adds most to what `write_patches` writes there.

    Args:
        cover: (B, N, P, Q), at least 0: how much there is of the object in each texel.
        presence: (B, N) in [0, 1]; objects of at least 0.5 are present, others take no part.
        inverse: (B, N, 3, 3) from `affine_inverse`.
        image_size: (H, W) in pixels.
        threshold: The least interpolated cover that makes a pixel an object's, above 0; null: one half.

    Returns:
        (B, H, W) int64: 0 for the background, n + 1 for object n; of equals, any.
    """
    present = (cover * (presence >= 0.5)[..., None, None])[:, :, None]
    most, index = _write_layers(present, inverse, image_size)[:, :, 0].max(1)
    return (index + 1) * (most >= (0.5 if threshold is None else threshold))


def _write_layers(patches: Tensor, inverse: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Each object on a canvas of its own, (B, N, C, H, W)."""
    B, N = patches.shape[:2]
    H, W = image_size
    grid = _apply(inverse, _centers(W, inverse), _centers(H, inverse))
    layers = F.grid_sample(patches.flatten(0, 1), grid.flatten(0, 1), align_corners=False)
    return layers.unflatten(0, (B, N))


@never_in_halves
def affine_hull(matrix: Tensor, visible: Tensor | None = None, threshold: float = 0.0) -> Tensor:
    """Smallest axis-aligned boxes around placed patches, or around what shows of them.

    Args:
        matrix: (..., 3, 3) from `affine_matrix`.
        visible: None for whole patches, or (..., P, Q), how much each texel shows, at least 0.
        threshold: The box is around the texels that reach this value; around the whole patch where none does.

    Returns:
        (..., 4) boxes (x1, y1, x2, y2) in pixels.
    """
    if visible is None:
        visible = matrix.new_ones(*matrix.shape[:-2], 1, 1)
    P, Q = visible.shape[-2:]
    centers = _apply(matrix, 2 * _centers(Q, matrix) / Q - 1, 2 * _centers(P, matrix) / P - 1).flatten(-3, -2)
    half = matrix[..., :2, :2].abs() @ matrix.new_tensor([1 / Q, 1 / P])  # of a texel's own hull
    on = (visible >= threshold).flatten(-2)
    out = ~(on | ~on.any(-1, keepdim=True))[..., None]
    low = centers.masked_fill(out, torch.inf).amin(-2) - half
    high = centers.masked_fill(out, -torch.inf).amax(-2) + half
    return torch.cat([low, high], -1)


def _matrix(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    """Homogeneous (..., 3, 3) matrices with the rows (a, b, x), (c, d, y), (0, 0, 1)."""
    zero = torch.zeros_like(a)
    return torch.stack([a, b, x, c, d, y, zero, zero, torch.ones_like(a)], -1).unflatten(-1, (3, 3))


def _centers(size: int, like: Tensor) -> Tensor:
    """Centres of `size` pixels of width 1, from 0.5."""
    return torch.arange(size, device=like.device, dtype=like.dtype) + 0.5


def _apply(matrix: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Map the points of a grid with columns x (Q,) and rows y (P,): (..., 3, 3) to (..., P, Q, 2)."""
    along_x, along_y, origin = matrix[..., :2, :].unbind(-1)  # (..., 2) each
    row = along_x[..., None, :] * x[:, None]  # (..., Q, 2)
    column = along_y[..., None, :] * y[:, None] + origin[..., None, :]  # (..., P, 2)
    return row[..., None, :, :] + column[..., :, None, :]
