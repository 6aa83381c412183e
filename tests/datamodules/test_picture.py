"""One picture as many scenes: which pixels each split sees, where boxes lie, what is levelled."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from datamodules import DatasetNotFoundError, ImageError, PictureDataModule
from datamodules.picture import PICTURES, picture_file


@pytest.fixture
def numbered(tmp_path: Path) -> str:
    """41 x 60 px, each of its own grey value, as far as 16 bits go."""
    path = tmp_path / "numbered.png"
    Image.fromarray((np.arange(41 * 60).reshape(41, 60) * 26).astype(np.uint16)).save(path)
    return str(path)


def pixels(batch: dict) -> set[int]:
    """Which pixels of `numbered` a batch has."""
    return set((batch["image"] * 65535 / 26).round().long().flatten().tolist())


@pytest.mark.parametrize("half", ["top", "bottom", "left", "right"])
@pytest.mark.parametrize("whole", [False, True])
def test_training_never_sees_the_half_that_tests(numbered: str, half: str, whole: bool) -> None:
    data = PictureDataModule(picture=numbered, image_size=8, test_half=half, whole=whole, num_train=300)
    place = np.arange(41 * 60).reshape(41, 60)
    there = {"top": place[:20], "bottom": place[21:], "left": place[:, :30], "right": place[:, 30:]}
    other = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}[half]
    scenes = {split: data.make_dataset(split) for split in ("train", "val", "test")}
    seen = {split: pixels(own.batch(range(len(own)))) for split, own in scenes.items()}
    assert seen["test"] <= set(there[half].flatten().tolist())
    assert seen["val"] | seen["train"] <= set(there[other].flatten().tolist())
    if whole:
        assert len(scenes["test"]) == 1
        assert seen["test"] == set(there[half].flatten().tolist())
    else:  # each pixel once, as far as whole tiles go
        h, w = there[half].shape
        assert len(scenes["test"]) == (h // 8) * (w // 8)
        assert len(seen["test"]) == 64 * len(scenes["test"])
    assert scenes["test"].batch([0])["image"].shape == (1, *data.image_shape)
    assert scenes["train"].batch([0])["image"].shape == (1, *data.train_image_shape) == (1, 1, 8, 8)
    assert len(seen["train"]) > 0.9 * there[other].size  # everywhere in its half


def test_crops_are_turned_in_all_eight_ways_and_the_same_for_the_same_seed(numbered: str) -> None:
    arguments = {"picture": numbered, "image_size": 6, "num_train": 200}
    data = PictureDataModule(**arguments, turn=True)
    scenes = data.make_dataset("train")
    again = PictureDataModule(**arguments, turn=True).make_dataset("train")
    assert torch.equal(scenes.batch(range(200))["image"], again.batch(range(200))["image"])
    other = PictureDataModule(**arguments, turn=True, seed=1).make_dataset("train")
    assert not torch.equal(scenes.corners, other.corners)
    steps = set()
    for (image,) in (scenes.batch([i])["image"][0] for i in range(200)):
        values = (image * 65535 / 26).round().long()
        steps.add((int(values[0, 1] - values[0, 0]), int(values[1, 0] - values[0, 0])))
    assert steps == {(a, b) for a in (-60, -1, 1, 60) for b in (-60, -1, 1, 60) if abs(a) != abs(b)}


def test_boxes_are_those_of_the_picture_in_the_scenes_pixels() -> None:
    data = PictureDataModule(picture="coins", shrink=3.0, level=25, whole=True)
    assert data.everything.shape == (1, 101, 128)
    assert data.boxes is not None
    assert len(data.boxes) == data.max_objects == 24
    found = {split: data.make_dataset(split).batch([0]) for split in ("val", "test")}
    assert [int(batch["valid"].sum()) for batch in found.values()] == [12, 12]
    for batch in found.values():
        for x1, y1, x2, y2 in batch["boxes"][0][batch["valid"][0]].round().long().tolist():
            coin, around = batch["image"][0, 0, y1:y2, x1:x2], batch["image"][0, 0, max(0, y1 - 2) : y2 + 2]
            assert coin.mean() > around.mean() + 0.05  # brighter than its row
    # each coin of the bottom half, cut out of the whole, is what its box holds there
    row = found["test"]["valid"][0].nonzero()[0].item()
    shift = data.everything.shape[1] - data.image_shape[1]
    torch.testing.assert_close(found["test"]["boxes"][0, row] + torch.tensor([0, shift, 0, shift]), data.boxes[row])
    train = data.make_dataset("train").batch([0])
    assert train.keys() == {"image"}  # all that training reads


def test_the_boxes_of_coins_are_those_of_a_watershed() -> None:
    filters, segmentation = pytest.importorskip("skimage.filters"), pytest.importorskip("skimage.segmentation")
    picture = np.asarray(Image.open(picture_file("coins")))
    markers = np.where(picture < 30, 1, np.where(picture > 150, 2, 0))
    filled = scipy.ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(picture), markers) == 2)
    regions, _ = scipy.ndimage.label(filled)
    slices = [own for i, own in enumerate(scipy.ndimage.find_objects(regions), 1) if (regions[own] == i).sum() > 100]
    assert sorted((x.start, y.start, x.stop, y.stop) for y, x in slices) == sorted(PICTURES["coins"].boxes)


def test_levelling_leaves_what_stands_out_of_uneven_light(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(20, 180, 96), (64, 1))
    spots = ramp.copy()
    for x in (10, 45, 80):
        spots[20:28, x : x + 8] += 60
    Image.fromarray(spots.astype(np.uint8)).save(tmp_path / "spots.png")
    arguments = {"picture": str(tmp_path / "spots.png"), "image_size": 16}
    level = PictureDataModule(**arguments, level=17).everything[0]
    assert level.max() == 1
    bright = level > 0.5
    _, count = scipy.ndimage.label(bright.numpy())
    assert count == 3
    assert level[22:26, 12:16].mean() == pytest.approx(level[22:26, 82:86].mean().item(), abs=0.1)
    assert level[40:, 20:76].max() < 0.2
    darker = PictureDataModule(**arguments, level=17, gamma=2.0).everything[0]
    torch.testing.assert_close(darker, level**2)


def test_names_tell_apart_what_is_not_to_be_compared(numbered: str) -> None:
    base = {"picture": numbered, "image_size": 8}
    changes = [{}, {"shrink": 2.0}, {"image_size": 9}, {"test_half": "top"}, {"turn": True}, {"whole": True}]
    changes += [{"level": 5}, {"gamma": 0.5}, {"channels": 3}, {"seed": 2}]
    names = {PictureDataModule(**{**base, **change}).name for change in changes}
    assert len(names) == len(changes)


def test_mistakes_are_explained(numbered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, message in (
        ({"shrink": 0.5}, "shrink=0.5: must be at least 1"),
        ({"test_half": "middle"}, "test_half='middle': must be one of top, bottom, left, right"),
        ({"turn": True, "image_size": [8, 10]}, "turn=True: must be false where crops are no squares"),
        ({"level": 1}, "level=1"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"num_train": 0}, "num_train=0"),
    ):
        with pytest.raises(ValueError, match=message):
            PictureDataModule(**{"picture": numbered, **change})
    with pytest.raises(
        ImageError, match=r"a half of 20 x 60 px.*holds no crop of 48 x 48 px; lower image_size or shrink"
    ):
        _ = PictureDataModule(picture=numbered).image_shape
    with pytest.raises(
        DatasetNotFoundError, match=r"there is no picture .*none\.png: give a file, or one of coins, nuclear"
    ):
        _ = PictureDataModule(picture=str(tmp_path / "none.png")).image_shape
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        DatasetNotFoundError, match=r"comes with scikit-image, which is not installed: pip install .*\[real\]"
    ):
        _ = PictureDataModule(picture="coins").image_shape
