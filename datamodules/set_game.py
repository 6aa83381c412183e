"""The game of SET in its small form (SPAIR, section 5.3, figure 5 and table 1): is there a set among seven cards?

A card has a shape, a colour and a number, of three values each; no two of the 27 cards are alike. Three cards are a set
if each property is the same on all of them, or different on all. Every second scene, on average, holds one: its answer
is drawn first, and hands are drawn until one has it. A card is its shape in its colour, with its number in black
strokes. Cards are placed one by one, each uniformly among the places where it shares at most `max_overlap` pixels with
all earlier ones together, and painted in that order on one of three colours.

Colours, size of cards, overlap and the drawing of answers are those of the paper's program, whose pictures of shapes
and strokes are not to be had: ours are drawn anew.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from datamodules.base import SPLITS, Array, Bool, Int64, SceneDataModule, Split, UInt8, check, size_name
from datamodules.batch import Batch
from datamodules.drawing.generated import (
    BLOCK,
    Colours,
    GeneratedDataModule,
    GeneratedParameters,
    GeneratedScenes,
    colours_name,
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
SHAPES, COLOURS, NUMBERS = ("circle", "square", "diamond"), ("red", "green", "blue"), (1, 2, 3)
PROPERTIES = ("shape", "color", "number")
# (27, 3): the values, 0 to 2, of each property of each card
CARDS: Int64 = np.stack(np.unravel_index(np.arange(27), (3, 3, 3)), axis=1)
PALETTE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0))  # of shapes, and of strokes
BLACK = len(PALETTE) - 1
BACKGROUNDS = ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
MOST = 8  # cards; nine are hardly ever without a set, ten never
STROKE, APART = 0.1, 0.25  # width of a stroke and way from one to the next, in sides of a card
FINE = 8  # points in a row of a pixel, of which the share that is covered is alpha


@dataclass(frozen=True, kw_only=True)
class SetParameters(GeneratedParameters):
    """What the scenes depend on; each parameter is documented in `SetGameDataModule`.

    Raises:
        ValueError: A parameter is out of its range, or so many cards do not fit.
    """

    image_size: int | Sequence[int] = 48
    channels: int = field(default=3, init=False)
    background_color: Sequence[float] = field(default=(0.0, 0.0, 0.0), init=False)  # `background_colors` instead
    background_colors: Colours = BACKGROUNDS
    num_cards: int = 7
    card_size: int = 14
    max_overlap: float | None = None
    num_train: int = 128000
    num_val: int = 500
    num_test: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        self._colours("background_colors")
        self._whole("num_cards", "card_size")
        check(
            "num_cards",
            self.num_cards,
            3 <= self.num_cards <= MOST,
            f"from 3 to {MOST}, as more hardly ever hold no set",
        )
        room = min(self.canvas)
        check("card_size", self.card_size, 8 <= self.card_size <= room, f"from 8 to {room} pixels")
        if self.max_overlap is None:
            object.__setattr__(self, "max_overlap", self._third_of_a_card)
        check("max_overlap", self.max_overlap, self.overlap >= 0, "at least 0 pixels, or null")
        fitting = _most_that_fit(self.canvas, self.card_size, self.overlap, self.num_cards)
        if fitting < self.num_cards:
            raise ValueError(
                f"num_cards={self.num_cards}: {fitting} cards of {self.card_size} px are the most that were found to "
                f"fit on {self.canvas[0]} x {self.canvas[1]} px with max_overlap={self.overlap:g}; ask for fewer, or "
                "raise image_size or max_overlap"
            )

    @property
    def palette(self) -> Colours:
        """Red, green and blue, and black."""
        return PALETTE

    @property
    def count(self) -> tuple[int, int]:
        """Fewest and most cards of an image, which are the same."""
        return (self.num_cards, self.num_cards)

    @property
    def overlap(self) -> float:
        """`max_overlap`, settled."""
        return cast(float, self.max_overlap)

    @property
    def _third_of_a_card(self) -> float:
        return self.card_size**2 / 3

    @property
    def name(self) -> str:
        """`setgame48-7`, with a part for each parameter that departs from its default."""
        parts = [f"setgame{size_name(self.canvas)}", str(self.num_cards)]
        parts += [f"k{self.card_size}"] * self.departs("card_size")
        parts += [f"o{self.overlap:g}"] * (self.overlap != self._third_of_a_card)
        parts += [colours_name(self.background_colors)] * self.departs("background_colors")
        parts += [f"n{self.num_train}"] * self.departs("num_train")
        parts += [f"s{self.seed}"] * self.departs("seed")
        return "-".join(parts)


def has_set(cards: Int64) -> Bool:
    """Which hands (n, k) of cards, indices into `CARDS`, hold a set: (n,).

    Three values are all the same or all different if their sum is 0, 3 or 6, a multiple of 3.
    """
    triples = np.array([*combinations(range(cards.shape[1]), 3)])
    found: Bool = (CARDS[cards][:, triples].sum(axis=2) % 3 == 0).all(axis=2).any(axis=1)
    return found


def deal(rng: np.random.Generator, hands: int, cards: int) -> Int64:
    """Hands (n, k) of which each holds a set with a chance of one half."""
    wanted = integers(rng, 2, (hands,)) == 1
    dealt = np.zeros((hands, cards), np.int64)
    pending = np.arange(hands)
    while len(pending):
        dealt[pending] = np.argsort(rng.random((len(pending), len(CARDS))), axis=1)[:, :cards]
        pending = pending[has_set(dealt[pending]) != wanted[pending]]
    return dealt


@functools.lru_cache(maxsize=8)
def pictures(side: int) -> tuple[UInt8, UInt8]:
    """Alpha of each shape (3, side, side), and of the strokes on it (3 shapes, 3 numbers, side, side)."""
    line = (np.arange(side * FINE) + 0.5) / (side * FINE) - 0.5
    y, x = np.meshgrid(line, line, indexing="ij")
    within = np.stack([x**2 + y**2 <= 0.25, np.maximum(abs(x), abs(y)) <= 0.5, abs(x) + abs(y) <= 0.5])
    strokes = np.stack(
        [(abs(x[..., None] - APART * (np.arange(n) - (n - 1) / 2)) <= STROKE / 2).any(axis=-1) for n in NUMBERS]
    )

    def shares(points: Bool) -> UInt8:
        fine = points.reshape(*points.shape[:-2], side, FINE, side, FINE)
        return np.rint(255 * fine.mean(axis=(-3, -1))).astype(np.uint8)

    return shares(within), shares(within[:, None] & strokes)


class SetGame(GeneratedScenes):
    """Hands of cards, drawn once from a seed and kept in a cache file.

    Args:
        split: "train", "val" or "test".
        data_dir: See `SetGameDataModule`, as for all that follow.
        label: What `labels` are.
        **parameters: Fields of `SetParameters`.

    Raises:
        ValueError: A parameter is out of its range.
        CacheError: The cache folder cannot be written.
    """

    def __init__(
        self, split: Split = "train", *, data_dir: str | None = None, label: str = "card", **parameters: Any
    ) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        _check_label(label)
        self.parameters = SetParameters(**parameters)
        super().__init__(
            "setgame",
            split,
            data_folder(data_dir),
            self.parameters,
            {},
            VERSION,
            lambda: generate(self.parameters, split),
        )
        self.targets = torch.from_numpy(has_set(self.labels.numpy().astype(np.int64)).astype(np.int64))
        if label != "card":
            self.labels = torch.from_numpy(CARDS[:, PROPERTIES.index(label)].astype(np.uint8))[self.labels.long()]

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked."""
        batch = super().batch(indices)
        batch["target"] = self.targets[torch.as_tensor(indices)]
        return batch


def generate(parameters: SetParameters, split: Split) -> dict[str, Tensor]:
    """Make the scenes of a split; fewer scenes are the first ones of more scenes.

    Args:
        parameters: What the scenes look like.
        split: "train", "val" or "test".

    Returns:
        With S scenes of N cards: `images` (S, 3, H, W) uint8; `ink_boxes` (S, N, 4) int16; `labels` (S, N) uint8, the
        cards; `counts` (S,) uint8; and `masks` (S, H, W) uint8 if asked for.

    Raises:
        ValueError: An image never got all its cards.
    """
    n, slots, side = BLOCK, parameters.num_cards, parameters.card_size
    shapes, strokes = pictures(side)
    grounds = np.rint(np.array(parameters.background_colors) * 255).astype(np.uint8)
    layout = Tiles(parameters.canvas, np.full((n, slots), side), parameters.overlap, "cards")

    def block(rng: np.random.Generator) -> dict[str, Array]:
        cards = deal(rng, n, slots)
        corners = place(layout, np.full(n, slots), slots, rng)
        shape, colour, number = np.moveaxis(CARDS[cards], -1, 0)
        # a card is painted in two coats, one after the other: what is under it shows through neither
        tiles = np.stack([shapes[shape], strokes[shape, number]], axis=2).reshape(n, 2 * slots, side, side)
        coats = np.stack([colour, np.full_like(colour, BLACK)], axis=2).reshape(n, 2 * slots)
        images, masks = paint(
            parameters,
            tiles,
            np.repeat(corners, 2, axis=1),
            coats,
            np.ones_like(coats, bool),
            ground=grounds[integers(rng, len(grounds), (n,))],
        )
        boxes = np.tile(corners, 2) + ink_boxes(shapes[shape])
        scenes = {"images": images, "ink_boxes": boxes, "labels": cards, "present": np.ones_like(cards, bool)}
        return pack({**scenes, "masks": (masks + 1) // 2} if parameters.masks else scenes)

    return in_blocks(parameters, split, block)


@functools.lru_cache(maxsize=64)
def _most_that_fit(canvas: tuple[int, int], side: int, max_overlap: float, wanted: int) -> int:
    """The most cards, up to `wanted`, that were found to fit."""
    return most_that_fit(Tiles(canvas, np.full((64, wanted), side), max_overlap, "cards"), 64, wanted)


def _check_label(label: str) -> None:
    check("label", label, label in ("card", *PROPERTIES), f"card, {', '.join(PROPERTIES[:-1])} or {PROPERTIES[-1]}")


class SetGameDataModule(GeneratedDataModule, SceneDataModule):
    """Is there a set among the cards? The defaults are those of SPAIR's figure 5 and table 1.

    `target` is 1 where some three cards are a set, else 0: half and half. Boxes are tight around the pixels where alpha
    is above 0 of 255, and not made smaller by cards painted over them.

    Args:
        image_size: Side of the images in pixels, or [height, width].
        num_cards: Cards in an image, 3 to 8.
        card_size: Side of a card in pixels.
        max_overlap: Most pixels that a card's square may share with all earlier ones together; null: a third of it.
        background_colors: Colours behind the cards, each image one at random, as [red, green, blue] in [0, 1].
        num_train: Training images.
        num_val: Validation images, which are not among them.
        num_test: Test images, which are not among them.
        seed: Of the scenes and of the training order.
        data_dir: Folder where scenes are cached (in the user's cache folder if it is read-only); null: the environment
            variable ZOO_DATA, else `data`.
        label: What `labels` are: "card", one of 27, or its "shape" (circle, square, diamond), "color" (red, green,
            blue) or "number" (one to three strokes), one of 3.
        masks: Whether batches have `mask`: the card that was painted last among those with alpha above one half.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process, which is fastest for these data.

    Raises:
        ValueError: A parameter is out of its range, or so many cards do not fit.
    """

    parameters: SetParameters

    def __init__(
        self,
        *,
        image_size: int | Sequence[int] = 48,
        num_cards: int = 7,
        card_size: int = 14,
        max_overlap: float | None = None,
        background_colors: Sequence[Sequence[float]] = BACKGROUNDS,
        num_train: int = 128000,
        num_val: int = 500,
        num_test: int = 500,
        seed: int = 0,
        data_dir: str | None = None,
        label: Literal["card", "shape", "color", "number"] = "card",
        masks: bool = False,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(SetParameters)
        _check_label(label)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as `setgame48-7`; see `SetParameters.name`."""
        label = self.hparams["label"]
        return self.parameters.name + f"-{label}" * (label != "card")

    @property
    def num_classes(self) -> int:
        """27 cards, or 3 values of a property."""
        return len(CARDS) if self.hparams["label"] == "card" else 3

    def make_dataset(self, split: Split) -> SetGame:
        """The scenes of a split; draws them if they are not on disk yet."""
        chosen = {key: value for key, value in asdict(self.parameters).items() if key in self.hparams}
        return SetGame(split, data_dir=self.hparams["data_dir"], label=self.hparams["label"], **chosen)
