"""Records of earlier format versions read as they would be written today."""

import pytest

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
    today = upgrade_state("Finder", dict.fromkeys(names))
    assert list(today) == ["where.0.weight", "lateral_networks.depth.0.weight", "lateralis", "encoder.weight"]
