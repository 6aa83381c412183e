import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.layers.count_prior import (
    count_log_prior,
    presence_history_logits,
    presence_prior_logits,
    sample_presence,
)

ODDS = [1e6, 1.0, 0.0125]


def _vectors(hw: int, odds: float) -> tuple[np.ndarray, np.ndarray]:
    """All binary vectors of a grid and their probabilities: the last equation of supplement A."""
    s = 1 / (1 + odds)
    z = np.array(list(itertools.product([0, 1], repeat=hw)))
    n = z.sum(1)
    binomials = np.array([math.comb(hw, k) for k in range(hw + 1)])
    return z, s * (1 - s) ** n / ((1 - (1 - s) ** (hw + 1)) * binomials[n])


@pytest.mark.parametrize("odds", ODDS)
@pytest.mark.parametrize("hw", [1, 4, 6, 9])
def test_enumeration_of_all_vectors(hw, odds):
    z, p = _vectors(hw, odds)
    assert p.sum() == pytest.approx(1)
    table = presence_prior_logits(hw, odds)
    for k in range(hw):
        histories = {tuple(row) for row in z[:, :k].tolist()}
        assert len(histories) == 2**k
        for history in histories:
            like = (z[:, :k] == history).all(1)
            on, off = p[like & (z[:, k] == 1)].sum(), p[like & (z[:, k] == 0)].sum()
            assert table[k, sum(history)].item() == pytest.approx(math.log(on / off), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("odds", [*ODDS, 1e-3])
def test_recursion_of_supplement_b(odds):
    hw, s = 49, 1 / (1 + odds)
    table = presence_prior_logits(hw, odds).double().sigmoid()
    generator = np.random.default_rng(0)
    for density in (0.0, 0.05, 0.5, 0.9, 1.0):
        z = generator.random(hw) < density
        counts = [s * (1 - s) ** c for c in range(hw + 1)]  # p(C = c | history), up to its sum
        for k in range(hw):
            total = math.fsum(counts)
            counts = [p / total for p in counts]
            n = int(z[:k].sum())
            on = [(c - n) / (hw - k) for c in range(hw + 1)]  # p(z_k = 1 | history, C = c)
            expected = math.fsum(q * p for q, p in zip(on, counts, strict=True))  # B1
            assert table[k, n].item() == pytest.approx(expected, abs=1e-6)
            counts = [(q if z[k] else 1 - q) * p for q, p in zip(on, counts, strict=True)]  # B2


@pytest.mark.parametrize("hw", [1, 2, 16, 121, 252])
def test_finite_at_all_odds(hw):
    for odds in (1e-6, 0.0125, 1.0, 1e3, 1e8):
        table = presence_prior_logits(hw, odds)
        assert table.shape == (hw, hw)
        assert table.dtype == torch.float32
        assert table.isfinite().all()
        assert not table.triu(1).any()
        # cells are alike, so the first is on with probability E[C] / HW
        p = np.exp(count_log_prior(hw, odds))
        assert p.sum() == pytest.approx(1)
        expected = p @ np.arange(hw + 1) / hw
        assert table[0, 0].double().sigmoid().item() == pytest.approx(expected, rel=1e-5)


def test_tiny_success_probability_is_uniform():
    np.testing.assert_allclose(np.exp(count_log_prior(48, 1e12)), 1 / 49, rtol=1e-9)


def test_history_is_the_number_of_cells_before_that_are_on():
    torch.manual_seed(0)
    table = torch.randn(7, 7)
    presence = torch.rand(5, 7).requires_grad_()
    logits = presence_history_logits(table, presence)
    for b in range(5):
        n = 0
        for k in range(7):
            assert logits[b, k] == table[k, n]
            n += int(presence[b, k] > 0.5)
    assert not logits.requires_grad


@pytest.mark.parametrize("odds", [1e6, 1.0, 0.5])
def test_samples_follow_the_prior(odds):
    hw, draws = 4, 20_000
    z = sample_presence(draws, hw, odds, torch.Generator().manual_seed(0))
    assert z.shape == (draws, hw)
    vectors, p = _vectors(hw, odds)
    seen = np.bincount((z.numpy() @ (2 ** np.arange(hw)[::-1])).astype(int), minlength=2**hw)
    assert (vectors @ (2 ** np.arange(hw)[::-1]) == np.arange(2**hw)).all()
    assert stats.chisquare(seen, p * draws).pvalue > 1e-3


def test_samples_of_a_large_grid():
    hw, draws, odds = 49, 5000, 3.0
    z = sample_presence(draws, hw, odds, torch.Generator().manual_seed(0)).numpy()
    p = np.exp(count_log_prior(hw, odds))
    counts = np.bincount(z.sum(1).astype(int), minlength=hw + 1)
    assert stats.chisquare([*counts[:15], counts[15:].sum()], draws * np.array([*p[:15], p[15:].sum()])).pvalue > 1e-3
    assert stats.chisquare(z.sum(0)).pvalue > 1e-3  # cells are alike


def test_samples_repeat_with_their_generator():
    first, second = (sample_presence(8, 9, 1.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
