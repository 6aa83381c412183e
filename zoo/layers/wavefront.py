"""Lateral encoding of a grid: each cell sees objects of cells before it, in as few batched steps as that allows.

SPAIR processes cells in raster order, each looking at its neighbours that came before. Cell (i, j) needs the L rows
above, from column j - L to j + L, and the L cells to its left. Cells of equal j + (L + 1) i need none of each other,
so W + (L + 1)(H - 1) steps do the work of H W: 19 for a grid of 7 x 7 and L = 1. It is the same function.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

# (inputs of n cells, each (B, n, F_i); context (B, n, M, D)) -> (objects (B, n, D), outputs, each (B, n, G_i))
Step = Callable[[tuple[Tensor, ...], Tensor], tuple[Tensor, tuple[Tensor, ...]]]


def num_neighbors(lookback: int) -> int:
    """How many earlier cells a cell sees: 4 for a lookback of 1 (north-west, north, north-east, west)."""
    return 2 * lookback * (lookback + 1)


def encode_in_waves(
    step: Step, inputs: tuple[Tensor, ...], edge: Tensor, height: int, width: int, lookback: int = 1
) -> tuple[Tensor, ...]:
    """Run `step` over all cells, wave by wave.

    Args:
        step: Maps the inputs of some cells and the objects around them to these cells' objects and outputs.
        inputs: Each (B, height * width, F_i) in raster order; noise belongs here, so that order changes nothing.
        edge: (D,) the object that stands for neighbours outside the grid.
        height: Rows of the grid, H.
        width: Columns of the grid, W.
        lookback: L, how far a cell sees; 0 leaves cells independent.

    Returns:
        The outputs of `step`, each (B, height * width, G_i) in raster order.
    """
    order, inverse, neighbors, sizes, reach = _waves(height, width, lookback, edge.device)
    B, D = inputs[0].shape[0], edge.shape[0]
    outside = edge.expand(B, 1, D)
    waves = [x.index_select(1, order).split(sizes, 1) for x in inputs]
    objects: list[Tensor] = []  # of the last `reach` waves
    outputs: list[tuple[Tensor, ...]] = []
    for index, cells in zip(neighbors.split(sizes), zip(*waves, strict=True), strict=True):
        visible = torch.cat([outside, *objects], 1)
        context = visible.index_select(1, index.flatten()).unflatten(1, index.shape)  # (B, n, M, D)
        made, out = step(cells, context)
        objects = [*objects, made][-reach:] if reach else []
        outputs.append(out)
    return tuple(torch.cat(parts, 1).index_select(1, inverse) for parts in zip(*outputs, strict=True))


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later: a tensor made in inference mode could not be used in training
def _waves(
    height: int, width: int, lookback: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, list[int], int]:
    """The order of cells, its inverse, each cell's neighbours among the objects at hand, waves' sizes, and their reach.

    Neighbours are indices into [edge, objects of the last `reach` waves]: (H W, M), rows in wave order.
    """
    cells = [(i, j) for i in range(height) for j in range(width)]
    slope = min(lookback + 1, width)  # in a narrower grid a row begins when the one above is done
    wave = {(i, j): j + slope * i if lookback else 0 for i, j in cells}
    order = sorted(cells, key=lambda cell: (wave[cell], cell))
    sizes = [0] * (max(wave.values()) + 1)
    for cell in cells:
        sizes[wave[cell]] += 1
    position = {cell: k for k, cell in enumerate(order)}
    offsets = [(-di, dj) for di in range(lookback, 0, -1) for dj in range(-lookback, lookback + 1)]
    offsets += [(0, -dj) for dj in range(lookback, 0, -1)]
    reach = lookback * (lookback + 2)
    starts = [sum(sizes[:t]) for t in range(len(sizes) + 1)]
    neighbors = [
        [
            1 + position[(i + di, j + dj)] - starts[max(0, wave[i, j] - reach)] if (i + di, j + dj) in position else 0
            for di, dj in offsets
        ]
        for i, j in order
    ]
    raster = torch.tensor([i * width + j for i, j in order])
    table = torch.tensor(neighbors, dtype=torch.long).view(len(cells), len(offsets))
    return raster.to(device), raster.argsort().to(device), table.to(device), sizes, reach
