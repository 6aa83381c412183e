"""Space Invaders: what is drawn is what is said of it; the game's episodes are repeatable and kept apart by split."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import DatasetNotFoundError, SpaceInvaders, SpaceInvadersDataModule
from datamodules.space_invaders import ARTWORK, COLOURS, GROUND, GROUND_TOP, KINDS

needs_game = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))


def synthetic(split: str, **options) -> SpaceInvaders:
    return SpaceInvaders(split, source="synthetic", **{"num_train": 40, "num_val": 20, "num_test": 20, **options})


def test_boxes_hold_the_colour_of_their_kind_and_everything_else_is_background() -> None:
    batch = synthetic("val").batch(range(20))
    assert batch["image"].shape == (20, 3, 210, 160)
    image = (batch["image"] * 255).round().byte()
    for scene, boxes, labels, valid in zip(image, batch["boxes"], batch["labels"], batch["valid"], strict=True):
        rest = scene.clone()
        for (x1, y1, x2, y2), label in zip(boxes[valid].int().tolist(), labels[valid].tolist(), strict=True):
            colour = torch.tensor(COLOURS[KINDS[label]], dtype=torch.uint8)
            here = scene[:, y1:y2, x1:x2]
            assert (here == colour[:, None, None]).all(0).any()
            assert (here == colour[:, None, None]).all(0).float().mean() > 0.2 or KINDS[label] == "shield"
            rest[:, y1:y2, x1:x2] = 0
        assert not rest[:, :GROUND_TOP].any()
        assert torch.equal(scene[:, GROUND_TOP:].amin((1, 2)), scene[:, GROUND_TOP:].amax((1, 2)))
        assert scene[:, -1, 0].tolist() == list(GROUND)


def test_sprites_fill_their_boxes() -> None:
    batch = synthetic("test").batch(range(20))
    sizes = (batch["boxes"][..., 2:] - batch["boxes"][..., :2])[batch["valid"]]
    labels = batch["labels"][batch["valid"]]
    assert set(labels.tolist()) == set(range(len(KINDS)))
    for kind in set(KINDS) - {"shield"}:  # which lose pixels
        rows = ARTWORK[kind]
        mine = sizes[labels == KINDS.index(kind)]
        assert (mine == torch.tensor([len(rows[0]), len(rows)])).all()


def test_crops_are_windows_and_keep_what_is_visible() -> None:
    batch = synthetic("train", num_train=60).batch(range(240))
    assert batch["image"].shape == (240, 3, 48, 48)
    boxes, valid = batch["boxes"], batch["valid"]
    assert boxes.min() >= 0
    assert boxes.max() <= 48
    assert ((boxes[..., 2:] > boxes[..., :2]).all(-1) == valid).all()
    # an image with objects is not black, and one without is black or ground alone
    ground = torch.tensor(GROUND) / 255
    sprites = (batch["image"].sum(1) > 0) & ~(batch["image"] - ground[:, None, None]).abs().lt(1e-3).all(1)
    assert (sprites.flatten(1).any(1) == valid.any(1)).all()


def test_masks_are_of_the_objects_that_are_drawn() -> None:
    batch = synthetic("val", masks=True).batch(range(20))
    mask = batch["mask"]
    assert ((mask > 0)[:, :GROUND_TOP] == (batch["image"].sum(1) > 0)[:, :GROUND_TOP]).all()
    assert (mask.flatten(1).max(1).values <= batch["valid"].sum(1)).all()


def test_the_same_seed_draws_the_same_and_splits_differ() -> None:
    first, again = synthetic("val"), synthetic("val", num_val=10)
    assert torch.equal(first.images[:10], again.images)
    assert not torch.equal(first.images, synthetic("test").images)
    assert not torch.equal(first.images, synthetic("val", seed=1).images)


@needs_game
def test_frames_of_the_game_are_repeatable_and_of_other_episodes_in_every_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"num_train": 3, "num_val": 260, "num_test": 5, "source": "ale"}
    val = SpaceInvaders("val", **few)
    batch = val.batch([0, 150, 259])
    assert set(batch) == {"image"}
    assert batch["image"].shape == (3, 3, 210, 160)
    assert batch["image"].flatten(2).amax(2).min() > 0.2  # something is on the screen
    assert len(torch.unique(val.images.flatten(1), dim=0)) > 200  # and it moves
    assert SpaceInvaders("train", **few).batch([11])["image"].shape == (1, 3, 48, 48)
    assert not torch.equal(SpaceInvaders("test", **few).images, val.images[:5])
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "elsewhere"))
    assert torch.equal(SpaceInvaders("val", **few).images, val.images)
    data = SpaceInvadersDataModule(num_train=3, num_val=260, num_test=5, batch_size=4)
    assert (data.has_objects, data.image_shape, data.train_image_shape) == (False, (3, 210, 160), (3, 48, 48))


@needs_game
def test_no_more_frames_of_an_episode_than_asked_for() -> None:
    from datamodules.space_invaders import _Game

    game = _Game(7)
    rng = np.random.default_rng(0)
    episodes = [game.episode(rng) for _ in range(2)]
    assert min(map(len, episodes)) > 100
    frames = _Game(7).frames(None, np.random.default_rng(0))["images"][:14].transpose(0, 2, 3, 1)
    known = {screen.tobytes() for screen in episodes[0]}
    assert [frame.tobytes() in known for frame in frames[:7]] == [True] * 7
    assert not all(frame.tobytes() in known for frame in frames[7:])


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, message in (
        ({"source": "gym"}, "source='gym': must be ale or synthetic"),
        ({"crop_size": 161}, r"crop_size=\(161, 161\): must be from 1 to \[210, 160\]"),
        ({"crops_per_image": 0}, "crops_per_image=0: must be at least 1"),
        ({"frames_per_episode": 0}, "frames_per_episode=0: must be at least 1"),
        ({"masks": True}, "masks=True: must be false, as the game tells no masks"),
        ({"num_train": 0}, "num_train=0: must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            SpaceInvadersDataModule(**wrong)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DatasetNotFoundError, match=r"ale-py, which is not installed: pip install .*source=synthetic"):
        SpaceInvaders("test", num_test=3)


def test_names() -> None:
    assert SpaceInvadersDataModule().name == "spaceinvaders-ale-crop48x4"
    whole = SpaceInvadersDataModule(source="synthetic", crop_size=None, num_train=10, seed=2)
    assert whole.name == "spaceinvaders-synthetic-n10-s2"
    assert (whole.train_image_shape, whole.num_classes, whole.max_objects) == ((3, 210, 160), 7, 44)
