"""`python -m zoo predict --images FOLDER`: what a model sees in a folder of pictures, as files for use elsewhere.

Writes to the folder OUT

- `predictions.json` in COCO's format: images, annotations (box, score, category, and a run-length encoded mask where
  the model segments), categories. `pycocotools` reads it as it is; its annotations are results for `COCO.loadRes`;
- `vectors.npz`: appearance vectors `what` (N, A) beside the ids of their annotations and images;
- `pictures/`: each image with what was found in it.

With `--annotations FILE`, COCO's JSON of the same images, ids and categories are those of FILE, average precisions are
printed (COCO's by pycocotools, and the zoo's), and `results.json` is a list that `COCO(FILE).loadRes` reads. It holds
every slot with a presence above 0, as average precision is made of all, unless `--threshold` is given. Objects are
scored whatever their category, unless `--match_categories` has the model's stand for those of FILE.

Images are resized to the size that the model was trained at. What cannot be read, or is not taken by the model, is
skipped and named. An interrupted run writes what it has done, with `"complete": false` in `info`.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

import zoo
from datamodules.errors import ImageError
from datamodules.storage.images import (
    Fit,
    open_image,
    orientation,
    place_image,
    read_image,
    turn_boxes,
    turn_mask,
    unfit_mask,
)
from zoo.commands.arguments import VerbParser
from zoo.commands.photos import (
    crowded,
    crowded_warning,
    given_size,
    keep_apart,
    nothing_seen,
    photo_files,
    size_argument,
)
from zoo.commands.scoring import CategoryMatch, Truth, read_truth, score, table
from zoo.files import write_json, write_whole
from zoo.pictures.overlay import draw_objects
from zoo.prediction import ImageSize, Prediction, photo_size, pick_device, predict_batches
from zoo.scene import FoundObject
from zoo.sharing import weights

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel

_LISTED = 20  # files that are named, of each kind
_SAVE_EVERY = 10.0  # seconds, and twenty times what saving takes
_BACK = {6: 8, 8: 6}  # orientations that undo others; the rest undo themselves
_ANY = sys.float_info.min  # presence of whatever is there at all


@dataclass
class FolderPrediction:
    """What was found in a folder.

    Attributes:
        content: Of `predictions.json`.
        vectors: (A,) each, one an annotation.
        skipped: Files that could not be read, or that the model does not take, and why.
        crowded: Files in which more than half of the slots are present, and how many of how many.
        objects: How many slots are present, in all images.
        left_out: Files that the annotations do not know.
        notes: What was read from the annotations.
        scores: By the names in `zoo.commands.scoring.NAMES`, where there are annotations.
    """

    content: dict[str, Any] = field(
        default_factory=lambda: {"info": {}, "images": [], "annotations": [], "categories": []}
    )
    vectors: list[list[float]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    crowded: dict[str, tuple[int, int]] = field(default_factory=dict)
    objects: int = 0
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: dict[str, float] | None = None


def predict_folder(
    model: "ObjectModel",
    images: str | Path,
    out: str | Path,
    *,
    annotations: str | Path | None = None,
    match_categories: bool = False,
    skip_bad: bool = False,
    threshold: float | None = None,
    batch_size: int = 32,
    image_size: ImageSize = None,
    fit: Fit = "stretch",
    pictures: bool = True,
    about: dict[str, Any] | None = None,
) -> FolderPrediction:
    """See the objects in all images of a folder, and write what was found.

    Args:
        model: With its weights, on the device where it is to work.
        images: The folder, of which images at any depth count; or a file.
        out: Folder to write to, made if need be; files of an earlier prediction are replaced.
        annotations: COCO's JSON of the same images; ids are its own then, and predictions are scored.
        match_categories: Whether the model's categories stand for those of the annotations: one to one, so that most
            of what is rightly detected is named rightly. Else objects are objects.
        skip_bad: Whether to leave out what is wrong in the annotations, instead of stopping at it.
        threshold: Slots with at least this presence are objects; null: 0.5, but predictions that are to be scored have
            all slots of any presence.
        batch_size: Images that are looked at at once.
        image_size: See `zoo.prediction.photo_size`. Where they stay as they are, images may differ in size.
        fit: See `ObjectModel.predict`.
        pictures: Whether to draw.
        about: Goes into the `info` of `predictions.json`.

    Returns:
        What was written. Files that cannot be read, or that the model does not take, are skipped and named in it. If
        this is interrupted, or stops midway for any reason, what was done so far is written.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ImageError: None of them can be read and seen.
        ValueError: An argument is out of range; pictures would be among the images; annotations are none.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: must be in [0, 1]")
    if match_categories and annotations is None:
        raise ValueError("match_categories is for annotations: say where they are")
    root, files = photo_files(images)
    if Path(out).exists() and not Path(out).is_dir():
        raise NotADirectoryError(f"{out} is a file: what is found goes into a folder, --out")
    if pictures:
        keep_apart(images, Path(out, "pictures"))
    truth = None if annotations is None else read_truth(annotations, root, files, skip_bad=skip_bad)
    size = photo_size(model, image_size)
    place_image((1, 1), size, fit)
    info = {"description": f"objects found by {type(model).__name__}", "version": zoo.__version__, **(about or {})}
    info |= {"image_size": size, "fit": fit}
    run = _Run(model, root, Path(out), truth, match_categories, threshold, pictures, info)
    try:
        with tqdm(total=len(files), unit="image") as bar:
            images_read = run.read(files, bar)
            for places, scene in predict_batches(model, images_read, batch_size, size, fit, run.refuse):
                run.add(places, scene)
    except BaseException as error:  # an interrupt as well: what was done is kept
        if run.result.content["images"]:
            run.save(complete=False)
            done = len(run.result.content["images"])
            error.add_note(f"what was found in {done} of {len(files)} images is in {run.target / 'predictions.json'}")
        raise
    if not run.result.content["images"]:
        raise ImageError(nothing_seen(run.result.skipped, images))
    run.save(complete=True)
    return run.result


class _Run:
    """What has been seen in a folder so far."""

    def __init__(
        self,
        model: "ObjectModel",
        root: Path,
        target: Path,
        truth: Truth | None,
        match_categories: bool,
        threshold: float | None,
        pictures: bool,
        info: dict[str, Any],
    ) -> None:
        self.model, self.root, self.target, self.truth, self.info = model, root, target, truth, info
        self.pictures = pictures
        self.shown = 0.5 if threshold is None else threshold
        self.kept = _ANY if threshold is None and truth is not None else self.shown
        info["threshold"] = 0.0 if self.kept == _ANY else self.kept
        self.match = CategoryMatch([own["id"] for own in truth.categories]) if truth and match_categories else None
        self.result = FolderPrediction()
        if truth is not None:
            count = sum(not own["iscrowd"] for objects in truth.objects.values() for own in objects)
            parts = [f"{truth.file}: {len(truth.images)} of these images, {count} objects", truth.said]
            self.result.notes.append(", ".join(filter(None, parts)))
            if self.match is None and len(truth.categories) > 1:
                info["categories"] = "not told apart: category_id is the first; score with useCats = 0"
        self.waiting: dict[int, tuple[Path, Tensor, int]] = {}  # read, and not yet seen
        self.categories = self.dims = 0
        self.saved, self.pause = float("-inf"), _SAVE_EVERY

    def read(self, files: list[Path], bar: Any) -> Iterator[Tensor]:
        """The images that can be read, and that annotations know where there are any."""
        place = 0
        for path in files:
            bar.update()
            if self.truth is not None and path not in self.truth.images:
                self.result.left_out.append(str(path))
                continue
            try:
                image = read_image(path)
                how = self._turn(path, image)
            except ImageError as error:
                self.result.skipped[str(path)] = str(error)
                continue
            self.waiting[place] = (path, image, how)
            place += 1
            yield image

    def _turn(self, path: Path, image: Tensor) -> int:
        """How boxes and masks are to be turned back to lie on what the annotations of an image were drawn upon.

        That are its pixels as they are stored, where the annotations have that size, and it was turned when it was
        read, as its metadata (EXIF) say. Else nothing is turned: 1.

        Raises:
            ImageError: They have another size than the image in both ways.
        """
        size = (image.shape[-2], image.shape[-1])
        if self.truth is None:
            return 1
        entry = self.truth.images[path]
        wanted = (entry["height"], entry["width"])
        if wanted == size:
            return 1
        with open_image(path) as picture:
            how = orientation(picture)
        if how > 4 and wanted == size[::-1]:
            return _BACK.get(how, how)
        raise ImageError(f"{path} has {size} pixels, height first, {self.truth.file} says {wanted}")

    def refuse(self, place: int, reason: str) -> None:
        """Skip an image that the model does not take."""
        path, _, _ = self.waiting.pop(place)
        hint = "" if self.info["image_size"] else "; --image_size resizes images"
        self.result.skipped[str(path)] = f"{path}: {reason}{hint}"

    def add(self, places: list[int], scene: Prediction) -> None:
        """Take in a batch; draw it, and save now and then."""
        masks = None if scene.mask is None else scene.mask.numpy()
        self.categories = 0 if scene.category is None else scene.category.shape[-1]
        self.dims = scene.what.shape[-1]
        if self.match is not None and not self.categories:
            raise ValueError(f"{type(self.model).__name__} tells no categories apart: leave out match_categories")
        present = crowded(scene, self.shown)
        for b, (place, objects) in enumerate(zip(places, scene.objects(self.kept, vectors=True), strict=True)):
            path, image, how = self.waiting.pop(place)
            mask = None if masks is None else unfit_mask(masks[b], scene.placements[b])
            name = path.relative_to(self.root).as_posix()
            shown = [found for found in objects if found["score"] >= self.shown]
            if self.pictures:  # first, as an image whose picture cannot be written is not done
                _save_picture(draw_objects(image, shown, mask), self.target / "pictures" / f"{name}.png")
            size = (image.shape[-2], image.shape[-1])
            if how != 1:
                objects = [{**own, "box": turn_boxes(torch.tensor(own["box"]), size, how).tolist()} for own in objects]
                mask = None if mask is None else turn_mask(mask, how)
                size = size[::-1]
            self._add(path, name, size, objects, mask)
            self.result.objects += len(shown)
            if (share := present[b]) is not None:
                self.result.crowded[str(path)] = share
        if time.monotonic() - self.saved > self.pause:
            self.save(complete=False)

    def _add(
        self, path: Path, name: str, size: tuple[int, int], objects: list[FoundObject], mask: np.ndarray | None
    ) -> None:
        content = self.result.content
        number = len(content["images"]) + 1
        entry = {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        entry |= {} if self.truth is None else self.truth.images[path]
        found = [
            _annotation(i, entry["id"], own, mask) for i, own in enumerate(objects, len(content["annotations"]) + 1)
        ]
        if self.match is not None and self.truth is not None:
            self.match.add(self.categories, found, self.truth.objects[path])
        self.result.vectors += [own["what"] for own in objects]
        content["annotations"] += found
        content["images"].append(entry)  # last: an image is done when it stands here, whenever an interrupt comes

    def save(self, *, complete: bool) -> None:
        """Write what there is; scores once all is there."""
        start = time.monotonic()
        result, truth = self.result, self.truth
        done = {entry["id"] for entry in result.content["images"]}
        annotations = [own for own in result.content["annotations"] if own["image_id"] in done]
        content = result.content | {
            "annotations": annotations if truth is None else self._in_their_categories(annotations, truth),
            "info": {**self.info, "complete": complete, "skipped": sorted(result.skipped)},
            "categories": [
                {"id": g, "name": f"category {g}" if self.categories else "object"} for g in range(self.categories or 1)
            ],
        }
        if truth is not None:
            content["categories"] = truth.categories
            if complete:
                result.scores = score(truth, content["annotations"], matched=self.match is not None)
                content["info"]["scores"] = result.scores
        self.target.mkdir(parents=True, exist_ok=True)
        write_whole(
            self.target / "vectors.npz", _arrays(content["annotations"], result.vectors[: len(annotations)], self.dims)
        )
        if truth is not None:
            write_json(self.target / "results.json", content["annotations"], indent=None)
        else:
            (self.target / "results.json").unlink(missing_ok=True)  # of an earlier prediction
        write_json(self.target / "predictions.json", content, indent=None)  # last: all else is there then
        if complete:
            result.content = content
        self.saved = time.monotonic()
        self.pause = max(_SAVE_EVERY, 20 * (self.saved - start))

    def _in_their_categories(self, annotations: list[dict[str, Any]], truth: Truth) -> list[dict[str, Any]]:
        """Annotations with the categories of the truth in place of the model's."""
        first = truth.categories[0]["id"]  # objects are objects
        ids = [first] * max(1, self.categories) if self.match is None else self.match.names()
        kept = {"model_category": None} if self.categories else {}
        return [
            {**own, "category_id": ids[own["category_id"]], **dict.fromkeys(kept, own["category_id"])}
            for own in annotations
        ]


def _annotation(number: int, image_id: Any, found: FoundObject, mask: np.ndarray | None) -> dict[str, Any]:
    x1, y1, x2, y2 = found["box"]
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": found["category"] or 0,
        "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
        "area": round((x2 - x1) * (y2 - y1), 3),
        "score": float(f"{found['score']:.9g}"),  # no fewer digits: ranks decide average precision
        "iscrowd": 0,
        "slot": found["slot"],
    }
    if mask is not None:
        own = np.asfortranarray(mask == found["slot"] + 1, np.uint8)
        code = coco_mask.encode(own)
        annotation["segmentation"] = {"size": code["size"], "counts": code["counts"].decode("ascii")}
        annotation["area"] = int(own.sum())
    return annotation


def _arrays(annotations: list[dict[str, Any]], vectors: list[list[float]], dims: int) -> bytes:
    """The content of `vectors.npz`."""
    arrays: dict[str, Any] = {
        "what": np.array(vectors, np.float32).reshape(-1, dims),
        "annotation_id": np.array([a["id"] for a in annotations], np.int64),
        "image_id": _ids([a["image_id"] for a in annotations]),
        "category": _ids([a["category_id"] for a in annotations]),
        "score": np.array([a["score"] for a in annotations], np.float32),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _ids(values: list[Any]) -> np.ndarray:
    """Ids of annotations are numbers, but some people's are words."""
    return np.array(values, np.int64 if all(isinstance(value, int) for value in values) else np.str_)


def _save_picture(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_whole(path, buffer.getvalue())


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(
        prog="python -m zoo predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt_path", required=True, help="a name, a run folder, a file, best, last or an id on the hub"
    )
    parser.add_argument("--images", required=True, type=Path, help="folder of images, at any depth, or one image")
    parser.add_argument("--annotations", type=Path, help="COCO's JSON of these images: use its ids, and score")
    parser.add_argument(
        "--match_categories",
        action="store_true",
        help="match the model's categories with those of the annotations (objects are objects)",
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="leave out what is wrong in the annotations (stop at it)"
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="folder to write to (predictions)")
    parser.add_argument(
        "--threshold",
        type=float,
        help="presence from which a slot is an object (0.5; what is scored has all slots)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images that are looked at at once (32)")
    parser.add_argument(
        "--image_size",
        type=size_argument,
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width, that images are resized to; original: they stay as they are (what the model "
        "was trained on)",
    )
    parser.add_argument("--fit", choices=("stretch", "pad"), default="stretch", help="how they are resized (stretch)")
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True, help="draw what was found")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    try:
        image_size = given_size(options.image_size)
        model = weights.load(options.ckpt_path).to(pick_device(options.device))
        found = predict_folder(
            model,
            options.images,
            options.out,
            annotations=options.annotations,
            match_categories=options.match_categories,
            skip_bad=options.skip_bad,
            threshold=options.threshold,
            batch_size=options.batch_size,
            image_size=image_size,
            fit=options.fit,
            pictures=options.pictures,
            about={"checkpoint": options.ckpt_path},
        )
    except KeyboardInterrupt as error:
        print("; ".join(["zoo: interrupted", *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(130)  # as a shell has it
    except (ValueError, OSError) as error:
        sys.exit("; ".join([f"zoo: {error}", *getattr(error, "__notes__", [])]))
    print(report(model, found, options.out))


def report(model: "ObjectModel", found: FolderPrediction, out: Path) -> str:
    """What was done, in lines: where it is, what the model saw, what is odd, and scores."""
    info, count = found.content["info"], len(found.content["images"])
    images = f"{count} image{'s' * (count != 1)}"
    size = "as large as they are" if info["image_size"] is None else "as {} x {} px".format(*info["image_size"])
    kind = {1: "grey", 3: "colour"}.get(model.hp.channels, f"{model.hp.channels} channels")
    lines = [
        f"{type(model).__name__} saw images {size}, in {kind} ({info['fit']})",
        f"{found.objects} objects in {images}: {out / 'predictions.json'}",
    ]
    if found.crowded:
        lines.append(crowded_warning(model, found.crowded, count))
    for title, names in (("files skipped", [*found.skipped.values()]), ("files are not annotated", found.left_out)):
        if names:
            lines += [f"{len(names)} {title}:", *(f"  {name}" for name in names[:_LISTED])]
            lines += [f"  and {len(names) - _LISTED} more, see {out / 'predictions.json'}"] * (len(names) > _LISTED)
    lines += found.notes
    if found.scores is not None:
        whatever = ", objects whatever their category" if len(found.content["categories"]) > 1 else ""
        lines += [f"average precision in {images}{_also(found)}{whatever}:", table(found.scores)]
    return "\n".join(lines)


def _also(found: FolderPrediction) -> str:
    """Images that count though nothing was seen in them."""
    return f" and {len(found.skipped)} that were skipped, whose objects count as missed" if found.skipped else ""
