import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules import DatasetCorruptError, DatasetNotFoundError, Fruit2D, Fruit2DDataModule
from datamodules import fruit2d as module
from datamodules import fruit2d_published as published
from datamodules.fruit2d_published import PARTS

LABELS = {
    "train": [
        "2\n64 64 20 10 1\n10 20 6 6 9\n",
        "0\n",
        "1\n4.5 120 19 30 3\n",
        "60 60.5 8 8 2\n",
        "1\n30 30 9 9 5\n\n",
    ],
    "test": ["3\n20 20 8 8 4\n40 40 8 8 4\n-9 64 10 10 7\n", "1\r\n100 100 50 50 8\r\n"],
}


def picture(seed: int, size=(128, 128), mode="RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


def publish(root: Path) -> Path:
    for part, texts in LABELS.items():
        for kind in ("images", "labels"):
            (root / f"{part}_{kind}").mkdir(parents=True)
        for i, text in enumerate(texts):
            picture(i + 100 * (part == "test")).save(root / f"{part}_images" / f"{i}.png")
            (root / f"{part}_labels" / f"{i}.txt").write_bytes(text.encode())
    return root


@pytest.fixture
def root(tmp_path):
    return publish(tmp_path / "data" / "Fruit2D")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    (tmp_path / "drive").mkdir()
    monkeypatch.setattr(published, "DOWNLOAD", (tmp_path / "drive").as_uri() + "/{}")


def test_images_boxes_and_classes_are_those_of_the_files(root):
    splits = {split: Fruit2D(split, val_fraction=0.4) for split in ("train", "val", "test")}
    assert [len(splits[split]) for split in splits] == [3, 2, 2]
    expected = {  # by hand: centre boxes to corners, classes from 0, clipped to the image
        "train": [[[54, 59, 74, 69, 0], [7, 17, 13, 23, 8]], [], [[0, 105, 14, 128, 2]]],
        "val": [[[56, 56.5, 64, 64.5, 1]], [[25.5, 25.5, 34.5, 34.5, 4]]],
        "test": [[[16, 16, 24, 24, 3], [36, 36, 44, 44, 3]], [[75, 75, 125, 125, 7]]],  # one is out of sight
    }
    for split, dataset in splits.items():
        batch = dataset.batch(range(len(dataset)))
        assert batch.keys() == {"image", "boxes", "labels", "valid"}
        assert batch["boxes"].shape == (len(dataset), 2, 4)  # the fullest image of all splits
        for i, objects in enumerate(expected[split]):
            seed = i + {"train": 0, "val": 3, "test": 100}[split]
            pixels = torch.from_numpy(np.array(picture(seed))).permute(2, 0, 1)
            assert torch.equal((batch["image"][i] * 255).round().byte(), pixels)
            assert batch["valid"][i].tolist() == [k < len(objects) for k in range(2)]
            found = torch.cat([batch["boxes"][i], batch["labels"][i, :, None].float()], dim=1)
            assert found.tolist() == [*objects, *[[0.0] * 5] * (2 - len(objects))]


def test_images_are_resized_with_antialiasing_and_boxes_with_them(root):
    full, small = Fruit2D("test"), Fruit2D("test", image_size=[64, 32])
    exact = F.interpolate(full.batch([0, 1])["image"], (64, 32), mode="bilinear", antialias=True)
    assert (small.batch([0, 1])["image"] - exact).abs().max() < 1.01 / 255
    assert torch.equal(small.boxes, full.boxes * torch.tensor([0.25, 0.5, 0.25, 0.5]))


def test_files_without_common_names_go_together_in_order(root):
    for i, path in enumerate(sorted((root / "train_labels").iterdir())):
        path.rename(path.with_name(f"label{i}.txt"))
    assert Fruit2D("train").labels[:2, 0].tolist() == [0, 0]
    assert Fruit2D("train").labels[2, 0] == 2


def test_the_datamodule_reads_the_published_data_once(root, monkeypatch):
    data = Fruit2DDataModule(val_fraction=0.2, batch_size=2)
    assert (data.name, data.num_classes, data.image_shape) == ("fruit2d128-v0.2", 9, (3, 128, 128))
    data.prepare_data()
    monkeypatch.setattr(module, "read_published", None)  # from here on the cache has all
    assert data.max_objects == 2
    data.setup()
    assert data.max_objects == 2
    assert [len(batch["image"]) for batch in data.train_dataloader()] == [2, 2]
    elsewhere = Fruit2DDataModule(root=str(root), val_fraction=0.2).make_dataset("train")
    assert torch.equal(elsewhere.images, data.datasets["train"].images)
    label = root / "train_labels" / "0.txt"
    label.write_text(label.read_text().replace(" 9\n", " 8\n"))  # as many bytes as before
    os.utime(label, ns=(0, 0))
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_DATA", str(root.parent))
    assert Fruit2D("train", val_fraction=0.2).labels[0].tolist() == [0, 7]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train_images/1.png", lambda png: png[:-100], r"train_images/1\.png is damaged \(.*truncated"),
        ("train_images/1.png", lambda png: png[:9000] + b"\0" * 99 + png[9099:], r"train_images/1\.png is damaged"),
        ("test_images/0.png", lambda _: b"GIF89a", r"test_images/0\.png is damaged.*delete the folder"),
        ("test_images/0.png", lambda _: b"", r"test_images/0\.png is damaged"),
        ("test_images/1.png", (64, 128), r"test_images/1\.png has 64 x 128 px in mode RGB, expected 128 x 128"),
        ("test_images/1.png", "L", r"test_images/1\.png has 128 x 128 px in mode L, expected .* RGB"),
        ("train_labels/0.txt", "1\n3 3 2 2\n", r"train_labels/0\.txt, line 2: '3 3 2 2', expected `x y w h class`"),
        ("train_labels/0.txt", "1\n3 3 x 2 1\n", r"train_labels/0\.txt, line 2: '3 3 x 2 1'"),
        ("train_labels/0.txt", "1\n3 3 nan 2 1\n", r"train_labels/0\.txt, line 2: '3 3 nan 2 1'"),
        ("train_labels/0.txt", "1\n3 3 0 2 1\n", r"train_labels/0\.txt, line 2.*w and h above 0"),
        ("test_labels/1.txt", "1\n3 3 2 2 10\n", r"test_labels/1\.txt, line 2: class 10, expected 1 to 9"),
        ("test_labels/1.txt", "1\n\n3 3 2 2 0\n", r"test_labels/1\.txt, line 3: class 0"),
        ("test_labels/1.txt", "1\n3 3 2 2 1.5\n", r"test_labels/1\.txt, line 2: class 1\.5"),
        ("test_labels/1.txt", "2\n3 3 2 2 1\n", r"test_labels/1\.txt announces 2 objects and lists 1"),
        ("test_labels/1.txt", "1\n1\n3 3 2 2 1\n", r"test_labels/1\.txt, line 2: '1'"),
        ("test_labels/1.txt", "", r"test_labels/1\.txt is empty"),
        ("test_labels/1.txt", b"\xff\xfe", r"test_labels/1\.txt cannot be read"),
        ("train_labels/3.txt", None, r"5 images in train_images and 4 labels.*train_images/3\.png has no partner"),
        ("test_images/1.png", None, r"1 images in test_images and 2 labels.*test_labels/1\.txt has no partner"),
    ],
)  # fmt: skip
def test_damage_is_named_with_file_and_line(root, file, content, message):
    path = root / file
    if content is None:
        path.unlink()
    elif callable(content):
        path.write_bytes(content(path.read_bytes()))
    elif file.endswith("png"):
        (picture(0, size=content) if isinstance(content, tuple) else picture(0, mode=content)).save(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetCorruptError, match=message):
        Fruit2D("test" if "test" in file else "train")
    assert not list((root.parent / "cache").glob("*.safetensors"))


def test_a_validation_part_that_leaves_nothing_is_refused(root):
    with pytest.raises(ValueError, match=r"val_fraction=0\.95 leaves none of the 5 training images"):
        Fruit2D("train", val_fraction=0.95)


def zipped(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("some folder/", "")
        archive.writestr(f"__MACOSX/some folder/._{next(folder.iterdir()).name}", "no file of ours")
        for path in folder.iterdir():
            archive.write(path, f"some folder/{path.name}")


def tarred(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, "./" + folder.name)


@pytest.fixture
def drive(root, tmp_path):
    """The four archives as if on Google Drive; the folders themselves are gone."""
    for part, (_, number) in PARTS.items():
        (zipped if "images" in part else tarred)(root / part, tmp_path / "drive" / number)
    shutil.move(root, tmp_path / "expected")
    return tmp_path / "drive"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.[pt][nx][gt]")}


def test_archives_are_downloaded_unpacked_and_remembered(drive, root, tmp_path):
    assert len(Fruit2D("train", val_fraction=0.4)) == 3
    assert contents(root) == contents(tmp_path / "expected")
    hashes = json.loads((root / published.HASHES).read_text())
    assert hashes.keys() == PARTS.keys()
    assert {path.name for path in root.iterdir() if path.name[0] != "."} == {*PARTS, published.HASHES}
    shutil.rmtree(root / "test_labels")  # is downloaded again, and is the same
    published.find_published(root)
    shutil.rmtree(root / "test_labels")
    (tmp_path / "expected" / "test_labels" / "0.txt").write_text("0\n")
    tarred(tmp_path / "expected" / "test_labels", drive / PARTS["test_labels"][1])
    with pytest.raises(DatasetCorruptError, match=hashes["test_labels"]):
        published.find_published(root)
    assert published.missing(root) == ["test_labels"]


def test_what_cannot_be_downloaded_is_told_with_the_steps_by_hand(drive, root):
    (drive / PARTS["test_images"][1]).write_text("<!DOCTYPE html>Too many users have viewed this file recently")
    with pytest.raises(
        DatasetNotFoundError, match=r"(?s)no zip or tar archive as test_images.*By hand.*synthetic"
    ) as info:
        Fruit2D("train")
    assert published.missing(root) == ["test_images", "test_labels"]
    for part in PARTS:
        assert (f"drive.google.com/file/d/{PARTS[part][1]}/view" in str(info.value)) == part.startswith("test")
    zipped(root.parents[1] / "expected" / "test_images", drive / PARTS["test_images"][1])
    (drive / PARTS["test_labels"][1]).unlink()  # as without a network
    with pytest.raises(DatasetNotFoundError, match=r"rest cannot be downloaded \(cannot download .*By hand"):
        Fruit2D("train")
    assert published.missing(root) == ["test_labels"]
    shutil.copytree(root.parents[1] / "expected" / "test_labels", root / "test_labels")  # by hand
    assert len(Fruit2D("test")) == 2


def hostile(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "link":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            link = tarfile.TarInfo("labels/0.txt")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in {"escape": ["../0.txt"], "twins": ["a/0.txt", "b/0.txt"], "nothing": ["a.md"]}[kind]:
                archive.writestr(name, "0\n")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["link", "escape", "twins", "nothing"])
def test_archives_that_are_not_what_they_should_be_are_refused(drive, root, kind):
    (drive / PARTS["train_labels"][1]).write_bytes(hostile(kind))
    with pytest.raises(DatasetCorruptError, match=r"[Dd]elete it"):
        Fruit2D("train")
    assert set(published.missing(root)) == set(PARTS) - {"train_images"}
    assert "train_labels" not in json.loads((root / published.HASHES).read_text())
    everything = root.parents[1]
    assert {path.relative_to(everything).parts[0] for path in everything.rglob("*0.txt")} == {"expected"}
