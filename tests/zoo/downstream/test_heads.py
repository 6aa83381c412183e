"""Heads answer from valid objects alone, however many there are."""

import pytest
import torch

from zoo.downstream.heads import HEADS, LSTMHead, make_head

D, G = 6, 4


def head_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_head(kind, D, G, (8,), 5, 8)


def objects_of(counts: list[int], K: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(counts), K, D, generator=generator), torch.arange(K) < torch.tensor(counts)[:, None]


@pytest.mark.parametrize("kind", HEADS)
def test_padding_changes_nothing(kind: str) -> None:
    head, (objects, valid) = head_of(kind), objects_of([3, 0, 5])
    answer = head(objects, valid)
    assert answer.shape == (3, G)
    assert answer.isfinite().all()
    noisy = torch.where(valid[..., None], objects, 1e3 * torch.ones(()))
    torch.testing.assert_close(head(noisy, valid), answer)
    torch.testing.assert_close(head(objects[:1, :3], valid[:1, :3]), answer[:1])
    assert (head(2 * objects, valid) - answer)[[0, 2]].abs().max() > 1e-3


@pytest.mark.parametrize("kind", HEADS)
def test_scenes_without_objects_have_finite_gradients(kind: str) -> None:
    head, (objects, valid) = head_of(kind), objects_of([0, 0])
    head(objects, valid).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("kind", ["set_transformer", "mean"])
def test_sets_have_no_order(kind: str) -> None:
    head, (objects, valid) = head_of(kind), objects_of([5])
    torch.testing.assert_close(head(objects[:, [4, 2, 0, 1, 3]], valid), head(objects, valid))


def test_the_lstm_reads_one_object_after_the_other() -> None:
    """Against PyTorch's single cell, step by step."""
    head, (objects, valid) = head_of("lstm"), objects_of([3])
    assert isinstance(head, LSTMHead)
    cell = torch.nn.LSTMCell(5, 8)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in head.lstm.state_dict().items()})
    state = None
    for n in range(3):
        state = cell(head.before(objects[:, n]), state)
    assert state is not None
    torch.testing.assert_close(head.after(state[0]), head(objects, valid))


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="head must be one of"):
        make_head("rnn", D, G, (), 4, 4)
    with pytest.raises(ValueError, match="multiple of 4"):
        make_head("set_transformer", D, G, (), 4, 6)
