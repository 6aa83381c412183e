"""Fruit2D as it is published: where its files come from and how they are read.

Four folders hold 128x128 PNG images and text labels: a line with the number of objects, and for each object a line
`x y w h class`, a box by its centre and extent in pixels and a class from 1 to 9. They are on Google Drive; neither the
numbers of images nor checksums are published, so that an archive's hash is written down when it is first downloaded and
later downloads have to have the same.
"""

import hashlib
import json
import math
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.base import Split, UInt8
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.archives import download, unpack
from datamodules.storage.cache import locked

Float64 = npt.NDArray[np.float64]

# Folder: (suffix of its files, number of its archive on Google Drive)
PARTS = {
    "train_images": (".png", "1MCXo6VRI6Pf8WG2-dHbPNCJZVKOpNoHX"),
    "train_labels": (".txt", "1wbidjghjwLracHq8HRZ-zidWIE0R4xSV"),
    "test_images": (".png", "11BDgxjnZ7wXwCPFksL4rHIthuddhLWUW"),
    "test_labels": (".txt", "13Y5ZRu5ojspYOI0Ku1nJ0tu1lPbFrlZa"),
}
DOWNLOAD = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
PAGE = "https://drive.google.com/file/d/{}/view"
HASHES = "sha256.json"  # beside the folders: of each archive, when it was first downloaded

SIZE = 128  # of the images in pixels
CLASSES = 9
FIX = "replace it, or delete the folder {} to have it downloaded again"


def find_published(root: Path) -> None:
    """Make sure that the four folders are there; downloads those that are not, each of which then appears whole.

    Args:
        root: The folder that holds them.

    Raises:
        DatasetNotFoundError: A folder is neither there nor can be downloaded; the message tells how to do it by hand.
        DatasetCorruptError: An archive is damaged, or is not what it was when it was first downloaded.
    """
    if not missing(root):
        return
    try:
        with locked(root / ".download.lock"):
            for part in missing(root):
                _download(root, part)
    except OSError as error:
        links = ", ".join(f"{part} from {PAGE.format(PARTS[part][1])}" for part in missing(root))
        raise DatasetNotFoundError(
            f"Fruit2D is not complete in {root} and the rest cannot be downloaded ({error}). By hand: open these pages "
            f"in a browser, and unpack each archive so that its files lie in the folder of its name in {root}: {links}."
            " Or use `source: synthetic`, which needs no download"
        ) from error


def missing(root: Path) -> list[str]:
    """Those of the four folders in `root` that are not there or have no files."""
    return [part for part in PARTS if not _files(root, part)]


def _files(root: Path, part: str) -> list[Path]:
    """The files of a folder, in the order of their names."""
    folder = root / part
    return _wanted(folder.iterdir(), part) if folder.is_dir() else []


def _wanted(paths: Iterable[Path], part: str) -> list[Path]:
    # Names with a dot in front are what some systems add to folders and archives.
    return sorted(path for path in paths if path.suffix.lower() == PARTS[part][0] and path.name[0] != ".")


def _download(root: Path, part: str) -> None:
    hashes, archive = root / HASHES, root / f"{part}.archive"
    try:
        known = dict(json.loads(hashes.read_text())) if hashes.exists() else {}
    except (ValueError, TypeError) as error:
        raise DatasetCorruptError(f"{hashes} is damaged ({error}); delete it") from error
    download(DOWNLOAD.format(PARTS[part][1]), archive, sha256=known.get(part))
    if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
        archive.unlink()
        raise DatasetNotFoundError(
            f"Google Drive sent no zip or tar archive as {part}, as happens while too many people ask for a file"
        )
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{part}.") as temporary:
        folder = Path(temporary) / part
        folder.mkdir()
        unpack(archive, Path(temporary) / "archive")
        files = _wanted((Path(temporary) / "archive").rglob("*"), part)
        if len({path.name for path in files}) < max(len(files), 1):
            raise DatasetCorruptError(
                f"{archive} holds {len(files)} {PARTS[part][0]} files, expected some, all with names of their own; "
                "delete it to have it downloaded again"
            )
        for path in files:
            path.rename(folder / path.name)
        with archive.open("rb") as file:
            known[part] = hashlib.file_digest(file, "sha256").hexdigest()
        written = Path(temporary) / HASHES
        written.write_text(json.dumps(known, indent=2) + "\n")
        written.replace(hashes)
        folder.rename(root / part)
    archive.unlink()


def fingerprint(root: Path) -> str:
    """Hexadecimal SHA-256 of the names, sizes and times of change of all files."""
    digest = hashlib.sha256()
    for part in PARTS:
        for path in _files(root, part):
            status = path.stat()
            digest.update(f"{part}/{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_published(root: Path, split: Split, val_fraction: float, canvas: tuple[int, int]) -> dict[str, Tensor]:
    """Read the images and labels of a split.

    Args:
        root: The folder with the four folders.
        split: "train", "val" or "test".
        val_fraction: Share of the training images that are "val", at least one: the last in the order of their names.
        canvas: (H, W) that images are resized to, with antialiasing.

    Returns:
        With S scenes, and N objects in the fullest one of all splits: `images` (S, 3, H, W) uint8; `boxes` (S, N, 4)
        float32, xyxy in pixels of the resized image, clipped to it; `labels` (S, N) uint8 from 0; `counts` (S,) int16.
        Objects wholly outside the image are left out.

    Raises:
        DatasetCorruptError: A file is damaged or missing; the message names it, and the line.
        ValueError: `val_fraction` leaves nothing for training.
    """
    pairs = {part: _pairs(root, part) for part in ("train", "test")}
    objects = {part: [read_label(label) for _, label in pairs[part]] for part in pairs}
    fullest = max(len(rows) for part in objects.values() for rows in part)
    part, first, last = "test", 0, len(pairs["test"])
    if split != "test":
        total = len(pairs["train"])
        cut = total - max(round(val_fraction * total), 1)
        if cut < 1:
            raise ValueError(
                f"val_fraction={val_fraction} leaves none of the {total} training images in {root} for training"
            )
        part, first, last = "train", *((0, cut) if split == "train" else (cut, total))
    scenes = objects[part][first:last]
    boxes, labels = np.zeros((len(scenes), fullest, 4), np.float32), np.zeros((len(scenes), fullest), np.uint8)
    for i, rows in enumerate(scenes):
        boxes[i, : len(rows)], labels[i, : len(rows)] = rows[:, :4], rows[:, 4]
    boxes *= np.array(canvas[::-1] * 2, np.float32) / SIZE
    images = torch.empty((len(scenes), 3, *canvas), dtype=torch.uint8)
    progress = tqdm(total=len(scenes), desc=f"reading {split} images", delay=1.5, leave=False, disable=None)
    with progress:
        for image, (path, _) in zip(images, pairs[part][first:last], strict=True):
            image.copy_(torch.from_numpy(read_image(path, canvas)))
            progress.update()
    return {
        "images": images,
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(labels),
        "counts": torch.tensor([len(rows) for rows in scenes], dtype=torch.int16),
    }


def _pairs(root: Path, part: str) -> list[tuple[Path, Path]]:
    """(image, label) of all images: those of the same name, or by order, as in GMAIR's code, if no names agree."""
    images, labels = _files(root, f"{part}_images"), _files(root, f"{part}_labels")
    names = {path.stem for path in images}, {path.stem for path in labels}
    alone = [path for path in (*images, *labels) if path.stem not in names[0] & names[1]]
    if alone and (names[0] & names[1] or len(images) != len(labels)):
        raise DatasetCorruptError(
            f"{root} has {len(images)} images in {part}_images and {len(labels)} labels in {part}_labels; {alone[0]} "
            "has no partner: add what is missing, or delete both folders to have them downloaded again"
        )
    return list(zip(images, labels, strict=True))


def read_image(path: Path, canvas: tuple[int, int]) -> UInt8:
    """Read an image.

    Args:
        path: PNG of 128x128 px.
        canvas: (H, W) that it is resized to.

    Returns:
        (3, H, W).

    Raises:
        DatasetCorruptError: The file is damaged, or of another size or kind.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            found = f"{image.width} x {image.height} px in mode {image.mode}"
            if image.size == (SIZE, SIZE) and image.mode in ("RGB", "RGBA", "P"):
                # Pillow's bilinear filter widens as the image shrinks.
                resized = image.convert("RGB").resize(canvas[::-1], Image.Resampling.BILINEAR)
                return np.array(resized).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise DatasetCorruptError(f"{path} is damaged ({error}); {FIX.format(path.parent)}") from error
    raise DatasetCorruptError(f"{path} has {found}, expected {SIZE} x {SIZE} px in RGB; {FIX.format(path.parent)}")


def read_label(path: Path) -> Float64:
    """Read the objects of an image.

    Args:
        path: Text file, of the form described at the top.

    Returns:
        (m, 5): x1, y1, x2, y2 in pixels, clipped to the image, and class from 0, of the objects that are at least in
        part in the image.

    Raises:
        DatasetCorruptError: A line is not of that form, or there are not as many objects as the file says.
    """
    fix = FIX.format(path.parent)
    announced: int | None = None
    rows: list[list[float]] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetCorruptError(f"{path} cannot be read ({error}); {fix}") from error
    for number, line in enumerate(lines, 1):
        values = [_number(word) for word in line.split()]
        if len(values) == 1 and announced is None and values[0] in range(2**15):
            announced = int(values[0])
        elif len(values) == 5 and all(map(math.isfinite, values)) and min(values[2:4]) > 0:
            if values[4] not in range(1, CLASSES + 1):
                raise DatasetCorruptError(f"{path}, line {number}: class {values[4]:g}, expected 1 to {CLASSES}; {fix}")
            rows.append(values)
        elif values:
            raise DatasetCorruptError(
                f"{path}, line {number}: {line!r}, expected `x y w h class` with w and h above 0, or one line with the "
                f"number of objects; {fix}"
            )
    if announced is None and not rows:
        raise DatasetCorruptError(f"{path} is empty, expected at least the number of objects; {fix}")
    if announced is not None and announced != len(rows):
        raise DatasetCorruptError(f"{path} announces {announced} objects and lists {len(rows)}; {fix}")
    x, y, w, h, label = np.array(rows).reshape(-1, 5).T
    corners = np.clip(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1), 0, SIZE)
    seen = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return np.concatenate([corners, label[:, None] - 1], axis=1)[seen]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
