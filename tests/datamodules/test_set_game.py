"""The game of SET: what a set is, by a loop over triples; answers half and half; cards where their boxes say."""

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import SetGame, SetGameDataModule
from datamodules.set_game import BACKGROUNDS, CARDS, PALETTE, deal, has_set, pictures


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))


def scenes(split: str = "val", **options) -> SetGame:
    return SetGame(split, **{"num_train": 40, "num_val": 60, "num_test": 40, **options})


def is_set(a: int, b: int, c: int) -> bool:
    """As the rule has it, in words: each property all the same or all different."""
    return all(len({CARDS[card][i] for card in (a, b, c)}) in (1, 3) for i in range(3))


def holds_a_set(hand: list[int]) -> bool:
    return any(is_set(*triple) for triple in combinations(hand, 3))


def test_cards_are_all_there_are() -> None:
    assert sorted(map(tuple, CARDS.tolist())) == sorted(product(range(3), repeat=3))
    sets = [triple for triple in combinations(range(27), 3) if is_set(*triple)]
    assert len(sets) == 27 * 26 // 6  # any two cards have one third


def test_a_set_is_what_the_rule_says() -> None:
    rng = np.random.default_rng(0)
    for cards in (3, 7, 8):
        hands = np.stack([rng.permutation(27)[:cards] for _ in range(400)])
        assert has_set(hands).tolist() == [holds_a_set(hand) for hand in hands.tolist()]
    triples = np.array([*combinations(range(27), 3)])
    assert has_set(triples).tolist() == [is_set(*triple) for triple in triples.tolist()]


@pytest.mark.parametrize("cards", [3, 7, 8])
def test_hands_hold_a_set_half_of_the_time_and_no_card_twice(cards: int) -> None:
    hands = deal(np.random.default_rng(0), 2000, cards)
    assert abs(has_set(hands).mean() - 0.5) < 4 * 0.5 / 2000**0.5
    assert all(len(set(hand)) == cards for hand in hands.tolist())


def test_scenes_hold_what_their_labels_say() -> None:
    batch = scenes().batch(range(60))
    assert batch["image"].shape == (60, 3, 48, 48)
    assert batch["valid"].all()
    assert batch["target"].tolist() == [int(holds_a_set(hand)) for hand in batch["labels"].tolist()]
    grounds = batch["image"][:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mode(2).values  # at three of four corners, at least
    assert {tuple(ground) for ground in grounds.tolist()} == set(BACKGROUNDS)
    for name, values in (("shape", 0), ("color", 1), ("number", 2)):
        labels = scenes(label=name).batch(range(60))["labels"]
        assert torch.equal(labels, torch.from_numpy(CARDS[:, values])[batch["labels"]])
        assert torch.equal(scenes(label=name).batch(range(60))["target"], batch["target"])


def test_the_uppermost_card_is_drawn_as_its_label_says() -> None:
    side = 14
    shapes, strokes = pictures(side)
    batch = scenes(num_cards=3, masks=True).batch(range(60))
    image = (batch["image"] * 255).round().numpy()
    for picture, boxes, labels, mask in zip(
        image, batch["boxes"].int().numpy(), batch["labels"].numpy(), batch["mask"].numpy(), strict=True
    ):
        shape, color, number = CARDS[labels[-1]]  # nothing is painted over the last card
        x1, y1, x2, y2 = boxes[-1]
        assert (x2 - x1, y2 - y1) == (side, side)  # each shape fills its square
        here = picture[:, y1:y2, x1:x2]
        whole = shapes[shape] == 255
        faded = (255 - strokes[shape, number][whole].astype(int)) * (np.array(PALETTE[color])[:, None] > 0)
        assert np.array_equal(here[:, whole], faded)  # by black strokes
        assert ((mask[y1:y2, x1:x2] == 3) == (shapes[shape] > 127)).all()


def test_shapes_and_strokes_have_their_areas() -> None:
    shapes, strokes = pictures(14)
    areas = shapes.sum((1, 2)) / 255 / 14**2
    assert areas == pytest.approx([np.pi / 4, 1, 0.5], abs=0.01)
    square = strokes[1].sum((1, 2)) / 255 / 14**2
    assert square == pytest.approx([0.1, 0.2, 0.3], abs=0.03)
    assert (strokes <= shapes[:, None]).all()  # on the card


def test_cards_overlap_no_more_than_allowed() -> None:
    def shared(scenes: SetGame) -> list[int]:
        return [
            sum(max(0, 14 - abs(x - u)) * max(0, 14 - abs(y - v)) for u, v in before[:i])
            for before in scenes.boxes[..., :2].int().tolist()
            for i, (x, y) in enumerate(before)
        ]

    assert 40 < max(shared(scenes())) <= 14**2 / 3
    assert max(shared(scenes(num_cards=4, max_overlap=0))) == 0


def test_the_same_seed_draws_the_same_and_splits_differ() -> None:
    first = scenes()
    assert torch.equal(first.images[:10], scenes(num_val=10).images)
    assert not torch.equal(first.images[:40], scenes("test").images)
    assert not torch.equal(first.images, scenes(seed=1).images)


def test_mistakes_are_told() -> None:
    for wrong, message in (
        ({"num_cards": 9}, "num_cards=9: must be from 3 to 8, as more hardly ever hold no set"),
        ({"num_cards": 2}, "num_cards=2: must be from 3 to 8"),
        ({"card_size": 49}, "card_size=49: must be from 8 to 48 pixels"),
        ({"max_overlap": -1}, "max_overlap=-1: must be at least 0 pixels"),
        ({"background_colors": [[0, 0]]}, "background_colors=.*: must be red, green and blue"),
        ({"label": "suit"}, "label='suit': must be card, shape, color or number"),
        ({"image_size": 20}, "num_cards=7: . cards of 14 px are the most .* raise image_size or max_overlap"),
    ):
        with pytest.raises(ValueError, match=message):
            SetGameDataModule(**wrong)


def test_names() -> None:
    assert SetGameDataModule().name == "setgame48-7"
    other = SetGameDataModule(num_cards=3, max_overlap=10, background_colors=[[0, 0, 0]], label="number", seed=2)
    assert other.name.startswith("setgame48-3-o10-rgb")
    assert other.name.endswith("-s2-number")
    assert (other.num_classes, SetGameDataModule().num_classes, other.image_shape) == (3, 27, (3, 48, 48))
