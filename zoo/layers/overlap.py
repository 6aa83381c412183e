"""Which object a pixel belongs to: maxima over objects at each pixel, in the windows of `zoo.layers.renderer`.

Layers are formed a few images at a time, and only what they add up to is kept: memory grows with images and patches,
not with objects times image.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.layers.precision import never_in_halves
from zoo.layers.renderer import _chunks, _groups, _Windows


def overlap(
    color: Tensor,
    alpha: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    max_size: tuple[float, float] | None = None,
    color_edge: str = "repeat",
) -> Tensor:
    """How much objects are drawn on top of each other: sum over pixels of sum_n x_n - max_n x_n (GMAIR, section 2.3).

    x_n = a'_n mean_c o'_n, with an object's opacity and colour interpolated at the pixel, as the renderer does.

    Args:
        color: (B, N, C, P, Q) in [0, 1].
        alpha: (B, N, P, Q) in [0, 1], opacity times presence.
        boxes: (B, N, 4) in pixels.
        image_size: (H, W) in pixels.
        max_size: As for `render`.
        color_edge: As for `render`.

    Returns:
        (B,), 0 where no pixel shows two objects. The gradient is that of the objects which are not the pixel's largest.
    """
    with torch.autocast(color.device.type, enabled=False):
        tensors = [t if t.dtype == torch.float64 else t.float() for t in (color.mean(2), alpha, boxes)]
        return _Overlap.apply(*tensors, image_size, max_size, color_edge == "repeat")  # type: ignore[no-untyped-call]


@torch.no_grad()
@never_in_halves
def instance_mask(
    importance: Tensor | None,
    cover: Tensor,
    presence: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float | None = None,
    max_size: tuple[float, float] | None = None,
) -> Tensor:
    """Give each pixel to the object that has the largest share in what the renderer draws there.

    That is the object with the largest g'_n v'_n, interpolated importance times cover, provided that it is present and
    covers the pixel.

    Args:
        importance: (B, N, P, Q), at least 0, as for `render`; null where objects add up (`zoo.layers.additive`): the
            largest share is then that of the largest v'_n, and absent ones have none.
        cover: (B, N, P, Q), at least 0: how much of the object there is in each texel: its alpha, or how much it shows.
        presence: (B, N) in [0, 1]; objects of at least 0.5 are present.
        boxes: (B, N, 4) in pixels.
        image_size: (H, W) in pixels.
        threshold: An object covers the pixels where its interpolated cover is at least this, above 0; null:
            one half.
        max_size: As for `render`.

    Returns:
        (B, H, W) int64: 0 for the background, n + 1 for object n; of equals, the last.
    """
    B, N, P, Q = cover.shape
    least = 0.5 if threshold is None else threshold
    if importance is None:
        cover = cover * (presence >= 0.5)[..., None, None]
    boxes = boxes.float()
    labels = torch.zeros(B, image_size[0] * image_size[1], dtype=torch.long, device=boxes.device)
    present = (presence >= 0.5) * torch.arange(1, N + 1, device=boxes.device)  # (B, N): label, or 0
    for part in _chunks(cover[:, :, None], image_size):
        shares, most = [], boxes.new_zeros(labels[part].shape)
        for group in _groups(boxes, part):
            windows = _Windows(boxes[group], (P, Q), image_size, max_size)
            maps = [cover[group]] if importance is None else [cover[group], importance[group]]
            layers = windows.draw_maps(torch.stack(maps, 3).float())[0]
            v = layers[:, :, :, 0]  # (b, n, S, T)
            share = v if importance is None else layers[:, :, :, 1].mul_(v)
            shares.append((group, windows, share, v))
            windows.keep_largest(most, share)
        for group, windows, share, v in shares:
            wins = (share >= windows.read(most)) & (v >= least) & (share > 0)
            windows.keep_largest(labels[part], wins * present[group][..., None, None])
    return labels.view(B, *image_size)


class _Overlap(torch.autograd.Function):
    """Forms the gradient along with the value, as both need the layers; the gradient of patches is small, and kept."""

    @staticmethod
    def forward(
        ctx: Any,
        color: Tensor,
        alpha: Tensor,
        boxes: Tensor,
        image_size: tuple[int, int],
        max_size: tuple[float, float] | None,
        repeat: bool,
    ) -> Tensor:
        value = boxes.new_zeros(len(boxes))
        gradients = [torch.empty_like(t) for t in (color, alpha, boxes)] if any(ctx.needs_input_grad) else []
        for part in _chunks(color[:, :, None], image_size):
            drawn, most = [], color.new_zeros(len(boxes[part]), image_size[0] * image_size[1])
            for group in _groups(boxes, part):
                windows = _Windows(boxes[group], color.shape[-2:], image_size, max_size)
                o = windows.draw_maps(color[group][:, :, :, None], repeat)
                a = windows.draw_maps(alpha[group][:, :, :, None])
                x = (o[0] * a[0]).squeeze(3)  # (b, n, S, T)
                value[part] += x.sum((1, 2, 3))
                windows.keep_largest(most, x)
                drawn.append((group, windows, o, a, x))
            value[part] -= most.sum(1)
            for group, windows, o, a, x in drawn if gradients else ():
                others = (x < windows.read(most))[:, :, :, None]  # dL/dx is 1 for all but the largest
                d_color, d_boxes_of_color = windows.draw_backward(a[0] * others, o[1], repeat)  # (b, n, P, 1, Q)
                d_alpha, d_boxes_of_alpha = windows.draw_backward(o[0] * others, a[1])
                gradients[0][group], gradients[1][group] = d_color.squeeze(3), d_alpha.squeeze(3)
                gradients[2][group] = d_boxes_of_color + d_boxes_of_alpha
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_color, d_alpha, d_boxes = ctx.saved_tensors
        over_patches = grad[:, None, None, None]
        return d_color * over_patches, d_alpha * over_patches, d_boxes * grad[:, None, None], None, None, None
