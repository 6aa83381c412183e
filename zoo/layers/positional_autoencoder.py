"""The positional convolutional autoencoder of Sauvalle and de La Fortelle (2021), a model of backgrounds."""

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.layers.celu import CELU

# Channels behind each block, at width 1: of the encoder, then of the generator but for its output
_CHANNELS: dict[tuple[str, int], tuple[list[int], list[int]]] = {
    ("simple", 64): ([64, 160, 320, 160, 32], [32, 256, 512, 256, 144]),
    ("complex", 64): ([64, 160, 320, 160, 16], [16, 640, 1280, 640, 144]),
    ("simple", 128): ([64, 160, 320, 160, 160, 32], [32, 256, 256, 512, 256, 144]),
    ("complex", 128): ([64, 320, 640, 640, 320, 16], [16, 320, 640, 1280, 640, 144]),
}
FORMS = ("simple", "complex")
IMAGE_SIZES = (64, 128)


class PositionalAutoencoder(nn.Module):
    """An image's background and the error to expect of it, from a code too small for objects.

    Each block sees, beside its input, two channels with each row's and column's position. Strided convolutions halve
    the image down to 2 x 2, one more makes it a code; transposed ones mirror them. Group normalisation in groups of 16
    channels and CELU follow all but the last.

    Args:
        channels: C.
        image_size: Side of the images in pixels, 64 or 128.
        form: "simple", for backgrounds that hardly change, or "complex".
        code_dim: Of the code, 16 in the paper.
        width: Factor on the channels between; 1 in the paper.

    Raises:
        ValueError: An argument is none of those.
    """

    def __init__(
        self, channels: int, image_size: int, form: str = "complex", code_dim: int = 16, width: float = 1.0
    ) -> None:
        super().__init__()
        if form not in FORMS or image_size not in IMAGE_SIZES:
            raise ValueError(
                f"backgrounds have one of the forms {list(FORMS)} and image sizes {list(IMAGE_SIZES)}, "
                f"got {form!r} and {image_size!r}"
            )
        if not width > 0 or code_dim < 1:
            raise ValueError(f"the background's width and code_dim must be above 0, got {width!r} and {code_dim!r}")
        self.channels, self.image_size = channels, image_size
        down, up = ([max(16, round(c * width / 16) * 16) for c in part] for part in _CHANNELS[form, image_size])
        down, up = [channels, *down, code_dim], [code_dim, *up, channels + 1]
        # kernel, stride, padding; the deepest last
        places = [(5, 2, 2)] * (len(down) - 3) + [(4, 2, 1), (2, 1, 0)]
        sides = [image_size]
        blocks: list[nn.Module] = []
        for i, (kernel, stride, padding) in enumerate(places):
            blocks.append(_Block(nn.Conv2d(down[i] + 2, down[i + 1], kernel, stride, padding, bias=False), sides[-1]))
            sides.append((sides[-1] + 2 * padding - kernel) // stride + 1)
        self.encoder = nn.Sequential(*blocks)
        blocks = []
        for i, (kernel, stride, padding) in enumerate(reversed(places)):
            layer = nn.ConvTranspose2d(up[i] + 2, up[i + 1], kernel, stride, padding, kernel % 2, bias=False)
            blocks.append(_Block(layer, sides[-1 - i], bare=i == len(places) - 1))
        self.generator = nn.Sequential(*blocks)

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to codes (B, code_dim).

        Raises:
            ValueError: The images are not of the size that the network was built for.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"this background model is for images of {self.image_size} x {self.image_size} px, got "
                f"{tuple(image.shape[-2:])}; set model.init_args.image_size and data.init_args.image_size alike"
            )
        # 8-bit values, beside which positions are small in the first block (the program)
        return self.encoder(255 * image.contiguous(memory_format=torch.channels_last)).flatten(1).to(image.dtype)

    def decode(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, code_dim) to backgrounds (B, C, H, W) and errors (B, H, W), a channel's mean, in [0, 1]."""
        out = self.generator(rearrange(code, "b d -> b d 1 1").contiguous(memory_format=torch.channels_last))
        background, error = out.to(code.dtype).sigmoid().split([self.channels, 1], 1)
        return background.contiguous(), error[:, 0]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [0, 1] to backgrounds (B, C, H, W) and errors (B, H, W), a channel's mean, in [0, 1].

        Raises:
            ValueError: As for `encode`.
        """
        return self.decode(self.encode(image))


class _Block(nn.Module):
    """A convolution that knows where it is; normalised and rectified unless `bare`."""

    position: Tensor

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d, side: int, bare: bool = False) -> None:
        super().__init__()
        place = torch.linspace(-0.5, 0.5, side) if side > 1 else torch.ones(1)
        position = torch.stack(torch.meshgrid(place, place, indexing="ij"))  # row, column
        self.register_buffer("position", position, persistent=False)
        width = convolution.out_channels
        self.convolution = convolution
        self.norm = nn.Identity() if bare else nn.Sequential(nn.GroupNorm(max(1, width // 16), width), CELU())

    def forward(self, x: Tensor) -> Tensor:
        position = self.position.to(x.dtype).expand(x.shape[0], -1, -1, -1)
        return self.norm(self.convolution(torch.cat([x, position], 1)))
