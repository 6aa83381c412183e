"""SPAIR's prior on presence: a truncated geometric number of objects, in uniformly chosen cells (supplement A, B)."""

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor


def count_log_prior(num_cells: int, odds: float) -> np.ndarray:
    """Log p(C = c) for c in 0..num_cells: geometric with p(c) proportional to (1 - s)^c, truncated (supplement A).

    Args:
        num_cells: HW, at least 1.
        odds: (1 - s) / s, above 0: large values make all counts equally likely, small values favour few objects.

    Returns:
        (num_cells + 1,) float64.
    """
    # log(1 - s) = -log(1 + 1/odds); in this form a tiny s loses nothing to rounding
    log_p = -np.arange(num_cells + 1) * np.log1p(1 / odds)
    return log_p - np.logaddexp.reduce(log_p)


def presence_prior_logits(num_cells: int, odds: float) -> Tensor:
    """Logits of p(z_k = 1 | z_1..z_{k-1}) for every cell and history (supplement, equations B1 and B2, solved).

    Given C = c, every arrangement is equally likely, so the history matters through its number of ones n alone:
    p(first k cells show a given pattern of n ones) = G(k, n) = sum_c p(c) binom(HW - k, c - n) / binom(HW, c).
    By Pascal's rule G(k, n) = G(k + 1, n) + G(k + 1, n + 1), from G(HW, n) = p(n) / binom(HW, n) down; the two
    summands are the pattern going on with 0 and with 1, so the logit is the difference of their logarithms.

    Args:
        num_cells: HW, at least 1.
        odds: (1 - s) / s of the geometric distribution, above 0.

    Returns:
        (HW, HW) float32: entry [k, n] is the logit of cell k (from 0) being on after n of the k cells before it are;
        entries with n > k never occur and are 0.
    """
    hw = num_cells
    counts = np.arange(hw + 1)
    log_g = count_log_prior(hw, odds) - (gammaln(hw + 1) - gammaln(counts + 1) - gammaln(hw - counts + 1))
    logits = np.zeros((hw, hw))
    for k in range(hw - 1, -1, -1):
        off, on = log_g[: k + 1], log_g[1 : k + 2]  # G(k + 1, n) and G(k + 1, n + 1) for n in 0..k
        logits[k, : k + 1] = on - off
        log_g = np.logaddexp(off, on)
    return torch.from_numpy(logits).float()


def presence_history_logits(table: Tensor, presence: Tensor) -> Tensor:
    """Prior logits of each cell given the cells before it.

    Args:
        table: (HW, HW) from `presence_prior_logits`.
        presence: (B, HW) sampled presence in [0, 1] in raster order; above 0.5 counts as on.

    Returns:
        (B, HW) logits; constants, no gradient flows to `presence`.
    """
    on = (presence > 0.5).long()
    before = on.cumsum(-1) - on
    return table[torch.arange(table.shape[0], device=table.device), before]


def sample_presence(
    num_samples: int,
    num_cells: int,
    odds: float,
    generator: torch.Generator | None = None,
    count: int | None = None,
) -> Tensor:
    """Draw z_pres from the prior: a count, unless it is given, then that many cells, uniformly (supplement A).

    Returns:
        (num_samples, num_cells) float of zeros and ones.
    """
    if count is None:
        p = torch.from_numpy(np.exp(count_log_prior(num_cells, odds)))
        counts = torch.multinomial(p, num_samples, replacement=True, generator=generator)
    else:
        counts = torch.full((num_samples,), count)
    rank = torch.rand(num_samples, num_cells, generator=generator).argsort(-1).argsort(-1)
    return (rank < counts[:, None]).float()
