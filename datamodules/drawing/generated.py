"""What generated scenes share: parameters, random streams, placing, painting, crops, packing, and a cached dataset.

A data set of its own needs its `SceneParameters`, a `Layout` that says where objects may go, and a function that makes
one block of scenes from a random stream.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.base import SPLITS, Array, Bool, Int64, SceneDataModule, SceneDataset, Split, UInt8, check
from datamodules.batch import Batch
from datamodules.storage.cache import cache_folder, cached

Colours = Sequence[Sequence[float]]

BLOCK = 256  # images made at once, from a random stream of their own; changing it changes the scenes
CANDIDATES, ROUNDS = 32, 32  # about the 1000 tries for an object of SPAIR's code, after which the image starts over
RESTARTS = 2000  # of one image; SPAIR's code gives up after 10,000
INK_ON_TOP = 127  # of 255: an object owns the pixels of the mask where its alpha is above one half


@dataclass(frozen=True, kw_only=True)
class GeneratedParameters(ABC):
    """What all generated scenes depend on; subclasses set the defaults, and their datamodules document each parameter.

    Raises:
        ValueError: A parameter is out of its range.
    """

    image_size: int | Sequence[int]
    channels: int
    background_color: Sequence[float] = (0.0, 0.0, 0.0)
    num_train: int
    num_val: int = 1000
    num_test: int = 1000
    seed: int = 0
    masks: bool = False

    def __post_init__(self) -> None:
        self._whole("channels", "num_train", "num_val", "num_test", "seed")
        self._pair("image_size", "a whole number or [height, width]")
        check("image_size", self.image_size, max(self.canvas) < 2**15, f"less than {2**15}")
        check("channels", self.channels, self.channels in (1, 3), "1 or 3")
        for name in ("num_train", "num_val", "num_test"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        check("seed", self.seed, self.seed >= 0, "at least 0")
        self._colours("background_color", single=True)

    @property
    @abstractmethod
    def palette(self) -> Colours:
        """The colours that objects come in."""

    @property
    @abstractmethod
    def count(self) -> tuple[int, int]:
        """Fewest and most objects of an image."""

    @property
    def canvas(self) -> tuple[int, int]:
        """(H, W) of the full images."""
        return cast(tuple[int, int], self.image_size)

    @property
    def grey(self) -> bool:
        """Whether one channel tells all."""
        return all(len(set(colour)) == 1 for colour in (*self.palette, self.background_color))

    def manifest(self, split: Split) -> dict[str, Any]:
        """All parameters that the scenes of a split depend on, in JSON values."""
        unused = {f"num_{other}" for other in SPLITS} | {"channels"}  # one stored channel serves three
        manifest = {key: value for key, value in asdict(self).items() if key not in unused}
        return {**manifest, "split": split, "images": getattr(self, f"num_{split}")}

    def departs(self, *names: str) -> bool:
        """Whether one of these parameters has not its default value."""
        defaults = {field.name: field.default for field in fields(self)}
        return any(getattr(self, name) != defaults[name] for name in names)

    def _whole(self, *names: str) -> None:
        for name in names:
            check(name, getattr(self, name), isinstance(getattr(self, name), int), "a whole number")

    def _pair(self, name: str, allowed: str, kind: Any = int, ordered: bool = False) -> None:
        """Make a tuple of two from a number or two, which are whole or, as asked for, 0 <= first <= second."""
        value = getattr(self, name)
        items = list(value) if isinstance(value, Sequence) else [value] * 2
        good = len(items) == 2 and all(isinstance(item, kind) for item in items)
        check(name, value, good and (not ordered or 0 <= items[0] <= items[1]), allowed)
        object.__setattr__(self, name, tuple(items))

    def _colours(self, name: str, single: bool = False) -> None:
        """Make tuples of floats from one colour or a sequence of them."""
        value = getattr(self, name)
        colours = [value] if single else value
        good = isinstance(colours, Sequence) and len(colours) > 0 and all(map(_is_colour, colours))
        check(name, value, good, "red, green and blue in [0, 1]")
        grey = all(len(set(colour)) == 1 for colour in colours)
        check(name, value, grey or self.channels == 3, "grey (red = green = blue) with channels=1")
        exact = tuple(tuple(map(float, colour)) for colour in colours)
        object.__setattr__(self, name, exact[0] if single else exact)


def _is_colour(value: object) -> bool:
    """Whether `value` is three numbers from 0 to 1."""
    good = isinstance(value, Sequence) and len(value) == 3
    return good and all(isinstance(part, int | float) and 0 <= part <= 1 for part in cast(Sequence[object], value))


def colours_name(*colours: object) -> str:
    """`rgb` and a short digest."""
    return "rgb" + hashlib.sha256(repr(colours).encode()).hexdigest()[:6]


class GeneratedScenes(SceneDataset):
    """Scenes made once from a seed and kept in a cache file.

    Args:
        kind: Begins the name of the file.
        split: "train", "val" or "test".
        folder: The data folder.
        parameters: What the scenes look like.
        source: Where the objects come from, as parts of the file's name and of its manifest.
        version: Of the generator.
        build: Makes the content, of the form that `in_blocks` returns; called if there is no such file yet.
        boxes: The entry of the content that is the batch's `boxes`.

    Raises:
        CacheError: The cache folder cannot be written.
    """

    def __init__(
        self,
        kind: str,
        split: Split,
        folder: Path,
        parameters: GeneratedParameters,
        source: dict[str, str],
        version: int,
        build: Callable[[], dict[str, Tensor]],
        boxes: str = "ink_boxes",
    ) -> None:
        self.channels = parameters.channels
        manifest = {**parameters.manifest(split), **source}
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:8]
        name = "-".join([kind, split, *([source["source"]] if source else []), digest])
        content = cached(cache_folder(folder), name, {**manifest, "version": version}, build)
        self.images, self.labels, self.counts = content["images"], content["labels"], content["counts"]
        self.boxes = content[boxes]
        self.tile_boxes = content.get("tile_boxes") if boxes == "ink_boxes" else None
        self.masks = content.get("masks")

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.images)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked."""
        index = torch.as_tensor(indices)
        image = self.images[index].float().div_(255)
        labels = self.labels[index].long()
        batch = Batch(
            image=image.expand(-1, self.channels, -1, -1).contiguous(),
            boxes=self.boxes[index].float(),
            labels=labels,
            valid=torch.arange(labels.shape[1]) < self.counts[index].unsqueeze(1),
        )
        if self.tile_boxes is not None:
            batch["tile_boxes"] = self.tile_boxes[index].float()
        if self.masks is not None:
            batch["mask"] = self.masks[index].long()
        return batch


class GeneratedDataModule(SceneDataModule):
    """What datamodules of generated scenes say of them, by their `parameters`.

    A data set's datamodule is a `SceneDataModule` besides, in so many words: by these it is found in its file.
    """

    parameters: GeneratedParameters

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the full images."""
        return (self.parameters.channels, *self.parameters.canvas)

    @property
    def max_objects(self) -> int:
        """N of the batch: the most objects in an image."""
        return self.parameters.count[1]


def in_blocks(
    parameters: GeneratedParameters,
    split: Split,
    make: Callable[[np.random.Generator], dict[str, Array]],
    each: int = 1,
) -> dict[str, Tensor]:
    """Make the scenes of a split.

    Images come in blocks, each with a random stream of its own that depends on (seed, split, number of the block)
    alone: fewer scenes are the first ones of more scenes.

    Args:
        parameters: Tell the seed and the number of images.
        split: "train", "val" or "test".
        make: Makes BLOCK images, and what belongs to them, from a random stream.
        each: Scenes from each image: the first dimension of what `make` returns is BLOCK times as large.

    Returns:
        What `make` returns, of all blocks.
    """
    total = int(getattr(parameters, f"num_{split}")) * each
    content: dict[str, Tensor] = {}
    blocks = range(-(-total // (BLOCK * each)))
    for block in tqdm(blocks, desc=f"generating {split} scenes", unit="block", delay=1.5, leave=False, disable=None):
        rng = np.random.default_rng([parameters.seed, SPLITS.index(split), block])
        for key, value in make(rng).items():
            if key not in content:
                content[key] = torch.empty((total, *value.shape[1:]), dtype=torch.from_numpy(value).dtype)
            part = content[key][block * BLOCK * each :][: len(value)]
            part.copy_(torch.from_numpy(value)[: len(part)])
    return content


def integers(rng: np.random.Generator, high: int | Int64, shape: tuple[int, ...]) -> Int64:
    """Uniform on 0 .. high - 1, by way of `random`, the method of numpy's generators least likely to change."""
    return (rng.random(shape) * high).astype(np.int64)


class Layout(ABC):
    """Where the objects of many images may go; `str` of it tells what does not fit and why, for an error."""

    dtype: type[np.int64] | type[np.float64]  # of positions

    @abstractmethod
    def propose(self, rng: np.random.Generator, images: Int64, slot: int, tries: int) -> Array:
        """Positions (m, tries, 2), as (x, y), for object `slot` of `images` (m,), uniform within the image."""

    @abstractmethod
    def fits(self, candidates: Array, earlier: Array, images: Int64, slot: int) -> Bool:
        """Which `candidates` (m, tries, 2) go with the objects that are there already, at `earlier` (m, slot, 2)."""


def place(layout: Layout, counts: Int64, slots: int, rng: np.random.Generator) -> Array:
    """Place objects one by one, each uniformly among the positions that fit; an image that gets stuck starts over.

    Args:
        layout: Tells which positions fit.
        counts: (n,) number of objects in each image.
        slots: At least the largest of them.
        rng: Random stream.

    Returns:
        Positions (n, slots, 2), as (x, y); rows past an image's count are meaningless.

    Raises:
        ValueError: An image never got all its objects.
    """
    positions = np.zeros((len(counts), slots, 2), layout.dtype)
    pending = np.arange(len(counts))
    for _ in range(RESTARTS):
        positions[pending], placed = attempt(layout, pending, counts[pending], slots, rng)
        pending = pending[placed < counts[pending]]
        if not len(pending):
            return positions
    raise ValueError(
        f"{counts[pending].max()} {layout} so rarely that an image failed {RESTARTS} times; ask for fewer, or raise "
        "max_overlap"
    )


def attempt(layout: Layout, images: Int64, counts: Int64, slots: int, rng: np.random.Generator) -> tuple[Array, Int64]:
    """One attempt at each of `images`: positions (n, slots, 2), and how many objects it placed till it got stuck."""
    positions = np.zeros((len(counts), slots, 2), layout.dtype)
    placed = np.zeros(len(counts), np.int64)
    for slot in range(int(counts.max(initial=0))):
        # Images that still want this object and have all earlier ones.
        seeking = np.flatnonzero((counts > slot) & (placed == slot))
        for _ in range(ROUNDS):
            if not len(seeking):
                break
            candidates = layout.propose(rng, images[seeking], slot, CANDIDATES if slot else 1)
            fits = layout.fits(candidates, positions[seeking, :slot], images[seeking], slot)
            found = fits.any(axis=1)
            positions[seeking[found], slot] = candidates[found, fits[found].argmax(axis=1)]
            placed[seeking[found]] += 1
            seeking = seeking[~found]
    return positions, placed


def most_that_fit(layout: Layout, images: int, wanted: int) -> int:
    """The most objects, up to `wanted`, that 20 attempts at the layout's `images` placed."""
    rng, most = np.random.default_rng(0), 0
    for _ in range(20):
        _, placed = attempt(layout, np.arange(images), np.full(images, wanted), wanted, rng)
        most = max(most, int(placed.max()))
        if most == wanted:
            break
    return most


def paint(
    parameters: GeneratedParameters,
    tiles: UInt8,
    corners: Int64,
    colours: Int64,
    present: Bool,
    additive: bool = False,
    ground: UInt8 | None = None,
) -> tuple[Array, UInt8]:
    """Paint objects in order, each as `alpha * colour + (1 - alpha) * what is there`, in 8 bits.

    Args:
        parameters: Tell the canvas, the colours and whether masks are wanted.
        tiles: (n, slots, side, side), alpha of each object.
        corners: (n, slots, 2), left top corner (x, y) of each tile; tiles lie within the canvas.
        colours: (n, slots), index into the palette.
        present: (n, slots), which objects to paint.
        additive: Add `alpha * colour` to what is there instead.
        ground: (n, C), the colour behind the objects of each image; null: `background_color`.

    Returns:
        Images (n, C, H, W), where C is 1 if all colours are grey, uint8, or uint16 if additive: a sum may exceed 255;
        and masks (n, H, W) uint8, slot + 1 of the last object with alpha above one half, empty if not asked for.
    """
    (H, W), channels, (n, slots), side = parameters.canvas, 1 if parameters.grey else 3, present.shape, tiles.shape[-1]
    palette = np.rint(np.array(parameters.palette)[:, :channels] * 255).astype(np.uint16)
    background = np.rint(np.array(parameters.background_color)[:channels] * 255).astype(np.uint8)
    images = np.empty((channels, n * H * W), np.uint16 if additive else np.uint8)
    images.reshape(channels, n, H * W)[:] = background[:, None, None] if ground is None else ground.T[..., None]
    masks = np.zeros(n * H * W if parameters.masks else 0, np.uint8)
    within = (np.arange(side)[:, None] * W + np.arange(side)).ravel()
    for slot in range(slots):
        rows = np.flatnonzero(present[:, slot])
        start = rows * (H * W) + corners[rows, slot, 1] * W + corners[rows, slot, 0]
        pixels = start[:, None] + within
        alpha = tiles[rows, slot].reshape(len(rows), side * side)  # -1 would not do for no rows
        over, under = alpha.astype(np.uint16), 255 - alpha.astype(np.uint16)
        for channel in range(channels):
            # 255 * 255 fits in 16 bits; floor, as SPAIR's conversion to uint8
            colour = palette[colours[rows, slot], channel][:, None]
            if additive:
                images[channel, pixels] += over * colour // np.uint16(255)
            else:
                images[channel, pixels] = (over * colour + under * images[channel, pixels]) // np.uint16(255)
        if parameters.masks:
            masks[pixels] = np.where(alpha > INK_ON_TOP, np.uint8(slot + 1), masks[pixels])
    return images.reshape(channels, n, H, W).swapaxes(0, 1), masks.reshape(-1, H, W)


def ink_boxes(tiles: UInt8) -> Int64:
    """(..., 4): (x1, y1, x2, y2) of what is not zero in tiles (..., side, side), half-open."""
    rows, columns = tiles.any(axis=-1), tiles.any(axis=-2)
    side = tiles.shape[-1]
    first, last = (lambda line: line.argmax(axis=-1)), (lambda line: side - line[..., ::-1].argmax(axis=-1))
    return np.stack([first(columns), first(rows), last(columns), last(rows)], axis=-1)


def crop(scenes: dict[str, Array], window: tuple[int, int], crops: int, rng: np.random.Generator) -> dict[str, Array]:
    """Cut `crops` random windows from each image; objects without a pixel of ink in the window are no longer present.

    Args:
        scenes: As for `pack`, and what was painted: `tiles` (n, slots, side, side) and `anchors` (n, slots, 2), the
            (x, y) of their left top corners.
        window: (H, W) of a crop, at most those of the images.
        crops: How many of each image; those of one image follow each other.
        rng: Random stream.

    Returns:
        What `pack` takes, of n * crops scenes.
    """
    n, _, H, W = scenes["images"].shape
    room = np.array([W - window[1] + 1, H - window[0] + 1])
    offset = integers(rng, room, (n, crops, 2)).reshape(-1, 2)
    image = np.repeat(np.arange(n), crops)
    # Ink of a tile within the window, from a table of sums over its upper left rectangles.
    *first, size, _ = scenes["tiles"].shape
    table = np.zeros((*first, size + 1, size + 1), np.int32)
    np.cumsum(np.cumsum(scenes["tiles"] > 0, axis=2), axis=3, out=table[..., 1:, 1:])
    limit = np.array([window[1], window[0]] * 2)
    x1, y1 = np.moveaxis(np.clip(offset[:, None] - scenes["anchors"][image], 0, size), -1, 0)
    x2, y2 = np.moveaxis(np.clip(offset[:, None] + limit[:2] - scenes["anchors"][image], 0, size), -1, 0)
    which = image[:, None], np.arange(first[1])
    ink = table[*which, y2, x2] - table[*which, y1, x2] - table[*which, y2, x1] + table[*which, y1, x1]
    cut = {"labels": scenes["labels"][image], "present": scenes["present"][image] & (ink > 0)}
    for key in {"images", "masks"} & scenes.keys():
        views = np.lib.stride_tricks.sliding_window_view(scenes[key], window, axis=(-2, -1))
        cut[key] = views[image, ..., offset[:, 1], offset[:, 0], :, :]
    for key in (key for key in scenes if key.endswith("_boxes")):
        cut[key] = np.clip(scenes[key][image] - np.tile(offset, 2)[:, None], 0, limit)
    return cut


def pack(scenes: dict[str, Array]) -> dict[str, Array]:
    """Move the objects that are present to the front, zero the padding, renumber the masks, and choose small types.

    Args:
        scenes: `images`, `labels` (n, slots), `present` (n, slots), any number of boxes (n, slots, 4) under keys that
            end with `_boxes`, and perhaps `masks`.

    Returns:
        `images`; `labels` (n, slots) and `counts` (n,) uint8; the boxes, int16; and perhaps `masks`.
    """
    present = scenes["present"]
    order = np.argsort(~present, axis=1, kind="stable")
    valid = np.take_along_axis(present, order, axis=1)
    packed: dict[str, Array] = {
        "images": scenes["images"],
        "labels": (np.take_along_axis(scenes["labels"], order, axis=1) * valid).astype(np.uint8),
        "counts": valid.sum(axis=1).astype(np.uint8),
    }
    for key in (key for key in scenes if key.endswith("_boxes")):
        boxes = np.take_along_axis(scenes[key], order[..., None], axis=1)
        packed[key] = (boxes * valid[..., None]).astype(np.int16)
    if "masks" in scenes:
        renumber = np.zeros((len(order), order.shape[1] + 1), np.uint8)
        renumber[:, 1:] = (np.argsort(order, axis=1) + 1) * present
        masks = scenes["masks"]
        packed["masks"] = np.take_along_axis(renumber, masks.reshape(len(masks), -1).astype(np.intp), axis=1).reshape(
            masks.shape
        )
    return packed
