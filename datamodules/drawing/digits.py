"""Handwritten digits: where they come from, how they are split, and how they become square tiles."""

import functools
import hashlib
import http.client
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import sklearn.datasets
import torchvision.datasets

from datamodules.base import Int64, Split, UInt8
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.cache import is_writable, locked

SOURCES = ("auto", "mnist", "uci")

# The margin of EMNIST, which SPAIR's scenes are made of: the ink's longer side fills 24 of 28 pixels.
INK_SHARE = 12 / 14
DOWNLOAD_TIMEOUT = 3.0  # seconds without an answer, per address


@dataclass(frozen=True)
class Digits:
    """M digits of one split, as they come from their source.

    Attributes:
        images: (M, h, w) uint8, 0 paper, 255 full ink.
        labels: (M,) int64, the classes 0 to 9, all equally frequent.
        instances: (M,) int64, number of the digit within its source: no number occurs in two splits.
    """

    images: UInt8
    labels: Int64
    instances: Int64


@dataclass(frozen=True)
class DigitSource:
    """Where digits come from, found by `find_source`.

    Attributes:
        kind: "mnist" or "uci".
        root: The folder that holds MNIST/raw; unused by "uci".
    """

    kind: Literal["mnist", "uci"]
    root: Path

    @functools.cached_property
    def name(self) -> str:
        """`mnist`, `mnist10k` for a part of it with 10,000 digits, or `uci`."""
        if self.kind == "uci":
            return "uci"
        count = sum(_idx_shape(self.root, f"{part}-labels-idx1-ubyte")[0] for part in ("train", "t10k"))
        if count == 70_000:
            return "mnist"
        return f"mnist{count // 1000}k" if count % 1000 == 0 else f"mnist{count}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of all its digits."""
        digest = hashlib.sha256()
        for part in ("train", "t10k") if self.kind == "mnist" else ("all",):
            for array in self._read(part):
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def load(self, split: Split) -> Digits:
        """Read one split.

        Classes are balanced as in SPAIR's code: of each class the first ones, as many as the rarest class has. MNIST's
        test file is "test"; of each class in its training file the first 90 % are "train", the rest "val". Of the UCI
        digits, in an order shuffled once and for all, 80 % are "train", 10 % "val", 10 % "test".

        Args:
            split: "train", "val" or "test".

        Returns:
            The digits, class by class.

        Raises:
            DatasetCorruptError: A file is damaged, or a class has no digits.
        """
        if self.kind == "uci":
            part, offset, bounds = "all", 0, {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}[split]
        elif split == "test":
            part, offset, bounds = "t10k", _idx_shape(self.root, "train-labels-idx1-ubyte")[0], (0.0, 1.0)
        else:
            part, offset, bounds = "train", 0, {"train": (0.0, 0.9), "val": (0.9, 1.0)}[split]
        images, labels = self._read(part)
        order = np.random.RandomState(0).permutation(len(labels)) if self.kind == "uci" else np.arange(len(labels))
        classes = [order[labels[order] == digit] for digit in range(10)]
        count = min(map(len, classes))
        start, end = (round(bound * count) for bound in bounds)
        if end == start:
            raise DatasetCorruptError(
                f"{self.name} under {self.root} has a class with only {count} digits in '{part}': none for '{split}'"
            )
        chosen = np.concatenate([members[start:end] for members in classes])
        return Digits(images[chosen], labels[chosen], chosen + offset)

    def _read(self, part: str) -> tuple[UInt8, Int64]:
        """Images (M, h, w) and labels (M,) of "train", "t10k", or "all" of the UCI digits."""
        if self.kind == "uci":
            bunch = sklearn.datasets.load_digits()
            return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)
        images = _read_idx(self.root, f"{part}-images-idx3-ubyte")
        labels = _read_idx(self.root, f"{part}-labels-idx1-ubyte")
        if len(images) != len(labels) or labels.max(initial=0) > 9:
            raise DatasetCorruptError(
                f"{_raw(self.root)}: the '{part}' files hold {len(images)} images and {len(labels)} labels up to "
                f"{labels.max(initial=0)}, expected as many labels as images and labels up to 9; {_FIX_FILES}"
            )
        return images, labels.astype(np.int64)


def find_source(source: str, root: Path) -> DigitSource:
    """Settle where digits come from; downloads MNIST if it is asked for and not there.

    Args:
        source: "mnist", "uci", or "auto": MNIST if it is there or can be had, else the UCI digits with a warning.
        root: The data folder, whose MNIST/raw is looked at.

    Returns:
        The source.

    Raises:
        DatasetNotFoundError: `source` is "mnist", which is neither there nor can be downloaded.
        ValueError: `source` is none of these.
    """
    if source not in SOURCES:
        raise ValueError(f"source={source!r}: must be one of {', '.join(SOURCES)}")
    if source == "uci":
        return DigitSource("uci", root)
    if not _has_mnist(root):
        try:
            _download_mnist(root)
        except OSError as error:
            if source == "mnist":
                raise DatasetNotFoundError(
                    f"MNIST is not in {_raw(root)} and cannot be downloaded to it ({error}); set ZOO_DATA or "
                    "`data_dir` to a folder with MNIST/raw/train-images-idx3-ubyte and its three companions, or use "
                    "`source: uci`, which comes with scikit-learn"
                ) from error
            warnings.warn(
                f"MNIST is not in {_raw(root)} and cannot be downloaded to it ({error}): using scikit-learn's UCI "
                "digits; results are named after them and cannot be compared with MNIST's",
                stacklevel=2,
            )
            return DigitSource("uci", root)
    return DigitSource("mnist", root)


def make_tiles(
    images: UInt8,
    size: int | Int64,
    *,
    crop: bool = True,
    side: int | None = None,
    offset: Int64 | None = None,
) -> UInt8:
    """Resize digits to square tiles.

    Resized as `F.interpolate(mode="bilinear", antialias=True)` does: triangle filters, separable, so that all digits
    are resized by two batched matrix products.

    Args:
        images: (M, h, w) uint8.
        size: Side of the tiles in pixels, or of each tile, (M,).
        crop: Crop digits to their ink, whose longer side then fills 12/14 of the tile, in its middle; or keep them
            with the margin that they come with.
        side: Side of the result, of which a tile is a part; null: `size`, the largest one.
        offset: (M, 2), left top corner (x, y) of each tile in the result; null: (0, 0).

    Returns:
        (M, side, side) uint8, 0 no ink, 255 full ink.
    """
    sizes = np.broadcast_to(size, len(images)).astype(np.int64)
    side = int(sizes.max(initial=1)) if side is None else side
    offset = np.zeros((len(images), 2), np.int64) if offset is None else offset
    tiles = np.empty((len(images), side, side), np.uint8)
    for start in range(0, len(images), 4096):  # bounds the memory
        part = slice(start, start + 4096)
        chunk = images[part]
        ink = chunk > 0 if crop else np.ones_like(chunk, dtype=bool)
        rows, columns = _extent(np.any(ink, axis=2)), _extent(np.any(ink, axis=1))
        longest = np.maximum(rows[1] - rows[0], columns[1] - columns[0])
        scale = (np.rint(INK_SHARE * sizes[part]) if crop else sizes[part]) / np.maximum(longest, 1)
        vertical = _resize_matrix(*rows, scale, chunk.shape[1], sizes[part], offset[part, 1], side)
        horizontal = _resize_matrix(*columns, scale, chunk.shape[2], sizes[part], offset[part, 0], side)
        resized = vertical @ chunk.astype(np.float64) @ horizontal.transpose(0, 2, 1)
        # Rounds to nearest, a tie upwards even where rounding errors make it a hair less: the same on every machine.
        tiles[part] = np.floor(resized + (0.5 + 1e-6))
    return tiles


def _extent(occupied: npt.NDArray[np.bool_]) -> tuple[Int64, Int64]:
    """First occupied position and one past the last one, for each row of (M, n)."""
    return occupied.argmax(axis=1), occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)


def _resize_matrix(
    start: Int64, end: Int64, scale: npt.NDArray[np.float64], length: int, size: Int64, offset: Int64, side: int
) -> npt.NDArray[np.float64]:
    """(M, side, length): weights that resize [start, end) by `scale`, to whole pixels in the middle of the tile."""
    extent = end - start
    resized = np.clip(np.rint(extent * scale), 1, size)
    step = extent / resized  # source pixels for one target pixel
    offset = offset + (size - resized) // 2
    target = np.arange(side) - offset[:, None]
    centre = start[:, None] + (target + 0.5) * step[:, None]
    source = np.arange(length)
    distance = np.abs(source + 0.5 - centre[..., None]) / np.maximum(step, 1)[:, None, None]
    inside = (source >= start[:, None]) & (source < end[:, None])
    weights = np.maximum(1 - distance, 0) * inside[:, None, :]
    weights /= np.maximum(weights.sum(axis=2, keepdims=True), 1e-12)
    weights *= ((target >= 0) & (target < resized[:, None]))[..., None]
    return weights


_FILES = {f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")}
_FIX_FILES = "delete the files there to have them downloaded again"


def _raw(root: Path) -> Path:
    return root / "MNIST" / "raw"


def _has_mnist(root: Path) -> bool:
    return all((_raw(root) / name).is_file() for name in _FILES)


def _idx_shape(root: Path, name: str) -> tuple[int, ...]:
    """The shape that a file of unsigned bytes in MNIST's idx format announces, checked against the file's size."""
    path = _raw(root) / name
    with path.open("rb") as file:
        magic = file.read(4)
        dimensions = int(name.split("-idx")[1][0])
        header = file.read(4 * dimensions)
    shape = tuple(int(n) for n in np.frombuffer(header[: len(header) // 4 * 4], dtype=">u4"))
    size = path.stat().st_size
    expected = 4 + 4 * dimensions + int(np.prod(shape, dtype=np.int64))
    if magic != bytes((0, 0, 8, dimensions)) or len(shape) != dimensions or size != expected:
        raise DatasetCorruptError(
            f"{path} is damaged: {size} bytes, its header {magic.hex()} announces shape {shape}, which takes {expected}"
            f" bytes with the header 00000{0x800 + dimensions:x}; {_FIX_FILES}"
        )
    return shape


def _read_idx(root: Path, name: str) -> UInt8:
    shape = _idx_shape(root, name)
    return np.fromfile(_raw(root) / name, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _download_mnist(root: Path) -> None:
    """Download MNIST through torchvision, which checks it; its files appear in `root` whole or not at all."""
    if not is_writable(root):
        raise OSError(f"the folder {root} is read-only")
    with locked(root / ".MNIST.lock"):
        if _has_mnist(root):  # another process was faster
            return
        with tempfile.TemporaryDirectory(dir=root, prefix=".MNIST.") as folder, _socket_timeout(DOWNLOAD_TIMEOUT):
            try:
                torchvision.datasets.MNIST(folder, download=True)
            except (RuntimeError, http.client.HTTPException) as error:  # torchvision raises the former
                raise OSError(" ".join(str(error).split())) from error
            _raw(root).mkdir(parents=True, exist_ok=True)
            for name in sorted(_FILES):
                shutil.move(_raw(Path(folder)) / name, _raw(root) / name)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
