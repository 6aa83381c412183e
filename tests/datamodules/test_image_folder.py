"""One's own images, with and without boxes and masks, whole and damaged."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import DatasetCorruptError, DatasetNotFoundError, ImageFolderDataModule
from zoo.models import SPAIR


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))


def write_images(folder: Path, count: int = 10, size: tuple[int, int] = (20, 30)) -> list[str]:
    """Image i has a rectangle from (2, 4) to (8 + i, 12), in x and y."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:02}.png" for i in range(count)]
    for i, name in enumerate(names):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[4:12, 2 : 8 + i] = 255
        Image.fromarray(pixels).save(folder / name)
    return names


def coco(names: list[str], size: tuple[int, int] = (20, 30), masks: bool = True) -> dict[str, Any]:
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 7}, {"id": 3}, {"id": 5}]}
    for i, name in enumerate(names):
        content["images"].append({"id": 100 + i, "file_name": name, "height": size[0], "width": size[1]})
        mask = np.zeros(size, np.uint8)
        mask[4:12, 2 : 8 + i] = 1
        own = {"image_id": 100 + i, "category_id": (3, 5, 7)[i % 3], "bbox": [2, 4, 6 + i, 8], "iscrowd": 0}
        if masks and i % 2:
            x1, y1, x2, y2 = 2, 4, 8 + i, 12
            own["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        elif masks:
            code = coco_mask.encode(np.asfortranarray(mask))
            own["segmentation"] = {"size": list(size), "counts": code["counts"].decode()}
        content["annotations"] += [{"id": 2 * i, **own}, {"id": 2 * i + 1, **own, "iscrowd": 1}]
    return content


def all_scenes(data: ImageFolderDataModule) -> dict[str, dict[str, torch.Tensor]]:
    """Scenes by the names of their files."""
    data.setup()
    scenes = {}
    for dataset in data.datasets.values():
        for i in range(len(dataset)):
            scenes[dataset.files[i].name] = dataset[i]  # type: ignore[attr-defined]
    return scenes


def test_images_alone_are_dealt_by_their_names_and_resized_once(tmp_path: Path) -> None:
    names = write_images(tmp_path / "mine")
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    data = ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=[10, 15], channels=1, batch_size=2)
    data.prepare_data()
    scenes = all_scenes(data)
    assert sorted(scenes) == names
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [8, 1, 1]
    assert all(set(scene) == {"image"} for scene in scenes.values())
    assert scenes["04.png"]["image"][0, 3:5, 2:5].min() == 1
    assert scenes["04.png"]["image"].sum() == pytest.approx(8 * 10 / 4, abs=0.2)
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 1, 10, 15)
    assert data.name == "mine-10x15-c1"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")}
    assert len(before) == 6  # images and numbers of files, for each split
    again = ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=[10, 15], channels=1)
    again.prepare_data()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")} == before
    # a changed file is seen
    Image.new("RGB", (30, 20), (255, 255, 255)).save(tmp_path / "mine" / "04.png")
    os.utime(tmp_path / "mine" / "04.png", (1, 1))
    assert all_scenes(ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=[10, 15], channels=1))["04.png"][
        "image"
    ].mean() == pytest.approx(1)


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("masks", [True, False])
def test_boxes_classes_and_masks_are_read_from_cocos_json(tmp_path: Path, masks: bool, fit: Any) -> None:
    names = write_images(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(coco(names, masks=masks)))
    data = ImageFolderDataModule(folder=str(tmp_path), annotations="a.json", image_size=60, fit=fit, max_objects=3)
    scenes = all_scenes(data)
    top, across = (0, 3) if fit == "stretch" else (10, 2)  # 20 x 30 to 60 x 60, or to 40 x 60 in the middle
    for i, name in enumerate(names):
        scene = scenes[name]
        assert scene["valid"].tolist() == [True, False, False]  # crowds are left out
        expected = [4, 4 * across + top, 2 * (8 + i), 12 * across + top]
        assert scene["boxes"][0].tolist() == pytest.approx(expected)
        assert scene["labels"][0] == i % 3
        assert ("mask" in scene) == masks
        if masks:
            rows, columns = scene["mask"].nonzero(as_tuple=True)
            ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert [int(v) for v in ends] == expected
            assert scene["mask"].unique().tolist() == [0, 1]
    assert data.num_classes == 3


@pytest.mark.parametrize("kind", ["ids", "palette", "colours", "16 bits"])
def test_masks_are_images_of_ids_whatever_they_are_written_in(tmp_path: Path, kind: str) -> None:
    names = write_images(tmp_path / "mine", 4)
    folder = tmp_path / "mine" / "masks"
    folder.mkdir()
    for i, name in enumerate(names):
        ids = np.zeros((20, 30), np.uint8)
        ids[4:12, 2 : 8 + i] = 9
        ids[15:18, 1:5] = 4
        picture = Image.fromarray(ids)
        if kind == "palette":
            picture = Image.fromarray(ids, "P")
            picture.putpalette(list(range(256)) * 3)
        elif kind == "colours":
            picture = Image.fromarray(np.stack([ids, 0 * ids, 255 * (ids == 4).astype(np.uint8)], -1))
        elif kind == "16 bits":
            picture = Image.fromarray(ids.astype(np.uint16) * 300)
        picture.save(folder / name)
    data = ImageFolderDataModule(folder=str(tmp_path / "mine"), masks="masks", image_size=[40, 60], max_objects=2)
    scenes = all_scenes(data)
    assert sorted(scenes) == names  # masks are no images
    for i, name in enumerate(names):
        large, small = [4, 8, 16 + 2 * i, 24], [2, 30, 10, 36]
        assert scenes[name]["boxes"].tolist() == [small, large]
        assert scenes[name]["mask"].flatten().bincount(minlength=3)[1:].tolist() == [8 * 6, 16 * (12 + 2 * i)]
        assert "labels" not in scenes[name]


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        write_images(tmp_path / split, count)
    data = ImageFolderDataModule(folder=str(tmp_path), image_size=8)
    data.setup()
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [5, 2, 3]
    (tmp_path / "a.json").write_text(json.dumps(coco([f"train/{i:02}.png" for i in range(5)])))
    annotated = ImageFolderDataModule(folder=str(tmp_path), annotations="a.json", image_size=8)
    assert annotated.make_dataset("train")[4]["boxes"][0].tolist() == pytest.approx([16 / 30, 1.6, 3.2, 4.8])
    with pytest.raises(
        DatasetCorruptError,
        match=r"val/00\.png: image is in none of the annotations: they name .train/00\.png.*skip_bad",
    ):
        annotated.make_dataset("val")
    # the same name in two splits could be either
    (tmp_path / "b.json").write_text(json.dumps(coco(["00.png"])))
    with pytest.raises(
        DatasetCorruptError, match=r"00\.png. could be several files: there is .*write file_name relative to"
    ):
        ImageFolderDataModule(folder=str(tmp_path), annotations="b.json", image_size=8).make_dataset("val")


def test_damaged_images_stop_or_are_left_out_and_named(tmp_path: Path) -> None:
    names = write_images(tmp_path / "mine", 12)
    for name in names[:2]:
        path = tmp_path / "mine" / name
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetCorruptError, match=r"0[01]\.png: image cannot be read.*skip_bad: true"):
        ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=8).prepare_data()
    assert not [*tmp_path.rglob("*.part")]
    with pytest.warns(UserWarning, match=r"images left out: .*0[01]\.png"):
        scenes = all_scenes(ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=8, skip_bad=True))
    assert sorted(scenes) == names[2:]
    for i, name in enumerate(names[2:], 2):  # each is still under its own name
        assert scenes[name]["image"][0].mean() == pytest.approx(8 * (6 + i) / 600, abs=0.02)


def test_what_does_not_go_together_is_explained(tmp_path: Path) -> None:
    folder, names = tmp_path / "mine", write_images(tmp_path / "mine", 6)

    def prepare(**options: Any) -> None:
        ImageFolderDataModule(folder=str(folder), image_size=8, **options).prepare_data()

    with pytest.raises(DatasetNotFoundError, match=r"no annotations .*none\.json"):
        prepare(annotations="none.json")
    (folder / "bad.json").write_text('{"images": [{"id": 1}]}')
    with pytest.raises(DatasetCorruptError, match=r"bad\.json has no list of annotations: it has 'images'"):
        prepare(annotations="bad.json")
    (folder / "part.json").write_text(json.dumps(coco(names[:3])))
    with pytest.raises(DatasetCorruptError, match=r"0[345]\.png: image is in none of the annotations"):
        prepare(annotations="part.json")
    (folder / "size.json").write_text(json.dumps(coco(names, size=(40, 60))))
    with pytest.raises(
        DatasetCorruptError, match=r"has \(20, 30\) pixels, height first, its annotations are for \(40, 60\)"
    ):
        prepare(annotations="size.json")
    crowded = coco(names)
    crowded["annotations"] = [{**own, "id": 100 * i + own["id"]} for i in range(3) for own in crowded["annotations"]]
    (folder / "many.json").write_text(json.dumps(crowded))
    with pytest.raises(
        ValueError, match=r"png: image has more objects than max_objects: 3, not 2 at most; raise max_objects to 3"
    ):
        prepare(annotations="many.json", max_objects=2)
    with pytest.raises(DatasetCorruptError, match=r"has no mask: there is no .*masks/0\d\.png"):
        prepare(masks="masks")
    with pytest.raises(DatasetNotFoundError, match="there is no folder"):
        ImageFolderDataModule(folder=str(tmp_path / "none")).prepare_data()
    (tmp_path / "halves" / "train").mkdir(parents=True)
    with pytest.raises(DatasetNotFoundError, match="has a folder train, but not val and test"):
        ImageFolderDataModule(folder=str(tmp_path / "halves")).prepare_data()
    with pytest.raises(ValueError, match="channels=2: must be 1 or 3"):
        ImageFolderDataModule(folder=str(folder), channels=2)


def test_a_model_trains_on_them_and_is_measured(tmp_path: Path) -> None:
    names = write_images(tmp_path / "mine", 24)
    (tmp_path / "mine" / "a.json").write_text(json.dumps(coco(names)))
    data = ImageFolderDataModule(
        folder=str(tmp_path / "mine"), annotations="a.json", image_size=48, batch_size=4, shares=[0.6, 0.2, 0.2]
    )
    model = SPAIR(channels=3, backbone_channels=8, encoder_hidden=[16], decoder_hidden=[16], what_dim=4)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", max_steps=2, enable_checkpointing=False, **quiet)
    trainer.fit(model, data)
    values = trainer.test(model, data, verbose=False)[0]
    assert 0 <= values["test/ap50"] <= 1
    assert 0 <= values["test/count_accuracy"] <= 1
    assert model.record()["data"]["class"] == "ImageFolderDataModule"
