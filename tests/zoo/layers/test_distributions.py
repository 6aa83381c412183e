import math

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from scipy import stats

from zoo.layers.distributions import (
    bernoulli_log_likelihood,
    kl_bernoulli,
    kl_normal,
    logistic_noise,
    normal_log_likelihood,
    relaxed_bernoulli,
)


def test_kl_normal():
    torch.manual_seed(0)
    mean, prior_mean = torch.randn(2, 50, dtype=torch.float64).requires_grad_()
    std, prior_std = (2 * torch.rand(2, 50, dtype=torch.float64) + 0.01).requires_grad_()
    expected = D.kl_divergence(D.Normal(mean, std), D.Normal(prior_mean, prior_std))
    torch.testing.assert_close(kl_normal(mean, std, prior_mean, prior_std), expected)
    expected = D.kl_divergence(D.Normal(mean, std), D.Normal(-2.2, 0.5))
    torch.testing.assert_close(kl_normal(mean, std, -2.2, 0.5), expected)
    inputs = [t.detach().requires_grad_() for t in (mean, std, prior_mean, prior_std)]
    assert torch.autograd.gradcheck(kl_normal, inputs)


def test_kl_bernoulli():
    logits, prior = torch.meshgrid(torch.linspace(-12, 12, 41), torch.linspace(-12, 12, 37), indexing="ij")
    q, p = (D.Bernoulli(logits=t.double()) for t in (logits, prior))
    torch.testing.assert_close(kl_bernoulli(logits.double(), prior.double()), D.kl_divergence(q, p))
    torch.testing.assert_close(kl_bernoulli(logits, prior).double(), D.kl_divergence(q, p), rtol=1e-5, atol=5e-6)
    inputs = [t[::9, ::9].double().requires_grad_() for t in (logits, prior)]
    assert torch.autograd.gradcheck(kl_bernoulli, inputs)


def test_kl_bernoulli_of_extreme_logits():
    logits = torch.tensor([60.0, 60.0, -60.0, -60.0, 0.0, 1e4], requires_grad=True)
    prior = torch.tensor([60.0, -60.0, 60.0, -60.0, 60.0, -1e4])
    divergence = kl_bernoulli(logits, prior)
    # a certain q costs what the prior has against it; an undecided one half of it, less its own ln 2
    torch.testing.assert_close(divergence, torch.tensor([0.0, 60.0, 60.0, 0.0, 30 - math.log(2), 1e4]))
    divergence.sum().backward()
    assert logits.grad.isfinite().all()


def test_logistic_noise():
    torch.manual_seed(0)
    noise = logistic_noise(400, 50, dtype=torch.float64)
    assert noise.shape == (400, 50)
    assert stats.kstest(noise.flatten(), stats.logistic.cdf).pvalue > 1e-3
    noise = logistic_noise(1_000_000)
    assert 11 < -noise.min() < 17  # as far as a million go, and as single precision does
    assert 11 < noise.max() < 17


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_relaxed_bernoulli_is_torchs(temperature):
    torch.manual_seed(0)
    logits = torch.tensor([-2.0, -0.3, 0.0, 1.7], dtype=torch.float64)
    reference = D.RelaxedBernoulli(torch.tensor(temperature, dtype=torch.float64), logits=logits)
    # as a function of u it is the quantile function: its slope is one over the density
    u = torch.linspace(0.05, 0.95, 30, dtype=torch.float64)[:, None].expand(-1, 4).clone().requires_grad_()
    x = relaxed_bernoulli(logits, torch.logit(u), temperature)
    slope = torch.autograd.grad(x.sum(), u)[0]
    torch.testing.assert_close(slope, (-reference.log_prob(x.detach())).exp())
    # and samples come from one distribution
    x = relaxed_bernoulli(logits, logistic_noise(4000, 4, dtype=torch.float64), temperature)
    for ours, theirs in zip(x.T, reference.sample((4000,)).T, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    # rounding it is sampling the Bernoulli
    share = x.round().mean(0)
    torch.testing.assert_close(share, logits.sigmoid(), atol=4 * 0.5 / math.sqrt(4000), rtol=0)


def test_relaxed_bernoulli_gradient_and_mode():
    torch.manual_seed(0)
    logits, noise = torch.randn(2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: relaxed_bernoulli(x, noise, 0.5), logits.requires_grad_())
    mode = relaxed_bernoulli(logits, torch.zeros_like(noise), 0.5).round()
    torch.testing.assert_close(mode, (logits > 0).double())


def test_bernoulli_log_likelihood():
    torch.manual_seed(0)
    mean = torch.rand(3, 40, dtype=torch.float64) * 0.98 + 0.01
    black_or_white = torch.bernoulli(torch.full_like(mean, 0.5))
    torch.testing.assert_close(
        bernoulli_log_likelihood(black_or_white, mean), D.Bernoulli(mean).log_prob(black_or_white), rtol=1e-6, atol=0
    )
    grey = torch.rand_like(mean)
    expected = -F.binary_cross_entropy(mean, grey, reduction="none")
    torch.testing.assert_close(bernoulli_log_likelihood(grey, mean), expected, rtol=1e-6, atol=1e-6)
    certain = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    value = bernoulli_log_likelihood(torch.tensor([0.0, 1.0, 1.0, 0.0]), certain)
    torch.testing.assert_close(value, torch.tensor([0.0, 0.0, math.log(1e-9), math.log(1e-9)]))
    value.sum().backward()
    assert certain.grad.isfinite().all()


def test_normal_log_likelihood():
    torch.manual_seed(0)
    x, mean = torch.rand(2, 30, dtype=torch.float64)
    torch.testing.assert_close(normal_log_likelihood(x, mean, 0.15), D.Normal(mean, 0.15).log_prob(x))
