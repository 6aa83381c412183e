import pytest
import straightforward
import torch
from torch import Tensor, nn

from zoo.layers.wavefront import encode_in_waves, num_neighbors


class _Cell(nn.Module):
    """A random network of a cell's feature, its noise and what is around it."""

    def __init__(self, lookback: int, dim: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4 + num_neighbors(lookback) * dim, 8), nn.Tanh(), nn.Linear(8, 2 * dim))
        self.sizes: list[int] = []

    def forward(self, inputs: tuple[Tensor, ...], context: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        feature, noise = inputs
        self.sizes.append(feature.shape[1])
        mean, std = self.net(torch.cat([feature, context.flatten(2)], -1)).chunk(2, -1)
        made = mean + std.exp() * noise
        return made, (made, mean.sum(-1, keepdim=True))


@pytest.mark.parametrize("lookback", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (7, 7), (3, 5), (5, 3), (1, 4)])
def test_cell_by_cell(height, width, lookback):
    torch.manual_seed(0)
    cell = _Cell(lookback).double()
    features = torch.randn(2, height * width, 4, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, height * width, 3, dtype=torch.float64, requires_grad=True)
    edge = torch.randn(3, dtype=torch.float64, requires_grad=True)
    leaves = [features, noise, edge, *cell.parameters()]
    weights = torch.randn(2, height * width, 4, dtype=torch.float64)
    results = []
    for function in (encode_in_waves, straightforward.encode_in_waves):
        cell.sizes.clear()
        outputs = function(cell, (features, noise), edge, height, width, lookback)
        steps = list(cell.sizes)
        assert sum(steps) == height * width
        loss = (torch.cat(outputs, -1) * weights).sum()
        # without neighbours the edge is not looked at
        gradients = torch.autograd.grad(loss, leaves, allow_unused=lookback == 0, materialize_grads=lookback == 0)
        results.append([*outputs, *gradients])
        if function is encode_in_waves:
            assert len(steps) == (width + (lookback + 1) * (height - 1) if lookback else 1)
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference)


def test_context_order():
    """North-west, north, north-east, west: what the cell in the middle of 2 x 3 sees below the first row."""
    contexts = {}

    def step(inputs: tuple[Tensor, ...], context: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        (number,) = inputs
        for n, seen in zip(number[0, :, 0].tolist(), context[0, :, :, 0].tolist(), strict=True):
            contexts[int(n)] = seen
        return number, (number,)

    encode_in_waves(step, (torch.arange(6.0).view(1, 6, 1),), torch.tensor([-1.0]), 2, 3)
    assert contexts == {
        0: [-1, -1, -1, -1],
        1: [-1, -1, -1, 0],
        2: [-1, -1, -1, 1],
        3: [-1, 0, 1, -1],
        4: [0, 1, 2, 3],
        5: [1, 2, -1, 4],
    }


@pytest.mark.parametrize(("height", "width", "lookback"), [(4, 1, 1), (3, 2, 2), (3, 1, 2)])
def test_narrow_grid(height, width, lookback):
    torch.manual_seed(0)
    cell = _Cell(lookback)
    inputs = (torch.randn(2, height * width, 4), torch.randn(2, height * width, 3))
    edge = torch.randn(3)
    ours = encode_in_waves(cell, inputs, edge, height, width, lookback)
    assert cell.sizes == [1] * (height * width)  # no cells to run at once, and none to run without
    reference = straightforward.encode_in_waves(cell, inputs, edge, height, width, lookback)
    torch.testing.assert_close(ours, reference)
