"""A folder of pictures in, COCO's format, vectors and pictures out."""

import contextlib
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import zoo
from datamodules import ImageError
from zoo import __main__ as command_line
from zoo.commands import predict as folder
from zoo.models import AIR, ObjectModel
from zoo.pictures.draw import CATEGORY_COLORS, PREDICTED_COLOR
from zoo.pictures.overlay import draw_objects
from zoo.prediction import photo_size
from zoo.scene import Scene


class Thresholding(ObjectModel):
    """Sees what is bright as an object of category 2, and the left column as one that is hardly there."""

    def __init__(self, channels: int = 1, image_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()

    def forward(self, image: torch.Tensor) -> Scene:
        B, _, H, _ = image.shape
        mask = (image[:, 0] > 0.5).long() * 2  # slot 1
        boxes = torch.tensor([[0.0, 0, 1, H]] * 2).repeat(B, 1, 1)
        for own, inside in zip(boxes, mask, strict=True):
            rows, columns = inside.nonzero(as_tuple=True)
            own[1] = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        return Scene(
            reconstruction=image,
            boxes=boxes,
            presence=torch.tensor([0.25, 0.75]).expand(B, 2),
            what=boxes[..., :3],
            category=torch.eye(4)[[0, 2]].expand(B, 2, 4),
            mask=mask,
        )


def test_masks_boxes_and_vectors_are_those_of_the_pictures_as_they_were(tmp_path: Path) -> None:
    pixels = np.zeros((64, 96), np.uint8)
    pixels[16:40, 12:60] = 255
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "in" / "deep" / "a.png")
    Image.fromarray(pixels[::2, ::2]).save(tmp_path / "in" / "b.bmp")
    (tmp_path / "in" / "c.jpg").write_bytes(b"\xff\xd8 no image")
    found = folder.predict_folder(Thresholding(), tmp_path / "in", tmp_path / "out", about={"checkpoint": "mine"})
    assert list(found.skipped) == [str(tmp_path / "in" / "c.jpg")]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out" / "predictions.json"))
        results = coco.loadRes(coco.dataset["annotations"])
    assert coco.dataset["info"]["checkpoint"] == "mine"
    assert coco.dataset["info"]["threshold"] == 0.5
    assert coco.dataset["info"]["skipped"] == [str(tmp_path / "in" / "c.jpg")]
    assert [image["file_name"] for image in coco.imgs.values()] == ["b.bmp", "deep/a.png"]
    assert [category["id"] for category in coco.cats.values()] == [0, 1, 2, 3]
    for image, shrink in ((1, 2), (2, 1)):
        (own,) = results.loadAnns(results.getAnnIds(imgIds=image))
        true = pixels[::shrink, ::shrink] > 0
        assert (results.annToMask(own) == true).all()
        assert own["bbox"] == [v / shrink for v in (12, 16, 48, 24)]
        assert own["area"] == true.sum()
        assert (own["category_id"], own["score"]) == (2, 0.75)
    vectors = np.load(tmp_path / "out" / "vectors.npz")
    assert vectors["what"].tolist() == [[2, 4, 10]] * 2  # the box in the model's own 16 px
    assert vectors["image_id"].tolist() == [1, 2]
    assert vectors["annotation_id"].tolist() == [own["id"] for own in coco.dataset["annotations"]]
    pictures = sorted((tmp_path / "out" / "pictures").rglob("*.png"))
    assert [path.relative_to(tmp_path / "out" / "pictures").as_posix() for path in pictures] == [
        "b.bmp.png",
        "deep/a.png.png",
    ]
    assert not list((tmp_path / "out").rglob(".*"))  # temporary names are gone


def test_a_checkpoint_predicts_a_folder_from_the_command_line(tmp_path: Path, monkeypatch, capsys) -> None:
    generator = torch.Generator().manual_seed(0)
    images = zoo.load("spair-multimnist-recipe").generate(3, (48, 60), generator, count=3).reconstruction
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images):
        Image.fromarray((image[0] * 255).byte().numpy()).save(tmp_path / "in" / f"{i}.png")
    Image.new("RGB", (96, 72)).save(tmp_path / "in" / "3.png")  # of another size: a batch of its own
    arguments = [
        "--ckpt_path=spair-multimnist-recipe",
        "--images",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
    ]
    arguments += ["--device=cpu", "--batch_size=2", "--no-pictures", "--image_size=original"]
    monkeypatch.setattr(sys, "argv", ["zoo", "predict", *arguments])
    command_line.main()
    assert "in 4 images" in capsys.readouterr().out
    assert not (tmp_path / "out" / "pictures").exists()
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    files = [str(tmp_path / "in" / f"{i}.png") for i in range(3)]
    expected = [
        found
        for objects in zoo.load("spair-multimnist-recipe").predict(files).objects(vectors=True)
        for found in objects
    ]
    seen = [own for own in content["annotations"] if own["image_id"] < 4]
    assert len(seen) == len(expected) > 3
    for own, found in zip(seen, expected, strict=True):
        x1, y1, x2, y2 = found["box"]
        assert own["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01)
        assert own["score"] == pytest.approx(found["score"], abs=1e-4)
        assert own["segmentation"]["size"] == [48, 60]  # masks from the renderer
    assert content["categories"] == [{"id": 0, "name": "object"}]
    with np.load(tmp_path / "out" / "vectors.npz") as vectors:
        torch.testing.assert_close(
            torch.from_numpy(vectors["what"][: len(expected)]),
            torch.tensor([found["what"] for found in expected]),
            atol=1e-3,
            rtol=1e-3,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "nowhere"], "there is no folder or file nowhere in /"),
        (["--images", "no/where/at/all"], "there is no folder or file no/where/at/all; there is /"),
        (["--images", "texts"], "no images in texts"),
        (["--images", "damaged"], "none of the 2 images in damaged can be seen; damaged/a.png cannot be read"),
        (["--images", "damaged/a.png"], "zoo: damaged/a.png cannot be read as an image"),
        (
            ["--images", "small", "--image_size", "original"],
            r"small/a.png: images of \(8, 8\) px are smaller than a cell.*--image_size resizes",
        ),
        (["--images", "small", "--image_size", "original", "48"], "image_size=.*original, a side, or height and width"),
        (["--images", "small", "--out", "texts/a.txt"], "texts/a.txt is a file: what is found goes into a folder"),
        (["--images", "small", "--out", "small/found"], "small/found/pictures would be among the images of small"),
        (["--images", "small", "--out", "small"], "small/pictures would be among the images of small"),
        (["--images", ".", "--out", "predictions"], r"predictions/pictures would be among the images of \."),
        (["--images", "link", "--out", "small/found"], "would be among the images of link"),
        (["--images", "small", "--match_categories"], "match_categories is for annotations"),
        (["--images", "small", "--threshold", "2"], "threshold=2.0: must be in"),
        (["--images", "small", "--image_size", "1", "2", "3"], "image_size=.*must be a whole number or"),
        (["--images", "small", "--device", "abacus"], "no device 'abacus'"),
        (
            ["--images", "small", "--ckpt_path", "spair"],
            "no checkpoint 'spair': did you mean spair-coins-recipe or spair-multimnist-paper or",
        ),
    ],
)
def test_mistakes_are_explained_in_a_line_and_leave_nothing(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("texts", "damaged", "small"):
        Path(name).mkdir()
    Path("texts/a.txt").touch()
    for name in "ab":
        Path(f"damaged/{name}.png").touch()
    Image.new("L", (8, 8)).save("small/a.png")
    Path("link").symlink_to("small")
    with pytest.raises(SystemExit, match=message):
        folder.main(["--ckpt_path=spair-multimnist-recipe", *options])
    assert not Path("predictions").exists()


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A folder of five images, each with a bright square."""
    (tmp_path / "in").mkdir()
    for i in range(5):
        pixels = np.zeros((16, 16), np.uint8)
        pixels[2 + i : 6 + i, 4:9] = 255
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png")
    return tmp_path / "in"


def test_a_second_run_sees_what_the_first_saw(five: Path) -> None:
    """Also with what is written inside the folder, where that is no image."""
    for _ in range(2):
        folder.predict_folder(Thresholding(), five, five / "out", pictures=False)
        found = folder.predict_folder(Thresholding(), five, five.parent / "out")
        assert [image["file_name"] for image in found.content["images"]] == [f"{i}.png" for i in range(5)]
    with pytest.raises(ValueError, match="would be among the images"):  # pictures of pictures
        folder.predict_folder(Thresholding(), five.parent / "out" / "pictures", five.parent / "out")
    only = folder.predict_folder(Thresholding(), five / "3.png", five / "out")  # one file: its neighbours are not seen
    assert [image["file_name"] for image in only.content["images"]] == ["3.png"]
    assert (five / "out" / "pictures" / "3.png.png").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("?"), OSError("disk full")])
def test_what_was_done_is_kept_whatever_happens(five: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    out, draw, calls = five.parent / "out", draw_objects, []

    def dies_at(call: int) -> None:
        calls.clear()

        def drawn(*args: Any) -> Image.Image:
            calls.append(args)
            if len(calls) == call:
                raise error
            return draw(*args)

        monkeypatch.setattr(folder, "draw_objects", drawn)

    dies_at(1)
    with pytest.raises(type(error)):
        folder.predict_folder(Thresholding(), five, out)
    assert not (out / "predictions.json").exists()  # nothing was done
    dies_at(4)
    with pytest.raises(type(error)) as caught:
        folder.predict_folder(Thresholding(), five, out, batch_size=2)
    assert caught.value.__notes__ == [f"what was found in 3 of 5 images is in {out}/predictions.json"]
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["0.png", "1.png", "2.png"]
    assert [own["image_id"] for own in content["annotations"]] == [1, 2, 3]
    assert content["info"]["complete"] is False
    assert len(np.load(out / "vectors.npz")["what"]) == 3
    dies_at(1)
    before = (out / "predictions.json").read_bytes()
    with pytest.raises(type(error)):
        folder.predict_folder(Thresholding(), five, out)
    assert (out / "predictions.json").read_bytes() == before  # the earlier prediction stays
    dies_at(9)
    folder.predict_folder(Thresholding(), five, out)
    assert json.loads((out / "predictions.json").read_text())["info"]["complete"] is True
    assert not list(out.rglob(".*"))


def test_a_run_that_is_killed_has_written_what_it_did(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be done at a kill: what there is then was written before."""
    monkeypatch.setattr(folder, "_SAVE_EVERY", 0.0)
    out, there, add = five.parent / "out", [], folder._Run.add

    def added(self: Any, *args: Any) -> None:
        self.pause = 0.0
        add(self, *args)
        there.append(len(json.loads((out / "predictions.json").read_text())["images"]))

    monkeypatch.setattr(folder._Run, "add", added)
    folder.predict_folder(Thresholding(), five, out, batch_size=2)
    assert there == [2, 4, 5]


def test_an_interrupt_says_where_it_is(five: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    draw, calls = draw_objects, []

    def interrupted(*args: Any) -> Image.Image:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(folder, "draw_objects", interrupted)
    with pytest.raises(SystemExit) as caught:
        folder.main(["--ckpt_path=spair-multimnist-recipe", "--images", str(five), "--out", str(five.parent / "out")])
    assert caught.value.code == 130
    said = f"zoo: interrupted; what was found in 2 of 5 images is in {five.parent}/out/predictions.json"
    assert said in capsys.readouterr().err


class Picky(Thresholding):
    """Does not take images that begin as it does not like, nor many at once."""

    def forward(self, image: torch.Tensor) -> Scene:
        self.check_image(image)
        if len(image) > 2:
            raise torch.OutOfMemoryError("more than there is\nof it")
        if (image[:, 0, 0, 0] == 1).any():
            raise ValueError("images of this kind are not for me")
        if (image[:, 0, 0, 0] > 0.7).any():
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        scene = super().forward(image)
        bad = (image[:, 0, 0, 0] > 0.4)[:, None, None] & torch.tensor([False, True])[:, None]
        return replace(scene, boxes=scene.boxes.masked_fill(bad, torch.nan))


def test_images_that_the_model_does_not_take_cost_no_others(five: Path) -> None:
    for name, corner in (("1", 255), ("2", 200), ("3", 120)):
        pixels = np.array(Image.open(five / f"{name}.png"))
        pixels[0, 0] = corner
        Image.fromarray(pixels).save(five / f"{name}.png")
    out = five.parent / "out"
    found = folder.predict_folder(Picky(), five, out)
    assert [image["file_name"] for image in found.content["images"]] == ["0.png", "4.png"]
    assert [own["bbox"] for own in found.content["annotations"]] == [[4, 2, 5, 4], [4, 6, 5, 4]]
    assert found.skipped == {
        f"{five}/1.png": f"{five}/1.png: images of this kind are not for me",
        f"{five}/2.png": f"{five}/2.png: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        f"{five}/3.png": f"{five}/3.png: what Picky sees there is not finite",
    }
    assert "3 files skipped:\n" in folder.report(Picky(), found, out)
    for i in range(5):
        Image.new("RGB", (16, 16)).save(five / f"{i}.png")
    with pytest.raises(
        ImageError, match=r"none of the 5 images in .*in can be seen; .*0\.png: Picky expects float images"
    ):
        folder.predict_folder(Picky(channels=2), five, out)


def test_photos_are_seen_in_the_size_that_the_model_was_trained_at(tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    Image.effect_noise((300, 200), 120).save(tmp_path / "in" / "a.png")
    arguments = [
        "--ckpt_path=spair-multimnist-recipe",
        "--images",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
    ]
    seen = {}
    for size in ([], ["--image_size", "48"], ["--image_size", "60", "72"], ["--image_size", "original"]):
        folder.main([*arguments, *size])
        content = json.loads((tmp_path / "out" / "predictions.json").read_text())
        seen[tuple(size)] = content["info"]["image_size"], content["annotations"]
        said = capsys.readouterr().out
        assert f"{tmp_path}/out/predictions.json" in said  # where it is
    assert [size for size, _ in seen.values()] == [[48, 48], [48, 48], [60, 72], None]
    assert seen[()] == seen["--image_size", "48"]
    assert "SPAIRRecipe saw images as large as they are, in grey" in said
    boxes = [own["bbox"] for own in seen[()][1]]
    assert max(x + w for x, _, w, _ in boxes) > 200  # in the pixels of the photo
    assert photo_size(AIR(channels=1, image_size=20)) == (20, 20)  # what a model reads comes first
    model = Thresholding(image_size=None)  # type: ignore[arg-type]
    assert photo_size(model) is None
    for record, size in (
        ({"class": "MultiMNISTDataModule", "init_args": {"image_size": [40, 50]}}, (40, 50)),
        ({"class": "MultiMNISTDataModule", "init_args": {}}, (48, 48)),  # by default
        ({"class": "MultiMNISTDataModule", "init_args": {"of_another_version": 1}}, None),
        ({"class": "SomebodysDataModule", "init_args": {}}, None),
    ):
        model.data_record = record
        assert photo_size(model) == size


def test_more_than_half_of_the_slots_are_warned_of(five: Path) -> None:
    found = folder.predict_folder(Thresholding(), five, five.parent / "out", threshold=0.2)
    assert found.crowded == {f"{five}/{i}.png": (2, 2) for i in range(5)}
    said = folder.report(Thresholding(), found, five.parent / "out")
    assert "warning: more than half of the slots are present in 5 of 5 images, 2 of 2 in" in said
    found = folder.predict_folder(Thresholding(), five, five.parent / "out")  # one of two is half
    assert found.crowded == {}
    assert "warning" not in folder.report(Thresholding(), found, five.parent / "out")


def test_overlays_have_the_colours_of_categories_and_masks_and_a_size_to_look_at() -> None:
    found = {"box": [2.0, 2, 9, 9], "score": 1.0, "category": None, "what": [], "slot": 1}
    picture = draw_objects(torch.zeros(1, 24, 32), [found])  # type: ignore[list-item]
    assert picture.size == (192, 144)
    assert PREDICTED_COLOR in {color for _, color in picture.getcolors(99999)}
    mask = np.zeros((24, 32), np.uint8)
    mask[4:6, 4:6] = 2
    pixels = np.asarray(draw_objects(torch.zeros(3, 24, 32), [{**found, "category": 3}], mask))  # type: ignore[list-item]
    assert pixels[30, 30].tolist() == pytest.approx([c * 115 / 255 for c in CATEGORY_COLORS[3]], abs=2)  # tinted
    assert pixels[48, 48].tolist() == [0, 0, 0]
    assert draw_objects(torch.zeros(1, 1000, 2000), [found]).size == (1024, 512)  # type: ignore[list-item]
