"""Appearance codes to the patches that objects are drawn from, by deconvolutions (GMAIR, table 6)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

UPSAMPLINGS = ("deconv", "pixel_shuffle")


class GlimpseDecoder(nn.Module):
    """A linear layer to one texel, then layers that double the patch, with a 3 x 3 convolution before the last.

    Deconvolutions are 2 x 2 with stride 2. (Table 6 has no kernels; the program's 1 x 1 convolution and PixelShuffle
    are the same function but for a bias of each of the four texels that come from one.) Normalisation follows the
    activation, as in the program.

    Objects go through in groups whose activations fit a CPU's caches. Those of the last doubling, the largest by far,
    are formed again in the backward pass.

    Args:
        in_features: A, dimension of the code.
        out_channels: Of the patch.
        channels: Width of the linear layer, then of each doubling: the patch has 2 ** (len(channels) - 1) texels a
            side.
        upsampling: "deconv", or "pixel_shuffle" (the program).
        group: Objects that go through at once.

    Raises:
        ValueError: Unknown upsampling, or no doubling.
    """

    def __init__(
        self,
        in_features: int,
        out_channels: int,
        channels: Sequence[int] = (256, 128, 128, 64, 32, 16),
        upsampling: str = "deconv",
        group: int = 64,
    ) -> None:
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"upsampling must be one of {list(UPSAMPLINGS)}, got {upsampling!r}")
        if len(channels) < 2:
            raise ValueError(f"a decoder needs a width of its linear layer and of each doubling, got {list(channels)}")
        self.group = group
        self.expand = nn.Sequential(nn.Linear(in_features, channels[0]), nn.ReLU())
        layers: list[nn.Module] = []
        width = channels[0]
        for i, out in enumerate(channels[1:]):
            if i == len(channels) - 2:
                self.kept = len(layers) + 3
                layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), _group_norm(width)]
            if upsampling == "deconv":
                layers.append(nn.ConvTranspose2d(width, out, 2, 2))
            else:
                layers += [nn.Conv2d(width, 4 * out, 1), nn.PixelShuffle(2)]
            layers += [nn.ReLU(), _group_norm(out)]
            width = out
        layers.append(nn.Conv2d(width, out_channels, 3, padding=1))
        self.net = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, code: Tensor) -> Tensor:
        """(..., A) to logits (..., C, P, P)."""
        texels = self.expand(code).flatten(0, -2)[..., None, None].contiguous(memory_format=torch.channels_last)
        # an exported program does not know how many there will be
        parts = [texels] if torch.compiler.is_compiling() else texels.split(self.group)
        patches = torch.cat([self._decode(part) for part in parts])
        return patches.unflatten(0, code.shape[:-1]).to(code.dtype)

    def _decode(self, texels: Tensor) -> Tensor:
        coarse = self.net[: self.kept](texels)
        if not torch.is_grad_enabled():
            return self.net[self.kept :](coarse)
        return checkpoint(self.net[self.kept :], coarse, use_reentrant=False, preserve_rng_state=False)


class _GroupNorm(nn.GroupNorm):
    """In single precision: in bfloat16 a CPU takes several times as long for it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        return super().forward(input.float() if input.dtype == torch.bfloat16 else input).to(input.dtype)


def _group_norm(channels: int) -> nn.GroupNorm:
    """8 groups, and 4 where there are 16 channels (table 6)."""
    return _GroupNorm(math.gcd(8, max(1, channels // 4)), channels)
