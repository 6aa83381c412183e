import pytest
import torch
import torch.nn.functional as F

from zoo.layers.glimpse_decoder import GlimpseDecoder


def test_shapes_of_table_6() -> None:
    torch.manual_seed(0)
    decoder = GlimpseDecoder(256, 4)
    assert decoder(torch.randn(2, 3, 256)).shape == (2, 3, 4, 32, 32)
    shapes = []
    for layer in decoder.net:
        layer.register_forward_hook(lambda layer, _, out: shapes.append((type(layer).__name__, *out.shape[1:])))
    with torch.no_grad():
        decoder(torch.randn(1, 256))
    drawn = [shape for shape in shapes if shape[0].startswith("Conv")]
    ups = [(width, size, size) for width, size in ((128, 2), (128, 4), (64, 8), (32, 16))]
    assert [shape[1:] for shape in drawn] == [*ups, (32, 16, 16), (16, 32, 32), (4, 32, 32)]
    groups = [layer.num_groups for layer in decoder.net if isinstance(layer, torch.nn.GroupNorm)]
    assert groups == [8, 8, 8, 8, 8, 4]


def test_deconvolution_is_pixel_shuffle_with_one_bias_for_four_texels() -> None:
    torch.manual_seed(0)
    ours = GlimpseDecoder(6, 2, (8, 16, 8)).double()
    theirs = GlimpseDecoder(6, 2, (8, 16, 8), "pixel_shuffle").double()

    def layers(decoder: GlimpseDecoder) -> list[torch.nn.Module]:
        return [decoder.expand[0], *(layer for layer in decoder.net if list(layer.parameters()))]

    for mine, other in zip(layers(ours), layers(theirs), strict=True):
        state = mine.state_dict()
        if isinstance(mine, torch.nn.ConvTranspose2d):  # (in, out, 2, 2) to (4 out, in, 1, 1)
            state["weight"] = state["weight"].permute(1, 2, 3, 0).flatten(0, 2)[..., None, None]
            state["bias"] = state["bias"].repeat_interleave(4)
        other.load_state_dict(state)
    code = torch.randn(5, 6).double()
    torch.testing.assert_close(ours(code), theirs(code))


@pytest.mark.parametrize("group", [1, 3, 100])
def test_groups_and_recomputation_change_nothing(group: int) -> None:
    torch.manual_seed(0)
    decoder = GlimpseDecoder(5, 2, (8, 16, 8), group=group).double()
    code = torch.randn(2, 4, 5).double().requires_grad_()
    texels = F.relu(decoder.expand[0](code)).flatten(0, 1)[..., None, None]
    expected = decoder.net(texels).unflatten(0, (2, 4))  # all at once, every activation kept
    weights = torch.randn(expected.shape).double()
    leaves = [code, *decoder.parameters()]
    ours = decoder(code)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(decoder(code), expected)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match=r"upsampling must be one of \['deconv', 'pixel_shuffle'\], got 'nearest'"):
        GlimpseDecoder(4, 2, upsampling="nearest")
    with pytest.raises(ValueError, match="width of its linear layer"):
        GlimpseDecoder(4, 2, (8,))
