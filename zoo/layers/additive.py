"""The additive canvas of the AIR family: objects add up, without occlusion (Discrete-AIR, equation 3)."""

from einops import rearrange
from torch import Tensor

from zoo.layers.precision import never_in_halves
from zoo.layers.renderer import interpolation_weights


@never_in_halves
def add_up(patches: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Paste patches into axis-aligned boxes by bilinear interpolation and sum over objects.

    Pasting is separable: sum_n A_y^n patch^n A_x^nT is contracted over (object, row) in one product, so that no
    object's full-size layer is ever formed. Exactly what `grid_sample` with zero padding and `align_corners=False`
    draws: zero outside the box but for one soft texel. Differentiable in patches and boxes.

    Args:
        patches: (B, N, C, P, Q), any values; times presence, for what should not be drawn.
        boxes: (B, N, 4) in pixels.
        image_size: (H, W) of the canvas in pixels.

    Returns:
        (B, C, H, W); values add up, past 1 too.
    """
    C, P, Q = patches.shape[-3:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    A_y = interpolation_weights(y1, y2, P, image_size[0])  # (B, N, H, P)
    A_x = interpolation_weights(x1, x2, Q, image_size[1])  # (B, N, W, Q)
    rows = rearrange(patches, "b n c p q -> b n (p c) q") @ A_x.mT
    drawn = rearrange(A_y, "b n h p -> b h (n p)") @ rearrange(rows, "b n (p c) w -> b (n p) (c w)", p=P, c=C)
    return rearrange(drawn, "b h (c w) -> b c h w", c=C)
