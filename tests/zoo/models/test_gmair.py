import json
import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from contract import ModelContract, trainer
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

import zoo
import zoo.models.gmair
import zoo.models.gmair_recipe
import zoo.models.gmair_scenes
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.schedules import schedule_value
from zoo.models import GMAIR, GMAIRRecipe
from zoo.sharing.former import upgrade

sys.path.append(str(Path(__file__).parents[1] / "layers"))  # where the straightforward forms are
import straightforward
import straightforward_overlap

KEPT = Path(__file__).parents[1] / "sharing" / "kept"

SMALL = {
    "channels": 1,
    "anchor": 24.0,
    "num_categories": 3,
    "what_dim": 6,
    "glimpse_size": 8,
    "backbone_widths": [8, 16],
    "backbone_blocks": 1,
    "backbone_up": [],
    "head_hidden": [16],
    "encoder_hidden": [20],
    "decoder_channels": [16, 16, 16, 8],
}
# the additions of configs/recipes/quick/gmair.yaml, in as small a network as learns
LEARNS = {
    **SMALL,
    "anchor": 36.0,
    "num_categories": 10,
    "what_dim": 16,
    "glimpse_size": 12,
    "backbone_widths": [16, 32],
    "encoder_hidden": [128],
    "decoder_hidden": [128],
    "initial_biases": {"where_std": -3.0, "presence": 3.0},
    "size_prior": [0.0, 0.25],
    "presence_log_prior": [0.0, -12.0, 200, "linear"],
    "likelihood": "normal",
    "likelihood_std": 0.3,
    "term_weights": {
        "reconstruction": 1.0,
        "kl_where": [0.1, 1.0, 300, "linear"],
        "kl_what": [0.1, 1.0, 300, "linear"],
        "overlap": [2.0, 0.0, 200, "linear"],
    },
    "what_prior_at": "expectation",
    "negligible_presence": 1e-3,
    "lr": 2e-3,
    "object_lr": 2e-3,
    "max_grad_norm": 10.0,
}


class TestGMAIR(ModelContract):
    model_class = GMAIR
    settings = SMALL
    sizes = ((48, 48), (64, 64), (50, 33))


class TestProgramsGMAIR(TestGMAIR):
    """The options of the authors' program."""

    settings = {
        **SMALL,
        "channels": 3,
        "backbone_widths": [8, 16, 16],
        "backbone_up": [16],
        "backbone_convolutions": True,
        "decoder_upsampling": "pixel_shuffle",
        "where_norm": 0.5,
        "presence": "sigmoid",
        "importance_floor": 2.5e-5,
        "color_edge": "zeros",
        "term_weights": {"overlap": [2.0, 0.0, 8, "step"]},
        "trim_threshold": None,
    }


class TestGMAIRRecipe(TestGMAIR):
    """What training may have besides."""

    model_class = GMAIRRecipe
    settings = {
        **SMALL,
        "where_norm": 0.5,
        "initial_biases": {"where_std": -1.0},
        "likelihood": "normal",
        "term_weights": {"consistency": 1.0},
        "fine_categories": 5,
        "category_gain": 3.0,
        "what_prior_at": "expectation",
    }


class TestSparseGMAIRRecipe(TestGMAIR):
    model_class = GMAIRRecipe
    settings = {**SMALL, "decoder_hidden": [20], "negligible_presence": 0.3, "size_prior": [-0.5, 0.5]}


def test_defaults_are_the_papers() -> None:
    model = GMAIR()
    hp, weights = model.hp, model.term_weights
    assert (hp.anchor, hp.what_dim, hp.num_categories, hp.glimpse_size) == (72, 256, 10, 32)  # table 7
    assert {*model.where_prior, model.depth_prior} == {(0.0, 1.0)}
    assert ({*weights}, weights["reconstruction"], hp.lr) == ({"reconstruction", "overlap"}, 8.0, 1e-4)
    assert [schedule_value(weights["overlap"], step) for step in (0, 5000, 10**6)] == [2, 0, 0]
    for step in (0, 1, 100, 1000, 5000):  # from 1 to 6e-6, as the code has it
        p = max(math.exp(-0.01 * step), 6e-6)
        assert math.exp(schedule_value(hp.presence_log_prior, step)) == pytest.approx(p, rel=1e-3)


def test_parameter_counts_of_the_papers_networks() -> None:
    model = GMAIR()

    def count(name: str) -> int:
        return sum(p.numel() for p in model.get_submodule(name).parameters())

    # table 4: three 3 x 3 convolutions of 128, and 1 x 1 to means (and stds)
    head = (64 * 128 + 128 * 128 + 128 * 128) * 9 + 3 * 128
    assert [count(f"heads.{name}") - head for name in ("presence", "depth", "where")] == [129, 2 * 129, 8 * 129]
    # table 5: 3072 (and a category) to 128, 256, 512, A or C
    hidden = 129 * 256 + 257 * 512
    assert count("category_encoder") == 3073 * 128 + hidden + 513 * 10
    assert count("what_encoder") == 3083 * 128 + hidden + 513 * 512
    assert count("what_prior") == 2 * 11 * 256
    # table 6: linear, five deconvolutions of 2 x 2, a convolution, the output; a scale and a shift of each channel
    widths = [256, 128, 128, 64, 32, 16]
    ups = sum(4 * i * o + 3 * o for i, o in pairwise(widths))
    assert count("decoder") == 257 * 256 + ups + (9 * 32 + 3) * 32 + (9 * 16 + 1) * 4


def test_parameter_count_of_the_code() -> None:
    """15,968,759 on one channel; its where means have 4 x 256 biases (and gains, fixed), here they have 4."""
    model = GMAIR(
        channels=1,
        backbone_convolutions=True,
        encoder_hidden=(512, 512, 512),
        decoder_upsampling="pixel_shuffle",
        where_norm=0.5,
    )
    ours = sum(p.numel() for p in model.parameters())
    assert ours - 4 + 2 * 1024 == 15_968_759


def test_losses_add_up_to_the_negative_elbo_written_out() -> None:
    """A grid of one cell: every term against torch.distributions."""
    torch.manual_seed(0)
    settings = {**SMALL, "presence_log_prior": math.log(0.2), "likelihood": "normal"}
    model = GMAIRRecipe(**{**settings, "likelihood_std": 0.3, "size_prior": [-0.5, 0.4]}).eval()
    image = torch.rand(1, 1, 8, 8)
    torch.manual_seed(7)
    terms = model.losses({"image": image})
    torch.manual_seed(7)
    cells, q = model.infer(image, model.draw_noise(image))
    drawn = model.render(q, *model.decode(q["z_what"]), torch.zeros_like(image))
    present = Bernoulli(logits=q["presence_logit"].squeeze())
    where = Normal(cells["where_mean"][0, 0], cells["where_std"][0, 0])
    prior = Normal(torch.tensor([0.0, 0.0, -0.5, -0.5]), torch.tensor([1.0, 1.0, 0.4, 0.4]))
    what = Normal(q["what_mean"], q["what_std"])
    component = Normal(*model.what_prior(q["category"]))
    depth = kl_divergence(Normal(cells["depth_mean"], cells["depth_std"]), Normal(torch.zeros(1), torch.ones(1)))
    expected = {
        "reconstruction": -Normal(drawn, 0.3).log_prob(image).sum(),
        "kl_presence": kl_divergence(present, Bernoulli(torch.tensor(0.2))),
        "kl_where": present.probs * kl_divergence(where, prior).sum(),
        "kl_depth": present.probs * depth.sum(),
        "kl_category": present.probs
        * kl_divergence(Categorical(logits=q["category_logits"].squeeze()), Categorical(torch.ones(3))),
        "kl_what": present.probs * kl_divergence(what, component).sum(),
    }
    assert set(terms) == {*expected, "overlap"}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")
    # over the category: the mean of the divergences from each component
    model.hp.what_prior_at = "expectation"
    torch.manual_seed(7)
    by_component = [
        kl_divergence(what, Normal(*pair)).sum() for pair in zip(*model.what_prior.components(), strict=True)
    ]
    expectation = (q["category_logits"].softmax(-1).squeeze() * torch.stack(by_component)).sum()
    torch.testing.assert_close(model.losses({"image": image})["kl_what"], present.probs * expectation)


def test_bernoulli_likelihood_and_a_prior_that_starts_at_one() -> None:
    torch.manual_seed(0)
    model = GMAIR(**SMALL).eval()
    image = torch.rand(2, 1, 16, 16)
    torch.manual_seed(7)
    terms = model.losses({"image": image})
    torch.manual_seed(7)
    _, q = model.infer(image, model.draw_noise(image))
    drawn = model.render(q, *model.decode(q["z_what"]), torch.zeros_like(image))
    likelihood = Bernoulli(drawn.double().clamp(1e-9, 1 - 1e-9), validate_args=False)  # grey pixels, too
    torch.testing.assert_close(terms["reconstruction"].double(), -likelihood.log_prob(image.double()).sum() / 2)
    p = q["presence_logit"].double().sigmoid()
    # the program's form, with its epsilons
    expected = p * (p + 1e-9).log() + (1 - p) * ((1 - p + 1e-9).log() - math.log(1e-9))
    torch.testing.assert_close(terms["kl_presence"].double(), expected.sum() / 2, rtol=1e-5, atol=0)


def test_overlap_leaves_with_its_weight() -> None:
    torch.manual_seed(0)
    model = GMAIR(**{**SMALL, "term_weights": {"overlap": [2.0, 0.0, 10, "linear"]}}).eval()
    image = torch.rand(2, 1, 32, 32)
    torch.manual_seed(7)
    terms = model.losses({"image": image})
    torch.manual_seed(7)
    _, q = model.infer(image, model.draw_noise(image))
    color, alpha = model.decode(q["z_what"])
    expected = straightforward_overlap.overlap(color, alpha * q["presence"][..., None], q["boxes"], (32, 32))
    torch.testing.assert_close(terms["overlap"], expected.mean())
    assert terms["overlap"] > 1
    model.steps_trained = 10
    assert "overlap" not in model.losses({"image": image})


def test_drawing_in_windows_is_drawing_on_full_canvases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model, losses and gradients, against one canvas for each object and one image copy for each glimpse."""

    def values_and_gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(3)
        terms = model.losses({"image": image})
        torch.stack(list(terms.values())).sum().backward()
        return {**terms, **{name: p.grad.clone() for name, p in model.named_parameters()}}

    torch.manual_seed(0)
    model = GMAIR(**SMALL).double().train()
    image = torch.rand(2, 1, 40, 32).double()
    ours = values_and_gradients()
    monkeypatch.setattr(zoo.models.gmair, "render", straightforward.render)
    monkeypatch.setattr(zoo.models.gmair, "extract_glimpses", straightforward.extract_glimpses)
    monkeypatch.setattr(zoo.models.gmair, "overlap", straightforward_overlap.overlap)
    for name, value in values_and_gradients().items():
        torch.testing.assert_close(ours[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_cells_of_negligible_presence_hardly_matter() -> None:
    """Without them losses and gradients stay nearly the same, though most cells are neither read nor drawn."""
    torch.manual_seed(0)
    model = GMAIRRecipe(**{**SMALL, "presence": "sigmoid", "likelihood": "normal"}).train()
    image = torch.rand(2, 1, 48, 48)
    fixed = torch.full((2, 1, 6, 6), -12.0)
    fixed[0, 0, 1:3, 2] = fixed[1, 0, 4, 1:4] = fixed[1, 0, 0, 5] = 2.0
    model.heads["presence"].register_forward_hook(lambda *_: fixed.requires_grad_())
    results = []
    for least in (0.0, 1e-4):
        model.hp.negligible_presence = least
        model.zero_grad()
        fixed.grad = None
        torch.manual_seed(3)
        terms = model.losses({"image": image})
        sum(terms.values()).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((terms, gradients, fixed.grad.flatten()[fixed.flatten() > 0]))
    (terms, *gradients), (fewer_terms, *fewer_gradients) = results
    for name, value in terms.items():
        torch.testing.assert_close(fewer_terms[name], value, rtol=1e-3, atol=2e-3, msg=name)
    for all_cells, fewer in zip(gradients, fewer_gradients, strict=True):
        assert (fewer - all_cells).norm() < 0.01 * all_cells.norm()
    cells, objects = model.infer(image, model.draw_noise(image), 1e-4)
    assert cells["boxes"].shape[1] == 36
    assert objects["z_what"].shape[1] == 4  # of the image that has most
    assert objects["presence"][1].min() > 0.8
    assert (objects["presence"][0] > 0.8).sum() == 2


def test_the_mixture_is_detached_at_first() -> None:
    for where in ("sample", "expectation"):
        torch.manual_seed(0)
        model = GMAIRRecipe(**{**SMALL, "detached_prior_steps": 5, "what_prior_at": where}).train()
        for step, learns in ((4, False), (5, True)):
            model.steps_trained = step
            model.zero_grad()
            model.losses({"image": torch.rand(2, 1, 32, 32)})["kl_what"].backward()
            assert any(p.grad is not None for p in model.what_encoder.parameters())
            assert all((p.grad is not None) == learns for p in model.what_prior.parameters())


def test_looks_agree_as_far_as_they_inform_about_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    settings = {**SMALL, "term_weights": {"consistency": 1.0}, "fine_categories": 5, "category_gain": 9.0}
    model = GMAIRRecipe(**settings).train()
    image = torch.rand(4, 1, 24, 24)
    torch.manual_seed(3)
    _, q = model.infer(image, model.draw_noise(image))
    # a second look that is the first: what is missing to full agreement is what the categories are unsure of
    monkeypatch.setattr(zoo.models.gmair_recipe, "read_patches", lambda *_: q["glimpses"].detach())
    torch.manual_seed(3)
    terms = model.losses({"image": image})
    present = q["presence_logit"].sigmoid()[..., 0]
    missing = divergence = 0.0
    for head in (model.category_encoder[-1], model.fine_head):
        category = head(model.category_encoder[:-1](q["glimpses"])).softmax(-1)
        joint = torch.einsum("bn,bnk,bnl->kl", present, category, category) / present.sum()
        information = (joint * (joint / joint.sum(0) / joint.sum(1, keepdim=True)).log()).sum()
        missing += math.log(head.out_features) - information
        uniform = Categorical(torch.ones(head.out_features))
        divergence += kl_divergence(uniform, Categorical(joint.sum(0)))
    torch.testing.assert_close(terms["consistency"], missing * present.sum() / 4)
    torch.testing.assert_close(terms["balance"], divergence * present.sum() / 4)
    model.zero_grad()
    (terms["consistency"] + terms["balance"]).backward()
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {"category_encoder", "fine_head"}
    assert not {"consistency", "balance"} & set(model.eval().losses({"image": image}))


def test_a_second_look_shows_the_object_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GMAIRRecipe(**SMALL).train()
    _, q = model.infer(torch.rand(2, 1, 24, 24), None)
    color, alpha = model.decode(q["z_what"])
    color[:, :, :, 3:] = 0  # objects extend over three rows
    background = torch.zeros(2, 1, 24, 24)
    drawn = model.render(q, color, alpha, background)
    # in an image that is what was drawn, nothing is left of the others
    glimpses = extract_glimpses(drawn, q["boxes"], 8, "border").flatten(2)
    looks = []

    def look(rest: torch.Tensor, *_: object) -> torch.Tensor:
        looks.append(rest)
        return rest

    monkeypatch.setattr(zoo.models.gmair_recipe, "read_patches", look)
    model.agreement({**q, "glimpses": glimpses}, color, alpha, drawn)
    expected = alpha[:, :, None] * color
    torch.testing.assert_close(looks[0].view_as(expected), expected, rtol=0, atol=1e-5)
    # and what it cannot explain is seen only where the object extends
    model.agreement({**q, "glimpses": glimpses + 0.3}, color, alpha, drawn)
    rest = looks[1].view_as(expected)
    torch.testing.assert_close(rest[:, :, :, :3], (expected + 0.3)[:, :, :, :3].clamp(max=1), rtol=0, atol=1e-5)
    assert not rest[:, :, :, 3:].any()


def test_where_norm_gives_means_the_spread_asked_for() -> None:
    torch.manual_seed(0)
    model = GMAIR(**{**SMALL, "where_norm": 0.5}).train()
    with torch.no_grad():
        model.where_bias[2:] = -1
    cells, _ = model.infer(torch.rand(8, 1, 32, 32), None)
    mean = cells["where_mean"].flatten(0, 1)
    torch.testing.assert_close(mean.std(0, correction=0), torch.full((4,), 0.5), rtol=0.01, atol=0)
    torch.testing.assert_close(mean.mean(0), torch.tensor([0.0, 0.0, -1.0, -1.0]), rtol=0, atol=1e-5)


def test_centres_lie_in_their_cells_and_sides_below_the_anchor() -> None:
    model = GMAIR(**SMALL)
    z_where = 4 * torch.randn(3, 6 * 4, 4)
    boxes = model.place(z_where, (6, 4))
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    for n in range(24):
        row, column = divmod(n, 4)
        low = torch.tensor([8.0 * column, 8.0 * row])
        assert ((center[:, n] >= low - 1e-4) & (center[:, n] <= low + 8 + 1e-4)).all()
    assert ((size > 0) & (size < 24)).all()
    y, x, h, w = z_where[0, 5].sigmoid().tolist()  # row 1, column 1
    expected = [8 + 8 * x - 12 * w, 8 + 8 * y - 12 * h, 8 + 8 * x + 12 * w, 8 + 8 * y + 12 * h]
    torch.testing.assert_close(boxes[0, 5], torch.tensor(expected))


def test_lower_depth_is_in_front_and_the_mask_says_so() -> None:
    torch.manual_seed(0)
    model = GMAIR(**{**SMALL, "trim_threshold": 0.2}).eval()
    colors = torch.tensor([0.3, 0.9, 1.0])
    model.decode = lambda z_what: (colors.view(1, 3, 1, 1, 1).expand(1, 3, 1, 8, 8), torch.ones(1, 3, 8, 8))
    boxes = torch.tensor([[[4.0, 4, 20, 20], [12.0, 4, 28, 20], [2.0, 22, 12, 30]]])
    presence, depth = torch.tensor([[1.0, 1.0, 0.3]]), torch.tensor([[8.0, -8.0, 0.0]])
    scene = model.assemble(torch.zeros(1, 3, dtype=torch.long), None, boxes, (32, 32), presence, depth)
    assert abs(scene.reconstruction[0, 0, 12, 16] - 0.9) < 1e-2
    mask = scene.mask[0]
    assert (mask[5:19, 5:11] == 1).all()
    assert (mask[5:19, 13:27] == 2).all()
    assert not mask[21:].any()  # the third is absent


def test_trimmed_boxes_lie_in_the_attention_boxes() -> None:
    torch.manual_seed(0)
    model = GMAIR(**{**SMALL, "trim_threshold": 0.5}).eval()
    with torch.no_grad():
        model.decoder.net[-1].weight.mul_(10)  # patches with a few bright texels
        model.decoder.net[-1].bias.sub_(8)
    scene = model(torch.rand(2, 1, 48, 48))
    slack = 1e-4
    assert (scene.boxes[..., :2] >= scene.attention_boxes[..., :2] - slack).all()
    assert (scene.boxes[..., 2:] <= scene.attention_boxes[..., 2:] + slack).all()
    assert (scene.boxes != scene.attention_boxes).any()


def test_detection_without_drawing_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GMAIR(**SMALL).eval()
    image = torch.rand(2, 1, 48, 40)
    scene = model(image)
    monkeypatch.setattr(zoo.models.gmair, "render", None)
    monkeypatch.setattr(zoo.models.gmair_scenes, "instance_mask", None)
    found = model.detect(image)
    for name, value in found.items():
        assert torch.equal(value, getattr(scene, name)), name
    some = model.detect(image, scene.presence.median().item())
    kept = some["presence"].shape[1]
    assert 15 <= kept < 30
    for b in range(2):  # the strongest, with all that is said of them
        order = scene.presence[b].argsort(descending=True)[:kept]
        torch.testing.assert_close(some["boxes"][b], scene.boxes[b, order])
        torch.testing.assert_close(some["category"][b], scene.category[b, order])


def test_assembled_objects_are_an_average_and_a_style() -> None:
    torch.manual_seed(0)
    model = GMAIR(**SMALL).eval()
    categories, styles = torch.tensor([[2, 0]]), torch.randn(1, 2, 6)
    boxes = torch.tensor([[[0.0, 0, 12, 12], [14.0, 8, 30, 30]]])
    scene = model.assemble(categories, styles, boxes, (32, 40))
    means, stds = model.what_prior.components()
    torch.testing.assert_close(scene.what, means[categories] + stds[categories] * styles)
    assert scene.reconstruction.shape == (1, 1, 32, 40)
    assert scene.category.argmax(-1).tolist() == [[2, 0]]
    for wrong, message in (
        ((categories.float(), styles, boxes), "categories must be integers"),
        ((categories + 1, styles, boxes), "categories must be from 0 to 2, got 1 to 3"),
        ((categories, styles[..., :5], boxes), r"styles must be \(1, 2, 6\), got \(1, 2, 5\)"),
        ((categories, None, boxes[:, :1]), r"boxes must be \(1, 2, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.assemble(*wrong)


def test_generated_scenes_have_what_was_asked_for() -> None:
    model = GMAIR(**{**SMALL, "presence_log_prior": math.log(0.25)})
    draw = {"image_size": (48, 48), "generator": torch.Generator().manual_seed(0)}
    assert (model.generate(4, **draw, count=3).presence.sum(-1) == 3).all()
    assert abs(model.generate(50, **draw).presence.mean() - 0.25) < 0.05
    categories = torch.arange(36).remainder(3).expand(2, -1)
    scene = model.generate(2, **draw, count=2, categories=categories, styles=torch.zeros(2, 36, 6))
    assert torch.equal(scene.category.argmax(-1), categories)
    torch.testing.assert_close(scene.what, model.what_prior.components()[0][categories])


def test_objects_of_images_are_varied(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GMAIR(**SMALL).eval()
    image = torch.rand(2, 1, 40, 40)
    plain, means = model(image), model.what_prior.components()[0]
    same = model.vary(image)
    torch.testing.assert_close(same.reconstruction, plain.reconstruction)
    local = plain.what - means[plain.category.argmax(-1)]
    as_one = model.vary(image, category=1)
    torch.testing.assert_close(as_one.what, means[1] + local)
    assert (as_one.category.argmax(-1) == 1).all()
    generator = torch.Generator().manual_seed(0)
    other = model.vary(image, restyle=True, generator=generator)
    assert torch.equal(other.category, plain.category)
    assert not torch.isclose(other.what, plain.what).all(-1).any()
    threshold = plain.presence.median()
    monkeypatch.setattr(zoo.models.gmair_scenes, "PRESENT", threshold.item())
    shuffled = model.vary(image, shuffle=True, generator=generator)
    assert torch.equal(shuffled.attention_boxes, plain.attention_boxes)
    for b in range(2):
        present = plain.presence[b] >= threshold
        assert 0 < present.sum() < 25
        for part in (present, ~present):  # the same appearances among the present, in other places
            before, after = plain.what[b, part], shuffled.what[b, part]
            torch.testing.assert_close(before.sum(0), after.sum(0), rtol=1e-4, atol=1e-4)
        assert (plain.what[b, present] != shuffled.what[b, present]).any()
    with pytest.raises(ValueError, match="category must be from 0 to 2, got 3"):
        model.vary(image, category=3)


def test_objects_have_a_learning_rate_of_their_own(tmp_path: Path, uci_data) -> None:
    model = GMAIR(**{**SMALL, "lr": 1e-3, "object_lr": [1e-2, 1e-4, 2, "linear"]})
    fit = trainer(tmp_path, max_steps=3, limit_val_batches=0, enable_checkpointing=False)
    fit.fit(model, uci_data())
    groups = fit.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-4])
    own = {id(p) for p in groups[1]["params"]}
    assert own == {id(p) for n, p in model.named_parameters() if "encoder" in n or n.startswith("decoder")}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"anchor": 0}, "anchor must be above 0"),
        ({"glimpse_size": 10}, "glimpse_size must be what decoder_channels make, 8, got 10"),
        ({"presence": "hard"}, "presence must be relaxed or sigmoid, got 'hard'"),
        ({"color_edge": "reflect"}, "color_edge must be"),
        ({"decoder_upsampling": "nearest"}, "upsampling must be one of"),
        ({"temperature": [1.0, 0.0, 100, "linear"]}, "temperature must be above 0"),
        ({"presence_log_prior": 0.5}, "presence_log_prior must be from .* to 0, got 0.5"),
        ({"where_norm": 0.0}, "where_norm must be null or above 0"),
        ({"trim_threshold": 2.0}, "trim_threshold must be"),
        ({"term_weights": {"overlap": [2.0, 0.0, 100, "wavy"]}}, "the weight of overlap must be a number or .*wavy"),
        ({"term_weights": {"balance": 1.0}}, "term_weights has 'balance'"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GMAIR(**{**SMALL, **setting})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": 2}, "channels must be"),
        ({"size_prior": [0.0, 0.0]}, "size_prior must be"),
        ({"likelihood": "poisson"}, "likelihood must be bernoulli or normal"),
        ({"likelihood_std": 0}, "likelihood_std must be above 0"),
        ({"negligible_presence": 1.0}, "negligible_presence must be in"),
        ({"what_prior_at": "mode"}, "what_prior_at must be sample or expectation"),
        ({"fine_categories": -1}, "fine_categories must be at least 0"),
        ({"fine_categories": 3, "encoder_hidden": []}, "fine_categories must be 0 without encoder_hidden"),
        ({"second_look": [0.1, 0.1, -0.1, 0.0]}, "second_look must be"),
        ({"initial_biases": {"size": 1.0}}, "initial_biases has 'size'"),
    ],
)
def test_additions_that_cannot_work_are_refused(setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GMAIRRecipe(**{**SMALL, **setting})


def test_without_additions_the_recipe_is_the_paper() -> None:
    """Weights, and losses from the same noise."""
    image, results = torch.rand(2, 1, 32, 32), []
    for kind in (GMAIR, GMAIRRecipe):
        torch.manual_seed(0)
        model = kind(**SMALL).train()
        results.append({**model.losses({"image": image}), **model.state_dict()})
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_initial_biases_add_to_what_is_drawn() -> None:
    models = []
    for biases in ({}, {"where_std": -3.0, "presence": 2.0}):
        torch.manual_seed(0)
        models.append(GMAIRRecipe(**{**SMALL, "initial_biases": biases, "category_gain": 4.0}))
    plain, shifted = (model.state_dict() for model in models)
    changed = {name for name, value in plain.items() if not torch.equal(value, shifted[name])}
    assert changed == {"heads.where.2.bias", "heads.presence.2.bias"}
    shift = torch.tensor([0.0] * 4 + [-3.0] * 4)
    torch.testing.assert_close(shifted["heads.where.2.bias"], plain["heads.where.2.bias"] + shift)
    torch.testing.assert_close(shifted["heads.presence.2.bias"], plain["heads.presence.2.bias"] + 2)


def test_the_finer_head_rests_while_agreement_weighs_nothing() -> None:
    settings = {**SMALL, "fine_categories": 5, "term_weights": {"consistency": [0.0, 1.0, 3, "step"]}}
    model = GMAIRRecipe(**settings).train()
    for step, asked in ((0, False), (4, True)):
        model.steps_trained = step
        assert ("consistency" in model.losses({"image": torch.rand(2, 1, 24, 24)})) == asked
        assert [*model.resting_parameters()] == ([] if asked else [*model.fine_head.parameters()])


def test_a_checkpoint_of_format_1_with_every_addition_loads_forever_and_sees_what_it_saw() -> None:
    model = zoo.load(KEPT / "gmair_format1.safetensors")
    record = json.loads((KEPT / "gmair_format1.json").read_text())
    assert (record["class"], record["format_version"], type(model)) == ("GMAIR", 1, GMAIRRecipe)
    assert model.hp.initial_biases == {"where_std": -3.0, "presence": 1.0}
    weights = {"reconstruction": 1.0, "overlap": 0.0, "consistency": 100.0, "balance": 2.0}
    assert model.term_weights == {**weights, "kl_where": [0.1, 1.0, 1500, "linear"]}
    assert (model.hp.decoder_hidden, model.hp.color_edge, model.steps_trained) == ([8], "zeros", 12)
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(36.0), indexing="ij")
    scene = model(((x * 0.37).sin() * (y * 0.23).cos() * 0.5 + 0.5)[None, None])
    expected = json.loads((KEPT / "gmair_format1.expected.json").read_text())
    mean = expected.pop("reconstruction_mean")
    for name, value in expected.items():
        torch.testing.assert_close(
            getattr(scene, name).flatten(), torch.tensor(value), atol=2e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert scene.reconstruction.mean().item() == pytest.approx(mean, abs=1e-4)


def test_a_record_of_format_1_with_the_paper_s_setting_stays_the_paper_s_class() -> None:
    settings = {"cell_size": 8, "object_lr": 5e-5, "overlap_weight": 0.0, "what_kl_weight": 1.0, "fine_categories": 0}
    today = upgrade({"format_version": 1, "class": "GMAIR", "init_args": {**settings, "bf16": True}})
    assert today["class"] == "GMAIR"
    assert today["init_args"] == {"object_lr": 5e-5, "color_edge": "zeros", "term_weights": {"overlap": 0.0}}


def test_images_smaller_than_a_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="smaller than a cell of 8 px"):
        GMAIR(**SMALL).eval()(torch.rand(1, 1, 7, 48))


def test_it_learns_to_find_digits(tmp_path: Path, uci_data) -> None:
    """In seconds, without a box ever shown: the loss falls and average precision rises from nothing."""
    torch.manual_seed(0)
    model = GMAIRRecipe(**LEARNS)
    data = uci_data(image_size=40, num_digits=[1, 2], num_train=2000, num_val=64, batch_size=16)
    before = trainer(tmp_path).validate(model, data, verbose=False)[0]
    trainer(tmp_path, max_steps=300, limit_val_batches=0, enable_checkpointing=False).fit(model, data)
    after = trainer(tmp_path).validate(model, data, verbose=False)[0]
    assert after["val/reconstruction"] < before["val/reconstruction"] - 100
    assert before["val/ap50"] < 0.1
    assert after["val/ap50"] > 0.5
