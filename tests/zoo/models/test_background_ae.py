import math

import pytest
import torch
from contract import ModelContract, trainer

from zoo.layers.blur import blur
from zoo.models import BackgroundAE, BackgroundAERecipe
from zoo.models.background_ae import background_change, robust_losses

SMALL = {"channels": 1, "image_size": 64, "form": "simple", "width": 0.1}


class TestBackgroundAE(ModelContract):
    model_class = BackgroundAE
    settings = SMALL
    sizes = ((64, 64),)

    def test_generate_draws_scenes_and_repeats_them_from_a_seed(self, model) -> None:
        assert not hasattr(model, "generate")  # a model without a prior


class TestBackgroundAERecipe(TestBackgroundAE):
    model_class = BackgroundAERecipe
    settings = {**SMALL, "target_blur": [2.0, 1.0, 10, "linear"]}


def test_the_recipe_draws_the_blurred_image() -> None:
    torch.manual_seed(0)
    model, image = BackgroundAERecipe(**SMALL, target_blur=2.0), torch.rand(2, 1, 64, 64)
    expected = robust_losses(blur(image, 2.0), *model.net(image))
    torch.testing.assert_close(model.losses({"image": image}), expected)
    with pytest.raises(ValueError, match="target_blur must be from 0 to inf"):
        BackgroundAERecipe(**SMALL, target_blur=-1.0)


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        model = BackgroundAE()
    hp = model.hp
    assert (hp.form, hp.code_dim, hp.robust_scale, hp.robust_rate, hp.smoothing) == ("complex", 16, 0.25, 6.0, 3.0)
    assert (hp.noise_factor, hp.foreground_threshold) == (7.0, 96.0)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(69.82e6, rel=1e-3)


@pytest.mark.parametrize("side", [6, 80])
def test_losses_against_a_loop_over_pixels(side: int) -> None:
    """With the 8-bit values and constants of the authors' program; the window is 1 pixel, and 3 from 75 pixels on."""
    torch.manual_seed(0)
    B, C, H, W = 2, 3, 4, side
    image, background, error = torch.rand(B, C, H, W), torch.rand(B, C, H, W), torch.rand(B, H, W)
    background = image + 0.3 * (background - 0.5) * torch.rand(B, 1, H, W) ** 3  # errors of all sizes
    terms = robust_losses(image, background, error)

    def smooth(difference: float) -> float:
        d = abs(difference)
        return d * d / 6 if d < 3 else d - 1.5

    reconstruction = noise = 0.0
    reach = W // 75
    x, y, z = (255 * t.double() for t in (image, background, error))
    for b in range(B):
        e = [
            [sum(smooth(float(x[b, c, i, j] - y[b, c, i, j])) for c in range(C)) / 255 for j in range(W)]
            for i in range(H)
        ]
        for i in range(H):
            for j in range(W):
                near = [
                    math.tanh(e[m][n] / 0.25)
                    for m in range(max(0, i - reach), min(H, i + reach + 1))
                    for n in range(max(0, j - reach), min(W, j + reach + 1))
                ]
                weight = math.exp(-6 * sum(near) / len(near)) / (B * H * W)
                reconstruction += weight * e[i][j]
                noise += weight * smooth(float(z[b, i, j]) - 255 * e[i][j] / 3) / 255
    assert terms["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-4)
    assert terms["error"].item() == pytest.approx(noise, rel=1e-4)


def test_weights_and_the_errors_target_get_no_gradient() -> None:
    image, error = torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4, requires_grad=True)
    background = torch.rand(1, 3, 4, 4, requires_grad=True)
    terms = robust_losses(image, background, error)
    assert torch.autograd.grad(terms["error"], background, allow_unused=True, retain_graph=True) == (None,)
    # each pixel pulls with its weight, as if that were a constant
    (gradient,) = torch.autograd.grad(terms["reconstruction"], background)
    e = torch.nn.functional.smooth_l1_loss(background, image, beta=3 / 255, reduction="none").sum(1)
    weight = (-6 * (e / 0.25).tanh()).exp() / 16
    torch.testing.assert_close(gradient, (weight[:, None] * (background - image).mul(255 / 3).clamp(-1, 1)).detach())


def test_backgrounds_that_change_are_told_from_those_that_do_not() -> None:
    """AE-NE's rule: 0.24 parts the simple from the complex."""
    torch.manual_seed(0)
    still = torch.rand(1, 3, 8, 8).expand(9, -1, -1, -1) + 0.01 * torch.randn(9, 3, 8, 8)
    assert background_change(still) < 0.1
    assert background_change(torch.rand(9, 3, 8, 8)) > 0.9
    two = torch.cat([torch.zeros(2, 3, 1, 1), torch.full((1, 3, 1, 1), 0.1)])
    assert background_change(two) == pytest.approx(math.tanh(0.3 / 0.25) / 3)


def test_the_foreground_is_what_the_error_foreseen_does_not_explain() -> None:
    model = BackgroundAE(**{**SMALL, "channels": 3}).eval()
    image = torch.full((2, 3, 64, 64), 0.5)
    image[0, :, 10:20, 30:50] = 0.9  # an object
    image[0, :, 40:50, :] = 0.55  # less than alpha_1 of the background's brightness: 96 / 255 * 0.5 / 3 = 0.063
    image[1, :, :8] = 0.8
    error = torch.zeros(2, 64, 64)
    error[1, :8] = 0.1  # foreseen: 0.3 is not seven times as much
    model.net.decode = lambda code: (torch.full((2, 3, 64, 64), 0.5), error)
    scene = model(image)
    expected = torch.zeros(64, 64, dtype=torch.long)
    expected[10:20, 30:50] = 1
    assert torch.equal(scene.mask[0], expected)
    assert scene.boxes[0].tolist() == [[30, 10, 50, 20]]
    assert scene.presence.tolist() == [[1.0], [0.0]]
    assert not scene.mask[1].any()


def test_it_learns_the_background_and_leaves_the_objects_out(tmp_path, uci_data) -> None:
    """White digits on blue in a minute: blue everywhere, the digits as foreground."""
    torch.manual_seed(0)
    blue = torch.tensor([0.2, 0.4, 0.8])
    data = uci_data(image_size=64, channels=3, background_color=blue.tolist(), num_digits=[1, 4], num_train=512)
    model = BackgroundAE(**{**SMALL, "channels": 3, "robust_rate": [0.0, 6.0, 100, "linear"], "lr": 1e-2})
    trainer(tmp_path, max_steps=150, limit_val_batches=0, enable_checkpointing=False).fit(model, data)
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        scene = model.eval()(batch["image"])
    assert (scene.background - blue[:, None, None]).abs().mean() < 0.03
    ink = (batch["image"] - blue[:, None, None]).abs().sum(1) > 0.6
    inside = (scene.mask.bool() & ink).sum() / (scene.mask.bool() | ink).sum()
    assert inside > 0.7


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"image_size": 48}, r"image sizes \[64, 128\], got 'simple' and 48"),
        ({"form": "auto"}, "'simple', 'complex'"),
        ({"robust_scale": 0.0}, "robust_scale must be above 0"),
        ({"noise_factor": -1.0}, "noise_factor must be at least 0"),
        ({"robust_rate": [0, 6, 100]}, "robust_rate must be a number or"),
        ({"lr": "fast"}, "lr must be a number or"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackgroundAE(**{**SMALL, **setting})
