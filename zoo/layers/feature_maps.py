"""Generators of high-resolution feature maps: Segformer, and the U-Net of AST-Seg's ablation."""

import importlib
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.layers.celu import CELU

# Mix Transformers (Xie et al. 2021, table 6): widths and depths of the four stages, and the width of the MLP head
_MIT: dict[str, tuple[list[int], list[int], int]] = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}


class Segformer(nn.Module):
    """Segformer (Xie et al. 2021) as Hugging Face has it: a hierarchical transformer under an all-MLP head.

    Weights are random until `load_pretrained`; the head's stay so.

    Args:
        name: Hub name of the pretrained encoder, or a folder that holds it; its last part is mit-b0 to mit-b5.
        in_channels: C.
        out_channels: D.

    Raises:
        ModuleNotFoundError: The package transformers is not installed.
        ValueError: The name is of another kind.
    """

    stride = 4  # of the map
    multiple = 32  # of which image sides must be multiples

    def __init__(self, name: str, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.name = name
        form = re.search(r"mit-(b[0-5])/?$", name)
        if form is None:
            raise ValueError(f"segformer must end with mit-b0 ... mit-b5, such as nvidia/mit-b3; got {name!r}")
        widths, depths, head = _MIT[form[1]]
        package = _transformers()
        config = package.SegformerConfig(
            num_channels=in_channels,
            num_labels=out_channels,
            hidden_sizes=widths,
            depths=depths,
            decoder_hidden_size=head,
        )
        self.net = package.SegformerForSemanticSegmentation(config)

    def load_pretrained(self) -> None:
        """Give the encoder the weights that `name` stands for, trained on ImageNet-1k; downloads what is not cached.

        Raises:
            OSError: They cannot be had, are damaged, or are not those of a Mix Transformer of this size.
        """
        try:
            pretrained, report = _transformers().SegformerModel.from_pretrained(
                self.name, output_loading_info=True, local_files_only=not _finds_the_hub()
            )
            if missing := sorted(report["missing_keys"]):  # which would stay random
                raise OSError(f"it lacks {len(missing)} of the encoder's parameters, such as {missing[0]}")
            self.net.segformer.load_state_dict(pretrained.state_dict())
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(f"cannot get the pretrained weights {self.name!r}: {error}") from error

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H / 4, W / 4)."""
        return self.net(pixel_values=image).logits

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the hooks of transformers, which it installs anew when it needs them."""
        for module in self.modules():
            vars(module).pop("_output_capturing_hooks_installed", None)
            for key, hook in [*module._forward_hooks.items()]:
                if getattr(hook, "__module__", "").startswith("transformers."):
                    del module._forward_hooks[key]
        return dict(vars(self))


def _finds_the_hub() -> bool:
    """Whether its name can be looked up, here or by a proxy: without a network the client tries for half a minute."""
    if urllib.request.getproxies():
        return True
    host = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _transformers() -> Any:
    """Imported by name when it is needed: large, and of no use to other models."""
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Segformer needs `pip install transformers`; the U-Net does without") from None


class UNet(nn.Module):
    """U-Net (AST-Seg, supplement 7.3 and table 8).

    Args:
        in_channels: C.
        out_channels: D.
        channels: Of the map at each resolution, each half of the one before; the paper's are the default.
        stride: Of the map that comes out; 1 in the paper. A power of two, at most 2^(len(channels) - 1).
        position: Show it each pixel's row and column too, from -1 to 1; then maps do not move with the image.

    Raises:
        ValueError: The stride is none of those.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (80, 128, 192, 256, 256, 256),
        stride: int = 1,
        position: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channels) - 1
        if stride not in [2**level for level in range(levels + 1)]:
            raise ValueError(f"the stride of a U-Net of {len(channels)} resolutions is 1, 2, ... {2**levels}: {stride}")
        self.stride, self.multiple, self.position = stride, 2**levels, position
        top = stride.bit_length() - 1  # resolution of the map

        def normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
            return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), CELU())

        def residual(width: int) -> nn.Module:
            return _Residual(normed(nn.Conv2d(width, width, 3, padding=1, bias=False)))

        self.first = normed(nn.Conv2d(in_channels + 2 * position, channels[0], 3, padding=1, bias=False))
        self.down = nn.ModuleList(
            nn.Sequential(
                normed(nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1, bias=False)), residual(channels[i + 1])
            )
            for i in range(levels)
        )
        self.center = normed(nn.Conv2d(channels[-1], channels[-1], 3, padding=1, bias=False))
        self.up = nn.ModuleList(
            nn.Sequential(
                residual(2 * channels[i]),
                normed(nn.ConvTranspose2d(2 * channels[i], channels[i - 1], 4, 2, 1, bias=False)),
            )
            for i in range(levels, top, -1)
        )
        self.last = nn.Sequential(
            normed(nn.Conv2d(2 * channels[top], out_channels, 3, padding=1, bias=False)),
            _Residual(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
            nn.Conv2d(out_channels, out_channels, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W), sides multiples of `multiple`, to (B, D, H / stride, W / stride)."""
        if self.position:
            y, x = (torch.linspace(-1, 1, n, device=image.device, dtype=image.dtype) for n in image.shape[-2:])
            place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(image.shape[0], -1, -1, -1)
            image = torch.cat([image, place], 1)
        maps = [self.first(image)]
        for block in self.down:
            maps.append(block(maps[-1]))
        x = self.center(maps[-1])
        for block in self.up:
            x = block(torch.cat([x, maps.pop()], 1))
        return self.last(torch.cat([x, maps.pop()], 1))


class _Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)
