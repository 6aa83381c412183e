"""Photos of one's own, as `predict`, `show` and `page` take them: which files, in what size, and what may be odd."""

from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from datamodules.base import check
from datamodules.errors import ImageError
from datamodules.storage.converted import pair_of_sides
from datamodules.storage.images import Fit, image_files, read_image
from zoo.prediction import ImageSize, Prediction, check_sizes, concatenate, photo_size, predict_batches
from zoo.scene import Scene

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel


def size_argument(text: str) -> int | str:
    """What `--image_size` takes: a number of pixels, or `original`.

    Raises:
        ArgumentTypeError: It is neither.
    """
    if text != "original" and not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is neither a number of pixels nor original")
    return text if text == "original" else int(text)


def given_size(values: Sequence[int | str] | None) -> ImageSize:
    """What is meant by `--image_size`: nothing, `original`, a side, or height and width.

    Raises:
        ValueError: It is none of these.
    """
    if not values:
        return None
    if "original" in values:
        check("image_size", [*values], len(values) == 1, "original, a side, or height and width")
        return "original"
    return pair_of_sides([int(v) for v in (values if len(values) > 1 else [*values] * 2)])


def photo_files(images: str | Path) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and image files: all of a folder, at any depth, or the one that is named.

    Raises:
        FileNotFoundError: There is no such file or folder, or no image in it.
    """
    path = Path(images).expanduser()
    if path.is_dir():
        return path, image_files(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no folder or file {path}{_nearest(path)}")
    return path.parent, [path]


def _nearest(path: Path) -> str:
    """The part of a path that is there, which shows where it was mistyped."""
    there = next(part for part in (*path.parents, Path()) if part.is_dir())
    return f"; there is {there.resolve()}" if there != path.parent else f" in {there.resolve()}"


def keep_apart(images: str | Path, *pictures: Path) -> None:
    """Refuse to write pictures where they would be among the images that the next run sees, or in the place of one.

    Args:
        images: File or folder that is seen.
        *pictures: Files, or folders of them, that will be written.

    Raises:
        ValueError: One of them is such a place.
    """
    source = Path(images).expanduser().resolve()
    for picture in pictures:
        target = picture.resolve()
        lost = target == source or (
            source.is_dir() and (target.is_relative_to(source) or source.is_relative_to(target))
        )
        if lost:
            raise ValueError(
                f"{picture} would be among the images of {images}, and seen by the next run: write elsewhere, --out"
            )


def predict_photos(
    model: "ObjectModel",
    images: str | Path,
    *,
    image_size: ImageSize = None,
    fit: Fit = "stretch",
    batch_size: int = 32,
    most: int | None = None,
) -> tuple[Prediction, list[Path], dict[str, str]]:
    """See the objects in a file, or in the files of a folder that can be read and that the model takes.

    Args:
        model: With its weights.
        images: File or folder.
        image_size: See `photo_size`.
        fit: See `fit_image`.
        batch_size: Images that are looked at at once.
        most: Batches are seen until there are so many images; null: all.

    Returns:
        What was seen, in which files, and the files that were skipped, each with the reason.

    Raises:
        FileNotFoundError: There is no such file or folder, or no image in it.
        ImageError: None can be seen, or they differ in size and are not to be resized.
    """
    _, files = photo_files(images)
    read: list[Path] = []
    skipped: dict[str, str] = {}

    def readable() -> Iterator[Tensor]:
        for path in files:
            try:
                image = read_image(path)
            except ImageError as error:
                skipped[str(path)] = str(error)
                continue
            read.append(path)
            yield image

    def refuse(place: int, reason: str) -> None:
        skipped[str(read[place])] = f"{read[place]}: {reason}"

    parts: list[Prediction] = []
    seen: list[Path] = []
    for places, part in predict_batches(model, readable(), batch_size, photo_size(model, image_size), fit, refuse):
        parts.append(part)
        seen += [read[place] for place in places]
        check_sizes(parts)
        if most is not None and sum(len(part.image) for part in parts) >= most:
            break
    if not parts:
        raise ImageError(nothing_seen(skipped, images))
    return concatenate(parts), seen, skipped


def nothing_seen(skipped: Mapping[str, str], images: str | Path) -> str:
    """Why there is nothing to show of images that were all skipped."""
    first = next(iter(skipped.values()))
    more = "" if len(skipped) == 1 else f"none of the {len(skipped)} images in {images} can be seen; "
    return more + first


def crowded(scene: Scene, threshold: float) -> list[tuple[int, int] | None]:
    """How many of how many slots of each image are present, where it is more than half of them."""
    slots = scene.presence.shape[1]
    present = (scene.presence >= threshold).sum(1).tolist()
    return [(count, slots) if count > slots / 2 else None for count in present]


def crowded_warning(model: "ObjectModel", found: Mapping[str, tuple[int, int]], total: int) -> str:
    """What `crowded` may mean.

    Args:
        model: That saw the images.
        found: Files that are, and how many of how many slots are present.
        total: Images that were seen.
    """
    path = max(found, key=lambda name: found[name][0] / found[name][1])
    data = (model.data_record or {}).get("name") or "what the model was trained on"
    return (
        f"warning: more than half of the slots are present in {len(found)} of {total} images, {found[path][0]} of "
        f"{found[path][1]} in {path}. Where there are not that many objects, the images differ from {data}: look at "
        "the pictures, try another --image_size or --fit, or train on them"
    )
