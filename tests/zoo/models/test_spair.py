import pytest
import torch
from contract import ModelContract, trainer

from zoo.layers.distributions import kl_normal
from zoo.models import SPAIR, SPAIRRecipe
from zoo.models.spair import Objects

SMALL = {
    "channels": 1,
    "backbone_strides": [3, 2, 2],
    "backbone_channels": 16,
    "backbone_features": 20,
    "lateral_hidden": [30],
    "encoder_hidden": [40],
    "decoder_hidden": [40],
    "what_dim": 8,
}
# the cures of configs/recipes/quick/spair.yaml, in as small a network as learns
LEARNS = {
    **SMALL,
    "backbone_channels": 32,
    "encoder_hidden": [128],
    "decoder_hidden": [128],
    "what_dim": 16,
    "alpha_logit_scale": 1.0,
    "alpha_logit_bias": 0.0,
    "initial_biases": {"size": -0.7, "presence": 3.0},
    "size_prior": [-0.9, 0.25],
    "importance_floor": 0.0025,
    "likelihood": "normal",
    "term_weights": {"kl_position": [0.02, 1.0, 1500, "linear"], "kl_what": [0.08, 4.0, 1500, "linear"]},
    "trim_threshold": 0.1,
    "lr": 2e-3,
}


class TestSPAIR(ModelContract):
    model_class = SPAIR
    settings = SMALL
    sizes = ((48, 48), (84, 84), (50, 33))


class TestFarSeeingSPAIR(TestSPAIR):
    """An image's own background, two cells of lateral connections, and wider kernels."""

    settings = {**SMALL, "channels": 3, "background": "mlp", "lookback": 2, "backbone_kernel": 2}


class TestSPAIRRecipe(TestSPAIR):
    model_class = SPAIRRecipe
    settings = {**SMALL, **{name: value for name, value in LEARNS.items() if name not in SMALL}}


def test_defaults_are_the_papers() -> None:
    model = SPAIR()
    hp = model.hp
    # the supplement's table 1
    assert (hp.anchor, hp.center_bounds, hp.cell_size, hp.what_dim, hp.object_size) == (48, (-0.5, 1.5), 12, 50, 14)
    assert (hp.lr, hp.max_grad_norm, hp.size_prior, hp.position_prior) == (1e-4, 1.0, (-2.2, 0.5), (0.0, 1.0))
    # D.2: s starts near 0 and is about 0.99 after a few thousand steps
    from zoo.layers.schedules import schedule_value

    s = [1 / (1 + schedule_value(hp.count_prior_odds, step)) for step in (0, 6000, 10_000)]
    assert s[0] < 1e-5
    assert 0.4 < s[1] < 0.6
    assert 0.98 < s[2] < 0.99


def test_parameter_count_of_the_codes_networks_that_the_paper_has_too() -> None:
    model = SPAIR()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert (count["backbone"], count["encoder"], count["decoder"], model.edge.numel()) == (
        576_740,
        458_596,
        546_832,
        56,
    )


def test_without_its_additions_the_recipe_is_the_paper() -> None:
    image = torch.rand(2, 1, 48, 48)
    totals = []
    for kind in (SPAIR, SPAIRRecipe):
        torch.manual_seed(0)
        model = kind(**SMALL).train()
        totals.append(torch.stack(list(model.losses({"image": image}).values())))
    assert torch.equal(*totals)


def test_losses_add_up_to_the_negative_elbo_written_out_for_one_object() -> None:
    """On a grid of one cell every term can be written down by hand."""
    torch.manual_seed(0)
    model = SPAIRRecipe(**{**SMALL, "likelihood": "normal", "likelihood_std": 0.3, "count_prior_odds": 0.5}).train()
    image = torch.rand(1, 1, 12, 12)
    torch.manual_seed(7)
    terms = model.losses({"image": image})
    torch.manual_seed(7)
    q = model.infer(image, model.draw_noise(image, sample=True))
    drawn = model.render(q.objects, *model.decode(q.z_what), torch.zeros_like(image))
    log_likelihood = torch.distributions.Normal(drawn, 0.3).log_prob(image).sum()
    torch.testing.assert_close(terms["reconstruction"], -log_likelihood)
    # one cell, p(C) proportional to (1 - s)^C with (1 - s) / s = 0.5, so 1 - s = 1 / 3: p(z = 1) = (1/3) / (1 + 1/3)
    prior = torch.distributions.Bernoulli(torch.tensor(0.25))
    posterior = torch.distributions.Bernoulli(logits=q.presence_logit.squeeze())
    torch.testing.assert_close(terms["kl_presence"], torch.distributions.kl_divergence(posterior, prior))
    presence = q.presence.squeeze()
    what = kl_normal(q.what_mean, q.what_std, 0.0, 1.0).sum()
    torch.testing.assert_close(terms["kl_what"], presence * what)
    size = kl_normal(q.where_mean[..., 2:], q.where_std[..., 2:], -2.2, 0.5).sum()
    torch.testing.assert_close(terms["kl_size"], presence * size)


def test_lower_depth_is_in_front() -> None:
    model = SPAIR(**SMALL).eval()
    colors = torch.tensor([0.2, 0.9]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 14, 14)
    objects = Objects(
        boxes=torch.tensor([[[4.0, 4.0, 40.0, 40.0]] * 2]),
        presence=torch.ones(1, 2, 1),
        probability=torch.ones(1, 2, 1),
        depth=torch.tensor([[[8.0], [-8.0]]]),
        what=torch.zeros(1, 2, 8),
    )
    drawn = model.render(objects, colors, torch.ones(1, 2, 14, 14), torch.zeros(1, 1, 48, 48))
    assert abs(drawn[0, 0, 24, 24] - 0.9) < 1e-3


def test_features_of_an_image_part_do_not_depend_on_the_size_of_the_image() -> None:
    """What is learnt on crops holds on full images: cells far from the border see the same."""
    torch.manual_seed(0)
    model = SPAIR(**{**SMALL, "lookback": 0}).eval()
    image = torch.rand(1, 1, 84, 84)
    with torch.no_grad():
        full, crop = model(image), model(image[:, :, 12:60, 24:72])
    # a cell sees 31 px to the right and down, so the crop's first two rows and columns see nothing of its border
    inner = full.presence.view(7, 7)[1:3, 2:4]
    torch.testing.assert_close(inner, crop.presence.view(4, 4)[:2, :2], rtol=1e-4, atol=1e-5)


def test_generate_draws_as_many_objects_as_asked_for() -> None:
    scene = SPAIR(**SMALL).generate(4, generator=torch.Generator().manual_seed(0), count=3)
    assert (scene.presence.sum(-1) == 3).all()


def test_trimmed_boxes_lie_in_the_attention_boxes() -> None:
    torch.manual_seed(0)
    scene = SPAIRRecipe(**{**SMALL, "trim_threshold": 0.3}).eval()(torch.rand(2, 1, 48, 48))
    slack = 1e-4
    assert (scene.boxes[..., :2] >= scene.attention_boxes[..., :2] - slack).all()
    assert (scene.boxes[..., 2:] <= scene.attention_boxes[..., 2:] + slack).all()


@pytest.mark.parametrize("kind", ["mode", "learned"])
def test_backgrounds_come_to_the_colour_of_the_scenes(kind: str, tmp_path, uci_data) -> None:
    torch.manual_seed(0)
    blue = [0.0, 51 / 255, 204 / 255]
    settings = {**SMALL, "channels": 3, "background": kind, "lr": 3e-2}
    model = SPAIRRecipe(**settings, initial_biases={"presence": -4.0})
    data = uci_data(channels=3, background_color=blue, num_digits=1)
    trainer(tmp_path, max_steps=30, limit_val_batches=0, enable_checkpointing=False).fit(model, data)
    color = model.background(torch.zeros(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(color, torch.tensor(blue), rtol=0, atol=0.05 if kind == "learned" else 1e-6)


def test_scenes_of_an_mlps_background_have_colours_of_their_own_or_those_asked_for() -> None:
    """An MLP reads the colour off an image, and a scene from the prior has none: no colour of a black image instead."""
    torch.manual_seed(0)
    model = SPAIR(**{**SMALL, "channels": 3, "background": "mlp"}).eval()

    def colors(**options) -> torch.Tensor:
        scene = model.generate(64, generator=torch.Generator().manual_seed(0), count=0, **options)
        assert torch.equal(scene.reconstruction, scene.background)
        return scene.background[:, :, 0, 0]

    drawn = colors()
    assert torch.equal(drawn, colors())
    assert drawn.min() < 0.1
    assert drawn.max() > 0.9
    assert len(drawn.unique(dim=0)) == 64
    sky = torch.tensor([0.2, 0.4, 0.9])
    assert torch.equal(colors(background=sky), sky.expand(64, 3))
    assert torch.equal(colors(background=drawn.flip(0)), drawn.flip(0))
    with pytest.raises(ValueError, match=r"background must be colours \(3,\) or \(64, 3\), got \(4,\)"):
        colors(background=torch.zeros(4))
    black = SPAIR(**SMALL).generate(2, count=0)
    assert not black.reconstruction.any()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": 2}, "channels must be one of"),
        ({"cell_size": 10}, "cell_size=10"),
        ({"backbone_strides": [6, 2]}, "strides must be between"),
        ({"background": "sky"}, "background must be one of"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"size_prior": [0.0, 0.0]}, "size_prior must be"),
        ({"trim_threshold": 2.0}, "trim_threshold must be"),
        ({"lr": [1e-3, 1e-4, 100, "wavy"]}, "lr must be a number or .*wavy"),
        ({"term_weights": {"kl_what": "big"}}, "the weight of kl_what"),
        ({"term_weights": {"kl_where": 2.0}}, "term_weights has 'kl_where'"),
        ({"initial_biases": {"depth": 2.0}}, "initial_biases has 'depth'"),
        ({"likelihood": "laplace"}, "likelihood must be one of"),
        ({"likelihood_std": 0.0}, "likelihood_std must be above 0"),
        ({"lookback": 3}, "lookback must be one of"),
        ({"color_edge": "reflect"}, "color_edge must be one of"),
        ({"count_prior_odds": 0.0}, "count_prior_odds must be above 0 from start to end, got 0.0"),
        ({"count_prior_odds": -2}, "count_prior_odds must be above 0 from start to end, got -2"),
        ({"count_prior_odds": float("nan")}, "count_prior_odds must be above 0 from start to end, got nan"),
        ({"count_prior_odds": [1e6, 0, 1000, "exponential"]}, "count_prior_odds must be above 0 from start to end"),
        ({"count_prior_odds": [[1e6, 1, 10, "linear"], [1, -1, 9, "step"]]}, "count_prior_odds must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPAIRRecipe(**{**SMALL, **setting})


def test_images_smaller_than_a_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="smaller than a cell of 12 px"):
        SPAIR(**SMALL).eval()(torch.rand(1, 1, 8, 48))


def test_it_learns_to_find_digits(tmp_path, uci_data) -> None:
    """In seconds, without a box ever shown: the loss falls and average precision rises from nothing."""
    torch.manual_seed(0)
    model = SPAIRRecipe(**LEARNS)
    data = uci_data(image_size=36, num_digits=[1, 2], num_train=2000, num_val=64, batch_size=16)
    before = trainer(tmp_path).validate(model, data, verbose=False)[0]
    trainer(tmp_path, max_steps=250, limit_val_batches=0, enable_checkpointing=False).fit(model, data)
    after = trainer(tmp_path).validate(model, data, verbose=False)[0]
    assert after["val/loss"] < before["val/loss"] - 500
    assert before["val/ap50"] < 0.1
    assert after["val/ap50"] > 0.6
    assert after["val/mse"] < 0.02


def test_masks_are_the_shares_that_the_renderer_draws() -> None:
    """Each object in white, all others in black: the picture is the object's share of the pixel."""
    torch.manual_seed(0)
    model = SPAIR(**SMALL, size_prior=[0.0, 0.5], alpha_logit_bias=0.5, alpha_logit_scale=8.0).eval()
    scene = model.generate(3, (48, 48), torch.Generator().manual_seed(1), count=7)
    _, alpha = model.decode(scene.what)
    objects = Objects(scene.attention_boxes, scene.presence[..., None], scene.presence[..., None],
                      scene.depth[..., None], scene.what)  # fmt: skip
    black, N = torch.zeros(3, 1, 48, 48), scene.presence.shape[1]
    white = torch.eye(N)[:, None, :, None, None, None].expand(N, 3, N, 1, *alpha.shape[-2:])
    with torch.no_grad():
        shares = torch.stack([model.render(objects, own, alpha, black)[:, 0] for own in white], 1)  # (B, N, H, W)
        only = [objects._replace(presence=objects.presence * torch.eye(N)[n, :, None]) for n in range(N)]
        drawn = [model.render(one, own, alpha, black)[:, 0] for one, own in zip(only, white, strict=True)]
        alone = torch.stack(drawn, 1)  # a single object's share is its interpolated alpha
    best = shares.argmax(1)
    cover = alone.gather(1, best[:, None])[:, 0]
    expected = torch.where((cover >= 0.5) & (shares.amax(1) > 0), best + 1, 0)
    undecided = (cover - 0.5).abs() < 1e-4
    two = shares.topk(2, 1).values
    undecided |= (two[:, 0] - two[:, 1]) < 1e-6
    assert torch.equal(scene.mask[~undecided], expected[~undecided])
    assert undecided[shares.sum(1) > 0].float().mean() < 0.05
    assert len(scene.mask.unique()) > 5


def test_masks_of_a_trained_recipe_are_those_of_digits(uci_data) -> None:
    import zoo
    from zoo.evaluation import SceneMetrics

    model = zoo.load("spair-multimnist-recipe")
    data = uci_data(num_digits=[2, 4], num_test=16, eval_batch_size=16, masks=True)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    metrics = SceneMetrics()
    with torch.no_grad():
        metrics.update(model(batch["image"]), batch)
    values = metrics.compute()
    assert values["ari_fg"] > 0.5
    assert values["miou_fg"] > 0.4
