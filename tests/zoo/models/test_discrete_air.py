import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from contract import ModelContract, trainer
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

import zoo
from zoo.models import DiscreteAIR
from zoo.sharing.former import FormerRecordError, upgrade

KEPT = Path(__file__).parents[1] / "sharing" / "kept"

SMALL: dict[str, Any] = {
    "channels": 1, "image_size": 24, "num_categories": 3, "attribute_dim": 2, "patch_size": 8, "cell_hidden": 24,
    "where_hidden": [16], "encoder_hidden": [32], "template_hidden": [16], "attribute_hidden": [16],
    "scale_prior": [-0.7, 0.2], "count_prior_odds": [100.0, 0.01, 50, "exponential"], "lr": 2e-3,
}  # fmt: skip


class TestDiscreteAIR(ModelContract):
    """The paper's own setting, on images that are not square."""

    model_class = DiscreteAIR
    settings: ClassVar = {**SMALL, "image_size": [48, 40], "trim_threshold": 0.1}
    sizes = ((48, 40),)


def shapes(num_images: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """0 to 2 white 7x7 crosses and rings on 24x24 black, not touching."""
    g = torch.Generator().manual_seed(seed)
    ring, cross = torch.ones(7, 7), torch.zeros(7, 7)
    ring[2:5, 2:5], cross[2:5], cross[:, 2:5] = 0, 1, 1
    image, boxes = torch.zeros(num_images, 1, 24, 24), torch.zeros(num_images, 2, 4)
    labels = torch.randint(0, 2, (num_images, 2), generator=g)
    valid = torch.arange(2) < torch.randint(0, 3, (num_images, 1), generator=g)
    for b in range(num_images):
        for n in range(int(valid[b].sum())):
            while True:
                y, x = torch.randint(0, 18, (2,), generator=g).tolist()
                if not image[b, 0, max(0, y - 1) : y + 8, max(0, x - 1) : x + 8].any():
                    break
            image[b, 0, y : y + 7, x : x + 7] = cross if labels[b, n] else ring
            boxes[b, n] = torch.tensor([x, y, x + 7, y + 7])
    return {"image": image, "boxes": boxes, "labels": labels, "valid": valid}


def fit(model: DiscreteAIR, scenes: dict[str, torch.Tensor], steps: int, folder: Path) -> None:
    """Train in batches of 32, by the trainer, so that schedules move."""
    data = [{"image": image} for image in scenes["image"]]
    loader = torch.utils.data.DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(0))
    trainer(folder, max_steps=steps, enable_checkpointing=False).fit(model, loader)


def test_the_papers_setting_learns_with_every_combination(tmp_path: Path) -> None:
    for combination in ("additive", "multiplicative", "convolutional"):
        torch.manual_seed(0)
        model = DiscreteAIR(**{**SMALL, "combination": combination})
        scenes = shapes(256)
        before = model.eval().losses(scenes)["reconstruction"].item()
        fit(model.train(), scenes, 80, tmp_path)
        after = model.eval().losses(scenes)["reconstruction"].item()
        assert after < before - 40, combination


def test_losses_add_up_to_the_negative_elbo_written_out() -> None:
    """One object: every term against torch.distributions, from the discrete samples that evaluation draws."""
    torch.manual_seed(0)
    model = DiscreteAIR(
        **{**SMALL, "num_steps": 1, "count_prior_odds": 0.5, "initial_biases": {"presence": 4.0}}
    ).eval()
    image = torch.rand(1, 1, 24, 24)
    torch.manual_seed(7)
    terms = model.losses({"image": image})
    torch.manual_seed(7)
    q = model.infer(image, model.draw_noise(image))
    assert q["presence"].item() == 1.0
    assert sorted(q["category"].flatten().tolist()) == [0.0, 0.0, 1.0]

    def normal_kl(mean: torch.Tensor, std: torch.Tensor, prior_mean: float, prior_std: float) -> torch.Tensor:
        prior = Normal(torch.tensor(prior_mean), torch.tensor(prior_std))
        return kl_divergence(Normal(mean, std), prior).sum()

    mean, std = q["where_mean"], q["where_std"]
    uniform = Categorical(logits=torch.zeros(3))
    expected = {
        "reconstruction": -Normal(q["canvas"], 0.3).log_prob(image).sum(),
        "kl_scale": normal_kl(mean[..., :2], std[..., :2], -0.7, 0.2),
        "kl_pose": normal_kl(mean[..., 2:4], std[..., 2:4], 0.0, 0.5)
        + normal_kl(mean[..., 4:], std[..., 4:], 0.0, 1.0),
        "kl_category": kl_divergence(Categorical(logits=q["category_logits"]), uniform).sum(),
        "kl_attribute": normal_kl(q["attribute_mean"], q["attribute_std"], 0.0, 1.0),
        "kl_presence": kl_divergence(Bernoulli(logits=q["presence_logit"]), Bernoulli(torch.tensor(1 / 3))).sum(),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_an_absent_object_is_neither_drawn_nor_paid_for() -> None:
    torch.manual_seed(0)
    model = DiscreteAIR(**{**SMALL, "initial_biases": {"presence": -30.0}, "count_prior_odds": 1.0}).eval()
    terms = model.losses({"image": torch.rand(2, 1, 24, 24)})
    assert all(terms[name] == 0 for name in ("kl_scale", "kl_pose", "kl_category", "kl_attribute"))
    assert terms["kl_presence"].item() == pytest.approx(math.log(2), abs=1e-4)  # of the step that stops alone
    scene = model(torch.rand(2, 1, 24, 24))
    assert not scene.reconstruction.any()


def test_composing_what_was_inferred_draws_it_again() -> None:
    torch.manual_seed(0)
    model = DiscreteAIR(**{**SMALL, "initial_biases": {"presence": 3.0}, "trim_threshold": 0.1}).eval()
    image = torch.rand(2, 1, 24, 24)
    q, scene = model.infer(image, None), model(image)
    categories = q["category"].argmax(-1)
    again = model.compose(categories, q["z_attribute"], q["place"], presence=q["presence"][..., 0])
    torch.testing.assert_close(again.reconstruction, scene.reconstruction)
    torch.testing.assert_close(again.boxes, scene.boxes)


def test_composing_more_objects_than_there_are_steps_puts_them_where_told() -> None:
    """As in the paper's figure 6, on a canvas larger than any image seen."""
    torch.manual_seed(0)
    model = DiscreteAIR(**{**SMALL, "num_steps": 2, "initial_biases": {"decoder": 6.0}})
    where = torch.tensor([[[8.0, 8, 10, 10], [50, 10, 14, 8], [20, 40, 10, 10], [52, 36, 12, 12]]])
    scene = model.compose(torch.tensor([[0, 1, 0, 2]]), None, where, (48, 64))
    scene.check(torch.empty(1, 1, 48, 64))
    assert scene.presence.tolist() == [[1.0] * 4]
    for x, y in ((8, 8), (50, 10), (20, 40), (52, 36)):
        assert scene.reconstruction[0, 0, y, x] > 0.9
    assert scene.reconstruction[0, 0, :, 30:42].max() == 0
    torch.testing.assert_close(scene.boxes[0, 1], torch.tensor([43.0, 6.0, 57.0, 14.0]))
    turned = model.compose(torch.tensor([[0]]), None, torch.tensor([[[20.0, 20, 8, 8, math.pi / 4]]]), (40, 40))
    torch.testing.assert_close(turned.boxes[0, 0, 0].item(), 20 - 4 * math.sqrt(2))
    assert turned.category is not None
    assert turned.category.tolist() == [[[1.0, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 2), None, torch.ones(1, 2, 4)), "categories must be integers"),
        ((torch.tensor([[0, 3]]), None, torch.ones(1, 2, 4)), "categories must be from 0 to 2, got 0 to 3"),
        ((torch.tensor([[0, 1]]), None, torch.ones(1, 2, 6)), r"where must be \(1, 2, 4, 5 or 7\), got \(1, 2, 6\)"),
        ((torch.tensor([[0, 1]]), torch.ones(1, 2, 1), torch.ones(1, 2, 4)), r"attributes must be \(1, 2, 2\)"),
    ],
)
def test_what_cannot_be_composed(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscreteAIR(**SMALL).compose(*arguments)


def test_generation_follows_the_prior() -> None:
    torch.manual_seed(0)
    model = DiscreteAIR(**{**SMALL, "count_prior_odds": 1.0, "rotation": False, "skew": False})
    scene = model.generate(3000, generator=torch.Generator().manual_seed(0))
    share = scene.presence.sum(1).long().bincount(minlength=4) / 3000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.25, 0.125, 0.125]), rtol=0, atol=0.03)
    assert scene.category is not None
    torch.testing.assert_close(scene.category.mean((0, 1)), torch.full((3,), 1 / 3), rtol=0, atol=0.03)
    side = scene.boxes[..., 2] - scene.boxes[..., 0]
    assert side.median().item() == pytest.approx(24 / (1 + math.exp(0.7)), rel=0.02)
    crowd = model.generate(2, (30, 40), count=6)
    crowd.check(torch.empty(2, 1, 30, 40))
    assert crowd.presence.sum() == 12


def test_factors_of_the_attention_are_settings() -> None:
    for rotation in (False, True):
        for skew in (False, True):
            model = DiscreteAIR(
                **{
                    **SMALL,
                    "rotation": rotation,
                    "skew": skew,
                }
            )
            z = torch.randn(2, 3, 4 + rotation + 2 * skew)
            place = model.place(z)
            assert bool(place[..., 4].any()) == rotation
            assert bool(place[..., 5:].any()) == skew
            assert model(torch.rand(2, 1, 24, 24)).boxes.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_categories": 0}, "num_categories must be above 0, got 0"),
        ({"num_steps": 0}, "num_steps must be above 0, got 0"),
        ({"combination": "linear"}, "combination must be one of .*got 'linear'"),
        ({"temperature": 0.0}, "temperature must be above 0 from start to end, got 0.0"),
        ({"temperature": [1.0, 0.0, 100, "linear"]}, "temperature must be above 0 from start to end"),
        ({"temperature": [1.0, 0.5, 100]}, "temperature must be a number or"),
        ({"attribute_dim": -1}, "attribute_dim must be at least 0"),
        ({"channels": 2}, "channels must be one of .*got 2"),
        ({"image_size": [40, 0]}, "image_size must be 1 or more pixels, or"),
        ({"scale_prior": [0.0, 0.0]}, r"scale_prior must be \[mean, std\]"),
        ({"trim_threshold": 1.5}, "trim_threshold must be null or in"),
        ({"term_weights": {"kl_pose": "much"}}, "the weight of kl_pose must be a number"),
        ({"term_weights": {"balance": 1.0}}, "term_weights has 'balance'; the loss terms are"),
        (
            {"initial_biases": {"scale": 1.0}},
            "initial_biases has 'scale'; what can start at a value is",
        ),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscreteAIR(**{**SMALL, **settings})


def test_images_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"image_size=\[24, 24\], got \[24, 28\].*model.init_args.image_size and data"):
        DiscreteAIR(**SMALL)(F.pad(torch.zeros(1, 1, 24, 24), (2, 2)))


@pytest.mark.parametrize("name", ["discrete_air_format1", "discrete_air_recipe_format1"])
def test_checkpoints_of_format_1_see_what_they_saw(name: str) -> None:
    """As the paper's class, or as the recipe's where they have its additions; half let loose in the second."""
    record = json.loads((KEPT / f"{name}.json").read_text())
    assert (record["format_version"], record["class"]) == (1, "DiscreteAIR")
    model = zoo.load(KEPT / f"{name}.safetensors")
    assert type(model).__name__ == ("DiscreteAIRRecipe" if "recipe" in name else "DiscreteAIR")
    y, x = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing="ij")
    scene = model(((x * 0.37).sin() * (y * 0.23).cos() * 0.5 + 0.5)[None, None])
    expected = json.loads((KEPT / f"{name}.expected.json").read_text())
    for field in ("boxes", "presence", "what", "category"):
        value = getattr(scene, field).flatten()
        torch.testing.assert_close(value, torch.tensor(expected[field]), atol=1e-5, rtol=1e-5, msg=field)
    assert scene.reconstruction.mean().item() == pytest.approx(expected["reconstruction_mean"], abs=1e-6)
    assert (model.steps_trained, model.facts["metrics"]) == (12, {"ap50": 0.25})


def test_what_no_class_does_any_more_is_named() -> None:
    record = json.loads((KEPT / "discrete_air_format1.json").read_text())
    with pytest.raises(FormerRecordError, match="DiscreteAIR has no hard_presence_step any more"):
        upgrade({**record, "init_args": {**record["init_args"], "hard_presence_step": 100}})
