"""Categories that gradients pass through: the Gumbel-softmax and its divergence, in log space."""

import torch
from torch import Tensor


def gumbel_noise(*shape: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Samples of the standard Gumbel distribution: -log(-log u), u uniform on (0, 1)."""
    noise = torch.empty(*shape, device=device, dtype=dtype).exponential_()  # -log u
    return -noise.clamp_min(torch.finfo(noise.dtype).tiny).log()


def relaxed_categorical(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Gumbel-softmax sample (Jang et al. 2017, equation 2; Discrete-AIR, equation 4).

    Computed as exp(log_softmax((log_softmax(logits) + noise) / temperature)): finite, with finite gradients, at any
    temperature above 0. Its argmax has the distribution softmax(logits), whatever the temperature.

    Args:
        logits: (..., K), log a in the paper, up to a constant.
        noise: Standard Gumbel noise of the same shape.
        temperature: Positive; towards 0 the sample is one-hot.

    Returns:
        (..., K) in [0, 1], with sum 1.
    """
    return ((logits.log_softmax(-1) + noise) / temperature).log_softmax(-1).exp()


def kl_categorical(logits: Tensor, prior_logits: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(prior_logits)) over the last dimension, in nats: (..., K) to (...).

    Args:
        logits: (..., K), finite.
        prior_logits: Broadcastable with `logits`, finite; zeros for the uniform distribution.
    """
    log_q, log_p = logits.log_softmax(-1), prior_logits.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)
