"""Multi-Sprites: squares, triangles and ellipses, after Discrete-AIR (Wang, Jamnik & Lio, 2019, section 4.1).

Positions, orientations and sizes are uniform. Sprites are placed one by one, wholly inside the image, uniformly among
the positions where the circles around them keep their distance, and painted in that order as
`alpha * colour + (1 - alpha) * what is there`, in 8 bits. Alpha is the share of a pixel that the sprite covers.

The paper's appendix with the rest of the construction is not to be had. Ours are the range of sizes, the proportions
(each shape touches the circle around it) and the distance between sprites.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from datamodules.base import SPLITS, Array, Bool, Int64, SceneDataModule, Split, check, range_name, size_name
from datamodules.drawing.generated import (
    BLOCK,
    Colours,
    GeneratedDataModule,
    GeneratedParameters,
    GeneratedScenes,
    Layout,
    colours_name,
    in_blocks,
    ink_boxes,
    integers,
    most_that_fit,
    pack,
    paint,
    place,
)
from datamodules.storage.cache import data_folder

Float64 = npt.NDArray[np.float64]

VERSION = 1  # of the generator: raise it whenever the same parameters give other scenes
SHAPES = ("square", "triangle", "ellipse")  # the classes, in the order of their labels
ELLIPSE = SHAPES.index("ellipse")
SIDES = np.array([4, 3])  # of the polygons
ASPECT = 0.55  # shorter axis of the ellipse by its longer one
SCANLINES = 16  # in a row of pixels: areas of the default sizes are right to 0.4 % at worst, 0.01 % on average
WHITE = ((1.0, 1.0, 1.0),)
COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class SpriteParameters(GeneratedParameters):
    """What the scenes depend on; each parameter is documented in `MultiSpritesDataModule`.

    Raises:
        ValueError: A parameter is out of its range, or so many sprites do not fit.
    """

    image_size: int | Sequence[int] = 64
    sprite_radius: float | Sequence[float] = (7.0, 11.0)
    num_sprites: int | Sequence[int] = (0, 3)
    max_overlap: float = 0.0
    channels: int = 1
    sprite_colors: Colours | None = None
    num_train: int = 90000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pair("num_sprites", "a whole number or [min, max] with 0 <= min <= max", ordered=True)
        check("num_sprites", self.num_sprites, 1 <= self.count[1] <= 255, "at least 1 and at most 255 sprites")
        self._pair("sprite_radius", "a number or [min, max] with min <= max", kind=int | float, ordered=True)
        object.__setattr__(self, "sprite_radius", tuple(map(float, self.radius)))
        fits = self.radius[0] >= 1 and 2 * self.radius[1] <= min(self.canvas)
        check("sprite_radius", self.sprite_radius, fits, f"from 1 to {min(self.canvas) / 2:g} pixels")
        check("max_overlap", self.max_overlap, 0 <= self.max_overlap <= 1, "from 0 to 1")
        if self.sprite_colors is None:
            object.__setattr__(self, "sprite_colors", self._default_palette)
        self._colours("sprite_colors")
        fitting = _most_that_fit(self.canvas, self.radius[1], self.max_overlap, self.count[1])
        if fitting < self.count[1]:
            raise ValueError(
                f"num_sprites={list(self.count)}: {fitting} sprites of radius {self.radius[1]:g} px are the most that "
                f"were found to fit on {self.canvas[0]} x {self.canvas[1]} px with max_overlap={self.max_overlap:g}; "
                "ask for fewer, or raise image_size or max_overlap"
            )

    @property
    def count(self) -> tuple[int, int]:
        """Fewest and most sprites of an image."""
        return cast(tuple[int, int], self.num_sprites)

    @property
    def radius(self) -> tuple[float, float]:
        """Smallest and largest radius of the circle around a sprite, in pixels."""
        return cast(tuple[float, float], self.sprite_radius)

    @property
    def palette(self) -> Colours:
        """The colours that sprites come in."""
        return cast(Colours, self.sprite_colors)

    @property
    def _default_palette(self) -> Colours:
        return WHITE if self.channels == 1 else COLOURS

    @property
    def name(self) -> str:
        """`multisprites64-0to3`, with a part for each parameter that departs from its default."""
        parts = [f"multisprites{size_name(self.canvas)}", range_name(self.count)]
        parts += [f"r{range_name(self.radius)}"] * self.departs("sprite_radius")
        parts += [f"o{self.max_overlap:g}"] * self.departs("max_overlap")
        parts += [f"c{self.channels}"] * self.departs("channels")
        other = self.palette != self._default_palette or self.departs("background_color")
        parts += [colours_name(self.palette, self.background_color)] * other
        parts += [f"n{self.num_train}"] * self.departs("num_train")
        parts += [f"s{self.seed}"] * self.departs("seed")
        return "-".join(parts)


class MultiSprites(GeneratedScenes):
    """Scenes with squares, triangles and ellipses, generated once from a seed and kept in a cache file.

    Args:
        split: "train", "val" or "test".
        data_dir: See `MultiSpritesDataModule`, as for all that follow.
        **parameters: Fields of `SpriteParameters`.

    Raises:
        ValueError: A parameter is out of its range.
        CacheError: The cache folder cannot be written.
    """

    def __init__(self, split: Split = "train", *, data_dir: str | None = None, **parameters: Any) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        self.parameters = SpriteParameters(**parameters)
        super().__init__(
            "multisprites",
            split,
            data_folder(data_dir),
            self.parameters,
            {},
            VERSION,
            lambda: generate(self.parameters, split),
        )


def generate(parameters: SpriteParameters, split: Split) -> dict[str, Tensor]:
    """Make the scenes of a split; fewer scenes are the first ones of more scenes.

    Args:
        parameters: What the scenes look like.
        split: "train", "val" or "test".

    Returns:
        With S scenes of up to N sprites: `images` (S, C, H, W) uint8, where C is 1 if all colours are grey;
        `ink_boxes` (S, N, 4) int16; `labels` (S, N) uint8; `counts` (S,) uint8; and `masks` (S, H, W) uint8 if asked
        for.

    Raises:
        ValueError: An image never got all its sprites.
    """
    (H, W), (low, high) = parameters.canvas, parameters.count
    side = min(int(np.ceil(2 * parameters.radius[1])) + 1, H, W)  # of a tile that holds any sprite

    def block(rng: np.random.Generator) -> dict[str, Array]:
        counts = low + integers(rng, high - low + 1, (BLOCK,))
        smallest, largest = parameters.radius
        radii = smallest + (largest - smallest) * rng.random((BLOCK, high))
        centres: Float64 = place(_Circles(parameters.canvas, radii, parameters.max_overlap), counts, high, rng)
        shapes = integers(rng, len(SHAPES), (BLOCK, high))
        angles = 2 * np.pi * rng.random((BLOCK, high))
        colours = integers(rng, len(parameters.palette), (BLOCK, high))
        present = np.arange(high) < counts[:, None]
        # The tile, too, lies in the image.
        corners = np.clip(np.floor(centres - radii[..., None]).astype(np.int64), 0, [W - side, H - side])
        tiles = np.zeros((BLOCK, high, side, side), np.uint8)
        covered = coverage(shapes[present], (centres - corners)[present], radii[present], angles[present], side)
        tiles[present] = np.rint(covered * 255)
        images, masks = paint(parameters, tiles, corners, colours, present)
        boxes = np.tile(corners, 2) + ink_boxes(tiles)
        scenes = {"images": images, "ink_boxes": boxes, "labels": shapes, "present": present}
        return pack({**scenes, "masks": masks} if parameters.masks else scenes)

    return in_blocks(parameters, split, block)


def coverage(shapes: Int64, centres: Float64, radii: Float64, angles: Float64, side: int) -> Float64:
    """Share of each pixel that a sprite covers.

    All shapes are convex: each scanline meets them in one interval, whose overlap with the pixels is exact.

    Args:
        shapes: (M,), index into `SHAPES`.
        centres: (M, 2), (x, y) of the circles around the sprites, in pixels from the tile's left top corner.
        radii: (M,), their radii in pixels.
        angles: (M,), from the x axis to a corner or to the longer axis, towards the y axis, in radians.
        side: Of the tile, in pixels.

    Returns:
        (M, side, side), in [0, 1].
    """
    covered = np.empty((len(shapes), side, side))
    for start in range(0, len(shapes), 16):  # what is at work stays in the processor's cache
        part = slice(start, start + 16)
        y = (np.arange(side * SCANLINES) + 0.5) / SCANLINES - centres[part, 1:]
        left, right = np.zeros_like(y), np.zeros_like(y)
        for rows, chords in ((shapes[part] != ELLIPSE, _polygon), (shapes[part] == ELLIPSE, _ellipse)):
            left[rows], right[rows] = chords(
                y[rows], radii[part][rows, None], angles[part][rows, None], shapes[part][rows]
            )
        # Columns before scanlines: the sum over scanlines adds whole columns of the tile.
        x = np.arange(side)[:, None]
        left, right = (end + centres[part, :1] for end in (left, right))
        share = np.minimum(right[:, None], x + 1)
        share -= np.maximum(left[:, None], x)
        np.maximum(share, 0, out=share)
        covered[part] = share.reshape(-1, side, side, SCANLINES).mean(axis=3).swapaxes(1, 2)
    return covered


def _polygon(y: Float64, radius: Float64, angle: Float64, shapes: Int64) -> tuple[Float64, Float64]:
    """Where scanlines y (m, n) meet regular polygons around the origin: left and right ends (m, n), or left > right.

    A polygon is the intersection of half-planes normal_x x + normal_y y <= apothem, one for each side.
    """
    sides = SIDES[shapes][:, None]
    normals = angle + np.pi / sides * (1 + 2 * np.arange(SIDES.max()))  # a triangle has its first side twice
    normal_x, normal_y = np.cos(normals)[..., None], np.sin(normals)[..., None]
    normal_x = np.where(np.abs(normal_x) < 1e-9, 1e-9, normal_x)
    ends = ((radius * np.cos(np.pi / sides))[..., None] - normal_y * y[:, None]) / normal_x
    left = np.where(normal_x < 0, ends, -np.inf).max(axis=1)
    return left, np.where(normal_x > 0, ends, np.inf).min(axis=1)


def _ellipse(y: Float64, radius: Float64, angle: Float64, _: Int64) -> tuple[Float64, Float64]:
    """The same for ellipses: a x^2 + 2 b x y + c y^2 <= 1 with a c - b^2 = 1 / (longer * shorter)^2."""
    longer, shorter = radius**-2, (ASPECT * radius) ** -2
    cosine, sine = np.cos(angle), np.sin(angle)
    a, b = longer * cosine**2 + shorter * sine**2, (longer - shorter) * cosine * sine
    half = np.sqrt(np.maximum(a - longer * shorter * y**2, 0))
    return (-b * y - half) / a, (-b * y + half) / a


@dataclass(frozen=True)
class _Circles(Layout):
    """Circles inside the image, whose centres keep their distance.

    Attributes:
        canvas: (H, W).
        radii: (n, slots) in pixels.
        max_overlap: Share of the sum of two radii by which circles may reach into one another.
    """

    canvas: tuple[int, int]
    radii: Float64
    max_overlap: float
    dtype = np.float64

    def propose(self, rng: np.random.Generator, images: Int64, slot: int, tries: int) -> Float64:
        """Centres."""
        radius = self.radii[images, slot][:, None, None]
        return radius + rng.random((len(images), tries, 2)) * (np.array(self.canvas[::-1]) - 2 * radius)

    def fits(self, candidates: Array, earlier: Array, images: Int64, slot: int) -> Bool:
        """Whether the circle is far enough from each of the earlier ones."""
        distance = np.square(candidates[:, :, None] - earlier[:, None]).sum(axis=3)  # squared, (m, tries, slot)
        least = (1 - self.max_overlap) * (self.radii[images, slot, None] + self.radii[images, :slot])
        return (distance >= np.square(least)[:, None]).all(axis=2)

    def __str__(self) -> str:
        radius = range_name((self.radii.min(), self.radii.max()))
        return (
            f"sprites of radius {radius} px fit on {self.canvas[0]} x {self.canvas[1]} px with "
            f"max_overlap={self.max_overlap:g}"
        )


@functools.lru_cache(maxsize=64)
def _most_that_fit(canvas: tuple[int, int], radius: float, max_overlap: float, wanted: int) -> int:
    """The most sprites, up to `wanted`, that were found to fit."""
    return most_that_fit(_Circles(canvas, np.full((64, wanted), radius), max_overlap), 64, wanted)


class MultiSpritesDataModule(GeneratedDataModule, SceneDataModule):
    """Scenes with squares, triangles and ellipses; the defaults are those of Discrete-AIR.

    Each shape touches the circle around it: the square and the equilateral triangle with all corners, the ellipse with
    the ends of its longer axis; its shorter axis is 0.55 of that. Labels are 0, 1 and 2 in this order. Boxes are tight
    around the pixels where alpha is above 0 of 255, and not made smaller by sprites painted over them.

    Args:
        image_size: Side of the images in pixels, or [height, width].
        sprite_radius: Radius of the circle around a sprite, in pixels: a number, or [min, max], from which it is
            uniform.
        num_sprites: Sprites in an image: a number, or [min, max], from which it is uniform, both included.
        max_overlap: How far the circles around two sprites may reach into one another, as a share of the sum of their
            radii; 0: sprites never overlap; 1: sprites may be anywhere.
        channels: 1 or 3.
        sprite_colors: Colours that each sprite gets one of at random, as [red, green, blue] in [0, 1]; null: white
            with one channel (the paper), and with three red, green, blue, yellow, magenta and cyan. Several greys
            give sprites of several brightnesses.
        background_color: Colour behind the sprites, as [red, green, blue] in [0, 1].
        num_train: Training images; the paper's 90,000.
        num_val: Validation images, which are not among them.
        num_test: Test images, which are not among them.
        seed: Of the scenes and of the training order.
        data_dir: Folder where generated scenes are cached (in the user's cache folder if it is read-only); null: the
            environment variable ZOO_DATA, else `data`.
        masks: Whether batches have `mask`: the sprite that was painted last among those with alpha above one half.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process, which is fastest for these data.

    Raises:
        ValueError: A parameter is out of its range, or so many sprites do not fit.
    """

    parameters: SpriteParameters

    def __init__(
        self,
        *,
        image_size: int | Sequence[int] = 64,
        sprite_radius: float | Sequence[float] = (7.0, 11.0),
        num_sprites: int | Sequence[int] = (0, 3),
        max_overlap: float = 0.0,
        channels: int = 1,
        sprite_colors: Sequence[Sequence[float]] | None = None,
        background_color: Sequence[float] = (0.0, 0.0, 0.0),
        num_train: int = 90000,
        num_val: int = 1000,
        num_test: int = 1000,
        seed: int = 0,
        data_dir: str | None = None,
        masks: bool = False,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(SpriteParameters)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as `multisprites64-0to3`; see `SpriteParameters.name`."""
        return self.parameters.name

    @property
    def num_classes(self) -> int:
        """3: square, triangle, ellipse."""
        return len(SHAPES)

    def make_dataset(self, split: Split) -> MultiSprites:
        """The scenes of a split; generates them if they are not on disk yet."""
        return MultiSprites(split, data_dir=self.hparams["data_dir"], **asdict(self.parameters))
