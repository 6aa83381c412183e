"""A learned Gaussian mixture as the prior of appearance codes (GMAIR, section 2.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.precision import never_in_halves


class MixturePrior(nn.Module):
    """p(z_what | z_cat) = N(mu(z_cat), sigma(z_cat)^2), both linear in z_cat, sigma before a softplus (the program).

    Args:
        num_categories: C, components.
        dim: A, dimension of z_what.
    """

    def __init__(self, num_categories: int, dim: int) -> None:
        super().__init__()
        self.num_categories = num_categories
        self.mean = nn.Linear(num_categories, dim)
        self.raw_std = nn.Linear(num_categories, dim)

    def forward(self, category: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std, (..., A) each, of the component at (..., C) category weights, one-hot or relaxed."""
        mean, raw_std = self.mean(category).to(category.dtype), self.raw_std(category).to(category.dtype)
        return mean, F.softplus(raw_std)

    def components(self) -> tuple[Tensor, Tensor]:
        """Means and stds of all components, (C, A) each."""
        return self(torch.eye(self.num_categories).to(self.mean.weight))


@never_in_halves
def expected_kl(weights: Tensor, mean: Tensor, std: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """sum_k w_k KL(N(mean, std^2) || N(means_k, stds_k^2)), in nats: of A independent dimensions, summed.

    As matrix products, so that nothing is as large as objects times components times dimensions.

    Args:
        weights: (..., C), sum 1.
        mean: (..., A).
        std: (..., A), positive.
        means: (C, A).
        stds: (C, A), positive.

    Returns:
        (...).
    """
    precision = stds.square().reciprocal()
    quadratic = (mean.square() + std.square()) @ precision.T - 2 * mean @ (means * precision).T
    constant = (means.square() * precision + 2 * stds.log() - 1).sum(-1)
    return 0.5 * (weights * (quadratic + constant)).sum(-1) - std.log().sum(-1)
