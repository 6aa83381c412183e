"""Cells that look at a flat image at every step, and read it only once for as long as it stays the same.

Both have the same interface: `read` the image, then step by step `forward` what was read, the last step's latents, and
a state.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.blocks import mlp

State = tuple[Tensor, Tensor]


def check_image_size(image: Tensor, size_hw: tuple[int, int], reader: str) -> None:
    """Refuse images that a cell cannot read, as it reads them flat.

    Args:
        image: (B, C, H, W).
        size_hw: Height and width that the cell was made for.
        reader: Name of its model, for the message.

    Raises:
        ValueError: The images' size is another; the message names the fix.
    """
    if image.shape[-2:] != size_hw:
        raise ValueError(
            f"{reader} reads images of one size, image_size={list(size_hw)}, got {list(image.shape[-2:])}; "
            "set model.init_args.image_size and data.init_args.image_size alike"
        )


class ImageLSTM(nn.Module):
    """An LSTM cell whose input is an image and some features (Hochreiter and Schmidhuber 1997).

    `nn.LSTMCell` on their concatenation, but the image's share of the gates, nearly all of the work, is a tensor that
    can be used again.

    Args:
        pixels: C H W of the image.
        features: Further inputs, such as the last step's latents; 0 for none.
        hidden: Width of the state and of the output.
    """

    def __init__(self, pixels: int, features: int, hidden: int) -> None:
        super().__init__()
        self.image = nn.Linear(pixels, 4 * hidden)
        self.rest = nn.Linear(features + hidden, 4 * hidden, bias=False)
        self.start = nn.Parameter(torch.zeros(2, hidden))

    def begin(self, batch_size: int) -> State:
        """The state before the first step, learned: hidden and cell, (batch_size, hidden) each."""
        hidden, cell = self.start.expand(batch_size, -1, -1).unbind(1)
        return hidden, cell

    def read(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 hidden), the image's share of the gates."""
        return self.image(image.flatten(1)).to(image.dtype)

    def forward(self, image: Tensor, features: Tensor, state: State) -> tuple[Tensor, State]:
        """One step.

        Args:
            image: (B, 4 hidden) from `read`.
            features: (B, features).
            state: Of the step before.

        Returns:
            (B, hidden) output, and the state after the step.
        """
        hidden, cell = state
        gates = image + self.rest(torch.cat([features, hidden], -1)).to(image.dtype)
        into, keep, new, out = gates.chunk(4, -1)  # the order of nn.LSTMCell
        cell = keep.sigmoid() * cell + into.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        return hidden, (hidden, cell)


class ImageMLP(nn.Module):
    """A cell without memory, for inputs that show by themselves what is done (SPAIR's DAIR).

    Args:
        pixels: C H W of the image.
        features: Further inputs; 0 for none.
        hidden: Widths of the hidden layers.
        out: Width of the output.
    """

    def __init__(self, pixels: int, features: int, hidden: Sequence[int], out: int) -> None:
        super().__init__()
        first, *others = hidden
        self.image = nn.Linear(pixels, first)
        self.rest = nn.Linear(features, first, bias=False) if features else None
        self.net = mlp(first, others, out)

    def begin(self, batch_size: int) -> State:
        """An empty state."""
        nothing = self.image.bias.new_zeros(batch_size, 0)
        return nothing, nothing

    def read(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, hidden[0]), the image's share of the first layer."""
        return self.image(image.flatten(1)).to(image.dtype)

    def forward(self, image: Tensor, features: Tensor, state: State) -> tuple[Tensor, State]:
        """As `ImageLSTM.forward`; the state passes through."""
        first = image if self.rest is None else image + self.rest(features).to(image.dtype)
        return self.net(F.relu(first)).relu(), state
