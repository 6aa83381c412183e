"""From appearance vectors to small pictures of objects by transposed convolutions (AST-Seg, table 7)."""

import torch
from torch import Tensor, nn

from zoo.layers.celu import CELU


class GlimpseGenerator(nn.Module):
    """Colours and mask of each object from its z_what (AST-Seg, table 7, whose captions are swapped).

    A transposed convolution to 2 x 2 texels, then ones that double the size and halve the channels, 2 `size` at first;
    group normalisation in groups of 16 channels and CELU between them.

    Args:
        what_dim: A.
        channels: C of the images.
        size: P, texels of a side, a power of two from 8: half the image's side in the paper.

    Raises:
        ValueError: The size is not such a power of two.
    """

    def __init__(self, what_dim: int, channels: int, size: int) -> None:
        super().__init__()
        if size < 8 or size & (size - 1):
            raise ValueError(f"the size of generated glimpses must be a power of two from 8, got {size!r}")
        width = 2 * size
        layers: list[nn.Module] = [nn.ConvTranspose2d(what_dim, width, 2, bias=False)]
        while width >= 8:
            layers += [nn.GroupNorm(max(1, width // 16), width), CELU()]
            last = width == 8
            layers.append(nn.ConvTranspose2d(width, channels + 1 if last else width // 2, 4, 2, 1, bias=last))
            width //= 2
        self.net = nn.Sequential(*layers)

    def forward(self, z_what: Tensor, color: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw objects.

        Args:
            z_what: (B, K, A).
            color: (B, K, C) in (0, 1), where texels of logit 0 start from; None: from a half, as in the paper.

        Returns:
            Colours (B, K, C, P, P) and masks (B, K, P, P), all in (0, 1).
        """
        logits = self.net(z_what.flatten(0, 1)[:, :, None, None]).unflatten(0, z_what.shape[:2]).to(z_what.dtype)
        texels, mask = logits[:, :, :-1], logits[:, :, -1]
        if color is not None:
            texels = texels + color.logit()[..., None, None]
        return texels.sigmoid(), _to_zero(mask) if torch.compiler.is_exporting() else mask.sigmoid()


def _to_zero(logit: Tensor) -> Tensor:
    """The sigmoid, of which runtimes of ONNX leave 1e-8 where it is less: of masks, an activation may make that all."""
    return 1 / (1 + (-logit).exp())
