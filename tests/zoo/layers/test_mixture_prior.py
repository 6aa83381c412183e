import torch
from torch.distributions import Normal, kl_divergence

from zoo.layers.mixture_prior import MixturePrior, expected_kl


def test_components_are_linear_in_the_category() -> None:
    torch.manual_seed(0)
    prior = MixturePrior(3, 4).double()
    means, stds = prior.components()
    for k in range(3):
        torch.testing.assert_close(means[k], prior.mean.weight[:, k] + prior.mean.bias)
        torch.testing.assert_close(stds[k], (1 + (prior.raw_std.weight[:, k] + prior.raw_std.bias).exp()).log())
    mixed = torch.tensor([0.2, 0.5, 0.3]).double()
    torch.testing.assert_close(prior(mixed)[0], mixed @ means)


def test_expected_divergence_by_enumeration() -> None:
    torch.manual_seed(0)
    weights = torch.rand(2, 5, 3).double().softmax(-1)
    mean, std = torch.randn(2, 5, 4).double(), torch.rand(2, 5, 4).double() + 0.1
    means, stds = torch.randn(3, 4).double(), torch.rand(3, 4).double() + 0.1
    expected = sum(
        weights[..., k] * kl_divergence(Normal(mean, std), Normal(means[k], stds[k])).sum(-1) for k in range(3)
    )
    torch.testing.assert_close(expected_kl(weights, mean, std, means, stds), expected)
    leaves = [t.requires_grad_() for t in (weights, mean, std, means, stds)]
    assert torch.autograd.gradcheck(expected_kl, leaves)


def test_expected_divergence_in_single_precision() -> None:
    torch.manual_seed(0)
    weights, mean = torch.rand(50, 10).softmax(-1), 3 * torch.randn(50, 256)
    means, stds, std = mean[:10] + 0.01 * torch.randn(10, 256), torch.full((10, 256), 0.05), torch.full((50, 256), 0.05)
    exact = expected_kl(*(t.double() for t in (weights, mean, std, means, stds)))
    torch.testing.assert_close(expected_kl(weights, mean, std, means, stds).double(), exact, rtol=1e-4, atol=0.1)
