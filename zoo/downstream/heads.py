"""Heads: what answers a question about a scene, from its objects, whose number varies."""

from collections.abc import Sequence

import torch
from einops import repeat
from torch import Tensor, nn

from zoo.layers.blocks import mlp

HEADS = ("lstm", "set_transformer", "mean")


class LSTMHead(nn.Module):
    """Reads objects one after the other (SPAIR, section 5.3; widths of the networks around it as in its program).

    Args:
        in_features: Of an object's vector.
        out_features: Of the answer.
        hidden: Hidden layers of the networks before and after.
        object_dim: Features that the first of these makes of an object.
        state_dim: Units of the LSTM.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: Sequence[int], object_dim: int, state_dim: int
    ) -> None:
        super().__init__()
        self.before = mlp(in_features, hidden, object_dim)
        self.lstm = nn.LSTM(object_dim, state_dim, batch_first=True)
        self.after = mlp(state_dim, hidden, out_features)

    def forward(self, objects: Tensor, valid: Tensor) -> Tensor:
        """Answer (B, G) from (B, K, D) objects, of which (B, K) `valid` are some, the first ones of each image.

        A scene without objects is answered from the LSTM's first state, zeros.
        """
        states, _ = self.lstm(self.before(objects))  # (B, K, S)
        last = (valid.sum(1) - 1).clamp_min(0)
        state = states.gather(1, repeat(last, "b -> b 1 s", s=states.shape[-1]))[:, 0]
        return self.after(state * valid.any(1, keepdim=True))


class SetTransformerHead(nn.Module):
    """Two blocks of attention among the objects and pooling by attention (Lee et al. 2019: SAB, SAB, PMA).

    A learned vector stands beside the objects, so that there is something to attend to in an empty scene.

    Args:
        in_features: Of an object's vector.
        out_features: Of the answer.
        hidden: Hidden layers of the networks before and after.
        state_dim: Width of the attention; a multiple of 4, the number of its heads.
    """

    def __init__(self, in_features: int, out_features: int, hidden: Sequence[int], state_dim: int) -> None:
        super().__init__()
        if state_dim % 4:
            raise ValueError(f"state_dim={state_dim}: must be a multiple of 4, the heads of the set transformer")
        self.before = mlp(in_features, hidden, state_dim)
        self.extra, self.seed = (nn.Parameter(0.02 * torch.randn(1, 1, state_dim)) for _ in range(2))
        block = {"nhead": 4, "dim_feedforward": 2 * state_dim, "dropout": 0.0, "batch_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(state_dim, **block) for _ in range(2))  # type: ignore[arg-type]
        self.pool = nn.MultiheadAttention(state_dim, 4, batch_first=True)
        self.after = mlp(state_dim, hidden, out_features)

    def forward(self, objects: Tensor, valid: Tensor) -> Tensor:
        """Answer (B, G) from (B, K, D) objects, of which (B, K) `valid` are some, in any order."""
        B = len(objects)
        tokens = torch.cat([self.extra.expand(B, -1, -1), self.before(objects)], 1)
        padding = ~torch.cat([valid.new_ones(B, 1), valid], 1)
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=padding)
        pooled, _ = self.pool(self.seed.expand(B, -1, -1), tokens, tokens, key_padding_mask=padding)
        return self.after(pooled[:, 0])


class MeanHead(nn.Module):
    """The mean of the objects' features, zeros where there is none: it cannot count.

    Args:
        in_features: Of an object's vector.
        out_features: Of the answer.
        hidden: Hidden layers of the networks before and after.
        state_dim: Features of an object.
    """

    def __init__(self, in_features: int, out_features: int, hidden: Sequence[int], state_dim: int) -> None:
        super().__init__()
        self.before = mlp(in_features, hidden, state_dim)
        self.after = mlp(state_dim, hidden, out_features)

    def forward(self, objects: Tensor, valid: Tensor) -> Tensor:
        """Answer (B, G) from (B, K, D) objects, of which (B, K) `valid` are some, in any order."""
        total = (self.before(objects) * valid[..., None]).sum(1)
        return self.after(total / valid.sum(1, keepdim=True).clamp_min(1))


def make_head(
    kind: str, in_features: int, out_features: int, hidden: Sequence[int], object_dim: int, state_dim: int
) -> nn.Module:
    """A head by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if kind == "lstm":
        return LSTMHead(in_features, out_features, hidden, object_dim, state_dim)
    if kind == "set_transformer":
        return SetTransformerHead(in_features, out_features, hidden, state_dim)
    if kind == "mean":
        return MeanHead(in_features, out_features, hidden, state_dim)
    raise ValueError(f"head must be one of {list(HEADS)}, got {kind!r}")
