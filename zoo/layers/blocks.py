"""Small networks that several papers use."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.precision import Sequential


def mlp(
    in_features: int, hidden: Sequence[int], out_features: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Multi-layer perceptron with a linear output, of the precision of its input."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), activation()]
        in_features = width
    return Sequential(*layers, nn.Linear(in_features, out_features))


def last_bias(network: nn.Module) -> Tensor:
    """Bias of the last layer of an `mlp`, for papers that start from a chosen one."""
    assert isinstance(network, nn.Sequential)
    assert isinstance(network[-1], nn.Linear)
    return network[-1].bias


class GridBackbone(nn.Module):
    """Convolutions from an image to one feature vector for each grid cell (SPAIR, section 4.3 and supplement D.2).

    Strided convolutions of kernel 4, then three of kernel 1. Each strided one pads by (kernel - stride) on the right
    and bottom only, so that a cell's receptive field starts at its own top-left corner, whatever the image size.

    Args:
        in_channels: Channels of the image.
        channels: Filters of every layer but the last.
        out_channels: Features for each cell.
        strides: Strides of the strided layers; their product is the cell size in pixels.
        final_kernel: Kernel of the three last layers: 1 in the paper; 2 in some runs of its code.
    """

    kernel = 4

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        out_channels: int = 100,
        strides: Sequence[int] = (2, 2, 3),
        final_kernel: int = 1,
    ) -> None:
        super().__init__()
        if not strides or any(not 1 <= s <= self.kernel for s in strides):
            raise ValueError(f"backbone strides must be between 1 and {self.kernel}, got {list(strides)}")
        self.cell_size = math.prod(strides)
        layers: list[nn.Module] = []
        for stride in strides:
            pad = self.kernel - stride
            layers += [nn.ZeroPad2d((0, pad, 0, pad)), nn.Conv2d(in_channels, channels, self.kernel, stride), nn.ReLU()]
            in_channels = channels
        for out in (channels, channels, out_channels):
            layers += [
                nn.ZeroPad2d((0, final_kernel - 1, 0, final_kernel - 1)),
                nn.Conv2d(in_channels, out, final_kernel),
                nn.ReLU(),
            ]
            in_channels = out
        self.net = Sequential(*[layer for layer in layers[:-1] if not _pads_nothing(layer)])

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, ceil(H / cell_size), ceil(W / cell_size))."""
        H, W = image.shape[-2:]
        return self.net(F.pad(image, (0, -W % self.cell_size, 0, -H % self.cell_size)))


def _pads_nothing(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ZeroPad2d) and not any(layer.padding)
