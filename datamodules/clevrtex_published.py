"""CLEVRTEX as it is published: where its files come from and how they are read.

Under a root folder each variant has a folder of its own:

    clevrtex_VARIANT/INDEX // 1000/CLEVRTEX_VARIANT_INDEX.png       image, 320 x 240 pixels, RGBA
    clevrtex_VARIANT/INDEX // 1000/CLEVRTEX_VARIANT_INDEX_flat.png  palette picture: 0 ground, i the object i - 1 of:
    clevrtex_VARIANT/INDEX // 1000/CLEVRTEX_VARIANT_INDEX.json      objects: shape, material, size, ...

with indices of six digits from 0. The archives are downloaded from the addresses that other programs use. Neither
checksums nor numbers of images are published but for `full` (50,000); for `pbg`, `vbg` and `grassbg` the name of the
archive is a guess from the others. The published list of errata says that the material
"PoliigonFabricUpholsteryBrightAnglePattern001" of the data is "FabricUpholsteryMidCenturyPebbles001" in truth; names
are given here as they are in the data.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.base import Array, Split, size_name
from datamodules.drawing.solids.scenes import CROP, SIZES, VARIANTS
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.archives import UNPACKING, unpack
from datamodules.storage.archives import download as fetch
from datamodules.storage.cache import cache_folder, data_folder, locked
from datamodules.storage.converted import (
    Fields,
    centre_crop,
    converted,
    pack_scene,
    read_manifest,
    resize_bilinear,
    resize_nearest,
    scene_fields,
    verify,
)
from datamodules.storage.images import open_image

VERSION = 1  # of the conversion: raise it whenever the same parameters give other arrays
SHAPES = dict.fromkeys(VARIANTS, ("cube", "cylinder", "monkey", "sphere"))
SHAPES["outd"] = ("cone", "icosahedron", "torus", "teapot")
FRACTIONS: dict[Split, tuple[float, float]] = {"test": (0.0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1.0)}
MAX_OBJECTS = 10
PUBLISHED = {"full": 50_000}  # images
NAME_BYTES = 128  # kept of a material's name

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/clevrtex/"
MIRRORS = (
    "https://thor.robots.ox.ac.uk/datasets/clevrtex/",
    "https://thor.robots.ox.ac.uk/~vgg/data/clevrtex/clevrtex_packaged/",
)
ARCHIVES: dict[str, tuple[str, ...]] = {variant: (f"clevrtex_{variant}.tar.gz",) for variant in VARIANTS}
ARCHIVES["full"] = tuple(f"clevrtex_full_part{part}.tar.gz" for part in range(1, 6))


class Published:
    """A variant as it is published, or what was converted from it.

    Args:
        variant: One of `VARIANTS`.
        root: Folder that holds `clevrtex_VARIANT`, or that folder; null: `clevrtex` in `data_dir`.
        download: Whether to download the files when they are needed and not there: what was converted from them needs
            them no more.
        data_dir: Folder of all data.

    Attributes:
        folder: `clevrtex_VARIANT`.
        cache: Folder for converted data.
    """

    def __init__(self, variant: str, root: str | None, download: bool, data_dir: str | None) -> None:
        self.variant = variant
        data = data_folder(data_dir)
        place = data / "clevrtex" if root is None else Path(root).expanduser()
        name = f"clevrtex_{variant}"
        self.folder = place if place.name == name else place / name
        self.cache = cache_folder(data)
        self.download = download

    @functools.cached_property
    def images(self) -> list[Path]:
        """All images in the order of their indices; see `find_images`."""
        return find_images(self.folder, self.variant)

    @functools.cached_property
    def _source(self) -> dict[str, Any]:
        """What tells these files from others: how many images, names and sizes of all files."""
        digest = hashlib.sha256()
        for path in self.images:
            sizes = [path.with_name(f"{path.stem}{ending}").stat().st_size for ending in (".png", *_BESIDE)]
            digest.update(f"{path.relative_to(self.folder).as_posix()} {sizes}".encode())
        return {"images": len(self.images), "sha256_of_names_and_sizes": digest.hexdigest()}

    def _converted(
        self,
        name: str,
        parameters: dict[str, Any],
        fields: Fields,
        read: Callable[[int], Iterator[dict[str, Array]]],
        total: int | None = None,
    ) -> Path:
        """Convert these files, which are downloaded first where that is asked for; without them, what is there serves.

        The folder's own path is a parameter: what was converted from one folder never goes for another's.
        """
        parameters |= {"variant": self.variant, "folder": str(self.folder.resolve()), "version": VERSION}
        choice = (self.cache, f"clevrtex-{self.variant}-{name}", parameters)
        try:
            source = self._source
        except DatasetNotFoundError as error:
            missing = error
        else:
            return converted(*choice, source, fields, read, total)

        def refuse(start: int) -> Iterator[dict[str, Array]]:
            raise missing

        try:
            return converted(*choice, None, fields, refuse, total)
        except DatasetNotFoundError:
            if not self.download or self.folder.exists():
                raise
        _download(self.folder, self.variant)
        return converted(*choice, self._source, fields, read, total)

    @functools.cached_property
    def _vocabulary(self) -> Path:
        """The folder with the materials' names, of which a scene is one: so they outlast the published files."""

        def read(start: int) -> Iterator[dict[str, Array]]:
            found: set[str] = set()
            for path in tqdm(self.images, desc="reading metadata", unit="scene", delay=1.5, leave=False, disable=None):
                found.update(entry["material"] for entry in read_objects(path, self.variant))
            for name in sorted(found)[start:]:
                yield {"names": np.frombuffer(name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0"), np.uint8)}

        return self._converted("materials", {}, {"names": ((NAME_BYTES,), "uint8")}, read)

    @functools.cached_property
    def materials(self) -> tuple[str, ...]:
        """Names of all materials of objects, sorted."""
        verify(self._vocabulary)
        names = np.load(self._vocabulary / "names.npy")
        return tuple(row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in names)

    @property
    def total(self) -> int:
        """How many images there are, or were when they were converted."""
        return int(read_manifest(self._vocabulary)["source"]["images"])

    def convert(self, size: tuple[int, int], split: Split, images: int | None) -> Path:
        """Convert a split.

        Args:
            size: (H, W).
            split: "train", "val" or "test".
            images: Only the first ones; null: all.

        Returns:
            The folder, for `ConvertedScenes`.

        Raises:
            ValueError: There is no such split, or it has no images.
        """
        if self.variant == "outd" and split != "test":
            raise ValueError(f"split={split!r}: all published images of variant 'outd' are for testing; ask for 'test'")
        start, stop = (0.0, 1.0) if self.variant == "outd" else FRACTIONS[split]
        first, last = int(start * self.total), int(stop * self.total)
        last = last if images is None else min(last, first + images)
        if first >= last:
            raise ValueError(f"{self.folder} holds {self.total} images: too few for a split {split!r}")
        expected = PUBLISHED.get(self.variant, self.total)
        if self.total != expected:
            warnings.warn(
                f"{self.folder} holds {self.total} images, {expected} were published: the splits are parts of these, "
                "and results cannot be compared with published ones",
                stacklevel=4,
            )

        def read(begin: int) -> Iterator[dict[str, Array]]:
            number = {name: index for index, name in enumerate(self.materials)}
            for path in self.images[first + begin : last]:
                yield read_scene(path, self.variant, size, number)

        fields = scene_fields(size, MAX_OBJECTS, ("shape", "material", "size"))
        parameters = {"split": split, "size": size, "images": images}
        return self._converted(f"{split}-{size_name(size)}", parameters, fields, read, last - first)


def find_images(folder: Path, variant: str) -> list[Path]:
    """All images of a variant in the order of their indices, at any depth.

    Args:
        folder: `clevrtex_VARIANT`.
        variant: One of `VARIANTS`.

    Raises:
        DatasetNotFoundError: The folder is not there, or holds no images of that variant.
        DatasetCorruptError: There is an image too few or too many, or one without its mask or metadata.
    """
    pattern = re.compile(rf"CLEVRTEX_{variant}_(\d{{6}})\.png")
    images: dict[int, Path] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        there = set(names)
        for name in names:
            if (match := pattern.fullmatch(name)) is None:
                continue
            index, path = int(match[1]), Path(parent, name)
            for ending in _BESIDE:
                if f"{path.stem}{ending}" not in there:
                    raise DatasetCorruptError(f"{path} is there without {path.stem}{ending}; {_FIX.format(folder)}")
            if index in images:
                raise DatasetCorruptError(f"{images[index]} and {path} are the same image; remove one of them")
            images[index] = path
    if not images:
        place = folder if folder.is_dir() else folder.parent
        found = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
        listed = (", ".join(found[:8]) + " ..." * (len(found) > 8)) or "nothing"
        raise DatasetNotFoundError(
            f"no images of CLEVRTEX {variant!r} in {folder}: {place} holds {listed}; expected "
            f"{folder / '0' / f'CLEVRTEX_{variant}_000000.png'} and so on, each with NAME_flat.png and NAME.json "
            f"beside it. {_BY_HAND.format(folder.parent)}, set `root` to the folder that holds {folder.name}, set "
            "`download: true`, or use `source: synthetic`, which needs no download"
        )
    missing = sorted(set(range(max(images) + 1)) - images.keys())
    if missing:
        runs = [list(run) for _, run in itertools.groupby(enumerate(missing), lambda pair: pair[1] - pair[0])]
        gaps = [f"{run[0][1]} to {run[-1][1]}" if len(run) > 1 else f"{run[0][1]}" for run in runs]
        raise DatasetCorruptError(
            f"{folder} holds images up to index {max(images)}, but not {', '.join(gaps[:5])}"
            f"{' ...' * (len(gaps) > 5)}: an archive is missing or was unpacked in part; {_FIX.format(folder)}"
        )
    return [images[index] for index in range(len(images))]


_BESIDE = ("_flat.png", ".json")  # each image has them
_FIX = "unpack its archives again, or delete {} to have them downloaded again"
_BY_HAND = f"Download its archives from {PAGE} and unpack them in {{}}"


def read_objects(path: Path, variant: str) -> list[dict[str, str]]:
    """Shape, material and size of the objects of an image, in the order of their ids.

    Raises:
        DatasetCorruptError: The metadata is damaged, or tells of unknown shapes or sizes.
    """
    file = path.with_suffix(".json")
    try:
        content = json.loads(file.read_bytes())
        objects = [{key: entry[key] for key in ("shape", "material", "size")} for entry in content["objects"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetCorruptError(f"{file} is damaged ({type(error).__name__}: {error}); unpack it again") from error
    for key, known in (("shape", SHAPES[variant]), ("size", SIZES)):
        unknown = [entry[key] for entry in objects if entry[key] not in known]
        if unknown:
            raise DatasetCorruptError(f"{file} tells of the {key} {unknown[0]!r}, expected one of {', '.join(known)}")
    return objects


def read_scene(path: Path, variant: str, size: tuple[int, int], materials: dict[str, int]) -> dict[str, Array]:
    """Fields of a converted scene.

    Args:
        path: The image; mask and metadata are beside it.
        variant: One of `VARIANTS`.
        size: (H, W).
        materials: Number of each material's name.

    Raises:
        DatasetCorruptError: A file is damaged, or is not what its name says.
    """
    objects = read_objects(path, variant)
    mask_path = path.with_name(f"{path.stem}_flat.png")
    image, mask = _read_png(path, ("RGBA", "RGB")), _read_png(mask_path, ("P", "L"))
    if mask.shape != image.shape[:2]:
        raise DatasetCorruptError(f"{mask_path} has {mask.shape} pixels and {path.name} {image.shape[:2]}")
    if mask.max() > len(objects):
        raise DatasetCorruptError(f"{mask_path} has an object {mask.max()}, {path.stem}.json tells of {len(objects)}")
    labels = {
        "shape": [SHAPES[variant].index(entry["shape"]) for entry in objects],
        "material": [materials[entry["material"]] for entry in objects],
        "size": [SIZES.index(entry["size"]) for entry in objects],
    }
    try:
        return pack_scene(
            resize_bilinear(centre_crop(image, CROP)[..., :3], size),
            resize_nearest(centre_crop(mask, CROP), size),
            MAX_OBJECTS,
            **{key: np.array(value, np.int8) for key, value in labels.items()},
        )
    except ValueError as error:
        raise DatasetCorruptError(f"{path}: {error}") from error


def _read_png(path: Path, modes: tuple[str, ...]) -> Array:
    try:
        with open_image(path, formats=("PNG",)) as image:
            if image.mode not in modes:
                raise ValueError(f"its mode is {image.mode}, expected {' or '.join(modes)}")
            return np.array(image)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises any of these for a damaged file
        raise DatasetCorruptError(f"{path} is damaged or not the published file ({error}); unpack it again") from error


def _download(folder: Path, variant: str) -> None:
    """Download and unpack a variant, going on where an earlier attempt ended; `folder` appears whole or not at all."""
    root, staging = folder.parent, folder.with_name(f".{folder.name}.part")
    with locked(root / f".{folder.name}.lock"):
        if folder.exists():  # another process was faster
            return
        for left in staging.glob(f"{UNPACKING}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        for name in ARCHIVES[variant]:
            done = staging / f"{name}.done"
            if not done.exists():
                archive = _download_archive(name, root)
                unpack(archive, staging)
                done.touch()
                archive.unlink()
        inside = staging / folder.name if (staging / folder.name).is_dir() else staging
        try:
            find_images(inside, variant)  # is it complete?
        except (DatasetCorruptError, DatasetNotFoundError) as error:
            raise DatasetCorruptError(
                f"what was downloaded of CLEVRTEX {variant!r} is not complete ({error}). The next attempt downloads "
                f"all archives again; if that does not help either, delete {staging} before"
            ) from error
        finally:
            for done in staging.glob("*.done"):
                done.unlink()
        inside.rename(folder)
        with contextlib.suppress(OSError):
            shutil.rmtree(staging)


def _download_archive(name: str, root: Path) -> Path:
    errors = []
    for mirror in MIRRORS:
        try:
            return fetch(f"{mirror}{name}", root / name)
        except DatasetNotFoundError as error:
            errors.append(str(error))
    raise DatasetNotFoundError(f"{' '.join(errors)}. {_BY_HAND.format(root)}, or use `source: synthetic`")
