import pytest
import torch

from zoo.layers.blocks import GridBackbone, mlp


def test_mlp():
    torch.manual_seed(0)
    net = mlp(3, [5, 7], 2, torch.nn.ELU)
    x = torch.randn(64, 3)
    first, second, last = net[0], net[2], net[4]
    expected = last(torch.nn.functional.elu(second(torch.nn.functional.elu(first(x)))))
    torch.testing.assert_close(net(x), expected)
    assert [tuple(layer.weight.shape) for layer in (first, second, last)] == [(5, 3), (7, 5), (2, 7)]
    assert net(x).min() < 0  # nothing after the last layer


def test_parameters_of_supplement_d2():
    # k4 c128, k4 c128, k4 c128, k1 c128, k1 c128, k1 c100 on three channels, with biases
    assert sum(p.numel() for p in GridBackbone(3, 128, 100).parameters()) == 576_740
    assert sum(p.numel() for p in GridBackbone(3, 128, 100, strides=(3, 2, 2)).parameters()) == 576_740


@pytest.mark.parametrize("strides", [(2, 2, 3), (3, 2, 2), (4, 3), (2, 3, 1, 2)])
@pytest.mark.parametrize("final_kernel", [1, 2])
def test_grid_size(strides, final_kernel):
    net = GridBackbone(1, 4, 3, strides, final_kernel)
    assert net.cell_size == 12
    for size, grid in {
        (48, 48): (4, 4),
        (84, 84): (7, 7),
        (210, 160): (18, 14),
        (1, 13): (1, 2),
        (50, 47): (5, 4),
    }.items():
        assert net(torch.rand(1, 1, *size)).shape == (1, 3, *grid)


# Last pixel that a cell sees, from its first: the sum over layers of (kernel - 1) times the strides before.
_REACH = [
    ((2, 2, 3), 1, 3 + 3 * 2 + 3 * 4),
    ((3, 2, 2), 1, 3 + 3 * 3 + 3 * 6),
    ((2, 2, 3), 2, 3 + 3 * 2 + 3 * 4 + 3 * 12),
]


@pytest.mark.parametrize(("strides", "final_kernel", "reach"), _REACH)
def test_moves_with_the_image(strides, final_kernel, reach):
    torch.manual_seed(0)
    net = GridBackbone(2, 8, 5, strides, final_kernel).double()
    image = torch.rand(1, 2, 84, 72, dtype=torch.float64)
    whole = net(image)
    # a cell sees nothing above or left of itself, so what is cut off there changes no other cell
    torch.testing.assert_close(net(image[..., 12:, 12:]), whole[..., 1:, 1:])
    # content that moves by a cell: the cells that see no border follow
    rest = -1 - -(-reach // 12)
    moved = net(image.roll((12, 12), (2, 3)))[..., 1:, 1:]
    torch.testing.assert_close(moved[..., : rest + 1, : rest + 1], whole[..., :rest, :rest])
    assert (whole[..., 1:, 1:] - whole[..., :-1, :-1]).abs().max() > 1e-3


@pytest.mark.parametrize(("strides", "final_kernel", "reach"), _REACH)
def test_receptive_field_begins_at_the_cell(strides, final_kernel, reach):
    torch.manual_seed(0)
    net = GridBackbone(1, 16, 8, strides, final_kernel).double()
    image = torch.rand(1, 1, 108, 96, dtype=torch.float64, requires_grad=True)
    features = net(image)
    for i, j in ((0, 0), (1, 2), (2, 1)):
        (gradient,) = torch.autograd.grad(features[0, :, i, j].sum(), image, retain_graph=True)
        rows, columns = gradient[0, 0].abs().nonzero().T
        assert (rows.min().item(), columns.min().item()) == (12 * i, 12 * j)
        assert (rows.max().item(), columns.max().item()) == (12 * i + reach, 12 * j + reach)


def test_strides_beyond_the_kernel():
    with pytest.raises(ValueError, match=r"strides must be between 1 and 4, got \[6, 2\]"):
        GridBackbone(1, strides=(6, 2))
    with pytest.raises(ValueError, match="strides"):
        GridBackbone(1, strides=())
