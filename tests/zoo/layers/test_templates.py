import pytest
import torch

from zoo.layers.templates import COMBINATIONS, TemplateDecoder

ALL = torch.ones(2)


def decoder(combination: str, seed: int = 0, **options) -> TemplateDecoder:
    torch.manual_seed(seed)
    settings = {
        "kernel_size": 3,
        "template_hidden": [],
        "attribute_hidden": [4],
        "gain": 5.0,
        "blob": 2.0,
        "noise": 1.0,
    }
    return TemplateDecoder(3, 2, (2, 6, 7), combination, **{**settings, **options}).double()


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_combinations_written_out(combination: str) -> None:
    """Section 3.2, pixel by pixel."""
    net = decoder(combination)
    z = torch.tensor([0.3, -1.0]).double()
    drawn = net(torch.tensor([0.0, 1.0, 0.0]).double(), z, ALL)
    linear = net.template[-1]
    template = (5 * (linear.weight[:, 1] + linear.bias)).view(2, 6, 7)
    change = net.attribute(z)
    for c in range(2):
        for p in range(6):
            for q in range(7):
                t = template[c, p, q]
                if combination == "additive":
                    logit = t + change.view(2, 6, 7)[c, p, q]
                elif combination == "multiplicative":
                    logit = t * (1 + change.view(2, 6, 7)[c, p, q])
                else:
                    kernel = change.view(2, 3, 3)[c]
                    logit = t
                    for i in (-1, 0, 1):
                        for j in (-1, 0, 1):
                            near = template[c, min(max(p + i, 0), 5), min(max(q + j, 0), 6)]
                            logit = logit + kernel[i + 1, j + 1] * near
                torch.testing.assert_close(drawn[c, p, q], logit.sigmoid())


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_what_is_not_released_changes_nothing(combination: str) -> None:
    net = decoder(combination)
    category, z = torch.eye(3).double().expand(2, 3, 3), torch.randn(2, 3, 2).double()
    assert net(category, z, ALL).shape == (2, 3, 2, 6, 7)
    held = net(category, z, torch.zeros(2))
    torch.testing.assert_close(held, held[:1, :1].expand_as(held))
    mean = net(torch.full((3,), 1 / 3).double(), z[0, 0], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(held[0, 0], mean)
    templates = net(category, z, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(templates[0], templates[1])
    assert (templates[0, 0] - templates[0, 1]).abs().max() > 0.1


def test_gain_speeds_templates_up_and_leaves_their_start_alone() -> None:
    slow, fast = (decoder("additive", gain=gain, template_hidden=hidden, noise=noise) for gain, hidden, noise in (
        (1.0, [], 1.0), (10.0, [], 1.0)))  # fmt: skip
    category, z = torch.eye(3).double(), torch.zeros(3, 2).double()
    only_templates = torch.tensor([1.0, 0.0])
    start = slow(category, z, only_templates)
    torch.testing.assert_close(fast(category, z, only_templates), start)
    assert start[:, :, 2:4, 3].mean() > 0.7  # the blob: bright in the middle, dark in the corners
    assert start[:, :, 0, 0].mean() < 0.4
    moved = []
    for net in (slow, fast):
        optimizer = torch.optim.Adam(net.parameters(), 1e-4)
        net(category, z, only_templates).sum().backward()
        optimizer.step()
        moved.append((net(category, z, only_templates) - start).mean().item())
    assert moved[1] == pytest.approx(10 * moved[0], rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combination": "linear"}, r"combination must be one of .*'convolutional'\], got 'linear'"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"template_hidden": [8], "noise": 1.0}, "set template_hidden to \\[\\]"),
    ],
)
def test_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(**{"combination": "additive", **settings})
