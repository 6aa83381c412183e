import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from datamodules import DatasetCorruptError, DatasetNotFoundError, ShapeStacks, ShapeStacksDataModule

STABLE, FALLS, TILTED = (
    f"env_ccs-hard-h={h}-vcom={vcom}-vpsf={vpsf}-v=60" for h, vcom, vpsf in ((2, 0, 0), (3, 1, 0), (4, 0, 2))
)
SPLITS = {"train": [STABLE, FALLS], "eval": [TILTED], "test": [FALLS]}
CAMERAS = (1, 7, 16)


def make_picture(scenario: str, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its ids: a tower of blocks."""
    rng = np.random.default_rng([len(scenario), int(scenario.split("h=")[1][0]), camera])
    ids = np.zeros((224, 224), int)
    image = rng.integers(0, 256, (224, 224, 3))
    for i in range(1, int(scenario.split("h=")[1][0]) + 1):
        x, y = rng.integers(70, 110), 200 - 30 * i
        ids[y : y + 30, x : x + rng.integers(20, 50)] = i
    return np.where(ids[..., None] > 0, ids[..., None] * 40, image).astype(np.uint8), ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "shapestacks"
    (root / "splits" / "default").mkdir(parents=True)
    for name, scenarios in SPLITS.items():
        (root / "splits" / "default" / f"{name}.txt").write_text("".join(f"{scenario}\n" for scenario in scenarios))
    for scenario in (STABLE, FALLS, TILTED):
        recordings, maps = (root / kind / scenario for kind in ("recordings", "iseg"))
        recordings.mkdir(parents=True)
        maps.mkdir(parents=True)
        for camera in CAMERAS:
            image, ids = make_picture(scenario, camera)
            Image.fromarray(image).save(recordings / f"rgb-w=5-f=2-l=1-c=unique-cam_{camera}-mono-0.png")
            Image.fromarray(image).save(recordings / f"depth-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.png")
            # as the maps were published: grey levels of matplotlib, a PNG file by another name
            path = maps / f"iseg-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.map"
            plt.imsave(path, ids, vmin=0, vmax=8, cmap="gray", format="png")
    return root


def test_scenes_are_those_of_genesiss_preprocessing(root):
    prepare = transforms.Compose([transforms.CenterCrop(196), transforms.Resize(64), transforms.ToTensor()])
    for split, name in (("train", "train"), ("val", "eval"), ("test", "test")):
        scenes = ShapeStacks(split, target="stability")
        assert len(scenes) == 3 * len(SPLITS[name])
        for position, scenario in enumerate(SPLITS[name]):
            order = sorted(CAMERAS, key=str)
            for place, camera in enumerate(order):
                got = scenes[3 * position + place]
                image, ids = make_picture(scenario, camera)
                assert torch.equal(got["image"], prepare(Image.fromarray(image)))
                cropped = torch.tensor(ids[14:210, 14:210])[None, None].float()
                assert torch.equal(got["mask"], F.interpolate(cropped, size=64)[0, 0].long())
                assert got["valid"].sum() == ids.max()
                assert got["target"] == (scenario != STABLE)
                assert "labels" not in got
                top = torch.nonzero(got["mask"] == ids.max())
                left_top, right_bottom = top.min(0).values.flip(0), top.max(0).values.flip(0) + 1
                assert got["boxes"][ids.max() - 1].tolist() == [*left_top.tolist(), *right_bottom.tolist()]


def test_options(root):
    image, ids = make_picture(TILTED, 1)
    cropped = Image.fromarray(ids.astype(np.uint8)).crop((14, 14, 210, 210))
    got = ShapeStacks("val", mask_sampling="centre")[0]
    assert np.array_equal(got["mask"], np.asarray(cropped.resize((64, 64), Image.Resampling.NEAREST)))
    assert "target" not in got
    whole = ShapeStacks("val", crop=None, image_size=224)[0]
    assert torch.equal(whole["image"], torch.tensor(image).permute(2, 0, 1) / 255)
    assert np.array_equal(whole["mask"], ids)


def test_maps_may_lie_beside_the_recordings_and_all_may_be_deleted_afterwards(root):
    expected = ShapeStacks("val")[2]
    shutil.rmtree(root.parent / "cache")
    for path in (root / "iseg").rglob("*.map"):
        path.rename(root / "recordings" / path.parent.name / path.name)
    assert torch.equal(ShapeStacks("val")[2]["mask"], expected["mask"])
    shutil.rmtree(root)
    assert torch.equal(ShapeStacks("val")[2]["image"], expected["image"])
    with pytest.raises(DatasetNotFoundError, match=r"train.txt is not there; .*shapestacks holds nothing, expected"):
        ShapeStacks("train")


def test_what_is_missing_is_named(root):
    recording = root / "recordings" / FALLS
    (root / "iseg" / FALLS / "iseg-w=0-f=0-l=0-c=original-cam_7-mono-0.map").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"{FALLS}/iseg-.*cam_7-mono-0.map is not there.*download them too"):
        ShapeStacks("test")
    for path in recording.glob("rgb-*"):
        path.unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"{recording} holds no rgb-\*-mono-0.png, though .*test.txt lists"):
        ShapeStacks("test")
    shutil.rmtree(recording)
    with pytest.raises(DatasetNotFoundError, match=rf"{recording} is not there, though .*test.txt lists it"):
        ShapeStacks("test")
    (root / "splits" / "default" / "test.txt").unlink()
    with pytest.raises(DatasetNotFoundError, match="holds iseg, recordings, splits, expected splits/default"):
        ShapeStacks("test")


@pytest.mark.parametrize("damage", ["cut short", "no picture", "other size", "other map", "too many objects"])
def test_a_corrupt_file_is_named(root, damage):
    image = root / "recordings" / TILTED / "rgb-w=5-f=2-l=1-c=unique-cam_7-mono-0.png"
    mask = root / "iseg" / TILTED / "iseg-w=0-f=0-l=0-c=original-cam_7-mono-0.map"
    bad, message = image, "is damaged"
    if damage == "cut short":
        image.write_bytes(image.read_bytes()[:3000])
    elif damage == "no picture":
        bad = mask
        mask.write_bytes(b"not a picture")
    elif damage == "other size":
        message = "has 100 x 90 pixels, expected 224 x 224"
        Image.fromarray(np.zeros((100, 90, 3), np.uint8)).save(image)
    elif damage == "other map":
        bad, message = mask, r"is no instance map: its first channel holds \[0, 1, 2, 3, 4\], expected multiples of 32"
        Image.fromarray(make_picture(TILTED, 7)[1].astype(np.uint8)).save(mask, format="png")
    else:
        bad, message = mask, ": 7 objects in a scene, expected at most 6"
        Image.fromarray((np.arange(224 * 224).reshape(224, 224) // 30 % 8 * 32).astype(np.uint8)).save(mask, "png")
    with pytest.raises(DatasetCorruptError, match=message) as error:
        ShapeStacks("val")
    assert str(bad) in str(error.value)


def test_the_datamodule(root):
    data = ShapeStacksDataModule(batch_size=2, image_size=32, target="stability")
    assert (data.name, data.image_shape, data.num_classes, data.max_objects) == ("shapestacks-32", (3, 32, 32), 0, 6)
    data.prepare_data()
    assert [batch["target"].shape for batch in data.train_dataloader()] == [(2,)] * 3
    assert sum(len(batch["mask"]) for batch in data.val_dataloader()) == 3
    assert ShapeStacksDataModule(mask_sampling="centre", splits="ccs_all").name == "shapestacks-64-ccs_all-centre"
    for wrong, message in (
        ({"crop": 300}, "crop=300: must be from 1 to 224, or null"),
        ({"mask_sampling": "both"}, "mask_sampling='both': must be corner or centre"),
        ({"splits": "../x"}, "splits='../x': must be the name of a folder"),
        ({"target": "height"}, "target='height': must be null or stability"),
    ):
        with pytest.raises(ValueError, match=message):
            ShapeStacksDataModule(**wrong)
