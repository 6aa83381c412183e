import pytest
import torch
from torch.distributions import Categorical, RelaxedOneHotCategorical, kl_divergence

from zoo.layers.categorical import gumbel_noise, kl_categorical, relaxed_categorical


def test_divergence_is_that_of_torch_and_of_a_sum() -> None:
    torch.manual_seed(0)
    logits, prior = 3 * torch.randn(7, 5).double(), torch.randn(7, 5).double()
    expected = kl_divergence(Categorical(logits=logits), Categorical(logits=prior))
    torch.testing.assert_close(kl_categorical(logits, prior), expected)
    certain = kl_categorical(torch.tensor([0.0, 200.0, 0.0]), torch.zeros(3))
    assert certain.item() == pytest.approx(torch.tensor(3.0).log().item())


def test_most_likely_of_the_relaxed_is_drawn_from_the_categorical() -> None:
    """The Gumbel-max trick: at any temperature, the argmax has the distribution softmax(logits)."""
    torch.manual_seed(0)
    n, logits = 200_000, torch.tensor([0.5, -1.0, 2.0, 0.0])
    for temperature in (0.1, 1.0, 5.0):
        sample = relaxed_categorical(logits, gumbel_noise(n, 4), temperature)
        torch.testing.assert_close(sample.sum(-1), torch.ones(n))
        share = sample.argmax(-1).bincount(minlength=4) / n
        torch.testing.assert_close(share, logits.softmax(-1), rtol=0, atol=0.005)


def test_samples_have_the_distribution_of_torchs_relaxed_categorical() -> None:
    torch.manual_seed(0)
    n, logits = 100_000, torch.tensor([0.5, -1.0, 1.0])
    ours = relaxed_categorical(logits, gumbel_noise(n, 3), 0.7)
    theirs = RelaxedOneHotCategorical(torch.tensor(0.7), logits=logits).sample((n,))
    levels = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(ours.quantile(levels, 0), theirs.quantile(levels, 0), rtol=0, atol=0.015)


def test_low_temperatures_and_large_logits_stay_finite() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.1, 0.2, 0.3]], requires_grad=True)
    sample = relaxed_categorical(logits, gumbel_noise(2, 3), 1e-3)
    sample[:, 0].sum().backward()
    assert sample.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    torch.testing.assert_close(sample.amax(-1), torch.ones(2), rtol=0, atol=1e-3)
