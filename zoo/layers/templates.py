"""Objects drawn from a template of their category, changed by attributes (Discrete-AIR, section 3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.layers.blocks import last_bias, mlp

COMBINATIONS = ("additive", "multiplicative", "convolutional")


class TemplateDecoder(nn.Module):
    """f_dec(z_cat, z_attr) = sigmoid(f_t(z_cat) combined with f_a(z_attr)).

    Additive: f_t + f_a. Multiplicative: f_t (1 + f_a). Convolutional: f_t * (identity + f_a), a kernel for each
    channel, the template going on beyond its edges as at them. So where f_a is 0 all three draw the template.

    Args:
        num_categories: K.
        attribute_dim: A; 0 for templates that nothing changes.
        patch_shape: (C, P, Q) of a patch.
        combination: "additive", "multiplicative" or "convolutional".
        kernel_size: Of the convolutional combination; odd.
        template_hidden: Hidden layers of f_t. With none, templates are literal: a learned image for each category, and
            one that they share.
        attribute_hidden: Hidden layers of f_a.
        bias: Initial template logit.
        gain: Factor on f_t, initial values unchanged: under Adam templates learn faster by this factor.
        blob: Added to the initial logits, this much at the patch's centre, minus as much far out.
        noise: Std of smooth noise by which literal templates differ at first; without hidden layers only.

    Raises:
        ValueError: The combination is unknown, the kernel's size is not odd, or noise has no literal templates.
    """

    def __init__(
        self,
        num_categories: int,
        attribute_dim: int,
        patch_shape: tuple[int, int, int],
        combination: str = "additive",
        kernel_size: int = 5,
        template_hidden: Sequence[int] = (200,),
        attribute_hidden: Sequence[int] = (200,),
        *,
        bias: float = 0.0,
        gain: float = 1.0,
        blob: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if combination not in COMBINATIONS:
            raise ValueError(f"combination must be one of {list(COMBINATIONS)}, got {combination!r}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size!r}")
        if noise and template_hidden:
            raise ValueError("template_noise is for literal templates: set template_hidden to []")
        self.patch_shape, self.combination, self.kernel_size, self.gain = patch_shape, combination, kernel_size, gain
        C, P, Q = patch_shape
        self.template = mlp(num_categories, template_hidden, C * P * Q)
        changes = C * kernel_size**2 if combination == "convolutional" else C * P * Q
        self.attribute = mlp(attribute_dim, attribute_hidden, changes) if attribute_dim else None
        with torch.no_grad():
            radius = torch.linspace(-1, 1, P)[:, None].square() + torch.linspace(-1, 1, Q).square()
            start = bias + blob * (2 * torch.exp(-radius / (2 * 0.45**2)) - 1)
            last_bias(self.template).view(patch_shape).copy_(start / gain)
            if not template_hidden:
                coarse = noise * torch.randn(num_categories, C, 5, 5)
                smooth = F.interpolate(coarse, (P, Q), mode="bicubic", align_corners=True)
                self.template[-1].get_parameter("weight").copy_(smooth.flatten(1).T / gain)

    def forward(self, category: Tensor, attribute: Tensor, released: Tensor) -> Tensor:
        """Draw patches.

        Args:
            category: (..., K), one-hot or relaxed.
            attribute: (..., A).
            released: (2,) shares in [0, 1] of categories and attributes: at 0 all categories draw the same, and
                attributes change nothing.

        Returns:
            (..., C, P, Q) in (0, 1).
        """
        mixed = torch.lerp(torch.full_like(category, 1 / category.shape[-1]), category, released[0])
        logits = (self.gain * self.template(mixed)).unflatten(-1, self.patch_shape)
        if self.attribute is None:
            return logits.sigmoid()
        change = (released[1] * self.attribute(attribute)).unflatten(-1, (self.patch_shape[0], -1))
        if self.combination == "convolutional":
            return (logits + self._convolve(logits, change)).sigmoid()
        change = change.view_as(logits)
        return (logits + change if self.combination == "additive" else logits * (1 + change)).sigmoid()

    def _convolve(self, logits: Tensor, kernels: Tensor) -> Tensor:
        """(..., C, P, Q) with (..., C, k k), channel by channel."""
        padded = F.pad(logits.reshape(-1, *self.patch_shape), [self.kernel_size // 2] * 4, mode="replicate")
        windows = rearrange(F.unfold(padded, self.kernel_size), "n (c k) q -> n c k q", c=logits.shape[-3])
        return (kernels.reshape(-1, *kernels.shape[-2:], 1) * windows).sum(2).view_as(logits)
