"""Annotations in COCO's JSON: read once, whole, and checked in one place.

What is unambiguous is coerced (numbers in quotation marks, whole floats as sizes, a polygon without its outer list),
boxes are clipped to their images and counted, and all else is refused with file, id, value and fix, or left out and
counted.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import DatasetCorruptError, DatasetNotFoundError
from datamodules.folders.coco_values import (
    AnnotationError,
    Box,
    Boxes,
    Id,
    Outline,
    few,
    flag,
    identifier,
    outline_of,
    record,
    side,
)


class Entry(NamedTuple):
    """Names an entry of a JSON for messages, by its id or else by its place in the list."""

    file: Path
    kind: str
    place: int
    known: Any

    @classmethod
    def of(cls, file: Path, kind: str, place: int, content: Any) -> "Entry":
        """Of an entry whatever it is; keeps no more of it than its id."""
        return cls(file, kind, place, content.get("id") if isinstance(content, dict) else None)

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} {f'at place {self.place + 1}' if self.known is None else few([self.known])}"


@dataclass(frozen=True, eq=False)
class Annotated:
    """An object of an image.

    Attributes:
        where: It stands.
        box: Within the image, and of some size.
        category: Its id.
        outline: Null: it has none.
    """

    where: Entry
    box: Box
    category: Id
    outline: Outline | None


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """What annotations say of an image.

    Attributes:
        file: JSON that says it.
        where: It stands.
        name: Of the image's file, as written there.
        size: (H, W) that coordinates are in.
        objects: Crowds left out.
    """

    file: Path
    where: Entry
    name: str
    size: tuple[int, int]
    objects: list[Annotated] = field(default_factory=list)


@dataclass
class Report:
    """What was read, and what was done about what could not be taken as it was.

    Attributes:
        skip_bad: Leave faults out and count them, instead of stopping at the first.
        clipped: Boxes that reached beyond their image.
        crowds: Annotations of several objects in one, which are left out.
        repeated: Annotations and images that were there twice, word for word.
        absent: Images of which there is no file.
        skipped: How many faults of a kind were left out.
        noted: How many things of a kind were taken in one of two ways.
        first: Where the first of a kind was.
    """

    skip_bad: bool
    clipped: int = 0
    crowds: int = 0
    repeated: int = 0
    absent: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def guard(self, where: object) -> Iterator[None]:
        """What to do about a fault here.

        Raises:
            DatasetCorruptError: There is one, and it is not to be left out.
        """
        try:
            yield
        except AnnotationError as fault:
            if not self.skip_bad:
                raise DatasetCorruptError(f"{where}: {fault} (skip_bad: true leaves out what is bad)") from fault
            self.skipped[fault.kind] += 1
            self.first.setdefault(fault.kind, str(where))

    def note(self, kind: str, where: str) -> None:
        """Count what is worth a warning."""
        self.noted[kind] += 1
        self.first.setdefault(kind, where)

    def __str__(self) -> str:
        """All that is not 0."""
        parts = {
            "boxes clipped at the border": self.clipped,
            "crowds left out": self.crowds,
            "repetitions left out": self.repeated,
            "annotated images that are not there": self.absent,
            "skipped": self.skipped.total(),
        }
        kinds = [f"{n} x {kind} (as {self.first[kind]})" for kind, n in (self.skipped + self.noted).most_common()]
        return ", ".join([f"{part}: {count}" for part, count in parts.items() if count] + kinds)


def read_coco(files: Sequence[Path], report: Report) -> tuple[list[AnnotatedImage], dict[Id, str]]:
    """Images and categories (name by id; "": it has none) of JSON files that belong together.

    Each file has ids of its own for its images; categories are the same in all of them.

    Raises:
        DatasetNotFoundError: A file is not there.
        DatasetCorruptError: It is no such JSON, or contradicts itself, and `report` is not to leave that out.
    """
    images: list[AnnotatedImage] = []
    categories: dict[Id, str] = {}
    for file in files:
        found, named = _read_file(file, report)
        _add_categories(categories, named, file)
        images += found
    every = [own for image in images for own in image.objects]
    with_outline = sum(own.outline is not None for own in every)
    if 0 < with_outline < len(every):
        fix = f"{with_outline} other objects have one: draw it, or empty all of them to have boxes alone"
        for own in every:
            with report.guard(own.where):
                if own.outline is None:
                    raise AnnotationError("segmentation", "is missing", fix)
        for image in images:
            image.objects[:] = [own for own in image.objects if own.outline is not None]
    if report.skipped and not any(image.objects for image in images):
        raise DatasetCorruptError(f"{' and '.join(map(str, files))}: nothing is left of all annotations: {report}")
    return images, categories


# one file


def _read_file(file: Path, report: Report) -> tuple[list[AnnotatedImage], dict[Id, str]]:
    content = _load(file)
    categories: dict[Id, str] = {}
    for i, own in enumerate(content["categories"]):
        with report.guard(Entry.of(file, "category", i, own)):
            key = identifier(record(own), "id")
            name = own["name"] if isinstance(own.get("name"), str) else ""
            if categories.setdefault(key, name) != name:
                fix = f"{few([categories[key]])} has it too: give each category an id of its own"
                raise AnnotationError("id", "is another category's", fix, key)
    images = _images(file, content["images"], report)
    listed, boxes = bool(content["categories"]), Boxes()
    seen: dict[Id, Any] = {}
    for i, own in enumerate(content["annotations"]):
        where = Entry.of(file, "annotation", i, own)
        with report.guard(where):
            key = identifier(own, "id") if record(own).get("id") is not None else f"#{i}"
            if seen.setdefault(key, own) is not own and seen[key] == own:
                report.repeated += 1
                continue
            of = identifier(own, "image_id")
            if of not in images:
                raise AnnotationError("image_id", "is none of the images", f"they are {few(images)}: correct it", of)
            image = images[of]
            if image is None:
                raise AnnotationError("image_id", "is an image's that was left out", "correct the image", of)
            if flag(own, "iscrowd"):
                report.crowds += 1
                continue
            category = identifier(own, "category_id")
            if category not in categories and listed:
                fix = f"they are {few(categories)}: correct it, or list it"
                raise AnnotationError("category_id", "is none of the categories", fix, category)
            box, clipped = boxes.read(own, image.size)
            outline = outline_of(own, image.size, box)
            report.clipped += clipped
            categories.setdefault(category, "")
            image.objects.append(Annotated(where, box, category, outline))
    try:
        boxes.check()
    except AnnotationError as error:
        raise DatasetCorruptError(f"{file}: {error}") from error
    return [image for image in images.values() if image is not None], categories


def _load(file: Path) -> dict[str, list[Any]]:
    """The three lists; bytes before the text and its encoding (UTF-8, 16 or 32) are as they may be."""
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DatasetNotFoundError(f"there are no annotations {file}") from None
    except OSError as error:
        raise DatasetNotFoundError(f"{file} cannot be read: {error.strerror}") from error
    except RecursionError:
        raise DatasetCorruptError(f"{file} is no JSON of annotations: lists within lists without end") from None
    except ValueError as error:
        raise DatasetCorruptError(f"{file} is no JSON: {error}; export it again, as UTF-8") from error
    expected = "expected COCO's format for detection, {images: [...], annotations: [...], categories: [...]}"
    if not isinstance(content, dict):
        raise DatasetCorruptError(f"{file} is a {type(content).__name__}, {expected}")
    for key in ("images", "annotations", "categories"):
        if key == "categories" and content.get(key) is None:
            content[key] = []  # those that annotations have
        if not isinstance(content.get(key), list):
            what = f"it has {few(content)}" if key not in content else f"{key} is {few([content[key]])}"
            raise DatasetCorruptError(f"{file} has no list of {key}: {what}; {expected}")
    if not content["images"]:
        raise DatasetCorruptError(f"{file} is about no image: its list of images is empty")
    return content


def _images(file: Path, entries: Sequence[Any], report: Report) -> dict[Id, AnnotatedImage | None]:
    """By id; null: it was left out."""
    images: dict[Id, AnnotatedImage | None] = {}
    for i, own in enumerate(entries):
        with report.guard(where := Entry.of(file, "image", i, own)):
            key = identifier(record(own), "id")
            known, before = key in images, images.get(key)
            images[key] = None  # unless it turns out to be good
            name = own.get("file_name")
            if not isinstance(name, str) or not name.strip():
                raise AnnotationError("file_name", "is no name of a file", "write it, relative to the folder", name)
            image = AnnotatedImage(file, where, name.strip(), (side(own, "height"), side(own, "width")))
            if known and (before is None or (before.name, before.size) != (image.name, image.size)):
                also = f"{few([before.name])} has it too" if before else "others have it too"
                raise AnnotationError("id", "is another image's", f"{also}: give each image an id of its own", key)
            report.repeated += known
            images[key] = before or image
    return images


def _add_categories(categories: dict[Id, str], named: Mapping[Id, str], file: Path) -> None:
    """Add a file's categories to those of the files before it.

    Raises:
        DatasetCorruptError: An id has another name there, or a name another id.
    """
    fix = "give each category one id and one name in all files"
    for key, name in named.items():
        before = categories.get(key) or name
        if name and name != before:
            raise DatasetCorruptError(f"{file}: category {key!r} is {name!r}, in the files before {before!r}: {fix}")
        others = {other for other in categories if name and categories[other] == name}
        if others and others.isdisjoint(other for other in named if named[other] == name):
            raise DatasetCorruptError(f"{file}: category {name!r} is {key!r}, in the files before {few(others)}: {fix}")
    categories |= {key: categories.get(key) or name for key, name in named.items()}
