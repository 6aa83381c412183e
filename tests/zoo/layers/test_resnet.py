import pytest
import torch
from torchvision.models import resnet18

from zoo.layers.resnet import ResNetBackbone


def test_trunk_is_torchvisions_resnet18() -> None:
    torch.manual_seed(0)
    theirs = resnet18(weights=None).eval()
    ours = ResNetBackbone(3).eval()
    trunk = [p for name, p in theirs.state_dict().items() if not name.startswith("fc")]
    state = dict(zip(ours.trunk.state_dict(), trunk, strict=True))
    ours.trunk.load_state_dict(state)  # in order, of the same shapes
    image = torch.rand(2, 3, 96, 64)
    expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(
        theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))))))  # fmt: skip
    torch.testing.assert_close(ours.trunk(image), expected)


def test_sizes_of_table_3() -> None:
    net = ResNetBackbone(3).eval()
    assert net.trunk(torch.rand(1, 3, 128, 128)).shape == (1, 512, 4, 4)
    assert net(torch.rand(1, 3, 128, 128)).shape == (1, 64, 16, 16)
    assert (net.cell_size, net.out_channels) == (8, 64)
    # deconvolutions 512 to 128 and 128 to 64 of 4 x 4, each with the scale and shift of its normalisation
    assert sum(p.numel() for p in net.up.parameters()) == 16 * (512 * 128 + 128 * 64) + 2 * (128 + 64)
    convolved = ResNetBackbone(3, up_convolutions=True)
    sizes = 9 * (512 * 128 + 128 * 64) + 16 * (128 * 128 + 64 * 64) + 4 * (128 + 64)
    assert sum(p.numel() for p in convolved.up.parameters()) == sizes


@pytest.mark.parametrize(("size", "cells"), [((33, 64), (5, 8)), ((7, 9), (1, 2)), ((50, 33), (7, 5))])
def test_any_image_size_has_a_feature_for_each_cell_begun(size, cells) -> None:
    net = ResNetBackbone(1, widths=(4, 8), blocks=1, up_channels=()).eval()
    assert net.cell_size == 8
    image = torch.rand(1, 1, *size)
    features = net(image)
    assert features.shape == (1, 8, *cells)
    padded = torch.zeros(1, 1, 8 * cells[0], 8 * cells[1])
    padded[..., : size[0], : size[1]] = image
    torch.testing.assert_close(features, net(padded))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="needs stages"):
        ResNetBackbone(1, widths=())
    with pytest.raises(ValueError, match="4 deconvolutions are too many after 2 stages"):
        ResNetBackbone(1, widths=(4, 8), up_channels=(4, 4, 4, 4))
