"""One's own images as cameras and annotation tools leave them: turned, void, in other folders, under other names."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_coco import NAMES, plain, write_images
from PIL import Image

from datamodules import DatasetCorruptError, DatasetNotFoundError, ImageFolderDataModule


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))


def scenes_of(data: ImageFolderDataModule) -> dict[str, dict[str, torch.Tensor]]:
    data.setup()
    return {
        dataset.files[i].name: dataset[i]  # type: ignore[attr-defined]
        for dataset in data.datasets.values()
        for i in range(len(dataset))
    }


def turned(folder: Path, how: int, side: tuple[int, int] = (40, 60)) -> None:
    """Three images that EXIF turns, with a white object of ids 5 from (10, 8) to (30, 20) in the pixels as stored."""
    exif = Image.Exif()
    exif[0x0112] = how
    (folder / "masks").mkdir(parents=True)
    mask = np.zeros(side, np.uint8)
    mask[8:20, 10:30] = 5
    for name in ("a", "b", "c"):
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(folder / f"{name}.png", exif=exif)
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def coco_of(side: tuple[int, int], bbox: list[float]) -> dict[str, Any]:
    x, y, w, h = bbox
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": side[0], "width": side[1]} for n in "abc"],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": bbox, "segmentation": [outline]} for n in "abc"],
    }


def check_fits(scene: dict[str, torch.Tensor]) -> None:
    """Box and mask lie on what is white."""
    rows, columns = (scene["image"][0] > 0.5).nonzero(as_tuple=True)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert scene["boxes"][0].round().tolist() == expected
    assert torch.equal(scene["mask"] == 1, scene["image"][0] > 0.5)


@pytest.mark.parametrize("how", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["annotations", "masks"])
def test_what_was_drawn_on_stored_pixels_is_turned_with_its_image(tmp_path: Path, how: int, kind: str) -> None:
    turned(tmp_path / "mine", how)
    (tmp_path / "mine" / "a.json").write_text(json.dumps(coco_of((40, 60), [10, 8, 20, 12])))
    options = {"annotations": "a.json"} if kind == "annotations" else {"masks": "masks"}
    if kind == "annotations":
        shutil.rmtree(tmp_path / "mine" / "masks")
    with pytest.warns(UserWarning, match=r"turned by their metadata \(EXIF\), annotations too, as drawn upon stored"):
        scenes = scenes_of(ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=[60, 40], **options))
    assert len(scenes) == 3
    for scene in scenes.values():
        check_fits(scene)


def test_what_was_drawn_on_what_is_seen_stays_and_what_could_be_either_is_warned_of(tmp_path: Path) -> None:
    turned(tmp_path / "mine", 6)
    shutil.rmtree(tmp_path / "mine" / "masks")
    (tmp_path / "mine" / "a.json").write_text(json.dumps(coco_of((60, 40), [20, 10, 12, 20])))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for scene in scenes_of(
            ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=[60, 40], annotations="a.json")
        ).values():
            check_fits(scene)
    for how, side in ((3, (40, 60)), (6, (60, 60))):
        folder = tmp_path / f"mine{how}"
        turned(folder, how, side)
        with pytest.warns(
            UserWarning, match=r"turned by their metadata \(EXIF\), annotations taken as drawn upon what is"
        ):
            ImageFolderDataModule(folder=str(folder), image_size=40, masks="masks").prepare_data()


@pytest.mark.parametrize("how", range(2, 9))
def test_masks_obey_their_own_metadata(tmp_path: Path, how: int) -> None:
    turned(tmp_path / "mine", how)
    exif = Image.Exif()
    exif[0x0112] = how
    for path in (tmp_path / "mine" / "masks").iterdir():
        with Image.open(path) as picture:
            picture.load()
        picture.save(path, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data = ImageFolderDataModule(
            folder=str(tmp_path / "mine"), image_size=[60, 40] if how > 4 else [40, 60], masks="masks"
        )
        for scene in scenes_of(data).values():
            check_fits(scene)


def voc_masks(folder: Path, void: int, colours: bool = False) -> None:
    """Objects 1 and 2, each with a border of `void` five pixels wide, as VOC's have."""
    write_images(folder)
    (folder / "masks").mkdir()
    for i, name in enumerate(NAMES):
        ids = np.zeros((60, 90), np.uint8)
        for number, (x1, y1, x2, y2) in enumerate(((15, 5, 15 + 30 + i % 3, 35), (55, 35, 85, 57)), 1):
            ids[y1:y2, x1:x2] = void
            ids[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] = number
        picture = Image.fromarray(ids)
        if colours:
            picture = Image.fromarray(np.stack([ids, ids // 3, 255 * (ids == 2)], -1).astype(np.uint8))
        picture.save(folder / "masks" / name)


@pytest.mark.parametrize(("void", "colours"), [(255, False), (9, False), (200, True)])
def test_void_is_warned_of_and_left_out_on_demand(tmp_path: Path, void: int, colours: bool) -> None:
    voc_masks(tmp_path / "mine", void, colours)
    value = 65536 * void + 256 * (void // 3) if colours else void

    def load(**options: Any) -> dict[str, dict[str, torch.Tensor]]:
        return scenes_of(
            ImageFolderDataModule(folder=str(tmp_path / "mine"), masks="masks", image_size=[60, 90], **options)
        )

    with pytest.warns(UserWarning, match=rf"id {value} covers only borders in \d+ masks.*void_ids: \[{value}\]"):
        scenes = load()
    assert all(scene["valid"].sum() == 3 for scene in scenes.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert all(scene["valid"].sum() == 3 for scene in load(void_ids=[]).values())
        scenes = load(void_ids=[value])
    for i, name in enumerate(NAMES):
        boxes = scenes[name]["boxes"][scenes[name]["valid"]].tolist()
        assert boxes == [[17, 7, 43 + i % 3, 33], [57, 37, 83, 55]]
        assert scenes[name]["mask"].unique().tolist() == [0, 1, 2]


def test_void_along_the_edges_or_in_areas_is_noticed_and_objects_are_not(tmp_path: Path) -> None:
    def load(folder: str) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ImageFolderDataModule(folder=str(tmp_path / folder), masks="masks", image_size=30).prepare_data()
        return [str(w.message) for w in caught if "void_ids" in str(w.message)]

    def write(folder: str, paint: Any) -> None:
        write_images(tmp_path / folder)
        (tmp_path / folder / "masks").mkdir()
        for name in NAMES:
            ids = np.zeros((60, 90), np.uint16)
            paint(ids)
            Image.fromarray(ids).save(tmp_path / folder / "masks" / name)

    def frame(ids: np.ndarray) -> None:
        ids[:] = 7
        ids[5:-5, 5:-5] = 0
        ids[20:30, 20:30] = 1

    def area(ids: np.ndarray) -> None:
        ids[20:30, 20:30] = 1
        ids[40:, :] = 255

    def binary(ids: np.ndarray) -> None:
        ids[20:30, 20:30] = 255

    def many(ids: np.ndarray) -> None:
        ids[::3, ::10] = np.arange(246, 246 + 20 * 9).reshape(20, 9)  # one pixel each, 255 among them
        ids[:, 45:] = 0
        ids[:30] = 0

    def small(ids: np.ndarray) -> None:
        ids[20:24, 20:24] = 1
        ids[20:24, 24:28] = 2
        ids[50:52, 10:80] = 3  # a stick

    for name, paint, expected in (
        ("frame", frame, "id 7 covers only borders"),
        ("area", area, r"id 255 stands beside others in \d+ masks"),
        ("binary", binary, ""),
        ("many", many, ""),
        ("small", small, ""),
    ):
        write(name, paint)
        found = load(name)
        assert bool(found) == bool(expected), found
        assert all(re.search(expected, message) for message in found)


def roboflow(root: Path, names: tuple[str, ...] = ("train", "valid", "test")) -> None:
    """Images of the same names in each split, and annotations beside them."""
    for i, split in enumerate(names):
        write_images(root / split)
        content = plain()
        for own in content["annotations"]:
            own["bbox"][0] += i
            own["segmentation"] = []
        content["categories"].insert(0, {"id": 0, "name": "a", "supercategory": "none"})
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Train", "Validation", "Test"), ("train17", "val17", "test17")]
)
def test_roboflows_folders_and_annotations_are_read(tmp_path: Path, names: tuple[str, ...]) -> None:
    roboflow(tmp_path / "mine", names)
    data = ImageFolderDataModule(
        folder=str(tmp_path / "mine"), annotations="_annotations.coco.json", image_size=[60, 90]
    )
    data.prepare_data()
    data.setup()
    for i, split in enumerate(("train", "val", "test")):
        dataset = data.datasets[split]  # type: ignore[index]
        assert len(dataset) == 12
        assert dataset[3]["boxes"][:2, 0].tolist() == [23 + i, 60 + i]
        assert dataset[3]["labels"][:2].tolist() == [1, 3]


def test_folders_that_do_not_fit_are_refused_in_a_line(tmp_path: Path) -> None:
    def refused(message: str, folder: Path, kind: type[Exception] = DatasetNotFoundError, **options: Any) -> None:
        with pytest.raises(kind, match=message) as error:
            ImageFolderDataModule(folder=str(folder), image_size=8, **options).prepare_data()
        assert "\n" not in str(error.value)

    mine = tmp_path / "mine"
    roboflow(mine)
    refused(r"mine/_annotations\.json", mine, annotations="_annotations.json")
    (mine / "valid" / "_annotations.coco.json").unlink()
    message = r"there are annotations .*train/_anno.*, but not .*valid/_annotations\.coco\.json"
    refused(message, mine, annotations="_annotations.coco.json")
    refused(r"has its splits in .*mine: give that as the folder", tmp_path)
    refused(r"train/s00\.png is a file, not a folder", mine / "train" / "s00.png")
    (mine / "val").mkdir()
    refused("has folders train and val and valid and test: leave one for each of train, val, test", mine)
    (mine / "val").rmdir()
    shutil.rmtree(mine / "train")
    refused("has a folder valid and test, but not train: make what is missing", mine)
    (mine / "train").mkdir()
    refused(r"no images in .*mine/train", mine)
    write_images(mine / "train")
    for path in (mine / "valid").glob("*.png"):
        path.write_bytes(b"no image")
    message = r"all 12 images of the split val are bad: .*12 x image cannot be read \(as .*valid/s00\.png\)"
    refused(message, mine, DatasetCorruptError, skip_bad=True)
    assert not [*(tmp_path / "data").rglob("*.part")]


def test_categories_of_several_files_agree(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    write_images(mine)
    first, second = plain(), plain()
    for content, start in ((first, 0), (second, 6)):
        content["images"] = content["images"][start : start + 6]
        content["annotations"] = content["annotations"][2 * start : 2 * start + 12]
    (mine / "1.json").write_text(json.dumps(first))

    def load(categories: Any) -> dict[str, dict[str, torch.Tensor]]:
        (mine / "2.json").write_text(json.dumps({**second, "categories": categories}))
        return scenes_of(ImageFolderDataModule(folder=str(mine), annotations=["1.json", "2.json"], image_size=8))

    for same in (second["categories"], second["categories"][::-1], None, second["categories"][:2]):
        scenes = load(same)
        assert all(scene["labels"][:2].tolist() == [0, 2] for scene in scenes.values())
    with pytest.raises(DatasetCorruptError, match=r"2\.json: category 3 is 'b', in the files before 'a': give each"):
        load([{"id": 3, "name": "b"}, {"id": 90, "name": "a"}])
    for own in second["annotations"]:
        own["category_id"] = {3: 3, 90: 4}[own["category_id"]]
    with pytest.raises(DatasetCorruptError, match=r"2\.json: category 'b' is 4, in the files before 90: give each"):
        load([{"id": 3, "name": "a"}, {"id": 4, "name": "b"}])


def test_names_of_other_machines_are_matched_with_a_warning_and_doubtful_ones_are_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for split in ("train", "val", "test"):
        write_images(mine / split)
    content = plain()

    def load(prefixes: list[str], **options: Any) -> dict[str, dict[str, torch.Tensor]]:
        images = [
            {**own, "id": f"{own['id']} {prefix}", "file_name": prefix + own["file_name"]}
            for prefix in prefixes
            for own in content["images"]
        ]
        objects = [
            {**own, "image_id": f"{own['image_id']} {prefix}", "id": None}
            for prefix in prefixes
            for own in content["annotations"]
        ]
        (mine / "a.json").write_text(json.dumps({**content, "images": images, "annotations": objects}))
        return scenes_of(ImageFolderDataModule(folder=str(mine), annotations="a.json", image_size=8, **options))

    roots = [f"D:\\data\\{split}\\" for split in ("train", "val", "test")]
    with pytest.warns(UserWarning, match="36 of 36 annotated images were found by the end of their path alone"):
        assert all(scene["valid"].sum() == 2 for scene in load(roots).values())
    with pytest.raises(
        DatasetCorruptError, match=r"s00\.png' could be several files: there is .*: write file_name relative to"
    ):
        load(["/elsewhere/"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(["train\\", "val/", "./test/"])
    # a name that is there is nobody else's
    (mine / "val" / "s00.png").rename(mine / "val" / "only.png")
    content["images"][0]["file_name"] = "only.png"
    with pytest.raises(DatasetCorruptError, match=r"train/s00\.png: image is in none of the annotations: they name"):
        load(["val/"])
