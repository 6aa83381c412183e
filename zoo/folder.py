"""`python -m zoo predict --images FOLDER`: what a model sees in a folder of pictures, as files for use elsewhere.

Writes to the folder OUT

- `predictions.json` in COCO's format: images, annotations (box, score, category, and a run-length encoded mask where
  the model segments), categories. `pycocotools` reads it as it is; its annotations are results for `COCO.loadRes`;
- `vectors.npz`: appearance vectors `what` (N, A) beside the ids of their annotations and images;
- `pictures/`: each image with what was found in it.
"""

import argparse
import io
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

import zoo
from datamodules.errors import ImageError
from datamodules.images import Fit, image_files, read_image, unfit_mask
from zoo import weights
from zoo.arguments import VerbParser
from zoo.files import write_json, write_whole
from zoo.overlay import draw_objects
from zoo.prediction import Prediction, pick_device, predict_batches, target_size
from zoo.scene import FoundObject

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel


@dataclass
class FolderPrediction:
    """What was found in a folder.

    Attributes:
        content: Of `predictions.json`.
        vectors: (A,) each, one an annotation.
        skipped: Files that could not be read, and why.
    """

    content: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"images": [], "annotations": [], "categories": []}
    )
    vectors: list[list[float]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def predict_folder(
    model: "ObjectModel",
    images: str | Path,
    out: str | Path,
    *,
    threshold: float = 0.5,
    batch_size: int = 32,
    image_size: int | list[int] | None = None,
    fit: Fit = "stretch",
    pictures: bool = True,
    about: dict[str, Any] | None = None,
) -> FolderPrediction:
    """See the objects in all images of a folder, and write what was found.

    Args:
        model: With its weights, on the device where it is to work.
        images: The folder; images at any depth count.
        out: Folder to write to, made if need be; files of an earlier prediction are replaced.
        threshold: Slots with at least this presence are objects.
        batch_size: Images that are looked at at once.
        image_size: See `ObjectModel.predict`. Where it is null and the model takes any size, images may differ in size.
        fit: See `ObjectModel.predict`.
        pictures: Whether to draw.
        about: Goes into the `info` of `predictions.json`.

    Returns:
        What was written. Files that cannot be read are skipped and named in it.

    Raises:
        FileNotFoundError: The folder has no images.
        ImageError: None of them can be read.
        ValueError: The model does not take images of that size, or an argument is out of range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: must be in [0, 1]")
    root, target = Path(images), Path(out)
    files = image_files(root)
    size = target_size(model, image_size)
    result, waiting = FolderPrediction(), deque[tuple[Path, Tensor]]()
    with tqdm(total=len(files), unit="image") as bar:

        def readable() -> Iterator[Tensor]:
            for path in files:
                bar.update()
                try:
                    image = read_image(path)
                except ImageError as error:
                    result.skipped[str(path)] = str(error)
                    continue
                waiting.append((path, image))
                yield image

        for scene in _naming_the_file(predict_batches(model, readable(), batch_size, size, fit), waiting):
            masks = None if scene.mask is None else scene.mask.numpy()
            for b, objects in enumerate(scene.objects(threshold)):
                path, image = waiting.popleft()
                mask = None if masks is None else unfit_mask(masks[b], scene.placements[b])
                name = path.relative_to(root)
                _add(result, name.as_posix(), image, objects, mask)
                if pictures:
                    _save_picture(draw_objects(image, objects, mask), target / "pictures" / f"{name}.png")
            categories = 1 if scene.category is None else scene.category.shape[-1]
    if not result.content["images"]:
        raise ImageError(
            f"none of the {len(files)} images in {root} can be read; {next(iter(result.skipped.values()))}"
        )
    result.content["categories"] = [
        {"id": g, "name": "object" if scene.category is None else f"category {g}"} for g in range(categories)
    ]
    info = {"description": f"objects found by {type(model).__name__}", "version": zoo.__version__, **(about or {})}
    info |= {"threshold": threshold, "image_size": size, "fit": fit, "skipped": sorted(result.skipped)}
    _write(target, {"info": info, **result.content}, result.vectors, scene.what.shape[-1])
    return result


def _naming_the_file(scenes: Iterator[Prediction], waiting: deque[tuple[Path, Tensor]]) -> Iterator[Prediction]:
    """Say at which file a model stopped."""
    try:
        yield from scenes
    except ValueError as error:
        raise ValueError(f"{waiting[0][0]}: {error}; --image_size resizes images" if waiting else str(error)) from error


def _add(
    result: FolderPrediction, name: str, image: Tensor, objects: list[FoundObject], mask: np.ndarray | None
) -> None:
    """One image and its annotations."""
    number, (height, width) = len(result.content["images"]) + 1, image.shape[-2:]
    result.content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
    for found in objects:
        x1, y1, x2, y2 = found["box"]
        annotation: dict[str, Any] = {
            "id": len(result.content["annotations"]) + 1,
            "image_id": number,
            "category_id": found["category"] or 0,
            "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
            "area": round((x2 - x1) * (y2 - y1), 3),
            "score": round(found["score"], 6),
            "iscrowd": 0,
            "slot": found["slot"],
        }
        if mask is not None:
            own = np.asfortranarray(mask == found["slot"] + 1, np.uint8)
            code = coco_mask.encode(own)
            annotation["segmentation"] = {"size": code["size"], "counts": code["counts"].decode("ascii")}
            annotation["area"] = int(own.sum())
        result.content["annotations"].append(annotation)
        result.vectors.append(found["what"])


def _write(target: Path, content: dict[str, Any], vectors: list[list[float]], dims: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    annotations = content["annotations"]
    arrays: dict[str, Any] = {
        "what": np.array(vectors, np.float32).reshape(-1, dims),
        "annotation_id": np.array([a["id"] for a in annotations], np.int64),
        "image_id": np.array([a["image_id"] for a in annotations], np.int64),
        "category": np.array([a["category_id"] for a in annotations], np.int64),
        "score": np.array([a["score"] for a in annotations], np.float32),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(target / "vectors.npz", buffer.getvalue())
    write_json(target / "predictions.json", content, indent=None)  # last: all else is there then


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
    parser.add_argument("--images", required=True, type=Path, help="folder of images, at any depth")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="folder to write to (predictions)")
    parser.add_argument("--threshold", type=float, default=0.5, help="presence from which a slot is an object (0.5)")
    parser.add_argument("--batch_size", type=int, default=32, help="images that are looked at at once (32)")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs="+",
        help="side in pixels, or height and width, that images are resized to (what the model reads if that is one "
        "size; else they stay as they are)",
    )
    parser.add_argument("--fit", choices=("stretch", "pad"), default="stretch", help="how they are resized (stretch)")
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True, help="draw what was found")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    try:
        model = weights.load(options.ckpt_path).to(pick_device(options.device))
        found = predict_folder(
            model,
            options.images,
            options.out,
            threshold=options.threshold,
            batch_size=options.batch_size,
            image_size=options.image_size
            and (options.image_size * 2 if len(options.image_size) == 1 else options.image_size),
            fit=options.fit,
            pictures=options.pictures,
            about={"checkpoint": options.ckpt_path},
        )
    except (ValueError, OSError) as error:
        sys.exit(f"zoo: {error}")
    objects, count = len(found.content["annotations"]), len(found.content["images"])
    print(f"{objects} objects in {count} images: {options.out / 'predictions.json'}")
    if found.skipped:
        print(f"{len(found.skipped)} files skipped:", *found.skipped.values(), sep="\n  ")
