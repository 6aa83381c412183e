"""ShapeStacks: simulated towers of two to six blocks, cylinders and balls, from sixteen cameras each.

The published folders, under `shapestacks` in the data folder:

- `splits/default/{train,eval,test}.txt`: names of scenarios, one a line (also `blocks_all` and `ccs_all` instead of
  `default`);
- `recordings/SCENARIO/rgb-...-cam_K-mono-0.png`: images of 224 x 224 pixels;
- `iseg/SCENARIO/iseg-w=0-f=0-l=0-c=original-cam_K-mono-0.map`: instance maps, PNG files whose first channel is 32 times
  the id. They are published apart from the recordings, and may also lie beside them.

Images are cropped to the 196 pixels in the middle and resized with antialiasing; ids are taken from single pixels. Both
are GENESIS's, whose program AST-Seg uses. Its ids come from the pixel under the left top corner of the new one, which
is up to a pixel and a half off the image: `mask_sampling`.

Sources: Groth, Fuchs, Posner and Vedaldi, "ShapeStacks", 2018; Engelcke et al., "GENESIS", 2020, and "GENESIS-V2",
2021; Sauvalle and de La Fortelle, "Unsupervised Multi-object Segmentation Using Attention and Soft-argmax", 2023
(AST-Seg).
"""

import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.base import SPLITS, Array, SceneDataModule, Split, check, size_name
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.cache import cache_folder, data_folder
from datamodules.storage.converted import (
    ConvertedDataModule,
    ConvertedParameters,
    ConvertedScenes,
    centre_crop,
    converted,
    pack_scene,
    resize_bilinear,
    resize_nearest,
    scene_fields,
)
from datamodules.storage.images import open_image

VERSION = 1  # of the conversion: raise it whenever the same parameters give other arrays
SIDE = 224
MAX_OBJECTS = 6
ID_STEP = 32  # between the values of two ids in a map
FILES: dict[Split, str] = {"train": "train.txt", "val": "eval.txt", "test": "test.txt"}
LAYOUT = "splits/default/{train,eval,test}.txt, recordings/SCENARIO/rgb-*-mono-0.png, iseg/SCENARIO/iseg-*-mono-0.map"
CAMERA = re.compile(r"-cam_(\d+)-")


@dataclass(frozen=True, kw_only=True)
class ShapeStacksParameters(ConvertedParameters):
    """Which scenes, and how they are prepared; each parameter is documented in `ShapeStacksDataModule`.

    Raises:
        ValueError: A parameter is out of its range.
    """

    crop: int | None = 196
    mask_sampling: Literal["corner", "centre"] = "corner"
    splits: str = "default"
    target: Literal["stability"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cropped_within(SIDE)
        self.one_of("mask_sampling", "corner", "centre")
        good = re.fullmatch(r"\w+", self.splits) is not None
        check("splits", self.splits, good, "the name of a folder in `splits`")
        self.one_of("target", None, "stability")

    @property
    def name(self) -> str:
        """`shapestacks-64`, with a part for each parameter that departs from its default."""
        parts = [f"shapestacks-{size_name(self.size)}"]
        parts += [self.splits] * (self.splits != "default")
        parts += [f"crop{self.crop}" if self.crop else "uncropped"] * (self.crop != 196)
        parts += [self.mask_sampling] * (self.mask_sampling != "corner")
        return "-".join(parts)

    @property
    def max_objects(self) -> int:
        """6."""
        return MAX_OBJECTS


class ShapeStacks(ConvertedScenes):
    """ShapeStacks, converted on first use and memory-mapped afterwards.

    Args:
        split: "train", "val" or "test".
        data_dir: See `ShapeStacksDataModule`, as for all that follow.
        **parameters: Fields of `ShapeStacksParameters`.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: A published file or folder is not there, nor what was converted from it.
        DatasetCorruptError: A file is damaged, or not the published one.
        CacheError: The cache folder cannot be written.
    """

    def __init__(self, split: Split = "train", *, data_dir: str | None = None, **parameters: Any) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        own = self.parameters = ShapeStacksParameters(**parameters)
        folder = data_folder(data_dir)
        root = folder / "shapestacks"
        listed = root / "splits" / own.splits / FILES[split]
        images = functools.cache(lambda: find_images(root, listed))

        def read(start: int) -> Iterator[dict[str, Array]]:
            for image in images()[start:]:
                yield read_scene(image, find_map(root, image), own)

        converted_folder = converted(
            cache_folder(folder),
            f"shapestacks-{own.splits}-{split}-{size_name(own.size)}",
            {
                "splits": own.splits,
                "split": split,
                "size": own.size,
                "crop": own.crop,
                "mask_sampling": own.mask_sampling,
                "version": VERSION,
            },
            # Scenarios do not change: which of them are listed tells the published files apart.
            {"sha256_of_list": hashlib.sha256(listed.read_bytes()).hexdigest()} if listed.is_file() else None,
            {**scene_fields(own.size, MAX_OBJECTS), "unstable": ((), "uint8")},
            read,
            lambda: len(images()),
        )
        super().__init__(converted_folder, target="unstable" if own.target else None)


def find_images(root: Path, listed: Path) -> list[Path]:
    """Images of the listed scenarios, in the order of the list, then of their names.

    Raises:
        DatasetNotFoundError: The list, a scenario's folder or its images are not there.
    """
    if not listed.is_file():
        there = ", ".join(sorted(path.name for path in root.iterdir())) if root.is_dir() else ""
        raise DatasetNotFoundError(
            f"{listed} is not there; {root} holds {there or 'nothing'}, expected {LAYOUT}; download ShapeStacks from "
            "https://ogroth.github.io/shapestacks and unpack it there, or set ZOO_DATA (or `data_dir`)"
        )
    images: list[Path] = []
    for scenario in listed.read_text(encoding="utf-8").split():
        folder = root / "recordings" / scenario
        found = sorted(folder.glob("rgb-*-mono-0.png"))
        if not found:
            why = "holds no rgb-*-mono-0.png" if folder.is_dir() else "is not there"
            raise DatasetNotFoundError(f"{folder} {why}, though {listed} lists it; unpack the recordings again")
        images += found
    return images


def find_map(root: Path, image: Path) -> Path:
    """The instance map of an image.

    Raises:
        DatasetNotFoundError: It is not there.
    """
    camera = CAMERA.search(image.name)
    name = f"iseg-w=0-f=0-l=0-c=original-cam_{camera[1] if camera else '?'}-mono-0.map"
    places = [root / "iseg" / image.parent.name / name, image.with_name(name)]
    for place in places:
        if place.is_file():
            return place
    raise DatasetNotFoundError(
        f"{places[0]} is not there, the instance map of {image}; the maps are published apart from the recordings: "
        "download them too"
    )


def read_scene(image_path: Path, map_path: Path, parameters: ShapeStacksParameters) -> dict[str, Array]:
    """Fields of `scene_fields`, and `unstable` () uint8, whether the tower falls, which the scenario's name tells.

    Raises:
        DatasetCorruptError: A file is damaged, or not the published one.
    """
    image, values = _read_picture(image_path, "RGB"), _read_picture(map_path, "RGBA")[..., 0]
    if (values % ID_STEP).any():
        raise DatasetCorruptError(
            f"{map_path} is no instance map: its first channel holds {np.unique(values)[:9].tolist()}, expected "
            f"multiples of {ID_STEP}"
        )
    image, ids = centre_crop(image, parameters.crop), centre_crop(values // ID_STEP, parameters.crop)
    image = resize_bilinear(image, parameters.size)
    ids = resize_nearest(ids, parameters.size, corners=parameters.mask_sampling == "corner")
    try:
        scene = pack_scene(image, ids, MAX_OBJECTS)
    except ValueError as error:
        raise DatasetCorruptError(f"{map_path}: {error}") from error
    scenario = image_path.parent.name
    stable = "vcom=0" in scenario and "vpsf=0" in scenario  # no violation of the centre of mass, nor a planar one
    return {**scene, "unstable": np.array(not stable, np.uint8)}


def _read_picture(path: Path, mode: str) -> Array:
    """(H, W, channels) uint8."""
    try:
        with open_image(path) as picture:
            array = np.asarray(picture.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetCorruptError(f"{path} is damaged ({error}); unpack or download it again") from error
    if array.shape[:2] != (SIDE, SIDE):
        raise DatasetCorruptError(
            f"{path} has {array.shape[0]} x {array.shape[1]} pixels, expected {SIDE} x {SIDE}: it is not as published"
        )
    return array


class ShapeStacksDataModule(ConvertedDataModule, SceneDataModule):
    """ShapeStacks; the defaults are those of AST-Seg.

    Boxes are tight around what is visible of an object. Objects have no classes.

    Args:
        image_size: Side of the images in pixels, or [height, width].
        crop: Side of the square in the middle that is resized; null: all 224 x 224 pixels.
        mask_sampling: Which pixel of the map a mask's pixel is: the one under its left top `corner`, as in GENESIS's
            program, or the one under its `centre`, where the image is.
        splits: Folder in `splits`: `default`, `blocks_all` or `ccs_all`.
        target: `stability`: `target` is 0 where the tower stands and 1 where it falls; null: none.
        data_dir: Folder with `shapestacks`, in whose `cache` the conversion goes (in the user's cache folder if it is
            read-only); null: the environment variable ZOO_DATA, else `data`.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Of the training order.

    Raises:
        ValueError: A parameter is out of its range.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int] = 64,
        crop: int | None = 196,
        mask_sampling: Literal["corner", "centre"] = "corner",
        splits: str = "default",
        target: Literal["stability"] | None = None,
        data_dir: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(ShapeStacksParameters)

    def make_dataset(self, split: Split) -> ShapeStacks:
        """The scenes of a split; converts the published files if that has not been done yet."""
        return ShapeStacks(split, data_dir=self.hparams["data_dir"], **self.parameters.__dict__)
