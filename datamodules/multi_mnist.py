"""Scattered digits: the scenes of SPAIR (Crawford & Pineau, AAAI 2019) and, with other parameters, of its kin.

Digits are placed one by one, each at a whole-pixel position that is uniform among those where its tile overlaps the
tiles before it by no more than `max_overlap` pixels in all; an image that gets stuck starts over. They are painted in
the order of placing as `alpha * colour + (1 - alpha) * what is there`, in 8 bits, alpha being the digit's ink.

The scenes of AIR (Eslami et al., NeurIPS 2016), as the program makes them that its reimplementations and Discrete-AIR
(Wang, Jamnik & Lio, 2019) use, are `image_size: 50, digit_size: 28, digit_scale: [1.3, 0.1], crop_digits: false,
num_digits: [0, 2], max_overlap: .inf, composition: sum, channels: 1, num_train: 60000, num_test: 10000`.

Differences from SPAIR's own data: the digits are MNIST's, brought to the margin of EMNIST's, which SPAIR took.
Differences from AIR's: digits are class-balanced and resized with antialiasing; their scale is drawn from the normal
distribution within three standard deviations; they also reach the last row and column of the image.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import scipy.special
from torch import Tensor

from datamodules.base import SPLITS, Array, Int64, SceneDataModule, Split, UInt8, check, range_name, size_name
from datamodules.batch import Batch
from datamodules.drawing.digits import SOURCES, Digits, DigitSource, find_source, make_tiles
from datamodules.drawing.generated import (
    BLOCK,
    RESTARTS,
    Colours,
    GeneratedDataModule,
    GeneratedParameters,
    GeneratedScenes,
    colours_name,
    crop,
    in_blocks,
    ink_boxes,
    integers,
    most_that_fit,
    pack,
    paint,
    place,
)
from datamodules.drawing.tiles import Tiles
from datamodules.storage.cache import data_folder

VERSION = 1  # of the generator: raise it whenever the same parameters give other scenes
DEVIATIONS = 3.0  # the scale of a digit is within so many standard deviations: tiles have a largest size
COMPOSITIONS = ("paint", "sum")


@dataclass(frozen=True, kw_only=True)
class SceneParameters(GeneratedParameters):
    """What the scenes depend on; each parameter is documented in `MultiMNISTDataModule`.

    Raises:
        ValueError: A parameter is out of its range, or so many digits do not fit.
    """

    image_size: int | Sequence[int] = 48
    digit_size: int = 14
    digit_scale: float | Sequence[float] = (1.0, 0.0)
    crop_digits: bool = True
    num_digits: int | Sequence[int] = (1, 5)
    max_overlap: float | None = None
    composition: Literal["paint", "sum"] = "paint"
    channels: int = 3
    digit_colors: Colours = ((1.0, 1.0, 1.0),)
    crop_size: int | Sequence[int] | None = None
    crops_per_image: int = 4
    num_train: int = 64000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("digit_size", "crops_per_image")
        self._pair("num_digits", "a whole number or [min, max] with 0 <= min <= max", ordered=True)
        check("num_digits", self.num_digits, 1 <= self.count[1] <= 255, "at least 1 and at most 255 digits")
        if isinstance(self.digit_scale, int | float):
            object.__setattr__(self, "digit_scale", (self.digit_scale, 0.0))
        self._pair("digit_scale", "a number or [mean, standard deviation]", kind=int | float)
        mean, deviation = self.scale
        good = deviation >= 0 and mean - DEVIATIONS * deviation > 0
        check("digit_scale", self.digit_scale, good, f"above 0, {DEVIATIONS:g} standard deviations below the mean too")
        object.__setattr__(self, "digit_scale", (float(mean), float(deviation)))
        smallest, largest = self.tiles
        allowed = f"from 4 to {min(self.canvas)}" + ", divided by any digit_scale" * (smallest != self.digit_size)
        check("digit_size", self.digit_size, smallest >= 4 and largest <= min(self.canvas), allowed)
        if self.max_overlap is None:
            object.__setattr__(self, "max_overlap", self._half_a_tile)
        check("max_overlap", self.max_overlap, self.overlap >= 0, "at least 0 pixels, or null")
        self._colours("digit_colors")
        good = self.composition in COMPOSITIONS
        check("composition", self.composition, good, f"one of {', '.join(COMPOSITIONS)}")
        good = self.composition == "paint" or not any(self.background_color)
        check("background_color", self.background_color, good, "black with composition='sum'")
        if self.crop_size is not None:
            self._pair("crop_size", "a whole number, [height, width] or null")
            fits = all(1 <= crop <= full for crop, full in zip(self.window, self.canvas, strict=True))
            check("crop_size", self.crop_size, fits, f"from 1 to image_size {list(self.canvas)}")
        check("crops_per_image", self.crops_per_image, self.crops_per_image >= 1, "at least 1")
        fitting = _most_that_fit(self.canvas, largest, self.overlap, self.count[1])
        if fitting < self.count[1]:
            raise ValueError(
                f"num_digits={list(self.count)}: {fitting} digits of {largest} px are the most that were found "
                f"to fit on {self.canvas[0]} x {self.canvas[1]} px with max_overlap={self.overlap:g}; ask for fewer, "
                "or raise image_size or max_overlap"
            )

    @property
    def count(self) -> tuple[int, int]:
        """Fewest and most digits of an image."""
        return cast(tuple[int, int], self.num_digits)

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of what `digit_size` is divided by."""
        return cast(tuple[float, float], self.digit_scale)

    @property
    def tiles(self) -> tuple[int, int]:
        """Sides of the smallest and of the largest tile, in pixels."""
        mean, deviation = self.scale
        smallest, largest = (int(self.digit_size / (mean + sign * DEVIATIONS * deviation)) for sign in (1, -1))
        return smallest, largest

    @property
    def overlap(self) -> float:
        """Most pixels that a tile may share with the earlier ones, in all."""
        return cast(float, self.max_overlap)

    @property
    def window(self) -> tuple[int, int]:
        """(H, W) of the training images."""
        return self.canvas if self.crop_size is None else cast(tuple[int, int], self.crop_size)

    @property
    def palette(self) -> Colours:
        """The colours that digits come in."""
        return self.digit_colors

    @property
    def _half_a_tile(self) -> float:
        """In pixels, of the tile at the mean scale."""
        return (self.digit_size / self.scale[0]) ** 2 / 2

    def name(self, source: str, box_convention: str) -> str:
        """`multimnist48-1to5-mnist-ink`, with a part for each parameter that departs from its default.

        Args:
            source: Name of the source of the digits.
            box_convention: "ink" or "tile".
        """
        parts = [f"multimnist{size_name(self.canvas)}", range_name(self.count)]
        parts += [f"d{self.digit_size}"] * self.departs("digit_size")
        parts += [f"z{self.scale[0]:g}sd{self.scale[1]:g}"] * self.departs("digit_scale")
        parts += ["margin"] * self.departs("crop_digits")
        parts += [f"o{self.overlap:g}"] * (self.overlap != self._half_a_tile)
        parts += [self.composition] * self.departs("composition")
        parts += [f"crop{size_name(self.window)}x{self.crops_per_image}"] * self.departs("crop_size")
        parts += ["c1"] * (self.channels == 1)
        parts += [colours_name(self.palette, self.background_color)] * self.departs("digit_colors", "background_color")
        parts += [f"n{self.num_train}"] * self.departs("num_train")
        parts += [f"s{self.seed}"] * self.departs("seed")
        return "-".join([*parts, source, box_convention])

    def manifest(self, split: Split) -> dict[str, Any]:
        """All parameters that the scenes of a split depend on, in JSON values."""
        unused = ("crop_size", "crops_per_image") if split != "train" or self.crop_size is None else ()
        return {key: value for key, value in super().manifest(split).items() if key not in unused}


class MultiMNIST(GeneratedScenes):
    """Scenes with scattered digits, generated once from a seed and kept in a cache file.

    Args:
        split: "train", "val" or "test". No digit occurs in two splits.
        source: See `MultiMNISTDataModule`, as for all that follow.
        data_dir: The data folder.
        box_convention: "ink" or "tile".
        target: null or "sum".
        **parameters: Fields of `SceneParameters`.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: The digits are not there and cannot be downloaded.
        CacheError: The cache folder cannot be written.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        source: str | DigitSource = "auto",
        data_dir: str | None = None,
        box_convention: str = "ink",
        target: str | None = None,
        **parameters: Any,
    ) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        check("box_convention", box_convention, box_convention in ("ink", "tile"), "ink or tile")
        check("target", target, target in (None, "sum"), "null or sum")
        self.parameters = SceneParameters(**parameters)
        folder = data_folder(data_dir)
        self.source = find_source(source, folder) if isinstance(source, str) else source
        self.target = target
        super().__init__(
            "multimnist",
            split,
            folder,
            self.parameters,
            {"source": self.source.name, "digits": self.source.fingerprint},
            VERSION,
            lambda: generate(self.parameters, self.source.load(split), split),
            boxes=f"{box_convention}_boxes",
        )

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked."""
        batch = super().batch(indices)
        if self.target == "sum":
            batch["target"] = batch["labels"].sum(1)  # labels of padding are 0
        return batch


def generate(parameters: SceneParameters, digits: Digits, split: Split) -> dict[str, Tensor]:
    """Make the scenes of a split; fewer scenes are the first ones of more scenes.

    Args:
        parameters: What the scenes look like.
        digits: The digits of the split.
        split: Its name. Only "train" is cut into crops.

    Returns:
        With S scenes of up to N digits: `images` (S, C, H, W) uint8, where C is 1 if all colours are grey;
        `ink_boxes` and `tile_boxes` (S, N, 4) int16; `labels` (S, N) uint8; `counts` (S,) uint8; and `masks`
        (S, H, W) uint8 if asked for.

    Raises:
        ValueError: An image never got all its digits.
    """
    smallest, largest = parameters.tiles
    # Tiles of one size are made once for all; others as they are needed.
    tiles = make_tiles(digits.images, largest, crop=parameters.crop_digits) if smallest == largest else None
    crops = parameters.crops_per_image if split == "train" and parameters.crop_size is not None else 0

    def block(rng: np.random.Generator) -> dict[str, Array]:
        low, high = parameters.count
        counts = low + integers(rng, high - low + 1, (BLOCK,))
        scenes = _scenes(parameters, digits, tiles, counts, rng)
        if crops:
            scenes = crop(scenes, parameters.window, crops, rng)
        return pack(scenes)

    return in_blocks(parameters, split, block, max(crops, 1))


def _scenes(
    parameters: SceneParameters, digits: Digits, tiles: UInt8 | None, counts: Int64, rng: np.random.Generator
) -> dict[str, Array]:
    """Full images with `counts` digits; where digits are added up, those past full brightness are drawn anew."""
    scenes = _draw(parameters, digits, tiles, counts, rng)
    if parameters.composition == "paint":
        return scenes
    bright = np.arange(len(counts))
    for _ in range(RESTARTS):
        bright = bright[scenes["images"][bright].max(axis=(1, 2, 3)) > 255]
        if not len(bright):
            return {**scenes, "images": scenes["images"].astype(np.uint8)}
        for key, value in _draw(parameters, digits, tiles, counts[bright], rng).items():
            scenes[key][bright] = value
    raise ValueError(
        f"composition='sum': {counts[bright].max()} digits overlap so often on {parameters.canvas[0]} x "
        f"{parameters.canvas[1]} px that an image was too bright {RESTARTS} times; ask for fewer, raise image_size, "
        "lower max_overlap, or choose 'paint'"
    )


def _draw(
    parameters: SceneParameters, digits: Digits, tiles: UInt8 | None, counts: Int64, rng: np.random.Generator
) -> dict[str, Array]:
    """Full images with `counts` digits."""
    (H, W), slots, n = parameters.canvas, parameters.count[1], len(counts)
    _, largest = parameters.tiles
    sizes = np.full((n, slots), largest) if tiles is not None else _sizes(parameters, rng, (n, slots))
    layout = Tiles(parameters.canvas, sizes, parameters.overlap, "digits")
    corners = place(layout, counts, slots, rng)
    chosen = integers(rng, len(digits.labels), (n, slots))
    colours = integers(rng, len(parameters.digit_colors), (n, slots))
    present = np.arange(slots) < counts[:, None]
    anchors = np.minimum(corners, [W - largest, H - largest])  # of squares that hold any tile and lie in the image
    if tiles is not None:
        alpha = tiles[chosen]
    else:
        flat = make_tiles(
            digits.images[chosen.ravel()],
            sizes.ravel(),
            crop=parameters.crop_digits,
            side=largest,
            offset=(corners - anchors).reshape(-1, 2),
        )
        alpha = flat.reshape(n, slots, largest, largest)
    images, masks = paint(parameters, alpha, anchors, colours, present, additive=parameters.composition == "sum")
    scenes = {
        "images": images,
        "tiles": alpha,
        "anchors": anchors,
        "ink_boxes": np.tile(anchors, 2) + ink_boxes(alpha),
        "tile_boxes": np.concatenate([corners, corners + sizes[..., None]], axis=2),
        "labels": digits.labels[chosen],
        "present": present,
    }
    return {**scenes, "masks": masks} if parameters.masks else scenes


def _sizes(parameters: SceneParameters, rng: np.random.Generator, shape: tuple[int, ...]) -> Int64:
    """Sides of tiles, `digit_size` divided by normally distributed numbers."""
    mean, deviation = parameters.scale
    tail = scipy.special.ndtr(-DEVIATIONS)
    scale = mean + deviation * scipy.special.ndtri(tail + (1 - 2 * tail) * rng.random(shape))
    return np.clip(parameters.digit_size / scale, *parameters.tiles).astype(np.int64)


@functools.lru_cache(maxsize=64)
def _most_that_fit(canvas: tuple[int, int], tile: int, max_overlap: float, wanted: int) -> int:
    """The most digits, up to `wanted`, that were found to fit."""
    return most_that_fit(Tiles(canvas, np.full((64, wanted), tile), max_overlap, "digits"), 64, wanted)


class MultiMNISTDataModule(GeneratedDataModule, SceneDataModule):
    """Scenes with scattered MNIST digits; the defaults are those of SPAIR's first experiment.

    Digits are drawn with equal chances from all digits of the split, whose classes are equally frequent. A box is not
    made smaller by digits painted over it. A crop keeps the digits that have ink in it, with boxes clipped to it.

    Args:
        image_size: Side of the full images in pixels, or [height, width].
        digit_size: Side of the square tile that a digit comes in, in pixels; its ink fills 12/14 of it.
        digit_scale: What `digit_size` is divided by for each digit, rounded down: a number, or [mean, standard
            deviation] of a normal distribution, cut off at three deviations. AIR has [1.3, 0.1].
        crop_digits: Whether a digit's ink fills 12/14 of its tile; or the digit keeps the margin that it comes with:
            MNIST's ink fills 20/28.
        num_digits: Digits in an image: a number, or [min, max], from which it is uniform, both included.
        max_overlap: Most pixels that a digit's tile may share with all earlier ones together; null: half a tile;
            infinite: no limit.
        composition: "paint": digits cover those before them; or "sum": they are added, and an image where the sum
            exceeds full brightness is drawn anew with as many digits.
        channels: 1 or 3.
        digit_colors: Colours that each digit gets one of at random, as [red, green, blue] in [0, 1].
        background_color: Colour behind the digits, as [red, green, blue] in [0, 1]; black with "sum".
        crop_size: Side of the random crops that training scenes are, or [height, width]; null: full images.
            Validation and test scenes are always full images.
        crops_per_image: Crops from each full training image.
        num_train: Full training images; with crops there are `crops_per_image` times as many training scenes.
        num_val: Validation images.
        num_test: Test images.
        seed: Of the scenes and of the training order.
        source: Where digits come from: "mnist"; "uci", the 8x8 digits that come with scikit-learn; or "auto": MNIST
            if it is there or can be downloaded, else "uci" with a warning. `name` tells which it is.
        data_dir: Folder with MNIST/raw, and where generated scenes are cached (in the user's cache folder if it is
            read-only); null: the environment variable ZOO_DATA, else `data`.
        box_convention: "ink": boxes are tight around the digit's own ink, its pixels with alpha above 0 of 255; or
            "tile": the whole tile.
        masks: Whether batches have `mask`: the digit that was painted last among those with alpha above one half.
        target: null, or "sum": batches have `target`, the sum of the digits in the scene.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process, which is fastest for these data.

    Raises:
        ValueError: A parameter is out of its range, or so many digits do not fit.
    """

    parameters: SceneParameters

    def __init__(
        self,
        *,
        image_size: int | Sequence[int] = 48,
        digit_size: int = 14,
        digit_scale: float | Sequence[float] = (1.0, 0.0),
        crop_digits: bool = True,
        num_digits: int | Sequence[int] = (1, 5),
        max_overlap: float | None = None,
        composition: Literal["paint", "sum"] = "paint",
        channels: int = 3,
        digit_colors: Sequence[Sequence[float]] = ((1.0, 1.0, 1.0),),
        background_color: Sequence[float] = (0.0, 0.0, 0.0),
        crop_size: int | Sequence[int] | None = None,
        crops_per_image: int = 4,
        num_train: int = 64000,
        num_val: int = 1000,
        num_test: int = 1000,
        seed: int = 0,
        source: Literal["auto", "mnist", "uci"] = "auto",
        data_dir: str | None = None,
        box_convention: Literal["ink", "tile"] = "ink",
        masks: bool = False,
        target: Literal["sum"] | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(SceneParameters)
        check("source", source, source in SOURCES, f"one of {', '.join(SOURCES)}")
        check("box_convention", box_convention, box_convention in ("ink", "tile"), "ink or tile")
        check("target", target, target in (None, "sum"), "null or sum")

    @functools.cached_property
    def source(self) -> DigitSource:
        """The source of the digits, settled on first use, when it may be downloaded."""
        return find_source(self.hparams["source"], data_folder(self.hparams["data_dir"]))

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as `multimnist48-1to5-mnist-ink`; see `SceneParameters.name`. Settles the source."""
        return self.parameters.name(self.source.name, self.hparams["box_convention"])

    @property
    def train_image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images."""
        return (self.parameters.channels, *self.parameters.window)

    @property
    def num_classes(self) -> int:
        """10."""
        return 10

    def make_dataset(self, split: Split) -> MultiMNIST:
        """The scenes of a split; generates them if they are not on disk yet."""
        return MultiMNIST(
            split,
            source=self.source,
            data_dir=self.hparams["data_dir"],
            box_convention=self.hparams["box_convention"],
            target=self.hparams["target"],
            **asdict(self.parameters),
        )
