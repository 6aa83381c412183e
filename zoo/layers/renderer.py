"""Rendering of objects into images: Algorithm 1 of the SPAIR supplement, by separable matrix products.

Pasting a patch into an axis-aligned box by bilinear interpolation is separable: with A_y (H, P) and A_x (W, Q) holding
each pixel's weights on the patch's rows and columns, the object's layer is A_y @ patch @ A_x^T, exactly what
`grid_sample` with zero padding and `align_corners=False` draws: zero outside the box but for one soft texel.

Over that texel alpha fades. Were colour to fade along with it, an opaque white patch on white would have a grey ring,
of 0.75 where half of each is left: colours are therefore sampled with the patch's edge repeated (`color_edge`).
"""

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

METHODS = ("exact", "premultiplied")
COLOR_EDGES = ("repeat", "zeros")

# What the full-size layers of one chunk of images would take: on a CPU their windows should stay in its caches.
_CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 512 * 2**20}

# From so many objects in an image on, a CPU draws those of like size together, in windows that fit them.
_MANY, _GROUP = 128, 32


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
    """Draw N objects over a background, each pixel a convex combination of the objects that cover it.

    With a', g', o' the three maps of an object interpolated at a pixel (Algorithm 1, lines 13 to 18),
    out = sum_n g'_n (a'_n o'_n + (1 - a'_n) bg) / sum_n g'_n, and the background where every g' is zero.

    Args:
        color: (B, N, C, P, Q) in [0, 1].
        alpha: (B, N, P, Q) in [0, 1], opacity times presence.
        importance: (B, N, P, Q), at least 0: alpha times presence times sigmoid(-depth) in the paper.
        boxes: (B, N, 4) in pixels.
        background: (B, C, H, W) in [0, 1].
        method: "exact" is Algorithm 1, its layers formed for a few images at a time and formed again in the backward
            pass, so that memory grows with the image and not with objects times image. "premultiplied" multiplies
            importance, alpha and colour in patch space, before interpolation, and contracts over objects and rows in
            one matrix product: no layers at all, but not the same function at soft edges. It pays where boxes are
            about as large as the image; small ones "exact" draws faster, in windows.
        max_size: (height, width) in pixels that no box exceeds, if known: on a GPU "exact" then draws in windows of
            that size instead of whole images. Boxes that do exceed it are cut. A CPU finds the size by itself.
        color_edge: What colours "exact" finds beyond a patch's outermost texel centres: "repeat", the nearest texel's,
            so that alpha alone fades there; "zeros", fading to black, which is Algorithm 1 with one INTERPOLATE for all
            three maps, taken literally. "premultiplied" has neither fade by itself, and does not look at it.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: Unknown method or colour edge.
    """
    if method not in METHODS:
        raise ValueError(f"unknown rendering method {method!r}; choose one of {METHODS}")
    if color_edge not in COLOR_EDGES:
        raise ValueError(f"unknown color_edge {color_edge!r}; choose one of {COLOR_EDGES}")
    with torch.autocast(color.device.type, enabled=False):  # a ratio of small numbers: never in half precision
        tensors = [t if t.dtype == torch.float64 else t.float() for t in (color, alpha, importance, boxes, background)]
        if method == "premultiplied":
            return _premultiplied(*tensors)
        return _ExactRenderer.apply(*tensors, max_size, color_edge == "repeat")  # type: ignore[no-untyped-call]


def interpolation_weights(low: Tensor, high: Tensor, texels: int, pixels: int, repeat: bool = False) -> Tensor:
    """Bilinear weights along one axis: how much each pixel centre takes from each texel of an object's patch.

    Args:
        low: (...) where the box begins, in pixels.
        high: (...) where it ends.
        texels: P, size of the patch.
        pixels: H, size of the image.
        repeat: Beyond the outermost texels' centres there are more like them, instead of zeros.

    Returns:
        (..., H, P), at most two entries of a row are not 0; rows outside the box by more than half a texel are 0, or,
        with `repeat`, as all rows of sum 1.
    """
    return _InterpolationWeights.apply(low, high, texels, pixels, repeat)  # type: ignore[no-untyped-call]


class _InterpolationWeights(torch.autograd.Function):
    """Keeps the ends of boxes for the backward pass, not every intermediate (..., H, P)."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, texels: int, pixels: int, repeat: bool) -> Tensor:
        ctx.save_for_backward(low, high)
        ctx.repeat = repeat
        fraction, _ = _texel_position(low, high, texels, pixels)
        return _distance(fraction, texels, repeat).abs_().neg_().add_(1).clamp_min_(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        low, high = ctx.saved_tensors
        return *_weights_backward(grad, low, high, ctx.repeat), None, None, None


def _texel_position(low: Tensor, high: Tensor, texels: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Pixel centres as fractions of the box, (..., H), and texels for each pixel, (..., 1)."""
    centers = torch.arange(pixels, device=low.device, dtype=low.dtype) + 0.5
    # a box of no extent would divide by zero; a thousandth of a pixel is smaller than any box that can be seen
    extent = (high - low).clamp_min(1e-3)[..., None]
    return (centers - low[..., None]) / extent, texels / extent


def _distance(fraction: Tensor, texels: int, repeat: bool) -> Tensor:
    """Signed distance in texels from each pixel, or its nearest point between texels, to each texel: (..., H, P)."""
    position = fraction * texels - 0.5
    if repeat:
        position = position.clamp(0, texels - 1)
    return position[..., None] - torch.arange(texels, device=fraction.device, dtype=fraction.dtype)


def _premultiplied(color: Tensor, alpha: Tensor, importance: Tensor, boxes: Tensor, background: Tensor) -> Tensor:
    C, P, Q = color.shape[-3:]
    H, W = background.shape[-2:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    A_y = rearrange(interpolation_weights(y1, y2, P, H), "b n h p -> b h (n p)")
    A_x = interpolation_weights(x1, x2, Q, W)  # (B, N, W, Q)
    weight = importance * alpha
    maps = torch.cat([weight[:, :, None] * color, weight[:, :, None], importance[:, :, None]], 2)
    rows = rearrange(maps, "b n c p q -> b n (p c) q") @ A_x.mT
    sums = A_y @ rearrange(rows, "b n (p c) w -> b (n p) (c w)", p=P)
    weighted, opacity, total = rearrange(sums, "b h (c w) -> b c h w", w=W).split([C, 1, 1], 1)
    covered = ~(total <= _least(total))  # a NaN is handed on
    return background + torch.where(covered, weighted - background * opacity, 0) / torch.where(covered, total, 1)


class _ExactRenderer(torch.autograd.Function):
    """Algorithm 1, a few images at a time, each object drawn in a window that holds its box.

    Layers are (b, N, S, M, T), of colours, M = C, and of alpha and importance, M = 2, of each object in its window of S
    rows and T columns.
    Sums over objects are images, and kept; layers are not, but formed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        color: Tensor,
        alpha: Tensor,
        importance: Tensor,
        boxes: Tensor,
        background: Tensor,
        max_size: tuple[float, float] | None,
        repeat: bool,
    ) -> Tensor:
        B, C, H, W = background.shape
        sums = background.new_zeros(C + 2, B, H * W)  # of g a o, g a and g over objects
        for part in _chunks(color, (H, W)):
            for group in _groups(boxes, part):
                windows = _Windows(boxes[group], color.shape[-2:], (H, W), max_size)
                o = windows.draw_maps(color[group].transpose(2, 3).contiguous(), repeat)[0]
                a, g = windows.draw_maps(torch.stack([alpha[group], importance[group]], 3))[0].unbind(3)
                weight = a * g
                for c in range(C):
                    windows.add(sums[c, part], o[:, :, :, c].mul_(weight))
                windows.add(sums[C, part], weight)
                windows.add(sums[C + 1, part], g)
        ctx.save_for_backward(color, alpha, importance, boxes, background, sums)
        ctx.max_size, ctx.repeat = max_size, repeat
        difference, inverse = _difference(sums, background)
        return torch.addcmul(background, difference, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):  # it may run in one of its own
            return _ExactRenderer._backward(ctx, grad)

    @staticmethod
    def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        color, alpha, importance, boxes, background, sums = ctx.saved_tensors
        _, C, H, W = background.shape
        P, Q = color.shape[-2:]
        # out = bg + S / T with S = sum_n g a (o - bg) and T = sum_n g
        difference, inverse = _difference(sums, background)
        d_difference = grad * inverse  # dL/dS, (B, C, H, W)
        d_total = -(d_difference * difference * inverse).sum(1).flatten(1)  # dL/dT, (B, H W)
        shared = (background * d_difference).sum(1).flatten(1)
        d_background = grad - d_difference * _images(sums[C], background)
        d_difference = d_difference.flatten(2).transpose(0, 1).contiguous()  # (C, B, H W)
        d_color, d_alpha, d_importance, d_boxes = (torch.empty_like(t) for t in (color, alpha, importance, boxes))
        for part in _chunks(color, (H, W)):
            for group in _groups(boxes, part):
                windows = _Windows(boxes[group], (P, Q), (H, W), ctx.max_size)
                o, of_o = windows.draw_maps(color[group].transpose(2, 3).contiguous(), ctx.repeat)
                layers, of_layers = windows.draw_maps(torch.stack([alpha[group], importance[group]], 3))
                a, g = layers.unbind(3)
                weight = a * g
                d_weight = -windows.read(shared[part])  # dL/d(g a) = sum_c (o - bg) dL/dS
                for c in range(C):
                    d_s = windows.read(d_difference[c, part])
                    d_weight = torch.addcmul(d_weight, o[:, :, :, c], d_s)
                    torch.mul(weight, d_s, out=o[:, :, :, c])  # from here on the layers hold gradients
                d_g = torch.addcmul(windows.read(d_total[part]), d_weight, a)
                torch.mul(d_weight, g, out=a)
                g.copy_(d_g)
                d_maps, d_boxes_by_color = windows.draw_backward(o, of_o, ctx.repeat)  # (b, N, P, C, Q)
                d_color[group] = d_maps.transpose(2, 3)
                d_maps, d_boxes_by_rest = windows.draw_backward(layers, of_layers)  # (b, N, P, 2, Q)
                d_alpha[group], d_importance[group] = d_maps.unbind(3)
                d_boxes[group] = d_boxes_by_color + d_boxes_by_rest
        return d_color, d_alpha, d_importance, d_boxes, d_background, None, None


class _Windows:
    """Windows of one size, each holding what its object's box touches, and the drawing of patches into them.

    On a CPU their size follows the largest box at hand. On a GPU looking would mean waiting: there it follows
    `max_size`, or is the whole image.
    """

    def __init__(
        self,
        boxes: Tensor,
        patch_size: tuple[int, int] | torch.Size,
        image_size: tuple[int, int],
        max_size: tuple[float, float] | None,
    ) -> None:
        self.boxes, (self.P, self.Q), (H, W) = boxes, patch_size, image_size
        x1, y1, x2, y2 = boxes.unbind(-1)
        if boxes.device.type == "cpu" and boxes.numel():
            largest = torch.stack([y2 - y1, x2 - x1]).flatten(1).amax(1)
            max_size = (float(largest[0]), float(largest[1])) if largest.isfinite().all() else None
        self.S, self.T = H, W
        if max_size is not None:
            # a box acts up to half a texel beyond its edges; one more for the fraction that begins it
            self.S = min(H, int(max_size[0] * (1 + 1 / self.P)) + 2)
            self.T = min(W, int(max_size[1] * (1 + 1 / self.Q)) + 2)
        self.index: Tensor | None = None
        if self.S * self.T > 0.7 * H * W:  # plain sums over whole images beat scattered ones
            self.S, self.T = H, W
            self.top = self.left = boxes.new_zeros(())
        else:
            self.top = (y1 - (y2 - y1) / (2 * self.P) + 0.5).floor().nan_to_num().clamp(0, H - self.S)  # (b, N)
            self.left = (x1 - (x2 - x1) / (2 * self.Q) + 0.5).floor().nan_to_num().clamp(0, W - self.T)
            image = torch.arange(len(boxes), device=boxes.device) * H
            row = (self.top.long() + image[:, None])[..., None] + torch.arange(self.S, device=boxes.device)
            column = self.left.long()[..., None] + torch.arange(self.T, device=boxes.device)
            self.index = (row[..., :, None] * W + column[..., None, :]).flatten()
        self.A_y, self.A_x = self._axes(repeat=False)

    def _axes(self, repeat: bool) -> tuple[Tensor, Tensor]:
        """What pixels take from texels, (b, N, S, P) and (b, N, T, Q)."""
        x1, y1, x2, y2 = self.boxes.unbind(-1)
        return (
            interpolation_weights(y1 - self.top, y2 - self.top, self.P, self.S, repeat),
            interpolation_weights(x1 - self.left, x2 - self.left, self.Q, self.T, repeat),
        )

    def draw_maps(self, maps: Tensor, repeat: bool = False) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Layers (b, N, S, M, T) of any M maps (b, N, P, M, Q), contiguous, and what the backward pass needs.

        With `repeat` maps go on beyond their edge as they end; else they fade to zero.
        """
        A_y, A_x = self._axes(repeat=True) if repeat else (self.A_y, self.A_x)
        rows = (maps.flatten(2, 3) @ A_x.mT).unflatten(2, maps.shape[2:4])  # (b, N, P, M, T)
        return (A_y @ rows.flatten(-2)).unflatten(-1, rows.shape[-2:]), (rows, maps)

    def draw_backward(
        self, d_layers: Tensor, kept: tuple[Tensor, Tensor], repeat: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the maps (b, N, P, M, Q) and of the boxes (b, N, 4)."""
        rows, maps = kept
        A_y, A_x = self._axes(repeat=True) if repeat else (self.A_y, self.A_x)
        d_layers = d_layers.flatten(-2)  # (b, N, S, M T)
        d_A_y = d_layers @ rows.flatten(-2).mT  # (b, N, S, P)
        d_rows = (A_y.mT @ d_layers).view(*rows.shape[:2], self.P * rows.shape[3], self.T)  # (b, N, P M, T)
        d_A_x = d_rows.mT @ maps.flatten(2, 3)  # (b, N, T, Q)
        d_maps = (d_rows @ A_x).view(maps.shape)
        x1, y1, x2, y2 = self.boxes.unbind(-1)
        d_x1, d_x2 = _weights_backward(d_A_x, x1 - self.left, x2 - self.left, repeat)
        d_y1, d_y2 = _weights_backward(d_A_y, y1 - self.top, y2 - self.top, repeat)
        return d_maps, torch.stack([d_x1, d_y1, d_x2, d_y2], -1)

    def add(self, images: Tensor, values: Tensor) -> None:
        """Add windows (b, N, S, T) to images (b, H W) in place."""
        if self.index is None:
            images += values.sum(1).flatten(1)
        else:
            images.view(-1).index_add_(0, self.index, values.flatten())

    def keep_largest(self, images: Tensor, values: Tensor) -> None:
        """Raise images (b, H W) in place to what windows (b, N, S, T) hold there."""
        if self.index is not None:
            images.view(-1).scatter_reduce_(0, self.index, values.flatten(), "amax")
        elif values.shape[1]:
            images.copy_(torch.maximum(images, values.amax(1).flatten(1)))

    def read(self, images: Tensor) -> Tensor:
        """Cut windows (b, N or 1, S, T) out of images (b, H W)."""
        if self.index is None:
            return images.view(-1, 1, self.S, self.T)
        return images.reshape(-1).index_select(0, self.index).view(*self.boxes.shape[:2], self.S, self.T)


def _chunks(color: Tensor, image_size: tuple[int, int]) -> Iterator[slice]:
    """Slices of the batch whose layers fit the budget, whatever the windows turn out to be."""
    B, N, C = color.shape[:3]
    image_bytes = N * (C + 2) * image_size[0] * image_size[1] * color.element_size()
    size = max(1, _CHUNK_BYTES.get(color.device.type, 2**26) // max(image_bytes, 1))
    for start in range(0, B, size):
        yield slice(start, start + size)


def _groups(boxes: Tensor, part: slice) -> Iterator[slice | tuple[Tensor, Tensor]]:
    """Indices of the objects of images `part` that are drawn together: all at once, or those of like size."""
    if boxes.device.type != "cpu" or boxes.shape[1] < _MANY:
        yield part
        return
    first, last = boxes[part].split(2, -1)
    order = (last - first).amax(-1).argsort(-1)
    image = torch.arange(len(boxes))[part, None]
    for group in order.split(_GROUP, 1):
        yield image, group


def _images(sums: Tensor, like: Tensor) -> Tensor:
    """(B, H W) to (B, 1, H, W)."""
    return sums.view(-1, 1, *like.shape[-2:])


def _difference(sums: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """S = sum_n g a (o - bg), (B, C, H, W), and 1 / T, (B, 1, H, W), which is 0 where nothing is drawn."""
    weighted = sums[:-2].transpose(0, 1).reshape(background.shape)
    total = _images(sums[-1], background)
    inverse = torch.where(total > _least(total), total, torch.inf).reciprocal_()
    return weighted - background * _images(sums[-2], background), inverse


def _least(total: Tensor) -> float:
    """Importance below which nothing is drawn: its inverse, or a gradient with it, would overflow."""
    return torch.finfo(total.dtype).tiny / torch.finfo(total.dtype).eps


def _weights_backward(d_weights: Tensor, low: Tensor, high: Tensor, repeat: bool) -> tuple[Tensor, Tensor]:
    """Gradients of `interpolation_weights` for low and high, (..., H, P) to (...) each."""
    pixels, texels = d_weights.shape[-2:]
    fraction, scale = _texel_position(low, high, texels, pixels)
    distance = _distance(fraction, texels, repeat)  # where an edge is repeated it is whole, and has no slope
    slope = torch.where(distance.abs() < 1, -distance.sign(), 0)
    d_position = (d_weights * slope).sum(-1) * scale  # with respect to a shift of the pixel, in pixels
    d_high = -(d_position * fraction).sum(-1)
    return -d_position.sum(-1) - d_high, d_high
