"""Predictions against one's own annotations: in their ids, and scored as pycocotools and `zoo test` score them."""

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import zoo
from datamodules.errors import DatasetCorruptError
from zoo import __main__ as command_line
from zoo.commands import predict as folder
from zoo.commands import scoring
from zoo.models import ObjectModel
from zoo.scene import Scene

ZOO = ("ap50", "ap50_11pt", "ap", "ap_11pt")


class Squares(ObjectModel):
    """Sees each grey level as an object: as bright as it is present, in two categories by its width, exactly so."""

    def __init__(self, channels: int = 1, image_size: list[int] | None = None, masks: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters()

    def forward(self, image: torch.Tensor) -> Scene:
        self.check_image(image)
        B, _, H, W = image.shape
        boxes, presence, category = torch.zeros(B, 4, 4), torch.zeros(B, 4), torch.zeros(B, 4, 3)
        mask = torch.zeros(B, H, W, dtype=torch.int64)
        for b, own in enumerate(image[:, 0]):
            for k, level in enumerate(own.unique().flip(0)[:4].tolist()):
                if level > 0:
                    y, x = (own == level).nonzero(as_tuple=True)
                    boxes[b, k] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
                    presence[b, k], mask[b][own == level] = level, k + 1
                    category[b, k, int(boxes[b, k, 2] - boxes[b, k, 0] > 6)] = 1
        return Scene(
            reconstruction=image,
            boxes=boxes,
            presence=presence,
            what=boxes,
            category=category,
            mask=mask if self.hp.masks else None,
        )


Objects = list[tuple[float, float, float, float]]


def write(place: Path, images: dict[str, Objects], found: dict[str, Objects] | None = None) -> dict[str, Any]:
    """Images of 24 x 32 px with squares (x, y, w, h), falling in brightness; COCO's JSON of what is true of them.

    Args:
        place: Where the folder `in` is made.
        images: True objects; wide ones are of category 8, others of 3.
        found: What is drawn, and so found; null: the same.
    """
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "thin"}]}
    content["categories"].append({"id": 8, "name": "wide", "supercategory": "things"})
    for i, (name, objects) in enumerate(images.items()):
        pixels = np.zeros((24, 32), np.uint8)
        for k, (x, y, w, h) in enumerate((found or images)[name]):
            pixels[int(y) : int(y + h), int(x) : int(x + w)] = 250 - 50 * k - i
        (place / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / "in" / name)
        content["images"].append({"id": 70 + 5 * i, "file_name": name, "height": 24, "width": 32, "license": 1})
        for box in objects:
            own = {"id": len(content["annotations"]), "image_id": 70 + 5 * i, "bbox": [*box], "iscrowd": 0}
            content["annotations"].append(own | {"category_id": 8 if box[2] > 6 else 3, "area": box[2] * box[3]})
    (place / "truth.json").write_text(json.dumps(content))
    return content


TRUE: dict[str, Objects] = {
    "b.png": [(2, 3, 5, 6), (12, 4, 10, 8)],
    "deep/a.png": [(20, 2, 9, 9), (4, 10, 4, 8), (12, 12, 6, 6)],
    "c.png": [],
    "d.png": [(10, 10, 12, 5)],
}
FOUND: dict[str, Objects] = {
    "b.png": [(2, 4, 5, 5), (26, 14, 4, 8)],
    "deep/a.png": [(21, 3, 9, 9), (4, 10, 4, 8), (12, 12, 6, 9)],
    "c.png": [(3, 3, 3, 3)],
    "d.png": [(10, 10, 12, 5)],
}


def coco(
    truth: Path, results: Any, change: Callable[[Any], None] = lambda _: None, kind: str = "bbox"
) -> tuple[float, ...]:
    """What pycocotools says of results, as its users call it."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(str(truth))
        evaluation = COCOeval(annotations, annotations.loadRes(results), kind)
        change(evaluation.params)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]  # IoUs, recalls, categories
    return tuple(float(part[part > -1].mean()) for part in (precision, precision[:1]))


def numbered(place: Path, content: dict[str, Any]) -> Path:
    """With ids from 1: to pycocotools, an object of id 0 is never found."""
    for own in content["annotations"]:
        own["id"] += 1
    (place / "numbered.json").write_text(json.dumps(content))
    return place / "numbered.json"


def agnostic(params: Any) -> None:
    params.useCats = 0


def test_predictions_are_in_the_ids_of_the_annotations_and_scored_as_pycocotools_does(tmp_path: Path) -> None:
    content = write(tmp_path, TRUE, FOUND)
    out = tmp_path / "out"
    found = folder.predict_folder(Squares(), tmp_path / "in", out, annotations=tmp_path / "truth.json")
    written = json.loads((out / "predictions.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert {image["id"]: image["file_name"] for image in written["images"]} == names
    assert all(image["license"] == 1 for image in written["images"])  # as it stands there
    assert written["categories"] == content["categories"]
    for own in written["annotations"]:
        assert tuple(own["bbox"]) in FOUND[names[own["image_id"]]]
    assert len(written["annotations"]) == 7  # whatever its presence
    assert {own["category_id"] for own in written["annotations"]} == {3}
    assert "useCats" in written["info"]["categories"]
    truth, results = numbered(tmp_path, content), str(out / "results.json")
    assert written["annotations"] == json.loads(Path(results).read_text())
    scores = written["info"]["scores"]
    assert found.scores == scores
    assert [scores["coco_ap"], scores["coco_ap50"]] == pytest.approx(coco(truth, results, agnostic))
    assert 0.2 < scores["coco_ap"] < scores["coco_ap50"] < 0.9
    assert coco(truth, written["annotations"], agnostic) == coco(truth, results, agnostic)
    # what is not told apart is not in the categories
    assert coco(truth, results)[0] < scores["coco_ap"]
    vectors = np.load(out / "vectors.npz")
    assert vectors["image_id"].tolist() == [own["image_id"] for own in written["annotations"]]
    said = folder.report(Squares(), found, out)
    assert f"coco_ap50         {scores['coco_ap50']:.4f}  COCO AP50: boxes, IoU 0.50, by pycocotools" in said
    assert f"ap50              {scores['ap50']:.4f}  VOC AP" in said
    assert "truth.json: 4 of these images, 6 objects" in said
    # a threshold that is given holds for what is scored, too
    few = folder.predict_folder(Squares(), tmp_path / "in", out, annotations=tmp_path / "truth.json", threshold=0.9)
    assert len(few.content["annotations"]) == 4
    assert few.scores is not None
    assert [few.scores["coco_ap"], few.scores["coco_ap50"]] == pytest.approx(coco(truth, results, agnostic))
    folder.predict_folder(Squares(), tmp_path / "in", out)
    assert not Path(results).exists()  # no results of another prediction


def test_where_conventions_agree_pycocotools_has_the_figures_of_the_zoo(tmp_path: Path) -> None:
    content = write(tmp_path, TRUE, FOUND)
    arguments = (Squares(), tmp_path / "in", tmp_path / "out")
    scores = folder.predict_folder(*arguments, annotations=tmp_path / "truth.json").scores
    truth, results = numbered(tmp_path, content), str(tmp_path / "out" / "results.json")
    assert scores is not None

    def ious_and_recalls(params: Any) -> None:
        params.useCats = 0
        params.iouThrs = np.array([0.5, *np.delete(np.arange(1, 10) / 10, 4)])  # the first is AP50
        params.recThrs = np.arange(11) / 10

    ap, ap50 = coco(truth, results, ious_and_recalls)
    assert (scores["ap_11pt"], scores["ap50_11pt"]) == pytest.approx((ap, ap50), abs=1e-6)

    def every_recall(params: Any) -> None:
        ious_and_recalls(params)
        params.recThrs = np.linspace(0, 1, 20001)[1:]  # the area under the envelope

    ap, ap50 = coco(truth, results, every_recall)
    assert (scores["ap"], scores["ap50"]) == pytest.approx((ap, ap50), abs=2e-4)


def test_it_prints_what_zoo_test_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, uci_data) -> None:
    """A shipped checkpoint on digits, as files with annotations, by both verbs; and by pycocotools."""
    monkeypatch.chdir(tmp_path)
    batch = uci_data(num_test=16).make_dataset("test").batch(range(16))
    images, annotations = [], []
    for i in range(16):
        split = "train" if i == 0 else "val" if i == 1 else "test"
        Path("digits", split).mkdir(parents=True, exist_ok=True)
        pixels = (batch["image"][i, 0] * 255).round().byte().numpy()
        Image.fromarray(pixels).save(f"digits/{split}/{i}.png")
        images.append({"id": i + 1, "file_name": f"{split}/{i}.png", "height": 48, "width": 48})
        for x1, y1, x2, y2 in batch["boxes"][i][batch["valid"][i]].tolist():
            own = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append(own | {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "digit"}]}
    Path("digits/all.json").write_text(json.dumps(content))
    common = ["--ckpt_path", "spair-multimnist-recipe"]
    data = [f"--data.init_args.{option}" for option in ("folder=digits", "annotations=all.json", "image_size=48")]
    data += ["--data.init_args.channels=1", "--data.init_args.batch_size=1", "--data.init_args.data_dir=."]
    own = ["--data", "ImageFolderDataModule", *data, "--wandb=disabled", "--trainer.accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", ["zoo", "test", *common, *own, "--trainer.enable_progress_bar=false"])
    command_line.main()
    tested = dict(re.findall(r"│ (\w+) +│ +([\d.]+)", capsys.readouterr().out))
    assert tested.keys() >= {*ZOO}
    # images of other splits are annotated too, but not looked at
    seen = ["--images", "digits/test", "--annotations", "digits/all.json", "--out", "out", "--device=cpu"]
    monkeypatch.setattr(sys, "argv", ["zoo", "predict", *common, *seen, "--no-pictures"])
    command_line.main()
    printed = dict(re.findall(r"^  (\w+) +([\d.]+)  ", capsys.readouterr().out, re.MULTILINE))
    assert {name: printed[name] for name in ZOO} == {name: tested[name] for name in ZOO}
    assert 0.5 < float(printed["ap"]) < float(printed["ap50"]) <= 1
    own_images = [image for image in images if image["file_name"].startswith("test")]
    known = {image["id"] for image in own_images}
    of_test = {**content, "images": own_images, "annotations": [a for a in annotations if a["image_id"] in known]}
    Path("test.json").write_text(json.dumps(of_test))
    assert [float(printed[name]) for name in ("coco_ap", "coco_ap50")] == pytest.approx(
        coco(Path("test.json"), "out/results.json"), abs=6e-5
    )

    def recalls(params: Any) -> None:
        params.iouThrs, params.recThrs = np.array([0.5]), np.arange(11) / 10

    assert float(tested["ap50_11pt"]) == pytest.approx(
        coco(Path("test.json"), "out/results.json", recalls)[0], abs=6e-5
    )


def test_categories_are_matched_where_they_are_asked_for(tmp_path: Path) -> None:
    content = write(tmp_path, TRUE)  # all is found, and named 0 where it is thin, 1 where it is wide
    options: dict[str, Any] = {"annotations": tmp_path / "truth.json", "match_categories": True}
    found = folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", **options)
    assert {(a["model_category"], a["category_id"]) for a in found.content["annotations"]} == {(0, 3), (1, 8)}
    assert "categories" not in found.content["info"]
    assert found.scores is not None
    assert found.scores["coco_ap_matched"] == pytest.approx(1)
    truth = numbered(tmp_path, content)
    assert coco(truth, str(tmp_path / "out" / "results.json"))[0] == pytest.approx(1)
    # one of three categories that stand for two: it is named as most of it are
    match = scoring.CategoryMatch([3, 8], torch.tensor([[0, 9], [4, 1], [2, 3]]))
    assert match.names() == [8, 3, 8]
    with pytest.raises(ValueError, match="match_categories is for annotations"):
        folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", match_categories=True)
    with pytest.raises(ValueError, match="SPAIRRecipe tells no categories apart"):
        folder.predict_folder(zoo.load("spair-multimnist-recipe"), tmp_path / "in", tmp_path / "out", **options)


@pytest.mark.parametrize("masks", [True, False])
def test_masks_are_scored_where_both_have_them(masks: bool, tmp_path: Path) -> None:
    content = write(tmp_path, TRUE, FOUND)
    for own in content["annotations"]:
        x, y, w, h = own["bbox"]
        own["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    found = folder.predict_folder(
        Squares(masks=masks), tmp_path / "in", tmp_path / "out", annotations=tmp_path / "truth.json"
    )
    assert found.scores is not None
    assert ("coco_mask_ap" in found.scores) == masks
    if masks:
        truth, results = numbered(tmp_path, content), str(tmp_path / "out" / "results.json")
        values = coco(truth, results, agnostic, "segm")
        assert (found.scores["coco_mask_ap"], found.scores["coco_mask_ap50"]) == pytest.approx(values)


def test_ids_stay_what_they_are_also_words_and_numbers_in_quotation_marks(tmp_path: Path) -> None:
    content = write(tmp_path, TRUE)
    for kind in (lambda i: f"img-{i}", str):
        changed = json.loads(json.dumps(content))
        for own in (*changed["images"], *changed["categories"]):
            own["id"] = kind(own["id"])
        for own in changed["annotations"]:
            own["image_id"], own["category_id"] = kind(own["image_id"]), kind(own["category_id"])
        (tmp_path / "truth.json").write_text(json.dumps(changed))
        out = tmp_path / "out"
        found = folder.predict_folder(Squares(), tmp_path / "in", out, annotations=tmp_path / "truth.json")
        ids = {own["image_id"] for own in found.content["annotations"]}
        assert ids <= {kind(image["id"]) for image in content["images"]}
        assert {own["category_id"] for own in found.content["annotations"]} == {kind(3)}
        assert set(np.load(out / "vectors.npz")["image_id"].tolist()) == ids
        assert coco(numbered(tmp_path, changed), str(out / "results.json"), agnostic)[0] == pytest.approx(1)
        assert found.scores is not None
        assert found.scores["coco_ap"] == pytest.approx(1)


def test_there_are_figures_where_nothing_is_found_and_none_where_nothing_is_true(tmp_path: Path) -> None:
    nothing: dict[str, Objects] = {name: [] for name in TRUE}
    for true, found, expected in ((TRUE, nothing, 0.0), (nothing, FOUND, None), (nothing, nothing, None)):
        write(tmp_path, true, found)
        seen = folder.predict_folder(
            Squares(), tmp_path / "in", tmp_path / "out", annotations=tmp_path / "truth.json", match_categories=True
        )
        text = (tmp_path / "out" / "predictions.json").read_text()
        scores = json.loads(text, parse_constant=pytest.fail)["info"]["scores"]  # no NaN, which is no JSON
        assert set(scores.values()) == {expected}
        shown = re.findall(r"^  (\w+) +(\S+)  ", folder.report(Squares(), seen, tmp_path / "out"), re.MULTILINE)
        assert {value for _, value in shown} == {"0.0000" if expected == 0 else "-"}


def test_skipped_images_count_as_missed_and_unknown_ones_not(tmp_path: Path, capsys) -> None:
    content = write(tmp_path, TRUE)
    (tmp_path / "in" / "d.png").write_text("no image")
    Image.new("L", (32, 24), 200).save(tmp_path / "in" / "new.png")
    content["images"].append({"id": 4, "file_name": "gone.png", "height": 24, "width": 32})
    content["annotations"].append({"id": 99, "image_id": 4, "category_id": 3, "bbox": [1, 1, 3, 3]})
    (tmp_path / "truth.json").write_text(json.dumps(content))
    found = folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", annotations=tmp_path / "truth.json")
    assert found.scores is not None
    assert found.scores["ap50"] == pytest.approx(5 / 6)
    assert found.scores["coco_ap"] == pytest.approx(84 / 101)  # of 101 recalls, those up to 5 / 6
    assert found.left_out == [f"{tmp_path}/in/new.png"]
    said = folder.report(Squares(), found, tmp_path / "out")
    assert "average precision in 3 images and 1 that were skipped, whose objects count as missed" in said
    assert "1 files are not annotated:" in said


def test_annotations_of_stored_pixels_have_predictions_there(tmp_path: Path) -> None:
    """A photo that is turned when it is read: boxes and masks come back to the pixels that were annotated."""
    for how in (5, 6, 7, 8):
        content = write(tmp_path, {"a.png": [(2, 3, 5, 6), (12, 4, 10, 8)]})
        for own in content["annotations"]:
            x, y, w, h = own["bbox"]
            own["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        (tmp_path / "truth.json").write_text(json.dumps(content))
        exif = Image.Exif()
        exif[0x0112] = how
        picture = Image.open(tmp_path / "in" / "a.png")
        picture.save(tmp_path / "in" / "a.png", exif=exif)
        found = folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", annotations=tmp_path / "truth.json")
        assert found.scores is not None
        assert (found.scores["coco_ap"], found.scores["coco_mask_ap"]) == pytest.approx((1, 1))
    assert found.content["images"][0]["height"] == 24
    # of another size altogether
    content["images"][0]["height"] = 25
    (tmp_path / "truth.json").write_text(json.dumps(content))
    for own in content["annotations"]:
        del own["segmentation"]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.png has \(32, 24\) pixels, height first, .*truth\.json says \(25, 32\)"):
        folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", annotations=tmp_path / "truth.json")


def test_what_is_found_in_crowds_is_excused_by_coco(tmp_path: Path) -> None:
    content = write(tmp_path, TRUE, {**TRUE, "c.png": [(3, 3, 3, 3)]})
    for area in ([], [2, 2, 12, 12]):
        if area:
            crowd = {"id": 50, "image_id": 80, "category_id": 3, "bbox": area, "iscrowd": 1, "area": 144}
            content["annotations"].append(crowd)
        (tmp_path / "truth.json").write_text(json.dumps(content))
        found = folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", annotations=tmp_path / "truth.json")
        assert found.scores is not None
        assert (found.scores["coco_ap"] == pytest.approx(1)) == bool(area)
        assert found.scores["ap50"] < 1  # the zoo's knows no crowds
        values = coco(numbered(tmp_path, content), str(tmp_path / "out" / "results.json"), agnostic)
        assert found.scores["coco_ap"] == pytest.approx(values[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][1].update(bbox=[1, 2, -3, 4]), "annotation 1: bbox .* has no size"),
        (lambda c: c["annotations"][1].update(image_id=999), "annotation 1: image_id 999 is none of the images"),
        (
            lambda c: [own.update(file_name=f"x{i}.gif") for i, own in enumerate(c["images"])],
            "names none of the images",
        ),
    ],
)
def test_faults_in_annotations_are_explained_and_leave_nothing(
    change: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    content = write(tmp_path, TRUE)
    change(content)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    arguments = [
        "--ckpt_path=spair-multimnist-recipe",
        "--images",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
    ]
    arguments += ["--annotations", str(tmp_path / "truth.json")]
    with pytest.raises(SystemExit, match=rf"zoo: .*truth\.json:? .*{said}|zoo: .*truth\.json.*{said}"):
        folder.main(arguments)
    assert not (tmp_path / "out").exists()
    if "names none" not in said:
        folder.main([*arguments, "--skip_bad"])
        assert (tmp_path / "out" / "results.json").is_file()


def test_annotations_that_are_not_there_are_explained(tmp_path: Path) -> None:
    write(tmp_path, TRUE)
    with pytest.raises(FileNotFoundError, match=r"no annotations .*none\.json"):
        folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", annotations=tmp_path / "none.json")
    (tmp_path / "in" / "own.json").write_bytes((tmp_path / "truth.json").read_bytes())
    folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", annotations="own.json")  # beside the images
    (tmp_path / "in" / "own.json").write_text("[]")
    with pytest.raises(DatasetCorruptError, match=r"own\.json is a list, expected COCO"):
        folder.predict_folder(Squares(), tmp_path / "in", tmp_path / "out", annotations="own.json")
