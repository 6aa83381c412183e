"""Attention maps and where they point: the one affine localisation that moves with the image (AST-Seg, section 2)."""

import torch
from torch import Tensor

from zoo.layers.precision import never_in_halves


@never_in_halves
def spatial_softmax(logits: Tensor) -> Tensor:
    """Attention maps from logits (AST-Seg, equation 11).

    Args:
        logits: (..., h, w).

    Returns:
        (..., h, w), each map at least 0 with sum 1.
    """
    return logits.flatten(-2).softmax(-1).view(logits.shape)


@never_in_halves
def soft_argmax(attention: Tensor) -> Tensor:
    """Centres of mass of attention maps (AST-Seg, equations 12 to 15).

    Coordinates are corner-aligned: -1 and 1 are the centres of the first and last row or column. Pasting has -1 and 1
    at the image's edges; the difference, half a cell at the border, is the paper's.

    Args:
        attention: (..., h, w), each map with sum 1.

    Returns:
        (..., 2) y and x, in [-1, 1].
    """
    y, x = (torch.linspace(-1, 1, n, device=attention.device, dtype=attention.dtype) for n in attention.shape[-2:])
    return torch.stack([attention.sum(-1) @ y, attention.sum(-2) @ x], -1)


@never_in_halves
def attend(attention: Tensor, features: Tensor) -> Tensor:
    """Query vectors: features averaged under each attention map (AST-Seg, equation 16).

    Args:
        attention: (B, K, h, w), each map with sum 1.
        features: (B, D, h, w).

    Returns:
        (B, K, D).
    """
    return attention.flatten(2) @ features.flatten(2).mT
