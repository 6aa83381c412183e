import pytest
import torch
import torch.nn.functional as F

from zoo.layers.glimpse_generator import GlimpseGenerator


@pytest.mark.parametrize(("size", "parameters"), [(64, 191_476), (32, 51_956)])
def test_glimpses_are_table_7s(size: int, parameters: int) -> None:
    """Sizes and parameters of both columns (0.191 M and 0.052 M), normalised and rectified but for the last."""
    torch.manual_seed(0)
    net = GlimpseGenerator(32, 3, size)
    assert sum(p.numel() for p in net.parameters()) == parameters
    z = torch.randn(2, 5, 32)
    color, mask = net(z)
    assert color.shape == (2, 5, 3, size, size)
    assert mask.shape == (2, 5, size, size)
    weights = [p for p in net.parameters() if p.ndim == 4]
    x = F.conv_transpose2d(z[1, 3].view(1, 32, 1, 1), weights[0])
    for weight in weights[1:]:
        x = F.celu(F.group_norm(x, max(1, x.shape[1] // 16)))
        x = F.conv_transpose2d(x, weight, stride=2, padding=1)
    x = (x + net.net[-1].bias[:, None, None]).sigmoid()[0]
    torch.testing.assert_close(torch.cat([color[1, 3], mask[1, 3][None]]), x, rtol=1e-4, atol=1e-5)


def test_colours_start_from_those_given() -> None:
    """Where the network says nothing, they are these; where it says something, it moves their logits."""
    torch.manual_seed(0)
    net = GlimpseGenerator(4, 3, 8)
    z, given = torch.randn(2, 5, 4), torch.rand(2, 5, 3).clamp(0.1, 0.9)
    (plain, mask), (moved, same_mask) = net(z), net(z, given)
    torch.testing.assert_close(moved.logit() - plain.logit(), given.logit()[..., None, None].expand_as(plain))
    torch.testing.assert_close(mask, same_mask)
    torch.nn.init.zeros_(net.net[-1].weight)
    torch.nn.init.zeros_(net.net[-1].bias)
    torch.testing.assert_close(net(z, given)[0], given[..., None, None].expand_as(plain))


@pytest.mark.parametrize("size", [4, 48, 0])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="power of two from 8"):
        GlimpseGenerator(32, 3, size)
