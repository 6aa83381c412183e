"""One picture of what a model has learned: `python -m zoo show --ckpt_path NAME`.

In this order, as far as the model has it: test images with true boxes, reconstructions, predicted boxes and masks,
backgrounds; the objects that were found, by category; what appearance vectors stand for, along the directions in which
those of the found objects differ most; and scenes that the model imagines.
"""

import argparse
import io
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import Batch
from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from zoo import registry
from zoo.commands.arguments import VerbParser
from zoo.commands.photos import (
    crowded,
    crowded_warning,
    given_size,
    keep_apart,
    predict_photos,
    size_argument,
)
from zoo.files import write_whole
from zoo.pictures.draw import (
    draw_composed,
    draw_generated,
    draw_scenes,
    draw_styles,
    draw_varied,
    to_picture,
)
from zoo.pictures.sheet import GAP, MARGIN, arrange, sheet_of
from zoo.prediction import ImageSize, pick_device, predict
from zoo.scene import Scene
from zoo.sharing import weights

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel

_CELL = 52  # pixels of the picture of one object
_CATEGORIES = 16  # shown at most
_DIRECTIONS, _SPREAD = 4, 2.5  # in which appearance vectors are varied, by so many standard deviations to either side


def draw_sheet(
    model: "ObjectModel", batch: Batch, scene: Scene, *, num_images: int = 6, threshold: float = 0.5
) -> Image.Image:
    """Draw what a model sees in images, and what it has learned to draw.

    Args:
        model: With its weights.
        batch: B images, with what is known of them.
        scene: What the model sees in them.
        num_images: How many are shown whole, the first that have objects; single objects are those of all images.
        threshold: Slots with at least this presence are objects.

    Returns:
        An RGB picture.
    """
    present = scene.presence >= threshold
    occupied = batch.get("valid", present).any(1)
    chosen = (~occupied).int().argsort(stable=True)[:num_images]
    shown = cast(Batch, {key: value[chosen] for key, value in cast(dict[str, Tensor], batch).items()})
    first = _choose(scene, chosen)
    sheets = [draw_scenes(shown, first, threshold, about=type(model).__name__)]
    columns = max(1, (sheets[0].width - MARGIN) // (_CELL + GAP))
    if present.any():
        sheets.append(_objects(batch["image"], scene, present, columns))
    size = (batch["image"].shape[-2], batch["image"].shape[-1])
    # vectors that consist of categories and attributes are varied by `compose`
    if hasattr(model, "decode") and not hasattr(model, "compose") and present.sum() > 1:
        sheets.append(_traversals(model, scene.what[present], columns))
    if hasattr(model, "generate"):
        sheets.append(draw_generated(model, len(shown["image"]), size))
    if hasattr(model, "compose"):
        sheets.append(draw_composed(model, len(shown["image"]), size))
    if hasattr(model, "assemble"):
        sheets.append(draw_styles(model, columns))
    if hasattr(model, "vary"):
        sheets.append(draw_varied(model, shown["image"]))
    return arrange(sheets)


def _choose(scene: Scene, images: Tensor | slice) -> Scene:
    """The scenes of some images, in the pixels of what the model saw."""
    own = {field.name: getattr(scene, field.name) for field in fields(Scene)}
    chosen: dict[str, Any] = {name: None if value is None else value[images] for name, value in own.items()}
    return Scene(**chosen)


def _objects(image: Tensor, scene: Scene, present: Tensor, columns: int) -> Image.Image:
    """What is in the boxes, in squares around them, a row for each category."""
    start, end = scene.boxes.split(2, -1)
    center, half = (start + end) / 2, (end - start).amax(-1, keepdim=True) / 2
    crops = replace(scene, boxes=torch.cat([center - half, center + half], -1)).crops(image, _CELL)[present]
    if scene.category is None:
        return sheet_of({f"{len(crops)} objects found": _cells(crops[:columns])})
    category = scene.category.argmax(-1)[present]
    counts = category.bincount(minlength=scene.category.shape[-1])
    frequent = counts.argsort(descending=True)[:_CATEGORIES].sort().values.tolist()
    return sheet_of(
        {f"category {g}: {counts[g]} found": _cells(crops[category == g][:columns])
         for g in frequent if counts[g]}
    )  # fmt: skip


@torch.no_grad()
def _traversals(model: Any, what: Tensor, columns: int) -> Image.Image:
    """Vary the found object that is most like the average along the principal components of all (N, A) vectors."""
    mean = what.mean(0)
    _, spread, directions = torch.linalg.svd(what - mean, full_matrices=False)
    spread = spread / max(1, len(what) - 1) ** 0.5  # standard deviation along each direction
    typical = what[(what - mean).square().sum(1).argmin()]
    steps = torch.linspace(-_SPREAD, _SPREAD, columns)
    rows = {}
    for i, (std, direction) in enumerate(zip(spread[:_DIRECTIONS], directions[:_DIRECTIONS], strict=True)):
        own = (typical - mean) @ direction
        varied = typical + (steps[:, None] * std - own) * direction
        drawn = model.decode(varied[None].to(model.device))
        drawn = drawn[0] * drawn[1].unsqueeze(2) if isinstance(drawn, tuple) else drawn  # colours and alpha
        share = (spread[i].square() / spread.square().sum()).item()
        title = f"what: component {i + 1} ({share:.0%} of variance), ±{_SPREAD} std"
        rows[title] = _cells(drawn[0].cpu())
    return sheet_of(rows)


def _cells(images: Tensor) -> list[Image.Image]:
    """(N, C, h, w) as pictures of one size."""
    return [to_picture(image, 1).resize((_CELL, _CELL), Image.Resampling.BICUBIC) for image in images]


def test_scenes(data: dict[str, Any] | None, count: int) -> Batch:
    """The first test scenes of the data that a checkpoint was trained on.

    Raises:
        ValueError: The checkpoint does not say, or its data are not known here.
        DatasetNotFoundError: They are not to be had here.
    """
    if not data or data["class"] not in registry.datamodules():
        raise ValueError("the checkpoint does not say what it was trained on: give a folder of --images")
    drawn = data["init_args"].get("num_test")  # no more are drawn, or read, than are looked at
    dataset = registry.make_data(data, **({"num_test": min(count, drawn)} if drawn else {})).make_dataset("test")
    return dataset.batch(range(min(count, len(dataset))))


def show(
    checkpoint: str,
    out: str | Path,
    *,
    images: str | Path | None = None,
    image_size: ImageSize = None,
    num_images: int = 6,
    num_scenes: int = 256,
    threshold: float = 0.5,
    device: str = "auto",
) -> Path:
    """Draw a checkpoint's sheet into a PNG file.

    Args:
        checkpoint: See `zoo.load`.
        out: The file.
        images: File or folder to look at; null: the checkpoint's own test data. Files that cannot be read, or that the
            model does not take, are skipped with a warning that names them.
        image_size: See `zoo.prediction.photo_size`.
        num_images: Images that are shown whole.
        num_scenes: Images whose objects are shown.
        threshold: Slots with at least this presence are objects.
        device: See `pick_device`.

    Raises:
        ValueError: An argument is out of range; there is no such checkpoint; no image can be seen; `out` would be one
            of them.
        FileNotFoundError: There are no images.
        DatasetNotFoundError: The data are not to be had here.
    """
    options: dict[str, Any] = {"num_images": num_images, "num_scenes": num_scenes, "threshold": threshold}
    path, said = _show(checkpoint, Path(out), images, image_size, device, **options)
    for line in said:
        warnings.warn(line.removeprefix("warning: "), stacklevel=2)
    return path


def _show(
    checkpoint: str,
    path: Path,
    images: str | Path | None,
    image_size: ImageSize,
    device: str,
    *,
    num_images: int,
    num_scenes: int,
    threshold: float,
) -> tuple[Path, list[str]]:
    """Draw the sheet; what is to be said of the images that were looked at."""
    if num_images < 1 or num_scenes < 1 or not 0 <= threshold <= 1:
        raise ValueError(f"{num_images=} and {num_scenes=} must be at least 1, {threshold=} in [0, 1]")
    if images is not None:
        keep_apart(images, path)
    model = weights.load(checkpoint).to(pick_device(device))
    wanted = max(num_images, num_scenes)
    said = []
    if images is None:
        batch = test_scenes(model.data_record, wanted)
        scene: Scene = predict(model, batch["image"])
    else:
        found, files, skipped = predict_photos(model, images, image_size=image_size, most=wanted)
        batch, scene = Batch(image=found.image[:wanted]), _choose(found, slice(wanted))
        present = zip(files, crowded(scene, threshold), strict=False)  # of those that are shown
        counts = {str(path): count for path, count in present if count is not None}
        if counts:
            said.append(crowded_warning(model, counts, len(batch["image"])))
        said += ["\n  ".join([f"{len(skipped)} files skipped:", *skipped.values()])] if skipped else []
    sheet = draw_sheet(model, batch, _choose(scene, slice(wanted)), num_images=num_images, threshold=threshold)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())
    return path, said


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(
        prog="python -m zoo show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt_path", required=True, help="a name, a run folder, a file, best, last or an id on the hub"
    )
    parser.add_argument("--out", type=Path, help="PNG file to write (NAME.png)")
    parser.add_argument("--images", type=Path, help="file or folder to look at (test images of the checkpoint's data)")
    parser.add_argument(
        "--image_size",
        type=size_argument,
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width, that images are resized to; original: they stay as they are (what the model "
        "was trained on)",
    )
    parser.add_argument("--num_images", type=int, default=6, help="images that are shown whole (6)")
    parser.add_argument("--num_scenes", type=int, default=256, help="images whose objects are shown (256)")
    parser.add_argument("--threshold", type=float, default=0.5, help="presence from which a slot is an object (0.5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    options = vars(parser.parse_args(sys.argv[2:] if args is None else args))
    checkpoint, out = options.pop("ckpt_path"), options.pop("out")
    try:
        options["image_size"] = given_size(options["image_size"])
        path, said = _show(checkpoint, out or Path(f"{Path(checkpoint).stem}.png"), **options)
    except (DatasetNotFoundError, CacheError, DatasetCorruptError) as error:
        sys.exit(f"zoo: {error}; --images shows a folder of images instead")
    except (ValueError, OSError) as error:
        sys.exit(f"zoo: {error}")
    print(path)
    print(*said, sep="\n", end="\n" * bool(said), file=sys.stderr)
