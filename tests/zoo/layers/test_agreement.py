import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from zoo.layers.agreement import mutual_information


def test_of_hard_categories_it_is_that_of_their_table() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(4, (2, 300), generator=generator)
    b = torch.where(torch.rand(300, generator=generator) < 0.6, a, b)
    one_hot = torch.eye(4).double()
    value = mutual_information(one_hot[a], one_hot[b], torch.ones(300))
    # neither view is the first: each pair is counted both ways
    expected = mutual_info_score(torch.cat([a, b]).tolist(), torch.cat([b, a]).tolist())
    assert value.item() == pytest.approx(expected)


def test_weights_count_objects() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 2, 3, 5).double().softmax(-1)
    weights = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]).double()
    repeated = weights.long().flatten()
    expected = mutual_information(
        first.flatten(0, 1).repeat_interleave(repeated, 0),
        second.flatten(0, 1).repeat_interleave(repeated, 0),
        torch.ones(6).double(),
    )
    torch.testing.assert_close(mutual_information(first, second, weights), expected)


def test_extremes() -> None:
    sure = torch.eye(5)
    assert mutual_information(sure, sure, torch.ones(5)).item() == pytest.approx(math.log(5))
    unsure = torch.full((5, 5), 0.2)
    assert mutual_information(unsure, sure, torch.ones(5)).item() == pytest.approx(0, abs=1e-6)
    assert mutual_information(sure, sure, torch.zeros(5)) == 0


def test_gradients() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 3).double().requires_grad_()

    def value(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return mutual_information(*logits.softmax(-1), weights)

    assert torch.autograd.gradcheck(value, (logits, torch.rand(6).double().requires_grad_()))
    certain = torch.tensor([[200.0, 0.0]] * 4).requires_grad_()  # one category alone: its logarithm of 0 is no matter
    value(torch.stack([certain, certain]), torch.ones(4)).backward()
    assert certain.grad.isfinite().all()
