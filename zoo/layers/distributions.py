"""Closed-form divergences, reparameterised samples and log-likelihoods, in logits where that is more exact."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_normal(mean: Tensor, std: Tensor, prior_mean: float | Tensor, prior_std: float | Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(prior_mean, prior_std^2)), elementwise, in nats.

    Args:
        mean: Any shape.
        std: Positive, broadcastable with `mean`.
        prior_mean: Broadcastable with `mean`.
        prior_std: Positive, broadcastable with `mean`.
    """
    ratio = std / prior_std
    return 0.5 * (ratio.square() + ((mean - prior_mean) / prior_std).square() - 1) - ratio.log()


def kl_bernoulli(logits: Tensor, prior_logits: Tensor) -> Tensor:
    """KL(Bernoulli(sigmoid(logits)) || Bernoulli(sigmoid(prior_logits))), elementwise, in nats.

    Finite for any finite logits: with q = sigmoid(a), the divergence is q (a - b) + softplus(b) - softplus(a).
    """
    return logits.sigmoid() * (logits - prior_logits) + F.softplus(prior_logits) - F.softplus(logits)


def logistic_noise(*shape: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Samples of the standard logistic distribution: log u - log(1 - u), u uniform on (0, 1)."""
    u = torch.rand(*shape, device=device, dtype=dtype)
    eps = torch.finfo(u.dtype).eps
    return torch.logit(u.clamp(eps, 1 - eps))


def relaxed_bernoulli(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Binary Concrete sample in (0, 1): sigmoid((logits + noise) / temperature) (Maddison et al. 2017, appendix B).

    Args:
        logits: Any shape.
        noise: Standard logistic noise of the same shape; zeros give the mode of the underlying Bernoulli when rounded.
        temperature: Positive; towards 0 the sample is binary.
    """
    return ((logits + noise) / temperature).sigmoid()


def bernoulli_log_likelihood(x: Tensor, mean: Tensor, eps: float = 1e-9) -> Tensor:
    """X log(mean) + (1 - x) log(1 - mean), elementwise; x in [0, 1] may be grey.

    Args:
        x: Pixels in [0, 1].
        mean: Probabilities in [0, 1], same shape.
        eps: Added inside both logarithms, as in the SPAIR program.
    """
    return x * (mean + eps).log() + (1 - x) * (1 - mean + eps).log()


def normal_log_likelihood(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log N(x; mean, std^2), elementwise."""
    return -0.5 * ((x - mean) / std).square() - math.log(std) - 0.5 * math.log(2 * math.pi)
