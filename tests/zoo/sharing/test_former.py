"""Records of earlier format versions read as they would be written today."""

import pytest
import torch

from zoo.models import SPAIRRecipe
from zoo.sharing import former
from zoo.sharing.former import FORMAT_VERSION, Former, FormerRecordError, upgrade, upgrade_state

TABLE = {
    "Finder": Former(
        added={"edge": "zeros"},
        renamed={"what_weight": "term_weights.kl_what", "size_weight": "term_weights.kl_size", "glimpse": "patch"},
        standard={"what_weight": 1.0, "size_weight": 1.0},
        removed={"wheels": (0, None)},
        additions={"blob": 0.0, "look": (0.1, 0.2)},
        recipe="FinderRecipe",
        state={"lateral.": "lateral_networks.", "lateral.where.": "where.", "horn": None},
    )
}


@pytest.fixture(autouse=True)
def _table(monkeypatch):
    monkeypatch.setattr(former, "FORMER", TABLE)


def record(**init_args):
    return {"format_version": 1, "class": "Finder", "init_args": init_args, "step": 7}


def test_a_paper_s_setting_stays_the_paper_s_class():
    old = record(glimpse=5, what_weight=1, size_weight=[0.1, 1.0, 5, "linear"], wheels=0, blob=0, look=[0.1, 0.2])
    assert upgrade(old) == {
        "format_version": FORMAT_VERSION,
        "written_version": 1,
        "class": "Finder",
        "init_args": {"edge": "zeros", "patch": 5, "term_weights": {"kl_size": [0.1, 1.0, 5, "linear"]}},
        "step": 7,
    }


def test_an_addition_makes_it_the_recipe_s_class():
    today = upgrade(record(blob=3.0, look=[0.1, 0.2], edge="repeat"))
    assert today["class"] == "FinderRecipe"
    assert today["init_args"] == {"edge": "repeat", "blob": 3.0, "look": [0.1, 0.2]}


def test_what_is_gone_is_named_where_it_did_something():
    with pytest.raises(FormerRecordError, match=r"Finder has no wheels any more, .* at 100"):
        upgrade(record(wheels=100))


def test_today_s_records_and_others_classes_stay_as_they_are():
    today = {**record(blob=3.0), "format_version": FORMAT_VERSION}
    assert upgrade(today) == today
    other = {"format_version": 1, "class": "Mine", "init_args": {"blob": 3.0}}
    assert upgrade(other) == {**other, "format_version": FORMAT_VERSION, "written_version": 1}


def test_the_longest_beginning_of_a_weight_s_name_decides():
    names = ["lateral.where.0.weight", "lateral.depth.0.weight", "lateralis", "encoder.weight", "horn"]
    today = upgrade_state({"class": "Finder"}, dict.fromkeys(names))
    assert list(today) == ["where.0.weight", "lateral_networks.depth.0.weight", "lateralis", "encoder.weight"]


def test_what_was_worth_nothing_is_left_out_of_records_of_version_2():
    kept = {"lr": 1e-3, "initial_biases": {"size": -0.7}}
    init_args = {
        **kept,
        "center_bias": 6.0,
        "training_wheels": 100,
        "initial_biases": {"size": -0.7, "where_std": -3.0},
    }
    today = upgrade({"format_version": 2, "class": "SPAIRRecipe", "init_args": init_args})
    assert today["init_args"] == kept
    assert (today["format_version"], today["written_version"]) == (FORMAT_VERSION, 2)
    other = {"format_version": 2, "class": "Finder", "init_args": {"center_bias": 6.0}}
    assert upgrade(other)["init_args"] == other["init_args"]


@pytest.mark.parametrize(("scale", "logit"), [(1.0, 0.0), (0.1, 5.0)])
def test_a_mask_on_alpha_goes_on_acting_as_a_bias(scale, logit):
    """alpha = sigmoid(scale * logits + mask) as SPAIR of version 2 had it."""
    torch.manual_seed(0)
    settings = {"alpha_logit_scale": scale, "alpha_logit_bias": logit, "decoder_hidden": [20, 30], "what_dim": 5}
    model = SPAIRRecipe(channels=1, object_size=7, backbone_channels=4, **settings)
    mask, what = logit + torch.randn(7, 7), torch.randn(2, 3, 5)
    expected = (scale * model.decoder(what).view(2, 3, 2, 7, 7)[:, :, 1] + mask).sigmoid()
    state = {**model.state_dict(), "alpha_bias": mask}
    model.load_state_dict(upgrade_state({"class": "SPAIRRecipe", "init_args": settings}, state))
    color, alpha = model.decode(what)
    torch.testing.assert_close(alpha, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(color[:, :, 0], (2 * model.decoder(what).view(2, 3, 2, 7, 7)[:, :, 0]).sigmoid())
