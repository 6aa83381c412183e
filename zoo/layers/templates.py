"""Objects drawn from a template of their category, changed by attributes (Discrete-AIR, section 3.2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.layers.blocks import mlp

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
        template_hidden: Hidden layers of f_t. With none, templates are literal: a learned image for each category, and
            one that they share.
        attribute_hidden: Hidden layers of f_a.
        kernel_size: Of the convolutional combination; odd.

    Raises:
        ValueError: The combination is unknown, or the kernel's size is not odd.
    """

    def __init__(
        self,
        num_categories: int,
        attribute_dim: int,
        patch_shape: tuple[int, int, int],
        combination: str = "additive",
        template_hidden: Sequence[int] = (200,),
        attribute_hidden: Sequence[int] = (200,),
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        if combination not in COMBINATIONS:
            raise ValueError(f"combination must be one of {list(COMBINATIONS)}, got {combination!r}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size!r}")
        self.patch_shape, self.combination, self.kernel_size = patch_shape, combination, kernel_size
        C, P, Q = patch_shape
        self.template = mlp(num_categories, template_hidden, C * P * Q)
        changes = C * kernel_size**2 if combination == "convolutional" else C * P * Q
        self.attribute = mlp(attribute_dim, attribute_hidden, changes) if attribute_dim else None

    def forward(self, category: Tensor, attribute: Tensor) -> Tensor:
        """Draw patches.

        Args:
            category: (..., K), one-hot or relaxed.
            attribute: (..., A).

        Returns:
            (..., C, P, Q) in (0, 1).
        """
        return self.combine(self.template(category), None if self.attribute is None else self.attribute(attribute))

    def combine(self, template: Tensor, change: Tensor | None) -> Tensor:
        """Sigmoid of f_t, (..., C P Q), changed by f_a, (..., C P Q or C k k) or None: (..., C, P, Q) in (0, 1)."""
        logits = template.unflatten(-1, self.patch_shape)
        if change is None:
            return logits.sigmoid()
        if self.combination == "convolutional":
            return (logits + self._convolve(logits, change.unflatten(-1, (self.patch_shape[0], -1)))).sigmoid()
        change = change.view_as(logits)
        return (logits + change if self.combination == "additive" else logits * (1 + change)).sigmoid()

    def _convolve(self, logits: Tensor, kernels: Tensor) -> Tensor:
        """(..., C, P, Q) with (..., C, k k), channel by channel."""
        padded = F.pad(logits.reshape(-1, *self.patch_shape), [self.kernel_size // 2] * 4, mode="replicate")
        windows = rearrange(F.unfold(padded, self.kernel_size), "n (c k) q -> n c k q", c=logits.shape[-3])
        return (kernels.reshape(-1, *kernels.shape[-2:], 1) * windows).sum(2).view_as(logits)
