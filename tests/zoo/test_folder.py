"""A folder of pictures in, COCO's format, vectors and pictures out."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import zoo
from zoo import __main__ as command_line
from zoo import folder
from zoo.callbacks.pictures import CATEGORY_COLORS, PREDICTED_COLOR
from zoo.models import ObjectModel
from zoo.overlay import draw_objects
from zoo.scene import Scene


class Thresholding(ObjectModel):
    """Sees what is bright as an object of category 2, and the left column as one that is hardly there."""

    def __init__(self, channels: int = 1, image_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()

    def forward(self, image: torch.Tensor) -> Scene:
        B, _, H, _ = image.shape
        mask = (image[:, 0] > 0.5).long() * 2  # slot 1
        rows, columns = mask[0].nonzero(as_tuple=True)
        ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes = torch.tensor([[0.0, 0, 1, H], [float(v) for v in ends]]).expand(B, 2, 4)
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
    images = zoo.load("spair-multimnist").generate(3, (48, 60), generator, count=3).reconstruction
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images):
        Image.fromarray((image[0] * 255).byte().numpy()).save(tmp_path / "in" / f"{i}.png")
    Image.new("RGB", (96, 72)).save(tmp_path / "in" / "3.png")  # of another size: a batch of its own
    arguments = ["--ckpt_path=spair-multimnist", "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    arguments += ["--device=cpu", "--batch_size=2", "--no-pictures"]
    monkeypatch.setattr(sys, "argv", ["zoo", "predict", *arguments])
    command_line.main()
    assert "in 4 images" in capsys.readouterr().out
    assert not (tmp_path / "out" / "pictures").exists()
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    files = [str(tmp_path / "in" / f"{i}.png") for i in range(3)]
    expected = [found for objects in zoo.load("spair-multimnist").predict(files).objects() for found in objects]
    seen = [own for own in content["annotations"] if own["image_id"] < 4]
    assert len(seen) == len(expected) > 3
    for own, found in zip(seen, expected, strict=True):
        x1, y1, x2, y2 = found["box"]
        assert own["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01)
        assert own["score"] == pytest.approx(found["score"], abs=1e-4)
        assert "segmentation" not in own  # SPAIR has boxes only
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
        (["--images", "nowhere"], "there is no folder nowhere"),
        (["--images", "texts"], "no images in texts"),
        (["--images", "damaged"], "none of the 1 images in damaged can be read; damaged/a.png cannot"),
        (["--images", "small"], r"small/a.png: images of \(8, 8\) px are smaller than a cell.*--image_size resizes"),
        (["--images", "small", "--threshold", "2"], "threshold=2.0: must be in"),
        (["--images", "small", "--image_size", "1", "2", "3"], "image_size=.*must be a whole number or"),
        (["--images", "small", "--device", "abacus"], "no device 'abacus'"),
        (["--images", "small", "--ckpt_path", "spair"], "no checkpoint 'spair': did you mean spair-multimnist"),
    ],
)
def test_mistakes_are_explained_in_a_line_and_leave_nothing(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("texts", "damaged", "small"):
        Path(name).mkdir()
    Path("texts/a.txt").touch()
    Path("damaged/a.png").touch()
    Image.new("L", (8, 8)).save("small/a.png")
    with pytest.raises(SystemExit, match=message):
        folder.main(["--ckpt_path=spair-multimnist", *options])
    assert not Path("predictions").exists()


def test_an_unfinished_prediction_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (16, 16), 255).save(tmp_path / "a.png")
    folder.predict_folder(Thresholding(), tmp_path, tmp_path / "out")
    before = (tmp_path / "out" / "predictions.json").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "draw_objects", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.predict_folder(Thresholding(), tmp_path, tmp_path / "out", threshold=0.1)
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


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
