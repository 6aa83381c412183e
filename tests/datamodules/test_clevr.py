from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_tfrecord import example, frame, write_records
from PIL import Image

from datamodules import CLEVR, CLEVRDataModule, DatasetCorruptError, DatasetNotFoundError
from datamodules.clevr import FILE, split_range

SCENES = 10


def make_scene(number: int) -> dict[str, Any]:
    """Features of the published file: overlapping rectangles, one of them outside the crop, on a ramp."""
    rng = np.random.default_rng(number)
    image = np.add.outer(np.arange(240), np.arange(320))[..., None] // 3 + rng.integers(0, 20, (240, 320, 3))
    mask = np.zeros((11, 240, 320, 1), np.uint8)
    owner = np.zeros((240, 320), int)
    count = 3 + number % 5
    for i in range(1, count + 1):
        y, x = (5, 5) if i == 2 else (rng.integers(30, 170), rng.integers(70, 210))
        owner[y : y + 40, x : x + 35] = i
        image[y : y + 40, x : x + 35] = rng.integers(0, 200, 3)
    for i in range(11):
        mask[i, owner == i] = 255
    codes = {name: np.zeros(11, np.uint8) for name in ("shape", "color", "material", "size")}
    for name, classes in (("shape", 3), ("color", 8), ("material", 2), ("size", 2)):
        codes[name][1 : count + 1] = rng.integers(1, classes + 1, count)
    numbers = {name: rng.normal(size=11).astype(np.float32) for name in ("x", "y", "z", "rotation")}
    numbers["pixel_coords"] = rng.normal(size=(11, 3)).astype(np.float32)
    numbers["visibility"] = (np.arange(11) <= count).astype(np.float32)
    return {"image": image.clip(0, 255).astype(np.uint8), "mask": mask, **codes, **numbers}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    records = [frame(example(make_scene(number))) for number in range(SCENES)]
    return write_records(tmp_path_factory.mktemp("clevr") / FILE, records).read_bytes()


@pytest.fixture
def root(tmp_path: Path, published: bytes) -> Path:
    path = tmp_path / "data" / "clevr_with_masks" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(published)
    return path.parents[1]


def test_scenes_are_those_of_the_benchmarks_preprocessing(root):
    """Cropped and resized by Pillow, one by one; ids from the stack of masks; the first tenth tests."""
    splits = {split: CLEVR(split) for split in ("test", "val", "train")}
    assert {split: len(scenes) for split, scenes in splits.items()} == {"test": 1, "val": 1, "train": 8}
    first = {"test": 0, "val": 1, "train": 2}
    vanished = 0
    for split, index in (("test", 0), ("val", 0), ("train", 0), ("train", 5)):
        got, made = splits[split][index], make_scene(first[split] + index)
        assert {key: tuple(value.shape) for key, value in got.items()} == {
            "image": (3, 128, 128),
            "boxes": (10, 4),
            "labels": (10,),
            "valid": (10,),
            "mask": (128, 128),
        }
        box = (64, 24, 256, 216)
        image = Image.fromarray(made["image"]).crop(box).resize((128, 128), Image.Resampling.BILINEAR)
        assert torch.equal(got["image"], torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255)
        owner = Image.fromarray(made["mask"][..., 0].argmax(0).astype(np.uint8)).crop(box)
        owner = np.asarray(owner.resize((128, 128), Image.Resampling.NEAREST))
        ids = [i for i in range(1, 11) if (owner == i).any()]
        vanished += 2 not in ids
        assert got["valid"].tolist() == [row < len(ids) for row in range(10)]
        for row, i in enumerate(ids):
            ys, xs = np.nonzero(owner == i)
            assert np.array_equal(got["mask"] == row + 1, owner == i)
            assert got["boxes"][row].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert got["labels"][row] == made["shape"][i] - 1
        assert not got["boxes"][len(ids) :].any()
        assert not got["labels"][len(ids) :].any()
    assert vanished == 4


def test_options(root):
    plain = CLEVR("test")[0]
    (root / "clevr_with_masks" / FILE).unlink()  # what follows comes from the conversion
    assert torch.equal(CLEVR("test", swap_colors=True)[0]["image"], plain["image"].flip(0))
    for label in ("color", "material", "size"):
        labels = CLEVR("test", label=label)[0]["labels"]
        codes = make_scene(0)[label].astype(int)
        assert labels[:2].tolist() == [codes[1] - 1, codes[3] - 1]  # the second object is outside
    with pytest.raises(
        DatasetNotFoundError, match=rf"{FILE} is not in .*clevr_with_masks; download it from https.*ZOO"
    ):
        CLEVR("test", image_size=64)


def test_geneses_preprocessing_takes_single_pixels(root):
    got = CLEVR("test", resampling="nearest", image_size=64)[0]
    made = make_scene(0)
    cropped = torch.tensor(made["image"][24:216, 64:256]).permute(2, 0, 1)[None].float()
    assert torch.equal(got["image"], F.interpolate(cropped, size=64)[0] / 255)
    owner = torch.tensor(made["mask"][:, 24:216, 64:256, 0].argmax(0))[None, None].float()
    assert torch.equal(got["mask"] > 0, F.interpolate(owner, size=64)[0, 0] > 0)


def test_native_size(root):
    got = CLEVR("test", crop=None, image_size=[240, 320])
    assert torch.equal(got[0]["image"], torch.tensor(make_scene(0)["image"]).permute(2, 0, 1) / 255)
    assert torch.equal(got[0]["mask"], torch.tensor(make_scene(0)["mask"][..., 0].argmax(0)))
    few = CLEVR("train", crop=None, image_size=[240, 320], num_scenes=5)
    assert len(few) == 4
    assert torch.equal(few[3]["mask"] > 0, torch.tensor(make_scene(4)["mask"][0, ..., 0] == 0))


def test_splits():
    ranges = {
        splits: {split: split_range(splits, split, 100_000) for split in ("train", "val", "test")}
        for splits in ("ast", "clevrtex", "genesis", "iodine")
    }
    assert ranges["ast"] == {"train": (20_000, 100_000), "val": (10_000, 20_000), "test": (0, 10_000)}
    assert ranges["clevrtex"] == {"train": (30_000, 100_000), "val": (15_000, 30_000), "test": (0, 15_000)}
    assert ranges["genesis"] == {"train": (20_000, 70_000), "val": (10_000, 20_000), "test": (0, 10_000)}
    assert ranges["iodine"] == {"train": (0, 70_000), "val": (70_320, 70_640), "test": (70_000, 70_320)}
    with pytest.raises(ValueError, match="'genesis' leaves no train scenes of 10, the first would be number 20000"):
        split_range("genesis", "train", 10)


def test_a_corrupt_file_is_named(tmp_path, published):
    path = tmp_path / "data" / FILE  # beside its folder will do, too
    path.parent.mkdir()
    path.write_bytes(published[: len(published) // 2])
    with pytest.raises(DatasetCorruptError, match=rf"{path} is damaged at record \d: the file ends within it"):
        CLEVR("test")
    flipped = frame(example(make_scene(1)), lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    write_records(path, [frame(example(make_scene(0))), flipped])
    with pytest.raises(DatasetCorruptError, match=rf"{path} is damaged at record 1: the checksum of its data is wrong"):
        CLEVR("test")
    room = {"image": np.zeros((64, 64, 3), np.uint8), "mask": np.zeros((7, 64, 64, 1), np.uint8)}
    write_records(path, [frame(example({**make_scene(0), **room}))])
    with pytest.raises(DatasetCorruptError, match=r"record 0 of .*'image' holds 12288 values.*the published file"):
        CLEVR("test")
    path.write_bytes(published)  # repaired: another file, begun anew
    assert len(CLEVR("train")) == 8


def test_the_datamodule(root):
    data = CLEVRDataModule(image_size=64, label="color", batch_size=4, num_workers=0)
    assert (data.name, data.image_shape, data.num_classes, data.max_objects) == (
        "clevr-64-ast-color",
        (3, 64, 64),
        8,
        10,
    )
    data.prepare_data()
    batches = list(data.train_dataloader())
    assert [batch["image"].shape for batch in batches] == [(4, 3, 64, 64)] * 2
    assert sum(len(batch["image"]) for batch in data.test_dataloader()) == 1
    assert CLEVRDataModule(splits="genesis", crop=None, swap_colors=True).name == "clevr-128-genesis-uncropped-bgr"
    for wrong, message in (
        ({"splits": "slots"}, "splits='slots': must be one of ast, clevrtex, genesis, iodine"),
        ({"crop": 241}, "crop=241: must be from 1 to 240, or null"),
        ({"resampling": "cubic"}, "resampling='cubic': must be bilinear or nearest"),
        ({"label": "name"}, "label='name': must be one of shape"),
        ({"num_scenes": 0}, "num_scenes=0: must be at least 1, or null"),
    ):
        with pytest.raises(ValueError, match=message):
            CLEVRDataModule(**wrong)
