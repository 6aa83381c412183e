import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.layers.celu import CELU


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1.2e-7), (torch.float64, 2.3e-16)])
def test_it_is_pytorchs_but_for_rounding(dtype: torch.dtype, off: float) -> None:
    x = torch.cat([torch.linspace(-120, 120, 4801), torch.linspace(-1e-3, 1e-3, 201), torch.tensor([-0.0, -1e-30])])
    x = x.to(dtype).requires_grad_()
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = CELU()(x), F.celu(x)
    (gradient,), (theirs_gradient,) = (torch.autograd.grad((y * weight).sum(), x) for y in (ours, theirs))
    assert (ours - theirs).abs().max() <= off
    assert (gradient - theirs_gradient).abs().max() <= 2 * off
    with torch.no_grad():
        assert CELU()(x).equal(ours)


def test_gradients_of_both_orders() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(CELU(), x)
    assert torch.autograd.gradgradcheck(CELU(), x)


def test_what_is_no_number_or_has_no_end_stays_so() -> None:
    x = torch.tensor([float("nan"), float("inf"), float("-inf")], requires_grad=True)
    y = CELU()(x)
    y.sum().backward()
    assert y.isnan().tolist() == [True, False, False]
    assert y[1:].tolist() == [float("inf"), -1.0]
    assert x.grad is not None
    assert x.grad[1:].tolist() == [1.0, 0.0]


def test_halves_are_not_rounded_twice() -> None:
    x = torch.linspace(-0.1, 0.0, 101, dtype=torch.bfloat16)
    assert CELU()(x).equal(F.celu(x))


def test_the_input_is_left_alone_and_the_memory_format_kept() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    before = x.clone()
    assert CELU()(x).is_contiguous(memory_format=torch.channels_last)
    assert x.equal(before)


def test_a_compiled_graph_has_pytorchs() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(2, 3), CELU()), (torch.ones(1, 2),))
    assert any("elu" in str(node.target) for node in program.graph.nodes)
