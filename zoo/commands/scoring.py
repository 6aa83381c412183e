"""Predictions against one's own annotations in COCO's format: average precision by the rules of COCO and of PASCAL VOC.

The two differ. COCO's takes the mean over IoUs of 0.5, 0.55, ..., 0.95, reads the precision envelope at 101 recalls,
lets a prediction take the best true box that is still free (IoU at least the threshold), counts 100 predictions an
image, and neither rewards nor punishes what is found in crowds. The zoo's, which `python -m zoo test` prints, are those
of `metrics.AveragePrecision`: a prediction takes its best true box, free or not (IoU above the threshold), of which
crowds are none. Where true boxes of an image do not overlap each other, none is a crowd, and no IoU is a threshold, the
two match alike, and COCO's program gives the zoo's figures at the zoo's IoUs and recalls.
"""

import contextlib
import copy
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from datamodules.folders.coco import Annotated, Entry, Report, read_coco
from datamodules.folders.coco_values import AnnotationError, Boxes, flag, identifier, outline_of, record
from datamodules.folders.named_files import match_files
from metrics.clustering import NO_LABEL, cluster_label_pairs, match_clusters
from zoo.evaluation import SceneMetrics

Found = dict[str, Any]  # an annotation in COCO's format
NAMES = {
    "coco_ap": "COCO AP: boxes, mean over IoU 0.50 to 0.95, by pycocotools",
    "coco_ap50": "COCO AP50: boxes, IoU 0.50, by pycocotools",
    "coco_ap_matched": "COCO AP, mean over categories, the model's matched with the annotations'",
    "coco_ap50_matched": "COCO AP50, likewise",
    "coco_mask_ap": "COCO AP of masks, by pycocotools",
    "coco_mask_ap50": "COCO AP50 of masks, by pycocotools",
    "ap50": "VOC AP: boxes, IoU 0.5, area under the precision envelope, as `zoo test` has it",
    "ap50_11pt": "the same at 11 recalls",
    "ap": "VOC AP, mean over IoU 0.1 to 0.9, as `zoo test` has it",
    "ap_11pt": "the same at 11 recalls",
}


@dataclass(frozen=True)
class Truth:
    """What annotations say of the images that are looked at.

    Attributes:
        file: Where they are from.
        images: Of each image file, its entry there: id, file_name, height, width.
        objects: Of each image file, its annotations, crowds among them.
        categories: All there are, as they stand there.
        said: What the reader says of what it read.
    """

    file: Path
    images: dict[Path, dict[str, Any]]
    objects: dict[Path, list[Found]]
    categories: list[dict[str, Any]]
    said: str = ""


@dataclass
class CategoryMatch:
    """Which of the annotations' categories each of a model's stands for.

    Attributes:
        ids: Of the annotations' categories, C.
        table: (G, C) how often what is rightly detected goes with either, null before anything was seen.
    """

    ids: Sequence[Any]
    table: torch.Tensor | None = field(default=None)

    def add(self, num_categories: int, found: Sequence[Found], true: Sequence[Found]) -> None:
        """Count the detections in an image by the rule of `metrics.clustering.matched_labels`."""
        if self.table is None:
            self.table = torch.zeros(num_categories, len(self.ids), dtype=torch.long)
        true = [own for own in true if not own.get("iscrowd")]
        clusters, labels = cluster_label_pairs(
            torch.tensor([[own["category_id"] for own in found]], dtype=torch.long),
            torch.tensor([[own["score"] for own in found]]),
            _boxes(found)[None],
            torch.tensor([[self.ids.index(own["category_id"]) for own in true]], dtype=torch.long),
            _boxes(true)[None],
            torch.ones(1, len(true), dtype=torch.bool),
        )
        self.table.index_put_((clusters, labels), torch.tensor(1), accumulate=True)

    def names(self) -> list[Any]:
        """Id of a category for each of the model's: one to one where most are right, the rest as most are."""
        if self.table is None:
            return []
        matched = match_clusters(self.table)
        return [self.ids[i] for i in matched.where(matched != NO_LABEL, self.table.argmax(1)).tolist()]


def read_truth(file: str | Path, root: Path, files: Sequence[Path], *, skip_bad: bool = False) -> Truth:
    """Read and check annotations, and find the images that they are about.

    Args:
        file: COCO's JSON; its path, or its name in `root`.
        root: Folder of the images, that names are relative to.
        files: Images that are looked at.
        skip_bad: Leave out what is wrong in the annotations, instead of stopping at the first fault.

    Raises:
        DatasetNotFoundError: It is not there.
        DatasetCorruptError: It is no such JSON, contradicts itself, or names none of these images.
    """
    path = next((own for own in (Path(file).expanduser(), root / file) if own.is_file()), Path(file))
    report = Report(skip_bad)
    read, named = read_coco([path], report)
    known = match_files(read, files, [root], report)
    content = json.loads(path.read_bytes())  # as it stands there: other programs know ids by how they are written
    entries = {own["file_name"].strip(): own for own in content["images"] if _has_name(own)}
    categories: dict[Any, dict[str, Any]] = {key: {"id": key, "name": name or str(key)} for key, name in named.items()}
    for own in content.get("categories") or []:
        with contextlib.suppress(AnnotationError):  # a fault that was left out
            categories[identifier(record(own), "id")] = own
    images, objects = {}, {}
    for seen, image in known.items():
        images[seen] = entries[image.name] | dict(zip(("height", "width"), image.size, strict=True))
        objects[seen] = [_true(own, image.size, categories[own.category]["id"]) for own in image.objects]
    for seen, crowd in _crowds(path, content["annotations"], images):
        if crowd.category in categories:
            own = _true(crowd, known[seen].size, categories[crowd.category]["id"])
            objects[seen].append(own | {"iscrowd": 1})
    kinds = [*categories.values()] or [{"id": 1, "name": "object"}]
    return Truth(path, images, objects, kinds, str(report))


def _has_name(own: Any) -> bool:
    return isinstance(own, dict) and isinstance(own.get("file_name"), str)


def _crowds(file: Path, annotations: Sequence[Any], images: Mapping[Path, Found]) -> Iterator[tuple[Path, Annotated]]:
    """The crowds, which the reader leaves out: COCO's rules excuse what is found in them."""
    by_id = {identifier(entry, "id"): path for path, entry in images.items()}
    for i, own in enumerate(annotations):
        with contextlib.suppress(AnnotationError):  # a fault that was left out
            if flag(record(own), "iscrowd") and (path := by_id.get(identifier(own, "image_id"))) is not None:
                size = images[path]["height"], images[path]["width"]
                box, _ = Boxes().read(own, size)
                where = Entry.of(file, "annotation", i, own)
                yield path, Annotated(where, box, identifier(own, "category_id"), outline_of(own, size, box))


def _true(own: Annotated, size: tuple[int, int], category: Any) -> Found:
    """An annotation as pycocotools reads it."""
    x1, y1, x2, y2 = own.box
    found: Found = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": category, "iscrowd": 0}
    if isinstance(own.outline, np.ndarray):
        found["segmentation"] = {"size": [*size], "counts": own.outline.tolist()}
    elif own.outline is not None:
        found["segmentation"] = own.outline
    return found


def _boxes(annotations: Sequence[Found]) -> torch.Tensor:
    """(N, 4) as x1, y1, x2, y2."""
    corner, size = torch.tensor([own["bbox"] for own in annotations], dtype=torch.float64).view(-1, 4).split(2, 1)
    return torch.cat([corner, corner + size], 1).float()


def score(truth: Truth, found: Sequence[Found], *, matched: bool = False) -> dict[str, float]:
    """Average precisions of predictions, by the names in `NAMES`; NaN where there is no true object.

    Args:
        truth: All its images count, whether anything was found in them or not.
        found: Predictions with image_id, category_id, bbox, score, and perhaps segmentation: masks are scored where
            all have one, and all true objects.
        matched: Whether their categories are the annotations', and so to be scored; else objects are objects.
    """
    number = {entry["id"]: i for i, entry in enumerate(truth.images.values(), 1)}
    found = [{**own, "image_id": number[own["image_id"]]} for own in found]
    true = [
        {**own, "image_id": number[truth.images[path]["id"]]}
        for path, objects in truth.objects.items()
        for own in objects
    ]
    # numbered anew: to pycocotools, an object of id 0 is never found
    true = [
        {**own, "id": i, "iscrowd": int(bool(own.get("iscrowd"))), "area": own.get("area") or _area(own)}
        for i, own in enumerate(true, 1)
    ]
    images = [{**entry, "id": number[entry["id"]]} for entry in truth.images.values()]
    dataset = {"images": images, "annotations": true, "categories": truth.categories}
    values = dict(zip(("coco_ap", "coco_ap50"), _coco(dataset, found, "bbox", by_category=False), strict=True))
    if matched:
        pair = _coco(dataset, found, "bbox", by_category=True)
        values |= dict(zip(("coco_ap_matched", "coco_ap50_matched"), pair, strict=True))
    if true and found and all("segmentation" in own for own in (*true, *found)):
        pair = _coco(dataset, found, "segm", by_category=False)
        values |= dict(zip(("coco_mask_ap", "coco_mask_ap50"), pair, strict=True))
    return values | _voc(len(images), found, [own for own in true if not own["iscrowd"]])


def _area(own: Found) -> float:
    return float(own["bbox"][2] * own["bbox"][3])


def _coco(dataset: dict[str, Any], found: Sequence[Found], kind: str, *, by_category: bool) -> tuple[float, float]:
    """(AP, AP50) of pycocotools."""
    if not any(not own["iscrowd"] for own in dataset["annotations"]):
        return float("nan"), float("nan")
    if not found:  # of which pycocotools knows nothing
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset)  # which evaluation adds to
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), kind)
        evaluation.params.useCats = int(by_category)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _voc(num_images: int, found: Sequence[Found], true: Sequence[Found]) -> dict[str, float]:
    """The zoo's, class-agnostic."""
    pairs: list[tuple[list[Found], list[Found]]] = [([], []) for _ in range(num_images)]
    for part, annotations in enumerate((found, true)):
        for own in annotations:
            pairs[own["image_id"] - 1][part].append(own)
    detection = SceneMetrics().detection.voc
    for seen, there in pairs:
        scores = torch.tensor([[own["score"] for own in seen]])
        valid = torch.ones(1, len(there), dtype=torch.bool)
        detection.update(_boxes(seen)[None], scores.view(1, len(seen)), _boxes(there)[None], valid)
    values = {name: float(value) for name, value in detection.compute().items()}
    return {name: values[name] for name in NAMES if name in values}


def table(scores: Mapping[str, float]) -> str:
    """Scores as lines, each with what it is; a dash where there is no true object."""
    rows = [(name, scores[name], what) for name, what in NAMES.items() if name in scores]
    return "\n".join(f"  {name:18}{'-' if math.isnan(value) else f'{value:.4f}':8}{what}" for name, value, what in rows)
