"""A residual network with deconvolutions, from an image to features of cells, and heads (GMAIR, tables 3 and 4)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class ResNetBackbone(nn.Module):
    """ResNet18 without its pooled head, followed by deconvolutions that double the resolution (He et al. 2016).

    The stem brings the image to a quarter of its size, each stage after the first to half of what it was, each
    deconvolution back to twice: with the defaults a cell is 8 pixels. Weights start as ResNet's do, from noise.

    Args:
        in_channels: Channels of the image.
        widths: Channels of each stage.
        blocks: Residual blocks in each stage.
        up_channels: Channels after each deconvolution (4 x 4, stride 2).
        up_convolutions: A 3 x 3 convolution of as many channels before each deconvolution (the GMAIR program).

    Attributes:
        cell_size: Pixels of a cell.
        out_channels: Features for each cell.

    Raises:
        ValueError: There are no stages, or more deconvolutions than there is resolution to regain.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 2,
        up_channels: Sequence[int] = (128, 64),
        up_convolutions: bool = False,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1:
            raise ValueError(f"a backbone needs stages and blocks in each, got {list(widths)} and {blocks!r}")
        self.stride = 2 ** (1 + len(widths))
        self.cell_size = self.stride // 2 ** len(up_channels)
        if self.cell_size < 1:
            raise ValueError(f"{len(up_channels)} deconvolutions are too many after {len(widths)} stages")
        stem = nn.Conv2d(in_channels, widths[0], 7, 2, 3, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = widths[0]
        for i, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if i > 0 and block == 0 else 1
                shortcut = None
                if stride > 1 or channels != width:
                    shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
                layers.append(BasicBlock(channels, width, stride, shortcut))
                channels = width
        self.trunk = nn.Sequential(*layers)
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        ups: list[nn.Module] = []
        for width in up_channels:
            if up_convolutions:
                ups += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            ups += [nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.up = nn.Sequential(*ups)
        self.out_channels = channels

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, ceil(H / cell_size), ceil(W / cell_size)); missing rows count as zero."""
        H, W = image.shape[-2:]
        features = self.up(self.trunk(F.pad(image, (0, -W % self.stride, 0, -H % self.stride))))
        return features[..., : -(-H // self.cell_size), : -(-W // self.cell_size)].to(image.dtype)


def convolutional_head(in_channels: int, hidden: Sequence[int], out_channels: int) -> nn.Sequential:
    """3 x 3 convolutions with ReLUs, then a 1 x 1 convolution to the outputs of each cell (GMAIR, table 4)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
        in_channels = width
    return nn.Sequential(*layers, nn.Conv2d(in_channels, out_channels, 1))
