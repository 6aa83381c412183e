"""Looking for an object with convolutions: a place as the mean of a heat map."""

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from zoo.layers.precision import Sequential, never_in_halves


class HeatMap(nn.Module):
    """A soft-argmax over convolutional features and over what is bright (Nibali et al. 2018, section 3.1: DSNT).

    One cell for each 4 x 4 pixels. Its logit is that of a state-dependent score of its features, plus a learned gain
    times the brightness around it, so that looking starts where something is left to see.

    Args:
        in_channels: Channels of the image.
        channels: F, features of a cell.
        state_dim: Dimension of the state that says what to look for.
        gain: Initial factor on the brightness.
    """

    stride = 4

    def __init__(self, in_channels: int, channels: int, state_dim: int, gain: float) -> None:
        super().__init__()
        self.features = Sequential(
            nn.Conv2d(in_channels, channels, 2 * self.stride, self.stride, self.stride // 2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        ).to(memory_format=torch.channels_last)
        self.state = nn.Linear(state_dim, channels)
        self.score = nn.Linear(channels, 1)
        self.gain = nn.Parameter(torch.tensor(float(gain)))

    def read(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to features (B, H // 4, W // 4, F)."""
        return self.features(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)

    def summary(self, features: Tensor) -> Tensor:
        """Mean and maximum over cells: (B, h, w, F) to (B, 2 F)."""
        return torch.cat([features.mean((1, 2)), features.amax((1, 2))], -1)

    def forward(self, image: Tensor, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Find one place.

        Args:
            image: (B, C, H, W), at least 4 pixels wide and high.
            features: (B, h, w, F) from `read`.
            state: (B, state_dim).

        Returns:
            (x, y), (B, 2), with the image's edges at -1 and 1; and the features there, (B, F).
        """
        H, W = image.shape[-2:]
        brightness = F.avg_pool2d(F.avg_pool2d(image.mean(1, keepdim=True), self.stride), 3, 1, 1)[:, 0]
        wanted = self.state(state).to(features.dtype)
        scores = self.score(F.relu(features + wanted[:, None, None]))[..., 0].to(features.dtype)
        return self._place(scores, brightness, features, (H, W))

    @never_in_halves
    def _place(
        self, scores: Tensor, brightness: Tensor, features: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        (H, W), (h, w) = image_size, scores.shape[1:]
        heat = (scores + self.gain * brightness).flatten(1).softmax(-1).view(-1, h, w)
        x = (torch.arange(w, device=heat.device, dtype=heat.dtype) + 0.5) * (2 * self.stride / W) - 1
        y = (torch.arange(h, device=heat.device, dtype=heat.dtype) + 0.5) * (2 * self.stride / H) - 1
        place = torch.stack([heat.sum(1) @ x, heat.sum(2) @ y], -1)
        return place, einsum(heat, features, "b h w, b h w f -> b f")
