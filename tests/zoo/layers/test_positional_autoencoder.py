import pytest
import torch

from zoo.layers.positional_autoencoder import PositionalAutoencoder
from zoo.models import BackgroundAE


@pytest.mark.parametrize(
    ("form", "size", "encoder", "generator"),
    [
        ("simple", 64, 2.94, 7.68),
        ("complex", 64, 2.90, 43.57),
        ("simple", 128, 3.59, 9.33),
        ("complex", 128, 21.18, 48.63),
    ],
)
def test_networks_have_the_published_sizes(form: str, size: int, encoder: float, generator: float) -> None:
    """Millions of parameters of the authors' program."""
    with torch.device("meta"):
        net = PositionalAutoencoder(3, size, form)
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (net.encoder, net.generator)]
    assert counts == pytest.approx([encoder, generator], abs=0.005)


@pytest.mark.parametrize(("size", "channels"), [(64, 3), (128, 1)])
def test_codes_and_images_have_their_shapes_and_ranges(size: int, channels: int) -> None:
    net = PositionalAutoencoder(channels, size, "simple", code_dim=5, width=0.1)
    image = torch.rand(2, channels, size, size)
    assert net.encode(image).shape == (2, 5)
    background, error = net(image)
    assert background.shape == image.shape
    assert error.shape == (2, size, size)
    assert min(background.min(), error.min()) >= 0
    assert max(background.max(), error.max()) <= 1


def test_blocks_know_where_they_are() -> None:
    """A generator of zero weights but for the positions draws rows and columns, whatever the code."""
    net = PositionalAutoencoder(3, 64, "simple", width=0.1)
    last = net.generator[-1].convolution
    with torch.no_grad():
        last.weight.zero_()
        last.weight[-2, 0, 2, 2] = 1.0  # the row, at even pixels
        drawn = net.decode(torch.randn(1, 16))[0][0, 0, ::2, ::2]
    rows = torch.linspace(-0.5, 0.5, 32).sigmoid()
    torch.testing.assert_close(drawn, rows[:, None].expand(-1, 32))


@pytest.mark.parametrize(
    "options", [{"form": "medium"}, {"image_size": 96}, {"width": 0.0}, {"code_dim": 0}], ids=lambda o: next(iter(o))
)
def test_other_forms_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="background"):
        PositionalAutoencoder(**{"channels": 3, "image_size": 64, **options})


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"64 x 64 px, got \(64, 128\)"):
        PositionalAutoencoder(3, 64, "simple", width=0.1)(torch.rand(1, 3, 64, 128))
    with pytest.raises(ValueError, match=r"64 x 64 px, got \(96, 96\)"):
        BackgroundAE(form="simple", width=0.1, image_size=64)(torch.rand(1, 3, 96, 96))
