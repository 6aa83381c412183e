"""Backgrounds of one colour."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.blocks import mlp

KINDS = ("black", "fixed", "mode", "learned", "mlp")


class ColorBackground(nn.Module):
    """A background of one colour (SPAIR, section 4.4).

    Args:
        kind: "black"; "fixed", the given colour; "mode", the most frequent colour of training images, once `fit` has
            seen some; "learned", one colour for all images; "mlp", a colour for each image, from its thumbnail (so that
            any image size works; the paper's MLP reads the image itself).
        channels: C.
        color: For "fixed": C numbers in [0, 1].

    Raises:
        ValueError: The kind is unknown, or the colour does not go with it.
    """

    thumbnail = 12
    color: Tensor

    def __init__(self, kind: str, channels: int, color: list[float] | None = None) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"background must be one of {list(KINDS)}, got {kind!r}")
        if (kind == "fixed") != (color is not None):
            raise ValueError("background_color goes with background: fixed, and only with it")
        if color is not None and (len(color) != channels or any(not 0 <= v <= 1 for v in color)):
            raise ValueError(f"background_color must be {channels} numbers in [0, 1], got {color!r}")
        self.kind = kind
        if kind == "learned":
            self.logit = nn.Parameter(torch.zeros(channels))
        elif kind == "mlp":
            self.net = mlp(channels * self.thumbnail**2, [10, 10], channels)
        else:
            self.register_buffer("color", torch.tensor(color or [0.0] * channels))

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        """Take the most frequent 8-bit colour of (B, C, H, W) images in [0, 1]; for "mode"."""
        codes = (image * 255).round().long()
        weights = 256 ** torch.arange(image.shape[1], device=image.device)
        colors, counts = (codes * weights[:, None, None]).sum(1).unique(return_counts=True)
        self.color.copy_((colors[counts.argmax()] // weights % 256) / 255)

    def draw(
        self,
        shape: tuple[int, int, int, int],
        device: torch.device,
        generator: torch.Generator | None = None,
        color: Tensor | None = None,
    ) -> Tensor:
        """Backgrounds of scenes that no image is given of.

        Args:
            shape: (B, C, H, W).
            device: Where they go.
            generator: A CPU generator, for "mlp", whose colours are drawn uniformly: it has no prior of them.
            color: (C,) or (B, C) in [0, 1], to have these instead.

        Raises:
            ValueError: The colours are of another shape.
        """
        B, C, _, _ = shape
        if color is None and self.kind == "mlp":
            color = torch.rand(B, C, generator=generator)
        if color is None:
            return self(torch.zeros(shape, device=device))
        if color.shape not in ((C,), (B, C)):
            raise ValueError(f"background must be colours ({C},) or ({B}, {C}), got {tuple(color.shape)}")
        return color.to(device, torch.float32).view(-1, C, 1, 1).expand(shape)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) images to their backgrounds, same shape, in [0, 1]."""
        if self.kind == "learned":
            color: Tensor = (10 * self.logit).sigmoid()  # 10: SPAIR's program
        elif self.kind == "mlp":
            color = self.net(F.adaptive_avg_pool2d(image, self.thumbnail).flatten(1)).sigmoid()
        else:
            color = self.color
        return color.view(-1, image.shape[1], 1, 1).expand_as(image)
