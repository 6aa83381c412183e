from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from contract import ModelContract
from test_discrete_air import SMALL, fit, shapes
from torch.distributions import Categorical, kl_divergence

import zoo
from metrics.category_correspondence import CategoryCorrespondence
from zoo.models import DiscreteAIR
from zoo.models.discrete_air_recipe import DiscreteAIRRecipe

# the cures of configs/recipes/discrete_air/multimnist.yaml, in as small a network as learns
CURES: dict[str, Any] = {
    "template_hidden": [], "template_gain": 10.0, "template_blob": 2.0,
    "initial_biases": {"decoder": 0.0},
    "heat_map": True, "heat_channels": 16, "second_glimpse": True, "second_hidden": [32],
    "term_weights": {"kl_pose": [0.02, 1.0, 200, "linear"], "balance": 10.0},
    "uniform_category_steps": [60, 120], "attribute_steps": [200, 250],
    "temperature": [1.0, 0.5, 300, "linear"], "max_grad_norm": 10.0,
}  # fmt: skip


class TestDiscreteAIRRecipe(ModelContract):
    model_class = DiscreteAIRRecipe
    settings: ClassVar = {**SMALL, **CURES, "channels": 3, "image_size": [40, 48], "combination": "convolutional"}
    sizes = ((40, 48),)


class TestDiscreteAIRRecipeWithoutAttributes(ModelContract):
    """As for Multi-Sprites."""

    model_class = DiscreteAIRRecipe
    settings: ClassVar = {**SMALL, **CURES, "image_size": 48, "attribute_dim": 0, "skew": False}


def test_it_learns_to_count_and_to_tell_shapes_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    upright = {"num_categories": 2, "attribute_dim": 0, "rotation": False, "skew": False, "trim_threshold": 0.3}
    model = DiscreteAIRRecipe(**{**SMALL, **CURES, **upright})
    fit(model, shapes(512), 500, tmp_path)
    held_out = shapes(256, seed=1)
    scene = model.eval()(held_out["image"])
    right = (scene.presence >= 0.5).sum(1) == held_out["valid"].sum(1)
    assert right.float().mean() > 0.85
    assert scene.category is not None
    correspondence = CategoryCorrespondence(2, 2)
    correspondence.update(scene.category.argmax(-1), scene.presence, held_out["labels"], held_out["valid"])
    assert correspondence.compute() > 0.9  # chance: about 0.65
    assert (scene.reconstruction - held_out["image"]).square().mean() < 0.15 * held_out["image"].square().mean()
    # loaded again it draws with what it has learned to tell apart, though the new model has taken no step
    zoo.save(model, tmp_path / "copy")
    copy = zoo.load(tmp_path / "copy.safetensors")
    torch.testing.assert_close(copy(held_out["image"]).reconstruction, scene.reconstruction)


def test_training_terms_of_the_cures() -> None:
    torch.manual_seed(0)
    model = DiscreteAIRRecipe(**{**SMALL, **CURES, "term_weights": {"balance": 10.0}})
    batch = {"image": torch.rand(4, 1, 24, 24)}
    torch.manual_seed(3)
    terms = model.train().losses(batch)
    torch.manual_seed(3)
    q = model.infer(batch["image"], model.draw_noise(batch["image"]))
    # balance: divergence of the mean category of all that is present, for each object
    present = q["presence"][..., 0]
    mean = (q["category_logits"].softmax(-1) * present[..., None]).sum((0, 1)) / present.sum()
    divergence = kl_divergence(Categorical(mean), Categorical(torch.ones(3)))
    torch.testing.assert_close(terms["balance"], divergence * present.sum() / 4)
    assert "balance" not in model.eval().losses(batch)


def test_categories_and_attributes_are_held_back() -> None:
    torch.manual_seed(0)
    steps: dict[str, Any] = {"uniform_category_steps": [10, 20], "attribute_steps": [30, 30]}
    model = DiscreteAIRRecipe(**{**SMALL, **CURES, **steps})
    one_hot, z = torch.eye(3), torch.randn(3, 2)
    mean = torch.full((3, 3), 1 / 3)
    free = DiscreteAIRRecipe(**{**SMALL, **CURES, "uniform_category_steps": None, "attribute_steps": None})
    with torch.no_grad():
        model.decoder.template[-1].weight.normal_(0, 0.1)  # templates are all the same at first
    free.load_state_dict(model.state_dict())
    for step, categories, attributes in ((0, 0, 0), (10, 0, 0), (15, 0.5, 0), (20, 1, 0), (29, 1, 0), (31, 1, 1)):
        model.steps_trained = step
        template = 10 * free.decoder.template(mean + categories * (one_hot - mean))
        expected = free.decoder.combine(template, attributes * free.decoder.attribute(z))
        torch.testing.assert_close(model.decode(one_hot, z), expected)
    torch.testing.assert_close(free.decode(one_hot, z), expected)
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_gain_speeds_templates_up_and_leaves_their_start_alone() -> None:
    category, z = torch.eye(3), torch.zeros(3, 0)
    start, moved = [], []
    for gain in (1.0, 10.0):
        torch.manual_seed(0)
        settings = {**SMALL, **CURES, "attribute_dim": 0, "uniform_category_steps": None, "template_gain": gain}
        model = DiscreteAIRRecipe(**settings)
        before = model.decode(category, z)
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)
        before.sum().backward()
        optimizer.step()
        start.append(before)
        moved.append((model.decode(category, z) - before).mean().item())
    torch.testing.assert_close(start[0], start[1])
    assert start[0][:, :, 3:5, 3:5].mean() > 0.7  # the blob: bright in the middle, dark in the corners
    assert start[0][:, :, 0, 0].mean() < 0.4
    assert moved[1] == pytest.approx(10 * moved[0], rel=0.05)


def test_without_its_additions_it_is_the_paper_s_model() -> None:
    batch = {"image": torch.rand(2, 1, 24, 24)}
    both = []
    for kind in (DiscreteAIR, DiscreteAIRRecipe):
        torch.manual_seed(0)
        model = kind(**SMALL)
        both.append((model.train().losses(batch), model.eval()(batch["image"]).reconstruction))
    (paper, drawn), (recipe, again) = both
    assert paper == recipe
    assert torch.equal(drawn, again)


def test_a_second_glimpse_refines_every_factor_of_the_attention() -> None:
    for rotation in (False, True):
        for skew in (False, True):
            model = DiscreteAIRRecipe(**{**SMALL, "rotation": rotation, "skew": skew, "second_glimpse": True})
            image = torch.rand(2, 1, 24, 24)
            before = model.infer(image, None)["where_mean"]
            with torch.no_grad():
                model.second[-1].bias += 1
            assert ((model.infer(image, None)["where_mean"] - before)[:, 0] > 0.1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template_gain": 0.0}, "template_gain must be above 0"),
        ({"uniform_category_steps": [20, 10]}, "uniform_category_steps must be null or"),
        ({"term_weights": {"balance": "much"}}, "the weight of balance must be a number"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscreteAIRRecipe(**{**SMALL, **settings})
