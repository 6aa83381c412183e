import pytest
import torch

from zoo.layers.templates import COMBINATIONS, TemplateDecoder


def decoder(combination: str, seed: int = 0, **options) -> TemplateDecoder:
    torch.manual_seed(seed)
    settings = {
        "kernel_size": 3,
        "template_hidden": [],
        "attribute_hidden": [4],
    }
    return TemplateDecoder(3, 2, (2, 6, 7), combination, **{**settings, **options}).double()


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_combinations_written_out(combination: str) -> None:
    """Section 3.2, pixel by pixel."""
    net = decoder(combination)
    z = torch.tensor([0.3, -1.0]).double()
    drawn = net(torch.tensor([0.0, 1.0, 0.0]).double(), z)
    linear = net.template[-1]
    template = (linear.weight[:, 1] + linear.bias).view(2, 6, 7)
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
def test_without_a_change_all_combinations_draw_the_template(combination: str) -> None:
    net = decoder(combination)
    with torch.no_grad():
        net.attribute[-1].weight.zero_()
        net.attribute[-1].bias.zero_()
    category = torch.eye(3).double().expand(2, 3, 3)
    drawn = net(category, torch.randn(2, 3, 2).double())
    assert drawn.shape == (2, 3, 2, 6, 7)
    torch.testing.assert_close(drawn, net.template(category).view_as(drawn).sigmoid())
    alone = TemplateDecoder(3, 0, (2, 6, 7), combination, template_hidden=[]).double()
    alone.template.load_state_dict(net.template.state_dict())
    torch.testing.assert_close(alone(category, torch.zeros(2, 3, 0).double()), drawn)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combination": "linear"}, r"combination must be one of .*'convolutional'\], got 'linear'"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
    ],
)
def test_settings_that_cannot_work(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(**{"combination": "additive", **settings})
