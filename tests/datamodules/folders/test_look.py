"""What a folder's images are like, told from their files' headers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import DatasetNotFoundError, ImageFolderDataModule
from datamodules.folders import look as module
from datamodules.folders.look import has_colour, look


def write(folder: Path, *pictures: Image.Image, suffix: str = "png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:02}.{suffix}" for i in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    return files


@pytest.mark.parametrize(
    ("mode", "colour"),
    [("1", False), ("L", False), ("LA", False), ("I;16", False), ("P", True), ("RGB", True), ("RGBA", True)],
)
def test_colour_is_what_the_files_say(tmp_path: Path, mode: str, colour: bool) -> None:
    picture = Image.fromarray(np.full((8, 12), 300, np.uint16)) if mode == "I;16" else Image.new(mode, (12, 8))
    files = write(tmp_path / "mine", *[picture] * 3)
    assert has_colour(files) == colour
    data = ImageFolderDataModule(folder=str(tmp_path / "mine"), image_size=8)
    assert data.image_shape == (3 if colour else 1, 8, 8)
    assert data.looks == f"3 images of 12x8, {'colour' if colour else 'grey'}"
    data.setup("fit")
    assert data.datasets["train"][0]["image"].shape == data.image_shape


def test_one_in_colour_is_enough_and_what_is_given_holds(tmp_path: Path) -> None:
    write(tmp_path / "mine", *[Image.new("L", (40, 30))] * 9, Image.new("RGB", (400, 30)))
    data = ImageFolderDataModule(folder=str(tmp_path / "mine"))
    assert data.looks == "10 images of 40x30 to 400x30, colour"
    assert data.image_shape == (3, 128, 128)
    assert data.name == "mine-128"
    given = ImageFolderDataModule(folder=str(tmp_path / "mine"), channels=1, image_size=[20, 30])
    assert given.image_shape == (1, 20, 30)
    assert given.name == "mine-20x30-c1"


def test_photographs_are_seen_upright_and_what_is_none_is_passed_over(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=turned)
    (tmp_path / "b.jpg").write_text("no image")
    seen = look([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    assert seen is not None
    assert (seen.smallest, seen.count) == ((48, 64), 2)
    assert look([tmp_path / "b.jpg"]) is None


def test_of_very_many_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    files = write(tmp_path, *[Image.new("L", (8 + i, 8)) for i in range(3)])
    assert str(look(files)) == "3 images of 8x8 to 9x8 (the first 2), grey"


def test_without_a_folder_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="there is no folder"):
        ImageFolderDataModule(folder=str(tmp_path / "none")).image_shape  # noqa: B018


def test_objects_are_known_where_there_are_annotations(tmp_path: Path) -> None:
    known = [ImageFolderDataModule(folder=str(tmp_path), **options).has_objects for options in WITH]
    assert known == [False, True, True]


WITH: list[dict[str, str]] = [{}, {"annotations": "a.json"}, {"masks": "masks"}]
