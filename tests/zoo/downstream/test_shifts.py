"""Shifts change images as they say, and what is true of them with the images."""

import pytest
import torch

from datamodules import MultiSpritesDataModule
from datamodules.batch import Batch
from zoo.downstream.shifts import NAMES, SHIFTS, applies


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Batch:
    folder = str(tmp_path_factory.mktemp("data"))
    data = MultiSpritesDataModule(
        channels=3, masks=True, sprite_radius=[4, 7], num_train=1, num_val=1, num_test=200, data_dir=folder
    )
    return data.make_dataset("test").batch(range(200))


def shifted(name: str, batch: Batch, seed: int = 0) -> Batch:
    before = {key: value.clone() for key, value in batch.items()}
    after = SHIFTS[name](batch, torch.Generator().manual_seed(seed))
    assert all(torch.equal(batch[key], before[key]) for key in before)  # the scenes are somebody else's, too
    assert after.keys() == batch.keys()
    assert after["image"].shape == batch["image"].shape
    assert 0 <= after["image"].min() <= after["image"].max() <= 1
    for key in ("boxes", "labels"):
        assert not after[key][~after["valid"]].any()
    return after


def test_crops_enlarge_what_is_in_the_middle_and_boxes_with_it(batch: Batch) -> None:
    after = shifted("crop", batch)
    assert 0 < after["valid"].sum() < batch["valid"].sum()
    found = 0
    for mask, boxes, valid in zip(after["mask"], after["boxes"], after["valid"], strict=True):
        for i in range(len(valid)):
            rows, columns = torch.where(mask == i + 1)
            if valid[i] and len(rows) > 20 and boxes[i].min() > 0 and boxes[i].max() < 64:  # not cut by an edge
                tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                assert (tight - boxes[i]).abs().max() <= 3
                found += 1
            assert valid[i] or not len(rows)
    assert found > 50
    ends = after["boxes"].amax((0, 1))
    assert ends.max() <= 64


def test_what_the_square_hides_is_gone(batch: Batch) -> None:
    after = shifted("occlusion", batch)
    hidden = (after["image"] == 0.5).all(1)
    assert (hidden.flatten(1).sum(1) == 21**2).float().mean() > 0.95  # an edge that fades may be as grey
    assert not after["mask"][hidden].any()
    rest = ~hidden
    assert torch.equal(after["mask"][rest], batch["mask"][rest])
    gone = batch["valid"] & ~after["valid"]
    assert 0 < gone.sum() < 0.2 * batch["valid"].sum()
    for scene, row in gone.nonzero().tolist():
        x1, y1, x2, y2 = batch["boxes"][scene, row].int().tolist()
        assert hidden[scene, y1:y2, x1:x2].all()
    other = shifted("occlusion", batch, seed=1)
    assert not torch.equal(other["image"], after["image"])
    assert torch.equal(shifted("occlusion", batch)["image"], after["image"])


def test_values_change_and_nothing_else(batch: Batch) -> None:
    image = batch["image"]
    assert torch.equal(shifted("color", batch)["image"][:, 1], image[:, 0])
    assert torch.allclose(shifted("brightness", batch)["image"], image * 0.6)
    blurred = shifted("blur", batch)["image"]
    assert float(blurred.mean()) == pytest.approx(float(image.mean()), rel=0.02)
    assert blurred.std() < 0.95 * image.std()
    noisy = shifted("noise", batch)["image"]
    assert float((noisy - image)[image == 0].mean()) == pytest.approx(0.1 / (2 * torch.pi) ** 0.5, rel=0.02)
    for name in ("color", "brightness", "blur", "noise"):
        assert all(torch.equal(shifted(name, batch)[key], batch[key]) for key in ("boxes", "mask", "valid", "labels"))


def test_shifts_are_of_data_that_can() -> None:
    assert [name for name in NAMES if applies(name, 1, "MultiMNISTDataModule")] == [
        *("crop", "occlusion", "brightness", "blur", "noise")
    ]
    assert [name for name in NAMES if applies(name, 3, "CLEVRTEXDataModule")] == list(NAMES)
    with pytest.raises(ValueError, match="these have 1 channel"):
        SHIFTS["color"](Batch(image=torch.zeros(1, 1, 4, 4)), torch.Generator())


def test_images_alone_will_do() -> None:
    for name in SHIFTS:
        assert SHIFTS[name](Batch(image=torch.rand(2, 3, 9, 12)), torch.Generator())["image"].shape == (2, 3, 9, 12)
