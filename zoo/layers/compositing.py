"""Soft compositing of object layers over a background, by activation times mask (AST-Seg, algorithm 2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.layers.renderer import interpolation_weights

_SMALL_SHARE = 1 / 400  # of an image's pixels: about where a slot begins to count, ten pixels of 64 x 64
# Of activations, in log. The weights' gradients need the square of its exponential, which float32 has up to 44.
_LARGEST_RATIO = 40.0
# Layers of a chunk of images should stay in a CPU's caches; a GPU has all at once.
_CHUNK_BYTES = {"cpu": 2 * 2**20}


class Layers(NamedTuple):
    """K object layers and a background, as `composite` takes them."""

    color: Tensor  # (B, K, C, P, Q) in [0, 1]
    mask: Tensor  # (B, K, P, Q) in [0, 1]
    log_activation: Tensor  # (B, K), log alpha_k
    boxes: Tensor  # (B, K, 4) in pixels
    background: Tensor  # (B, C, H, W) in [0, 1]
    background_log_activation: Tensor  # (), log alpha_0


class CompositeLosses(NamedTuple):
    """What composites are off by, and how undecided they are; each ().

    Attributes:
        reconstruction: Squared L1 error over channels, a mean over pixels and images (equations 19 and 20).
        entropy: Squared entropy of the weights in nats^2, a mean over pixels and images (equation 21).
        objects: Soft count of objects, sum_k log(1 + 400 share_k) of the layers' shares of the pixels, a mean over
            images: being concave, it falls when one slot takes over what two had.
    """

    reconstruction: Tensor
    entropy: Tensor
    objects: Tensor


def composite(
    color: Tensor,
    mask: Tensor,
    log_activation: Tensor,
    boxes: Tensor,
    background: Tensor,
    background_log_activation: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mix K object layers and a background: sum_k w_k L_k, w_k = alpha_k M_k / sum_j alpha_j M_j (equations 17, 18).

    L_k and M_k are colours and mask pasted into the object's box, bilinearly and with zeros outside; L_0 is the
    background and M_0 = 1.

    Args:
        color: (B, K, C, P, Q) in [0, 1].
        mask: (B, K, P, Q) in [0, 1].
        log_activation: (B, K), log alpha_k.
        boxes: (B, K, 4) in pixels.
        background: (B, C, H, W) in [0, 1].
        background_log_activation: (), log alpha_0.

    Returns:
        The image (B, C, H, W) and the weights (B, K + 1, H, W), the background's first; they sum to 1.
    """
    with torch.autocast(color.device.type, enabled=False):
        layers, weights, background_weight = _layers(
            *_as_float(color, mask, log_activation, boxes, background, background_log_activation)
        )
        image = _mix(layers, weights, background_weight, _rows_first(background.to(layers.dtype)))
        return image.transpose(1, 2), torch.cat([background_weight, weights], 1)


def composite_losses(
    image: Tensor,
    color: Tensor,
    mask: Tensor,
    log_activation: Tensor,
    boxes: Tensor,
    background: Tensor,
    background_log_activation: Tensor,
    layer_error: float = 0.0,
) -> CompositeLosses:
    """What a composite (see `composite`) is off by, and how undecided it is, without the composite as such.

    On a CPU a few images at a time, so that their layers stay in its caches.

    Args:
        image: (B, C, H, W) in [0, 1], what should be drawn.
        color: (B, K, C, P, Q) in [0, 1], as all that follow as in `composite`.
        mask: (B, K, P, Q) in [0, 1].
        log_activation: (B, K), log alpha_k.
        boxes: (B, K, 4) in pixels.
        background: (B, C, H, W) in [0, 1].
        background_log_activation: (), log alpha_0.
        layer_error: In [0, 1], how much of the error is that of the layers, C sum_k w_k |L_k - x|^2, instead of that of
            their mix. It is larger by the layers' variance under the weights, and so favours opaque ones.
    """
    with torch.autocast(color.device.type, enabled=False):
        tensors = _as_float(color, mask, log_activation, boxes, background, image)
        activation = background_log_activation.to(tensors[0].dtype)
        B, K, C = color.shape[:3]
        H, W = image.shape[-2:]
        image_bytes = K * (C + 1) * H * W * tensors[0].element_size()
        size = max(1, _CHUNK_BYTES.get(color.device.type, B * image_bytes) // image_bytes)
        sums = [_sums(activation, layer_error, *part) for part in zip(*(t.split(size) for t in tensors), strict=True)]
        reconstruction, entropy, count = torch.stack(sums).sum(0).div(B).unbind()
        return CompositeLosses(reconstruction / (H * W), entropy / (H * W), count)


def _sums(
    background_log_activation: Tensor,
    layer_error: float,
    color: Tensor,
    mask: Tensor,
    log_activation: Tensor,
    boxes: Tensor,
    background: Tensor,
    image: Tensor,
) -> Tensor:
    layers, weights, background_weight = _layers(
        color, mask, log_activation, boxes, background, background_log_activation
    )
    behind, x = _rows_first(background), _rows_first(image)  # (b, H, C, W)
    error = image.new_zeros(())
    if layer_error < 1:
        drawn = _mix(layers, weights, background_weight, behind)
        error = (1 - layer_error) * (drawn - x).abs().sum(2).square().sum()
    if layer_error > 0:
        apart = (layers - x[:, None]).square().sum(3)  # (b, K, H, W)
        missed = (weights * apart).sum() + (background_weight[:, 0] * (behind - x).square().sum(2)).sum()
        error = error + layer_error * image.shape[1] * missed
    entropy = _xlogx(weights).sum(1) + _xlogx(background_weight)[:, 0]
    count = (weights.mean((2, 3)) / _SMALL_SHARE).log1p().sum()
    return torch.stack([error, entropy.square().sum(), count])


def _layers(
    color: Tensor,
    mask: Tensor,
    log_activation: Tensor,
    boxes: Tensor,
    background: Tensor,
    background_log_activation: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour layers (b, K, H, C, W), the objects' weights (b, K, H, W) and the background's (b, 1, H, W)."""
    b, K, C, P, Q = color.shape
    H, W = background.shape[-2:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    A_y, A_x = interpolation_weights(y1, y2, P, H), interpolation_weights(x1, x2, Q, W)
    maps = torch.cat([color, mask[:, :, None]], 2).transpose(2, 3)  # (b, K, P, C + 1, Q)
    rows = (maps.flatten(2, 3) @ A_x.mT).view(b, K, P, (C + 1) * W)
    layers, masks = (A_y @ rows).view(b, K, H, C + 1, W).split([C, 1], 3)
    # relative to the background's, so that the denominator is at least 1
    ratio = (log_activation - background_log_activation).clamp_max(_LARGEST_RATIO).exp()
    share = ratio[..., None, None] * masks.squeeze(3)
    background_weight = 1 / (1 + share.sum(1, keepdim=True))
    return layers, share * background_weight, background_weight


def _mix(layers: Tensor, weights: Tensor, background_weight: Tensor, background: Tensor) -> Tensor:
    """(b, H, C, W)."""
    return torch.addcmul((layers * weights.unsqueeze(3)).sum(1), background, background_weight.transpose(1, 2))


def _xlogx(w: Tensor) -> Tensor:
    """0, with a finite slope, at 0 (equation 21's epsilon)."""
    return w * (w + 1e-20).log()


def _rows_first(image: Tensor) -> Tensor:
    return image.transpose(1, 2)


def _as_float(*tensors: Tensor) -> list[Tensor]:
    """No less than single precision: exponentials and their ratios are not for halves."""
    return [t if t.dtype == torch.float64 else t.float() for t in tensors]
