"""Neural variational inference and learning: gradients of discrete samples (Mnih and Gregor 2014)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.blocks import mlp
from zoo.layers.recurrent import ImageLSTM


class Baseline(nn.Module):
    """A recurrent baseline: what the loss will be from what a recurrent network sees at each step.

    No gradient flows to what it sees.

    Args:
        pixels: C H W of the images.
        features: Of what is seen beside the image.
        hidden: Width of the LSTM and of the layer after it.
    """

    def __init__(self, pixels: int, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = ImageLSTM(pixels, features, hidden)
        self.net = mlp(hidden, [hidden], 1)

    def forward(self, history: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Images (B, C, H, W) and features (B, features), for each of N steps, to (B, N, 1)."""
        state = self.lstm.begin(len(history[0][0]))
        seen: Tensor | None = None
        outputs = []
        for image, features in history:
            if image is not seen:
                seen, read = image, self.lstm.read(image.detach())
            hidden, state = self.lstm(read, features.detach(), state)
            outputs.append(self.net(hidden))
        return torch.stack(outputs, 1)


def score_function(
    cost: Tensor, baseline: Tensor, logits: Tensor, sample: Tensor, drawn: Tensor, unit: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The estimator's surrogate and the baseline's error (equations 5 to 8).

    Args:
        cost: (B, N), what the sample of each step can still change, in nats.
        baseline: (B, N), what was expected of it, in units.
        logits: (B, N), of the Bernoulli samples.
        sample: (B, N), 0 or 1.
        drawn: (B, N), 1 where there was a sample at all, else 0.
        unit: Nats in which the baseline is told and learns, such as the number of pixels: one learning rate then does
            for all sizes, and the baseline takes no share in the gradient's norm.

    Returns:
        A scalar whose value is 0 and whose gradient estimates that of the expected cost; and the squared error in
        units^2, summed over steps, mean over images.
    """
    signal = cost.detach() / unit - baseline
    log_q = -F.binary_cross_entropy_with_logits(logits, sample, reduction="none")
    surrogate = (drawn * unit * signal.detach() * log_q).sum(1).mean()
    return surrogate - surrogate.detach(), (drawn * signal.square()).sum(1).mean()
