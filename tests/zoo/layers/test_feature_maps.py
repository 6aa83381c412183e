import itertools
import sys

import pytest
import torch
import torch.nn.functional as F

from zoo.layers.feature_maps import Segformer, UNet

CONVOLUTIONS = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_unet_maps_have_the_stride_asked_for(stride: int) -> None:
    net = UNet(3, 7, (8, 16, 16, 24), stride)
    assert net(torch.rand(2, 3, 32, 48)).shape == (2, 7, 32 // stride, 48 // stride)


def test_unet_is_the_papers_table_8() -> None:
    """Parameters counted by hand: convolutions but the last two have no bias, batch normalisation has two each."""

    def conv(i: int, o: int, k: int) -> int:
        return i * o * k * k + 2 * o

    D, c = 45, (80, 128, 192, 256, 256, 256)
    expected = conv(3, 80, 3)
    expected += sum(conv(i, o, 4) + conv(o, o, 3) for i, o in itertools.pairwise(c))  # downsample blocks
    expected += conv(256, 256, 3)
    ups = [(512, 256), (512, 256), (512, 192), (384, 128), (256, 80)]
    expected += sum(conv(i, i, 3) + conv(i, o, 4) for i, o in ups)  # upsample blocks
    expected += conv(160, D, 3) + (D * D * 9 + D) + (D * D + D)
    assert sum(p.numel() for p in UNet(3, D).parameters()) == expected


def test_unet_is_the_papers_network() -> None:
    """One forward pass by hand, in training as in evaluation: residual blocks, and skipped maps in their order."""
    torch.manual_seed(0)
    net = UNet(3, 5, (4, 6, 8), 1)
    image, W = torch.rand(2, 3, 16, 24), iter([m for m in net.modules() if isinstance(m, CONVOLUTIONS)])

    def block(x: torch.Tensor) -> torch.Tensor:
        convolution = next(W)
        if isinstance(convolution, torch.nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, convolution.weight, stride=2, padding=1)
        else:
            wide = convolution.kernel_size == (4, 4)
            x = F.conv2d(x, convolution.weight, stride=2 if wide else 1, padding=1)
        return F.celu(F.batch_norm(x, None, None, training=True))

    def residual(x: torch.Tensor) -> torch.Tensor:
        return x + block(x)

    full = block(image)
    half = residual(block(full))
    quarter = residual(block(half))
    x = block(quarter)
    x = block(residual(torch.cat([x, quarter], 1)))
    x = block(residual(torch.cat([x, half], 1)))
    x = block(torch.cat([x, full], 1))
    third, last = next(W), next(W)
    x = x + F.conv2d(x, third.weight, third.bias, padding=1)
    torch.testing.assert_close(net(image), F.conv2d(x, last.weight, last.bias), rtol=1e-4, atol=1e-5)


def test_unet_sees_the_same_in_a_moved_image() -> None:
    """Away from the border, a shift by the coarsest cell shifts the map: localisation can be equivariant."""
    torch.manual_seed(0)
    net = UNet(3, 5, (8, 8, 16), 2).eval()
    image = torch.zeros(1, 3, 96, 96)
    image[:, :, 40:52, 36:48] = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        here, there = net(image), net(torch.roll(image, (4, -8), (2, 3)))
    torch.testing.assert_close(torch.roll(here, (2, -4), (2, 3))[..., 12:36, 12:36], there[..., 12:36, 12:36])


@pytest.mark.parametrize(("stride", "message"), [(3, r"1, 2, \.\.\. 32: 3"), (64, "32: 64")])
def test_unet_refuses_other_strides(stride: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(3, 5, stride=stride)


class TestSegformer:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("transformers")

    def test_maps_are_a_quarter_of_any_image(self) -> None:
        net = Segformer("nvidia/mit-b0", 3, 9)
        assert net(torch.rand(2, 3, 64, 96)).shape == (2, 9, 16, 24)

    def test_b3_has_the_size_of_the_published_one(self) -> None:
        with torch.device("meta"):
            net = Segformer("nvidia/mit-b3", 3, 45)
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(47.26e6, rel=1e-3)

    def test_weights_have_the_names_that_checkpoints_rely_on(self) -> None:
        """They are transformers' own, and have changed before (5.9): then trained checkpoints need a renaming."""
        with torch.device("meta"):
            names = Segformer("nvidia/mit-b0", 3, 9).state_dict()
        for name in (
            "net.segformer.stages.0.patch_embeddings.proj.weight",
            "net.segformer.stages.3.blocks.1.attention.q_proj.weight",
            "net.segformer.stages.1.blocks.0.mlp.dwconv.dwconv.weight",
            "net.decode_head.linear_projections.3.proj.weight",
            "net.decode_head.classifier.weight",
        ):
            assert name in names

    def test_pretrained_weights_come_from_a_folder_and_leave_the_head_random(self, tmp_path) -> None:
        from transformers import SegformerConfig, SegformerModel

        torch.manual_seed(0)
        saved = SegformerModel(SegformerConfig())  # its defaults are B0's
        saved.save_pretrained(tmp_path / "mit-b0")
        net = Segformer(str(tmp_path / "mit-b0"), 3, 9)
        head = {name: value.clone() for name, value in net.net.decode_head.state_dict().items()}
        net.load_pretrained()
        for name, value in saved.state_dict().items():
            assert torch.equal(net.net.segformer.state_dict()[name], value), name
        assert all(torch.equal(net.net.decode_head.state_dict()[name], value) for name, value in head.items())

    def test_weights_that_cannot_be_had_are_an_error(self, tmp_path) -> None:
        with pytest.raises(OSError, match="cannot get the pretrained weights"):
            Segformer(str(tmp_path / "mit-b0"), 3, 9).load_pretrained()

    def test_without_a_network_they_are_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket
        import time

        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
        net = Segformer("nobody/mit-b0", 3, 9)
        start = time.monotonic()
        with pytest.raises(OSError, match="cannot get the pretrained weights 'nobody/mit-b0'"):
            net.load_pretrained()
        assert time.monotonic() - start < 10

    @pytest.mark.parametrize("damage", ["missing", "cut"])
    def test_weights_that_are_not_all_there_are_an_error(self, tmp_path, damage: str) -> None:
        """The library would only warn, and leave random what it has not found."""
        from safetensors.torch import load_file, save_file
        from transformers import SegformerConfig, SegformerModel

        SegformerModel(SegformerConfig()).save_pretrained(tmp_path / "mit-b0")
        file = tmp_path / "mit-b0" / "model.safetensors"
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:100_000])
        else:
            half = [(key, value) for key, value in load_file(file).items() if "patch_embeddings" in key]
            save_file(dict(half), file, {"format": "pt"})
        with pytest.raises(OSError, match=r"cannot get the pretrained weights .*mit-b0"):
            Segformer(str(tmp_path / "mit-b0"), 3, 9).load_pretrained()

    def test_other_names_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"mit-b0 \.\.\. mit-b5"):
            Segformer("resnet50", 3, 9)


def test_without_transformers_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match="pip install transformers"):
        Segformer("nvidia/mit-b0", 3, 9)
