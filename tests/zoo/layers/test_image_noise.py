"""Noise of images against what it promises."""

import pytest
import torch
from scipy import stats

from zoo.layers.categorical import gumbel_noise
from zoo.layers.distributions import logistic_noise
from zoo.layers.image_noise import ImageNoise


def draw(images: list[int], seed: int = 0) -> list[torch.Tensor]:
    B = len(images)
    with ImageNoise(torch.tensor(images), seed):
        return [
            torch.randn(B, 3, 5), torch.randn((B, 3)), torch.rand(B, 2, dtype=torch.float64), torch.rand(B),
            torch.randn_like(torch.zeros(B, 4)), torch.randn(size=(B, 2)), logistic_noise(B, 3), gumbel_noise(B, 3),
            torch.empty(B, 2).uniform_(2, 5), torch.empty(B, 2).normal_(std=2),
            torch.distributions.Normal(0.0, 1.0).rsample((B,)),
        ]  # fmt: skip


def test_an_image_has_its_noise_in_whatever_company() -> None:
    together = draw([0, 1, 2, 1000, 7])
    for images in ([2], [7, 0], [1000, 3, 2]):
        for all_noise, some in zip(together, draw(images), strict=True):
            for row, image in enumerate(images):
                if image in (known := [0, 1, 2, 1000, 7]):
                    assert torch.equal(all_noise[known.index(image)], some[row])
    assert 2 < together[8].min() < together[8].max() < 5
    assert together[2].dtype == torch.float64
    # each call, image and seed has another
    assert len({float(noise.flatten()[0]) for noise in together}) == len(together)
    assert not torch.equal(draw([0], 1)[0], draw([0])[0])


@pytest.mark.parametrize("draw_one", ["randn", "rand"])
def test_noise_is_distributed_as_it_should(draw_one: str) -> None:
    with ImageNoise(torch.arange(500)):
        noise = getattr(torch, draw_one)(500, 400)
    known = {"randn": stats.norm, "rand": stats.uniform}[draw_one]
    assert stats.kstest(noise.flatten().numpy(), known.cdf).pvalue > 0.01
    # neither neighbours in a row nor images next to each other have to do with each other
    with ImageNoise(torch.arange(500)):
        waits = torch.empty(500, 400).exponential_(2.0)
    assert stats.kstest(waits.flatten().numpy(), stats.expon(scale=0.5).cdf).pvalue > 0.01
    for other in (noise.roll(1, 0), noise.roll(1, 1)):
        assert abs(stats.pearsonr(noise.flatten(), other.flatten()).statistic) < 0.01
    assert noise.isfinite().all()


def test_other_draws_are_as_ever() -> None:
    torch.manual_seed(0)
    expected = [torch.rand(7), torch.randn(2, 2)]
    torch.manual_seed(0)
    with ImageNoise(torch.arange(3)):
        drawn = [torch.rand(7), torch.randn(2, 2)]
        own = torch.rand(3, generator=torch.Generator().manual_seed(4))
    assert all(map(torch.equal, expected, drawn))
    assert torch.equal(own, torch.rand(3, generator=torch.Generator().manual_seed(4)))


def test_compiled_losses_draw_it_too() -> None:
    drawn = torch.compile(lambda x: x + torch.randn(len(x), 3), backend="eager")
    with ImageNoise(torch.arange(2)):
        together = drawn(torch.zeros(2, 3))
    with ImageNoise(torch.arange(2)):
        assert torch.equal(together, torch.randn(2, 3))
