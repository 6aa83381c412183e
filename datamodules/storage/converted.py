"""Published data sets, converted once to memory-mapped arrays that every later run reads.

A converted data set is a folder with one `.npy` file an array, whose first dimension counts the scenes, and a
`manifest.json` that says what it was made from and has checksums of all of it, which are looked at when it is opened
first in a process. It is written scene by scene in constant memory. A killed run leaves `NAME.part` behind, from which
the next one goes on; the folder itself appears whole or not at all.

Also what such conversions share: centre crops, resizing as the published programs do it, and boxes from masks.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.base import Array, SceneDataModule, SceneDataset, check
from datamodules.batch import Batch
from datamodules.errors import CacheError, DatasetCorruptError
from datamodules.storage.cache import FIX, locked

log = logging.getLogger(__name__)

Fields = Mapping[str, tuple[tuple[int, ...], str]]  # name: shape of one scene's entry, type
Resampling = Literal["bilinear", "nearest"]

CHECKPOINT = 2**25  # bytes between two points from which a killed conversion can go on, and of a checksum
MANIFEST, PROGRESS = "manifest.json", "progress.json"
MARGIN = 2**26  # bytes that a conversion leaves free on the disk


def converted(
    folder: Path,
    name: str,
    parameters: Mapping[str, Any],
    source: Mapping[str, Any] | None,
    fields: Fields,
    read: Callable[[int], Iterator[Mapping[str, Array]]],
    total: int | Callable[[], int | None] | None = None,
    *,
    keep_part: bool = True,
) -> Path:
    """Convert a data set, unless it has been converted already.

    Several processes may ask at once: one converts, the others wait for it.

    Args:
        folder: Cache folder, made if need be.
        name: Begins the name of the converted data set's folder; a digest of `parameters` follows.
        parameters: All that the content depends on besides the published files (sizes, options, version), in JSON
            values.
        source: What tells the published files from others, in JSON values, as `fingerprint` does; null: they are no
            longer there, and what was converted from them serves.
        fields: Of one scene.
        read: Reads the published files: yields the fields of scene `start` and of all that follow.
        total: How many scenes there are, where that is known beforehand, or a function that finds out.
        keep_part: Go on later from what was converted when the files turned out to be damaged, and not only when a run
            was killed.

    Returns:
        The converted data set's folder, to be opened by `ConvertedScenes`.

    Raises:
        DatasetCorruptError: The published files hold no scene; and what `read` raises.
        CacheError: The folder cannot be written, or the disk is too small.
    """
    wanted = {"parameters": dict(parameters), "fields": {key: [list(s), t] for key, (s, t) in fields.items()}}
    wanted = json.loads(json.dumps({**wanted, "source": source}))
    digest = hashlib.sha256(json.dumps(wanted["parameters"], sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"{name}-{digest}"
    if not _serves(path, wanted):
        with locked(folder / f".{path.name}.lock"):
            if not _serves(path, wanted, quiet=True):  # nobody else converted it meanwhile
                try:
                    _convert(path, wanted, fields, read, total() if callable(total) else total)
                except DatasetCorruptError:
                    if not keep_part:
                        shutil.rmtree(_part(path), ignore_errors=True)
                    raise
    return path


def fingerprint(path: Path) -> dict[str, Any]:
    """Size of a file, and digest of its first and last 64 KiB: a gzip file ends with a checksum of all it holds.

    Raises:
        FileNotFoundError: It is not there.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(2**16)
        file.seek(max(size - 2**16, 0))
        ends += file.read()
    return {"bytes": size, "sha256_of_ends": hashlib.sha256(ends).hexdigest()}


class ConvertedScenes(SceneDataset):
    """A range of the scenes of a converted data set with fields of `scene_fields`: images at least.

    Args:
        folder: What `converted` returned.
        start: First scene.
        stop: One past the last one; null: the end.
        max_objects: N of the batch; null: as converted.
        label: Field that is the batch's `labels`; null: there are none.
        target: Field that is the batch's `target`; null: there is none.

    Raises:
        CacheError: A file is damaged.
        ValueError: There are no scenes in that range.
    """

    def __init__(
        self,
        folder: Path,
        start: int = 0,
        stop: int | None = None,
        *,
        max_objects: int | None = None,
        label: str | None = None,
        target: str | None = None,
    ) -> None:
        self.folder = folder
        self.max_objects = max_objects
        self.label = label
        self.target = target
        total = read_manifest(folder)["scenes"]
        self.start, self.stop = start, total if stop is None else min(stop, total)
        if self.start >= self.stop:
            raise ValueError(f"{folder} holds {total} scenes: none from {start}" + f" to {stop}" * (stop is not None))
        verify(folder, self.start, self.stop)
        self._arrays = _load(folder)

    def __len__(self) -> int:
        """Number of scenes."""
        return self.stop - self.start

    def __getstate__(self) -> dict[str, Any]:
        """Workers map the files themselves: gigabytes would travel to each."""
        return {**self.__dict__, "_arrays": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files anew."""
        self.__dict__.update(state)
        self._arrays = _load(self.folder)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked."""
        index = torch.as_tensor(indices) + self.start
        batch = Batch(image=self._arrays["images"][index].float().div_(255))
        if "boxes" in self._arrays:
            batch["boxes"] = boxes = self._rows(self._arrays["boxes"][index].float())
            batch["valid"] = torch.arange(boxes.shape[1]) < self._arrays["counts"][index].unsqueeze(1)
        if "masks" in self._arrays:
            batch["mask"] = self._arrays["masks"][index].long()
        if self.label is not None:
            batch["labels"] = self._rows(self._arrays[self.label][index].long())
        if self.target is not None:
            batch["target"] = self._arrays[self.target][index].long()
        return batch

    def _rows(self, value: Tensor) -> Tensor:
        """(B, N, ...) with as many rows of padding as `max_objects` asks for."""
        if self.max_objects is None:
            return value
        padded = value.new_zeros(len(value), self.max_objects, *value.shape[2:])
        padded[:, : value.shape[1]] = value
        return padded


@dataclass(frozen=True, kw_only=True)
class ConvertedParameters(ABC):
    """Which scenes of a data set, and how they are prepared; each datamodule documents its own.

    Raises:
        ValueError: A parameter is out of its range.
    """

    image_size: int | Sequence[int] = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", pair_of_sides(self.image_size))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return pair_of_sides(self.image_size)

    @property
    @abstractmethod
    def name(self) -> str:
        """Names the data, with a part for each parameter that departs from its default."""

    @property
    @abstractmethod
    def max_objects(self) -> int:
        """The most objects in a scene of any split."""

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 where objects have none."""
        return 0

    def one_of(self, name: str, *choices: str | None) -> None:
        """Check that a parameter is one of these; null, if it may be, comes first."""
        first, *rest = ["null" if choice is None else choice for choice in choices]
        allowed = f"{first} or {rest[0]}" if len(rest) == 1 else f"one of {', '.join([first, *rest])}"
        check(name, getattr(self, name), getattr(self, name) in choices, allowed)

    def cropped_within(self, side: int) -> None:
        """Check that `crop` is null or fits into `side` pixels."""
        crop: int | None = getattr(self, "crop", None)
        check("crop", crop, crop is None or 1 <= crop <= side, f"from 1 to {side}, or null")


class ConvertedDataModule(SceneDataModule):
    """What datamodules of converted scenes say of them, by their `parameters`.

    A data set's datamodule is a `SceneDataModule` besides, in so many words: by these it is found in its file.
    """

    parameters: ConvertedParameters

    @property
    def name(self) -> str:  # type: ignore[override]
        """As the parameters tell it."""
        return self.parameters.name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of all images."""
        return (3, *self.parameters.size)

    @property
    def num_classes(self) -> int:
        """Number of classes that `labels` tells apart; 0 where objects have none."""
        return self.parameters.num_classes

    @property
    def max_objects(self) -> int:
        """N of the batch."""
        return self.parameters.max_objects


def scene_fields(size: tuple[int, int], max_objects: int, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Fields of a scene as `pack_scene` makes them.

    Args:
        size: (H, W) of the images.
        max_objects: N, the most objects in a scene.
        labels: Names of the fields that hold a class for each object.
    """
    fields: dict[str, Any] = {"images": ((3, *size), "uint8"), "masks": (size, "uint8")}
    fields |= {"boxes": ((max_objects, 4), "int16"), "counts": ((), "uint8")}
    return fields | dict.fromkeys(labels, ((max_objects,), "int8"))


def pack_scene(image: Array, mask: Array, max_objects: int, **labels: Array) -> dict[str, Array]:
    """Number the objects that are visible 1, 2, ... in the order of their ids, and give them boxes.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) ids, non-negative integers; 0 is the background.
        max_objects: N, at most 255.
        labels: (ids,) each, the class of object i at [i - 1]; classes fit in 8 bits.

    Returns:
        `images` (3, H, W) and `masks` (H, W) uint8; `boxes` (N, 4) int16, half-open and tight around what is visible;
        `counts` () uint8; and `labels`, (N,) int8 each. Rows of padding are 0.

    Raises:
        ValueError: There are more objects than `max_objects`.
    """
    ids = np.flatnonzero(np.bincount(mask.ravel())[1:]) + 1
    n = len(ids)
    if n > max_objects:
        raise ValueError(f"{n} objects in a scene, expected at most {max_objects}")
    number = np.zeros(mask.max() + 1, np.uint8)
    number[ids] = np.arange(1, n + 1)
    masks = number[mask]
    boxes = np.zeros((max_objects, 4), np.int16)
    boxes[:n] = boxes_from_mask(masks, n)
    scene: dict[str, Array] = {
        "images": image.transpose(2, 0, 1),
        "masks": masks,
        "boxes": boxes,
        "counts": np.array(n, np.uint8),
    }
    for key, classes in labels.items():
        scene[key] = np.zeros(max_objects, np.int8)
        scene[key][:n] = classes[ids - 1]
    return scene


def boxes_from_mask(mask: Array, count: int) -> Array:
    """Boxes of the ids 1 to `count`, all of which occur in an (H, W) mask: (count, 4) xyxy, half-open."""
    owned = mask == np.arange(1, count + 1)[:, None, None]
    ends = []
    for axis in (1, 2):  # columns, rows
        line = owned.any(axis=axis)
        ends += [line.argmax(axis=1), line.shape[1] - line[:, ::-1].argmax(axis=1)]
    left, right, top, bottom = ends
    return np.stack([left, top, right, bottom], axis=1)


def centre_crop(array: Array, side: int | None) -> Array:
    """The square of `side` pixels in the middle of (H, W, ...), left top where it cannot be; null: all of it.

    Raises:
        ValueError: The square does not fit.
    """
    if side is None:
        return array
    H, W = array.shape[:2]
    if side > min(H, W):
        raise ValueError(f"crop={side}: images have {H} x {W} pixels")
    top, left = (H - side) // 2, (W - side) // 2
    return array[top : top + side, left : left + side]


def resize_bilinear(image: Array, size: tuple[int, int]) -> Array:
    """Resize (H, W, 3) uint8 to `size` (H, W) with antialiasing, by Pillow."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_nearest(array: Array, size: tuple[int, int], *, corners: bool = False) -> Array:
    """Resize (H, W, ...) to `size` (H, W) by taking one pixel for each.

    Args:
        array: An image or ids.
        size: (H, W) of the result.
        corners: Take the pixel under the left top corner of the new one, as `F.interpolate(mode="nearest")` does, and
            not the one under its centre, as Pillow does.
    """
    rows, columns = (
        ((2 * np.arange(new) + (not corners)) * old) // (2 * new)
        for old, new in zip(array.shape[:2], size, strict=True)
    )
    return array[rows[:, None], columns]


def pair_of_sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) from a whole number or two.

    Raises:
        ValueError: It is neither, or a side is not from 1 to 4096.
    """
    sides = list(image_size) if isinstance(image_size, Sequence) else [image_size] * 2
    good = len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= 4096 for side in sides)
    check("image_size", image_size, good, "a whole number or [height, width], from 1 to 4096")
    return sides[0], sides[1]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a converted data set was made from (`parameters`, `fields`, `source`), how many `scenes`, and checksums.

    Raises:
        CacheError: It is damaged.
    """
    file = folder / MANIFEST
    try:
        return _signed(file)
    except (OSError, ValueError) as error:
        raise CacheError(f"{file} is damaged ({error}); {_ANEW.format(folder)}") from error


def verify(folder: Path, start: int = 0, stop: int | None = None) -> None:
    """Look at the checksums of some scenes of a converted data set, once in a process.

    Args:
        folder: What `converted` returned.
        start: First scene.
        stop: One past the last one; null: the end.

    Raises:
        CacheError: A file is damaged; the message names it, and the scenes.
    """
    manifest = read_manifest(folder)
    scenes, block = manifest["scenes"], manifest["block"]
    last = scenes if stop is None else min(stop, scenes)
    for key, (shape, dtype) in manifest["fields"].items():
        file, header = folder / f"{key}.npy", _header(scenes, shape, dtype)
        try:
            status = file.stat()
            seen = _seen.setdefault((str(file), status.st_ino, status.st_mtime_ns, status.st_size), set())
            if status.st_size != _size(scenes, shape, dtype):
                raise ValueError(f"it has {status.st_size} bytes, expected {_size(scenes, shape, dtype)}")
            with file.open("rb") as content:
                if content.read(len(header)) != header:
                    raise ValueError("its header is another than was written")
                each = (status.st_size - len(header)) // scenes
                for i in range(start // block, -(-last // block)):
                    if i in seen:
                        continue
                    content.seek(len(header) + i * block * each)
                    if zlib.crc32(content.read(block * each)) != manifest["checksums"][key][i]:
                        first, end = i * block, min((i + 1) * block, scenes)
                        raise ValueError(f"scenes {first} to {end - 1} have another checksum than was written")
                    seen.add(i)
        except (OSError, ValueError) as error:
            raise CacheError(f"{file} is damaged ({error}); {_ANEW.format(folder)}") from error


_ANEW = "delete the folder {} to have it made again"
_seen: dict[tuple[str, int, int, int], set[int]] = {}  # blocks whose checksums are right, of files as they were then


def _load(path: Path) -> dict[str, Tensor]:
    """Map all arrays into memory; they are read when they are used."""
    arrays = {}
    for file in sorted(path.glob("*.npy")):
        try:
            # copy on write: what is written to such an array never reaches the file
            arrays[file.stem] = torch.from_numpy(np.load(file, mmap_mode="c"))
        except (ValueError, OSError, EOFError) as error:
            raise CacheError(f"{file} is damaged ({error}); {_ANEW.format(path)}") from error
    return arrays


def _serves(path: Path, wanted: dict[str, Any], *, quiet: bool = False) -> bool:
    """Whether a converted data set is whole and made from what is wanted; logs the reason if not."""
    if not path.exists():
        return False
    reason = ""
    try:
        manifest = _signed(path / MANIFEST)
        scenes = manifest["scenes"]
        if wanted["source"] is None:
            manifest["source"] = None
        if differs := [key for key in wanted if manifest.get(key) != wanted[key]]:
            reason = f"it was made with other {' and '.join(differs)}"
        for key, (shape, dtype) in wanted["fields"].items():
            file = path / f"{key}.npy"
            if not reason and file.stat().st_size != _size(scenes, shape, dtype):
                reason = f"{file.name} has {file.stat().st_size} bytes, expected {_size(scenes, shape, dtype)}"
    except (OSError, ValueError) as error:
        reason = f"it cannot be read ({error})"
    if reason and not quiet:
        log.warning("converting %s anew: %s", path, reason)
    return not reason


def _signed(file: Path) -> dict[str, Any]:
    """A manifest, or a note of progress, of which nothing has changed since it was written.

    Raises:
        OSError: It cannot be read.
        ValueError: It was changed, or has no digest of itself: it is damaged, or of a version without checksums.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        content = None
    if not isinstance(content, dict) or content.pop("sha256", None) != _digest(content):
        raise ValueError(f"{file.name} has no digest of its content, or another's")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _convert(
    path: Path,
    wanted: dict[str, Any],
    fields: Fields,
    read: Callable[[int], Iterator[Mapping[str, Array]]],
    total: int | None,
) -> None:
    part = _part(path)
    progress = _resume(part, wanted)
    scenes, block, checksums = progress["scenes"], progress["block"], progress["checksums"]
    # Where not even one scene can be read, an earlier part stays as it is.
    rest = read(scenes)
    first = next(rest, None)
    if first is None and scenes == 0:
        raise DatasetCorruptError(f"the published files of {path.name} hold no scene")
    rest = itertools.chain([] if first is None else [first], rest)
    with _errors_of(part):
        part.mkdir(parents=True, exist_ok=True)
        if total is not None:
            _check_space(part, sum(_size(total - scenes, *field) for field in fields.values()))
    files = {}
    try:
        with _errors_of(part):
            for key, (shape, dtype) in fields.items():
                files[key] = (part / f"{key}.npy").open("r+b" if scenes else "wb")
                files[key].truncate(_size(scenes, shape, dtype))
                files[key].write(_header(scenes, shape, dtype))
                files[key].seek(0, os.SEEK_END)
        label, quick = f"converting {path.name}", {"delay": 1.5, "leave": False, "disable": None}
        bar = tqdm(rest, desc=label, total=total, initial=scenes, unit="scene", **quick)
        for scene in bar:
            with _errors_of(part):
                for key, (shape, dtype) in fields.items():
                    value = np.asarray(scene[key], dtype)
                    if value.shape != tuple(shape):
                        raise ValueError(f"{key} of scene {scenes} has shape {value.shape}, expected {shape}")
                    payload = value.tobytes()
                    files[key].write(payload)
                    if scenes % block == 0:
                        checksums[key].append(0)
                    checksums[key][-1] = zlib.crc32(payload, checksums[key][-1])
                scenes += 1
                if scenes % block == 0:
                    _save(part, files, {**progress, "scenes": scenes})
        with _errors_of(part):
            for key, (shape, dtype) in fields.items():
                files[key].seek(0)
                files[key].write(_header(scenes, shape, dtype))
    finally:
        with _errors_of(part):
            _save(part, files, {**progress, "scenes": scenes})
            for file in files.values():
                file.close()
    with _errors_of(part):
        # If this is cut short, the next run finds all scenes in the part and only finishes it.
        shutil.copyfile(part / PROGRESS, part / MANIFEST)
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
        (path / PROGRESS).unlink()


def _part(path: Path) -> Path:
    """Where a conversion grows."""
    return path.with_name(f"{path.name}.part")


def _resume(part: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Where a conversion that was cut short can go on, or what one begins with."""
    with contextlib.suppress(OSError, ValueError):
        progress = _signed(part / PROGRESS)
        sizes = [
            (part / f"{key}.npy").stat().st_size >= _size(progress["scenes"], *field)
            for key, field in wanted["fields"].items()
        ]
        if all(progress[key] == wanted[key] for key in wanted) and all(sizes):
            log.info("going on with %s at scene %d", part, progress["scenes"])
            return progress
    block = max(CHECKPOINT // sum(_size(1, *field) for field in wanted["fields"].values()), 1)
    return {**wanted, "scenes": 0, "block": block, "checksums": {key: [] for key in wanted["fields"]}}


def _save(part: Path, files: Mapping[str, IO[bytes]], progress: dict[str, Any]) -> None:
    """Bring all scenes to the disk, and then say so."""
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    note = part / f"{PROGRESS}.tmp"
    note.write_text(json.dumps({**progress, "sha256": _digest(progress)}, indent=1), encoding="utf-8")
    note.replace(part / PROGRESS)


def _header(scenes: int, shape: Sequence[int], dtype: str) -> bytes:
    """A `.npy` header; NumPy pads it, so that its length does not depend on the number of scenes."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": (scenes, *shape)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _size(scenes: int, shape: Sequence[int], dtype: str) -> int:
    """Bytes of a `.npy` file."""
    return len(_header(0, shape, dtype)) + scenes * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part).free
    if needed + MARGIN > free:
        raise CacheError(f"{part} needs {needed / 1e9:.2f} GB more, the disk has {free / 1e9:.2f} GB; {FIX}")


@contextlib.contextmanager
def _errors_of(part: Path) -> Iterator[None]:
    """An OSError here is one of writing."""
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(f"cannot write {part}: {error}; {FIX}; what is there is kept, and gone on from") from error
