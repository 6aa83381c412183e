"""Fruit2D: fruits of nine kinds in a container, after GMAIR (Zhu et al., 2021, section 4).

The published data are screenshots of a game with boxes and classes. Their numbers of images are not published, nor is
there a validation part, which here is taken from the training images: the last ones in the order of their names, as
neighbours may show the same game.

The synthetic scenes have the paper's statistics: the largest of nine kinds is 6 times as large as the smallest, which
is 31 times as frequent. Ours are: sizes and frequencies of the kinds between, in equal ratios; the number of fruits,
uniform; their size in the image; the order in which they fall and the pile that they settle in; what they look like.
Unlike in the game, equal fruits that touch do not merge. The paper's text does not tell the published images'
background; the synthetic one is black, as GMAIR renders its objects on black. Their names say that they are synthetic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from datamodules.base import SPLITS, Array, Int64, SceneDataModule, Split, check, range_name, size_name
from datamodules.drawing.fruits import FREQUENCIES, FRUITS, RELATIVE_RADII, drop, paint, settle
from datamodules.drawing.generated import (
    BLOCK,
    Colours,
    GeneratedDataModule,
    GeneratedParameters,
    GeneratedScenes,
    colours_name,
    in_blocks,
    integers,
    pack,
)
from datamodules.fruit2d_published import SIZE, find_published, fingerprint, read_published
from datamodules.storage.cache import data_folder

Float64 = npt.NDArray[np.float64]

VERSION = 1  # raise it whenever the same parameters give other scenes
SOURCES = ("published", "synthetic")
LARGEST = 3 / 8  # diameter of the largest kind by the image's shorter side, where not told: 8 to 48 px of 128
FULL = 0.6  # most that fruits may cover of the container on average; piles then seldom reach above it
ATTEMPTS = 200  # at a pile that stays within the image
STEP = 1 / 40  # of the first sweep that settles a pile, in diameters of the largest kind


@dataclass(frozen=True, kw_only=True)
class FruitParameters(GeneratedParameters):
    """What the scenes depend on; each parameter is documented in `Fruit2DDataModule`.

    Raises:
        ValueError: A parameter is out of its range, or so many fruits do not fit.
    """

    source: Literal["published", "synthetic"] = "published"
    image_size: int | Sequence[int] = SIZE
    channels: int = field(default=3, init=False)
    val_fraction: float = 0.1
    num_fruits: int | Sequence[int] = (6, 36)
    largest_diameter: float | None = None
    num_train: int = 15000

    def __post_init__(self) -> None:
        super().__post_init__()
        check("source", self.source, self.source in SOURCES, f"one of {', '.join(SOURCES)}")
        check("val_fraction", self.val_fraction, 0 < self.val_fraction < 1, "above 0 and below 1")
        good = self.source == "synthetic" or not self.masks
        check("masks", self.masks, good, "false with source='published', which has none")
        self._pair("num_fruits", "a whole number or [min, max] with 0 <= min <= max", ordered=True)
        if self.largest_diameter is None:
            object.__setattr__(self, "largest_diameter", self._largest)
        fits = isinstance(self.largest_diameter, int | float) and 12 <= self.largest <= min(self.canvas)
        check("largest_diameter", self.largest_diameter, fits, f"from 12 to {min(self.canvas)} pixels, or null")
        mean_area = float(FREQUENCIES @ np.square(RELATIVE_RADII)) * math.pi / 4 * self.largest**2
        most = min(int(FULL * self.canvas[0] * self.canvas[1] / mean_area), 255)
        allowed = f"at least 1 and at most {most} fruits with largest_diameter={self.largest:g} and this image_size"
        check("num_fruits", self.num_fruits, 1 <= self.count[1] <= most, allowed)

    @property
    def count(self) -> tuple[int, int]:
        """Fewest and most fruits of a synthetic image."""
        return cast(tuple[int, int], self.num_fruits)

    @property
    def largest(self) -> float:
        """Diameter of the largest kind in pixels."""
        return float(cast(float, self.largest_diameter))

    @property
    def palette(self) -> Colours:
        """The colours of the fruits' bodies."""
        return tuple(fruit.colour for fruit in FRUITS)

    @property
    def _largest(self) -> float:
        return LARGEST * min(self.canvas)

    @property
    def name(self) -> str:
        """`fruit2d128` or `fruit2d-synthetic128`, with a part for each parameter that departs from its default."""
        if self.source == "published":
            parts = [f"fruit2d{size_name(self.canvas)}"]
            return "-".join(parts + [f"v{self.val_fraction:g}"] * self.departs("val_fraction"))
        parts = [f"fruit2d-synthetic{size_name(self.canvas)}"]
        parts += [range_name(self.count)] * self.departs("num_fruits")
        parts += [f"d{self.largest:g}"] * (self.largest != self._largest)
        parts += [colours_name(self.background_color)] * self.departs("background_color")
        parts += [f"n{self.num_train}"] * self.departs("num_train")
        parts += [f"s{self.seed}"] * self.departs("seed")
        return "-".join(parts)

    def manifest(self, split: Split) -> dict[str, Any]:
        """All parameters that the scenes of a split depend on, in JSON values."""
        if self.source == "published":
            chosen = {} if split == "test" else {"val_fraction": self.val_fraction}
            return {"source": self.source, "split": split, "image_size": list(self.canvas), **chosen}
        return {key: value for key, value in super().manifest(split).items() if key != "val_fraction"}


class Fruit2D(GeneratedScenes):
    """Fruits of nine kinds: published screenshots or synthetic scenes, converted or generated once to a cache file.

    Args:
        split: "train", "val" or "test".
        data_dir: See `Fruit2DDataModule`, as for all that follow.
        root: The folder with the published data.
        **parameters: Fields of `FruitParameters`.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: The published data are not there and cannot be downloaded.
        DatasetCorruptError: One of their files is damaged; the message names it.
        CacheError: The cache folder cannot be written.
    """

    def __init__(
        self, split: Split = "train", *, data_dir: str | None = None, root: str | None = None, **parameters: Any
    ) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        self.parameters = FruitParameters(**parameters)
        folder = data_folder(data_dir)
        published = Path(root).expanduser() if root else folder / "Fruit2D"
        synthetic = self.parameters.source == "synthetic"
        source: dict[str, str] = {"source": self.parameters.source}
        if not synthetic:
            find_published(published)
            source["files"] = fingerprint(published)

        def build() -> dict[str, Tensor]:
            if synthetic:
                return generate(self.parameters, split)
            return read_published(published, split, self.parameters.val_fraction, self.parameters.canvas)

        boxes = "ink_boxes" if synthetic else "boxes"
        super().__init__("fruit2d", split, folder, self.parameters, source, VERSION, build, boxes)


def generate(parameters: FruitParameters, split: Split) -> dict[str, Tensor]:
    """Make the synthetic scenes of a split; fewer scenes are the first ones of more scenes.

    Args:
        parameters: What the scenes look like.
        split: "train", "val" or "test".

    Returns:
        With S scenes of up to N fruits: `images` (S, 3, H, W) uint8; `ink_boxes` (S, N, 4) int16; `labels` (S, N)
        uint8; `counts` (S,) uint8; and `masks` (S, H, W) uint8 if asked for.

    Raises:
        ValueError: A pile never stayed within the image.
    """
    low, high = parameters.count

    def block(rng: np.random.Generator) -> dict[str, Array]:
        counts = low + integers(rng, high - low + 1, (BLOCK,))
        labels, centres = piles(parameters, counts, rng)
        angles = 2 * np.pi * rng.random((BLOCK, high))
        present = np.arange(high) < counts[:, None]
        background = cast(tuple[float, float, float], parameters.background_color)
        images, masks, boxes = paint(
            centres, labels, present, angles, parameters.largest, parameters.canvas, background
        )
        scenes: dict[str, Array] = {"images": images, "ink_boxes": boxes, "labels": labels, "present": present}
        return pack({**scenes, "masks": masks} if parameters.masks else scenes)

    return in_blocks(parameters, split, block)


def piles(parameters: FruitParameters, counts: Int64, rng: np.random.Generator) -> tuple[Int64, Float64]:
    """Piles of `counts` (n,) fruits; those that reach above the image are drawn anew, with as many fruits.

    Args:
        parameters: Tell the canvas and the sizes.
        counts: (n,), fruits in each image.
        rng: Random stream.

    Returns:
        Labels (n, N) and centres (n, N, 2), as (x, y), in pixels; those past an image's count are meaningless.

    Raises:
        ValueError: A pile never stayed within the image.
    """
    n, N = len(counts), parameters.count[1]
    labels, centres = np.zeros((n, N), np.int64), np.zeros((n, N, 2))
    pending = np.arange(n)
    for _ in range(ATTEMPTS):
        present = np.arange(N) < counts[pending, None]
        drawn = np.searchsorted(np.cumsum(FREQUENCIES)[:-1], rng.random(present.shape), side="right")
        radii = parameters.largest / 2 * RELATIVE_RADII[drawn]
        fallen = drop(radii, parameters.canvas, rng)
        settled = settle(fallen, radii, present, parameters.canvas, STEP * parameters.largest)
        labels[pending], centres[pending] = drawn, settled
        pending = pending[((settled[..., 1] < radii) & present).any(axis=1)]
        if not len(pending):
            return labels, centres
    raise ValueError(
        f"{counts[pending].max()} fruits up to {parameters.largest:g} px so rarely fit on {parameters.canvas[0]} x "
        f"{parameters.canvas[1]} px that an image failed {ATTEMPTS} times; ask for fewer, or lower largest_diameter"
    )


class Fruit2DDataModule(GeneratedDataModule, SceneDataModule):
    """Fruits of nine kinds that lie in a container, with boxes and classes; the default is the paper's data.

    Published boxes are clipped to the image. Synthetic ones are tight around the pixels where the fruit's alpha is
    above 0 of 255, and not made smaller by fruits painted over it. Labels are 0 to 8; of synthetic fruits from the
    smallest to the largest: blueberry, cherry, strawberry, lemon, orange, kiwi, peach, pineapple, watermelon.

    Args:
        source: "published": the paper's screenshots, downloaded if need be; or "synthetic": scenes made to look like
            them, which need no download. `name` tells which it is.
        image_size: Side of the images in pixels, or [height, width]. Published images, of 128 px, are resized.
        val_fraction: Share of the published training images that are the validation part, the last by name.
        num_fruits: Fruits in a synthetic image: a number, or [min, max], from which it is uniform, both included.
        largest_diameter: Of the largest kind of synthetic fruit in pixels, 6 times the smallest; null: 3/8 of the
            image's shorter side.
        background_color: Colour behind synthetic fruits, as [red, green, blue] in [0, 1].
        num_train: Synthetic training images.
        num_val: Synthetic validation images.
        num_test: Synthetic test images.
        seed: Of the synthetic scenes and of the training order.
        data_dir: Folder where scenes are cached (in the user's cache folder if it is read-only); null: the environment
            variable ZOO_DATA, else `data`.
        root: Folder of the published data, with `train_images`, `train_labels`, `test_images` and `test_labels`; null:
            `Fruit2D` in the data folder.
        masks: Whether batches have `mask`, of synthetic scenes alone: the fruit that was painted last among those with
            alpha above one half.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process, which is fastest for these data.

    Raises:
        ValueError: A parameter is out of its range, or so many fruits do not fit.
    """

    parameters: FruitParameters

    def __init__(
        self,
        *,
        source: Literal["published", "synthetic"] = "published",
        image_size: int | Sequence[int] = SIZE,
        val_fraction: float = 0.1,
        num_fruits: int | Sequence[int] = (6, 36),
        largest_diameter: float | None = None,
        background_color: Sequence[float] = (0.0, 0.0, 0.0),
        num_train: int = 15000,
        num_val: int = 1000,
        num_test: int = 1000,
        seed: int = 0,
        data_dir: str | None = None,
        root: str | None = None,
        masks: bool = False,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(FruitParameters)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as `fruit2d128` or `fruit2d-synthetic128`; see `FruitParameters.name`."""
        return self.parameters.name

    @property
    def num_classes(self) -> int:
        """9."""
        return len(FRUITS)

    @property
    def max_objects(self) -> int:
        """N of the batch: the most fruits in an image; of the published data, which it reads, in any split."""
        if self.parameters.source == "synthetic":
            return self.parameters.count[1]
        dataset = next(iter(self.datasets.values()), None) or self.make_dataset("test")
        return cast(Fruit2D, dataset).boxes.shape[1]

    def make_dataset(self, split: Split) -> Fruit2D:
        """The scenes of a split; downloads, converts or generates what is not on disk yet."""
        own = {each.name: getattr(self.parameters, each.name) for each in fields(self.parameters) if each.init}
        return Fruit2D(split, data_dir=self.hparams["data_dir"], root=self.hparams["root"], **own)
