"""Scattered digits: the scenes of SPAIR (Crawford & Pineau, AAAI 2019) and, with other parameters, of its kin.

Digits are placed one by one, each at a whole-pixel position that is uniform among those where its tile overlaps the
tiles before it by no more than `max_overlap` pixels in all; an image that gets stuck starts over. They are painted in
the order of placing as `alpha * colour + (1 - alpha) * what is there`, in 8 bits, alpha being the digit's ink.

Differences from SPAIR's own data: the digits are MNIST's, brought to the margin of EMNIST's, which SPAIR took.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.base import SceneDataModule, SceneDataset, check
from datamodules.batch import Batch
from datamodules.cache import cache_folder, cached, data_folder
from datamodules.digits import SOURCES, SPLITS, Digits, DigitSource, Split, UInt8, find_source, make_tiles

Int64 = npt.NDArray[np.int64]
Colours = Sequence[Sequence[float]]

VERSION = 1  # of the generator: raise it whenever the same parameters give other scenes
BLOCK = 256  # images made at once, from a random stream of their own; changing it changes the scenes
CANDIDATES, ROUNDS = 32, 32  # about the 1000 tries for a digit of SPAIR's code, after which the image starts over
RESTARTS = 2000  # of one image; SPAIR's code gives up after 10,000
INK_ON_TOP = 127  # of 255: a digit owns the pixels of the mask where its alpha is above one half


@dataclass(frozen=True, kw_only=True)
class SceneParameters:
    """What the scenes depend on; each parameter is documented in `MultiMNISTDataModule`.

    Raises:
        ValueError: A parameter is out of its range, or so many digits do not fit.
    """

    image_size: int | Sequence[int] = 48
    digit_size: int = 14
    num_digits: int | Sequence[int] = (1, 5)
    max_overlap: float | None = None
    channels: int = 3
    digit_colors: Colours = ((1.0, 1.0, 1.0),)
    background_color: Sequence[float] = (0.0, 0.0, 0.0)
    crop_size: int | Sequence[int] | None = None
    crops_per_image: int = 4
    num_train: int = 64000
    num_val: int = 1000
    num_test: int = 1000
    seed: int = 0
    masks: bool = False

    def __post_init__(self) -> None:
        def pair(name: str, allowed: str, ordered: bool = False) -> None:
            value = getattr(self, name)
            items = list(value) if isinstance(value, Sequence) else [value] * 2
            good = len(items) == 2 and all(isinstance(item, int) for item in items)
            check(name, value, good and (not ordered or 0 <= items[0] <= items[1]), allowed)
            object.__setattr__(self, name, tuple(items))

        whole = ("digit_size", "channels", "crops_per_image", "num_train", "num_val", "num_test", "seed")
        for name in whole:
            check(name, getattr(self, name), isinstance(getattr(self, name), int), "a whole number")
        pair("image_size", "a whole number or [height, width]")
        pair("num_digits", "a whole number or [min, max] with 0 <= min <= max", ordered=True)
        check("num_digits", self.num_digits, 1 <= self.count[1] <= 255, "at least 1 and at most 255 digits")
        check("digit_size", self.digit_size, 4 <= self.digit_size <= min(self.canvas), f"from 4 to {min(self.canvas)}")
        check("image_size", self.image_size, max(self.canvas) < 2**15, f"less than {2**15}")
        if self.max_overlap is None:
            object.__setattr__(self, "max_overlap", self.digit_size**2 / 2)
        check("max_overlap", self.max_overlap, self.overlap >= 0, "at least 0 pixels, or null")
        check("channels", self.channels, self.channels in (1, 3), "1 or 3")
        for name, colours in (("digit_colors", self.digit_colors), ("background_color", [self.background_color])):
            good = isinstance(colours, Sequence) and len(colours) > 0 and all(map(_is_colour, colours))
            check(name, getattr(self, name), good, "red, green and blue in [0, 1]")
            grey = all(len(set(colour)) == 1 for colour in colours)
            check(name, getattr(self, name), grey or self.channels == 3, "grey (red = green = blue) with channels=1")
        object.__setattr__(self, "digit_colors", tuple(tuple(map(float, colour)) for colour in self.digit_colors))
        object.__setattr__(self, "background_color", tuple(map(float, self.background_color)))
        if self.crop_size is not None:
            pair("crop_size", "a whole number, [height, width] or null")
            fits = all(1 <= crop <= full for crop, full in zip(self.window, self.canvas, strict=True))
            check("crop_size", self.crop_size, fits, f"from 1 to image_size {list(self.canvas)}")
        for name in ("crops_per_image", "num_train", "num_val", "num_test"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        check("seed", self.seed, self.seed >= 0, "at least 0")
        fitting = _most_that_fit(self.canvas, self.digit_size, self.overlap, self.count[1])
        if fitting < self.count[1]:
            raise ValueError(
                f"num_digits={list(self.count)}: {fitting} digits of {self.digit_size} px are the most that were found "
                f"to fit on {self.canvas[0]} x {self.canvas[1]} px with max_overlap={self.overlap:g}; ask for fewer, "
                "or raise image_size or max_overlap"
            )

    @property
    def canvas(self) -> tuple[int, int]:
        """(H, W) of the full images."""
        return cast(tuple[int, int], self.image_size)

    @property
    def count(self) -> tuple[int, int]:
        """Fewest and most digits of an image."""
        return cast(tuple[int, int], self.num_digits)

    @property
    def overlap(self) -> float:
        """Most pixels that a tile may share with the earlier ones, in all."""
        return cast(float, self.max_overlap)

    @property
    def window(self) -> tuple[int, int]:
        """(H, W) of the training images."""
        return self.canvas if self.crop_size is None else cast(tuple[int, int], self.crop_size)

    @property
    def grey(self) -> bool:
        """Whether one channel tells all."""
        return all(len(set(colour)) == 1 for colour in (*self.digit_colors, self.background_color))

    def name(self, source: str, box_convention: str) -> str:
        """`multimnist48-1to5-mnist-ink`, with a part for each parameter that departs from its default.

        Args:
            source: Name of the source of the digits.
            box_convention: "ink" or "tile".
        """

        def size(pair: tuple[int, int]) -> str:
            return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"

        low, high = self.count
        parts = [f"multimnist{size(self.canvas)}", str(low) if low == high else f"{low}to{high}"]
        parts += [f"d{self.digit_size}"] * (self.digit_size != 14)
        parts += [f"o{self.overlap:g}"] * (self.overlap != self.digit_size**2 / 2)
        parts += [f"crop{size(self.window)}x{self.crops_per_image}"] * (self.crop_size is not None)
        parts += ["c1"] * (self.channels == 1)
        colours = (self.digit_colors, self.background_color)
        if colours != (SceneParameters.digit_colors, SceneParameters.background_color):
            parts.append("rgb" + hashlib.sha256(repr(colours).encode()).hexdigest()[:6])
        parts += [f"n{self.num_train}"] * (self.num_train != SceneParameters.num_train)
        parts += [f"s{self.seed}"] * (self.seed != 0)
        return "-".join([*parts, source, box_convention])


def _is_colour(value: object) -> bool:
    """Whether `value` is three numbers from 0 to 1."""
    good = isinstance(value, Sequence) and len(value) == 3
    return good and all(isinstance(part, int | float) and 0 <= part <= 1 for part in cast(Sequence[object], value))


class MultiMNIST(SceneDataset):
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
        manifest = scene_manifest(self.parameters, self.source, split)
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:8]
        content = cached(
            cache_folder(folder),
            f"multimnist-{split}-{self.source.name}-{digest}",
            {**manifest, "version": VERSION},
            lambda: generate(self.parameters, self.source.load(split), split),
        )
        self.images, self.labels, self.counts = content["images"], content["labels"], content["counts"]
        self.boxes = content[f"{box_convention}_boxes"]
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
            image=image.expand(-1, self.parameters.channels, -1, -1).contiguous(),
            boxes=self.boxes[index].float(),
            labels=labels,
            valid=torch.arange(labels.shape[1]) < self.counts[index].unsqueeze(1),
        )
        if self.masks is not None:
            batch["mask"] = self.masks[index].long()
        if self.target == "sum":
            batch["target"] = labels.sum(1)  # labels of padding are 0
        return batch


def scene_manifest(parameters: SceneParameters, source: DigitSource, split: Split) -> dict[str, Any]:
    """All that the scenes of a split depend on, in JSON values."""
    manifest = {**asdict(parameters), "split": split, "source": source.name, "digits": source.fingerprint}
    manifest["images"] = manifest[f"num_{split}"]
    unused = [f"num_{other}" for other in SPLITS] + ["channels"]
    if split != "train" or parameters.crop_size is None:
        unused += ["crop_size", "crops_per_image"]
    return {key: value for key, value in manifest.items() if key not in unused}


def generate(parameters: SceneParameters, digits: Digits, split: Split) -> dict[str, Tensor]:
    """Make the scenes of a split.

    Images come in blocks, each with a random stream of its own that depends on (seed, split, number of the block)
    alone: fewer scenes are the first ones of more scenes.

    Args:
        parameters: What the scenes look like.
        digits: The digits of the split.
        split: Its name. Only "train" is cut into crops.

    Returns:
        With S scenes of up to N digits: `images` (S, C, H, W) uint8, where C is 1 if all colours are grey;
        `ink_boxes` and `tile_boxes` (S, N, 4) int16; `labels` (S, N) uint8; `counts` (S,) uint8; and `masks`
        (S, H, W) uint8 if asked for.
    """
    tiles = make_tiles(digits.images, parameters.digit_size)
    total = int(getattr(parameters, f"num_{split}"))
    crops = parameters.crops_per_image if split == "train" and parameters.crop_size is not None else 0
    content: dict[str, Tensor] = {}
    blocks = range(-(-total // BLOCK))
    for block in tqdm(blocks, desc=f"generating {split} scenes", unit="block", delay=1.5, leave=False, disable=None):
        rng = np.random.default_rng([parameters.seed, SPLITS.index(split), block])
        scenes = _block(parameters, tiles, digits.labels, crops, rng)
        start, scenes_each = block * BLOCK * max(crops, 1), max(crops, 1)
        for key, value in scenes.items():
            if key not in content:
                content[key] = torch.empty((total * scenes_each, *value.shape[1:]), dtype=torch.from_numpy(value).dtype)
            part = content[key][start : start + len(value)]
            part.copy_(torch.from_numpy(value)[: len(part)])
    return content


def _block(
    parameters: SceneParameters, tiles: UInt8, labels: Int64, crops: int, rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """BLOCK images, or crops of them."""
    low, high = parameters.count
    counts = low + _integers(rng, high - low + 1, (BLOCK,))
    corners = _place(parameters.canvas, parameters.digit_size, parameters.overlap, counts, high, rng)
    chosen = _integers(rng, len(tiles), (BLOCK, high))
    colours = _integers(rng, len(parameters.digit_colors), (BLOCK, high))
    present = np.arange(high) < counts[:, None]
    images, masks = _paint(parameters, tiles, corners, chosen, colours, present)
    tile = np.concatenate([corners, corners + parameters.digit_size], axis=2)
    ink = np.tile(corners, 2) + _ink_boxes(tiles)[chosen]
    scenes = {"images": images, "ink_boxes": ink, "tile_boxes": tile, "labels": labels[chosen], "present": present}
    if parameters.masks:
        scenes["masks"] = masks
    if crops:
        scenes = _crop(scenes, tiles, chosen, corners, parameters.window, crops, rng)
    return _pack(scenes)


def _integers(rng: np.random.Generator, high: int | Int64, shape: tuple[int, ...]) -> Int64:
    """Uniform on 0 .. high - 1, by way of `random`, the method of numpy's generators least likely to change."""
    return (rng.random(shape) * high).astype(np.int64)


def _place(
    canvas: tuple[int, int], tile: int, max_overlap: float, counts: Int64, slots: int, rng: np.random.Generator
) -> Int64:
    """Left top corners (x, y) of the tiles, (n, slots, 2); rows past an image's count are meaningless.

    Raises:
        ValueError: An image never got all its digits.
    """
    corners = np.zeros((len(counts), slots, 2), np.int64)
    pending = np.arange(len(counts))
    for _ in range(RESTARTS):
        attempt, placed = _attempt(canvas, tile, max_overlap, counts[pending], slots, rng)
        done = placed >= counts[pending]
        corners[pending[done]] = attempt[done]
        pending = pending[~done]
        if not len(pending):
            return corners
    raise ValueError(
        f"num_digits: {counts[pending].max()} digits of {tile} px fit on {canvas[0]} x {canvas[1]} px with max_overlap="
        f"{max_overlap:g} so rarely that an image failed {RESTARTS} times; ask for fewer, or raise max_overlap"
    )


def _attempt(
    canvas: tuple[int, int], tile: int, max_overlap: float, counts: Int64, slots: int, rng: np.random.Generator
) -> tuple[Int64, Int64]:
    """One attempt at each image: corners (n, slots, 2) and how many digits it placed before it got stuck (n,)."""
    room = np.array([canvas[1], canvas[0]]) - tile + 1
    corners = np.zeros((len(counts), slots, 2), np.int64)
    placed = np.zeros(len(counts), np.int64)
    for slot in range(int(counts.max(initial=0))):
        # Images that still want this digit and have all earlier ones.
        seeking = np.flatnonzero((counts > slot) & (placed == slot))
        for _ in range(ROUNDS):
            if not len(seeking):
                break
            tries = CANDIDATES if slot else 1
            candidates = _integers(rng, room, (len(seeking), tries, 2))
            shared = np.zeros((len(seeking), tries), np.int64)
            for earlier in range(slot):
                width = tile - np.abs(candidates - corners[seeking, earlier][:, None])
                np.maximum(width, 0, out=width)
                shared += width[..., 0] * width[..., 1]
            fits = shared <= max_overlap
            found = fits.any(axis=1)
            corners[seeking[found], slot] = candidates[found, fits[found].argmax(axis=1)]
            placed[seeking[found]] += 1
            seeking = seeking[~found]
    return corners, placed


@functools.lru_cache(maxsize=64)
def _most_that_fit(canvas: tuple[int, int], tile: int, max_overlap: float, wanted: int) -> int:
    """The most digits, up to `wanted`, that 20 attempts at 64 images each placed."""
    rng = np.random.default_rng(0)
    most = 0
    for _ in range(20):
        _, placed = _attempt(canvas, tile, max_overlap, np.full(64, wanted), wanted, rng)
        most = max(most, int(placed.max()))
        if most == wanted:
            break
    return most


def _paint(
    parameters: SceneParameters, tiles: UInt8, corners: Int64, chosen: Int64, colours: Int64, present: npt.NDArray[Any]
) -> tuple[UInt8, UInt8]:
    """Images (n, C, H, W) and masks (n, H, W), uint8; masks stay empty where they are not asked for."""
    (H, W), channels, side = parameters.canvas, 1 if parameters.grey else 3, np.arange(parameters.digit_size)
    palette = np.rint(np.array(parameters.digit_colors)[:, :channels] * 255).astype(np.uint16)
    background = np.rint(np.array(parameters.background_color)[:channels] * 255).astype(np.uint8)
    n = len(corners)
    images = np.empty((channels, n * H * W), np.uint8)
    images[:] = background[:, None]
    masks = np.zeros(n * H * W if parameters.masks else 0, np.uint8)
    within = (side[:, None] * W + side).ravel()
    for slot in range(corners.shape[1]):
        rows = np.flatnonzero(present[:, slot])
        start = rows * (H * W) + corners[rows, slot, 1] * W + corners[rows, slot, 0]
        pixels = start[:, None] + within
        alpha = tiles[chosen[rows, slot]].reshape(len(rows), -1)
        over, under = alpha.astype(np.uint16), 255 - alpha.astype(np.uint16)
        for channel in range(channels):
            # 255 * 255 fits in 16 bits; floor, as the paper's conversion to uint8
            colour = palette[colours[rows, slot], channel][:, None]
            images[channel, pixels] = (over * colour + under * images[channel, pixels]) // np.uint16(255)
        if parameters.masks:
            masks[pixels] = np.where(alpha > INK_ON_TOP, np.uint8(slot + 1), masks[pixels])
    return images.reshape(channels, n, H, W).swapaxes(0, 1), masks.reshape(-1, H, W)


def _ink_boxes(tiles: UInt8) -> Int64:
    """(M, 4): (x1, y1, x2, y2) of what is not zero, half-open."""
    rows, columns = tiles.any(axis=2), tiles.any(axis=1)
    size = tiles.shape[1]
    first, last = (lambda line: line.argmax(axis=1)), (lambda line: size - line[:, ::-1].argmax(axis=1))
    return np.stack([first(columns), first(rows), last(columns), last(rows)], axis=1)


def _crop(
    scenes: dict[str, npt.NDArray[Any]],
    tiles: UInt8,
    chosen: Int64,
    corners: Int64,
    window: tuple[int, int],
    crops: int,
    rng: np.random.Generator,
) -> dict[str, npt.NDArray[Any]]:
    """Cut `crops` random windows from each image; digits without a pixel of ink in the window are no longer present."""
    n, _, H, W = scenes["images"].shape
    room = np.array([W - window[1] + 1, H - window[0] + 1])
    offset = _integers(rng, room, (n, crops, 2)).reshape(-1, 2)
    image = np.repeat(np.arange(n), crops)
    scenes = {key: value[image] if key not in ("images", "masks") else value for key, value in scenes.items()}
    for key in {"images", "masks"} & scenes.keys():
        views = np.lib.stride_tricks.sliding_window_view(scenes[key], window, axis=(-2, -1))
        scenes[key] = views[image, ..., offset[:, 1], offset[:, 0], :, :]
    limit = np.array([window[1], window[0]] * 2)
    for key in ("ink_boxes", "tile_boxes"):
        scenes[key] = np.clip(scenes[key] - np.tile(offset, 2)[:, None], 0, limit)
    # Ink of a tile within the window, from a table of sums over its upper left rectangles.
    size = tiles.shape[1]
    table = np.zeros((len(tiles), size + 1, size + 1), np.int32)
    np.cumsum(np.cumsum(tiles > 0, axis=1), axis=2, out=table[:, 1:, 1:])
    x1, y1 = np.moveaxis(np.clip(offset[:, None] - corners[image], 0, size), -1, 0)
    x2, y2 = np.moveaxis(np.clip(offset[:, None] + limit[:2] - corners[image], 0, size), -1, 0)
    digit = chosen[image]
    ink = table[digit, y2, x2] - table[digit, y1, x2] - table[digit, y2, x1] + table[digit, y1, x1]
    scenes["present"] = scenes["present"] & (ink > 0)
    return scenes


def _pack(scenes: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Move the digits that are present to the front, zero the padding, renumber the masks, and choose small types."""
    present = scenes.pop("present")
    order = np.argsort(~present, axis=1, kind="stable")
    valid = np.take_along_axis(present, order, axis=1)
    packed: dict[str, npt.NDArray[Any]] = {
        "images": scenes["images"],
        "labels": (np.take_along_axis(scenes["labels"], order, axis=1) * valid).astype(np.uint8),
        "counts": valid.sum(axis=1).astype(np.uint8),
    }
    for key in ("ink_boxes", "tile_boxes"):
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


class MultiMNISTDataModule(SceneDataModule):
    """Scenes with scattered MNIST digits; the defaults are those of SPAIR's first experiment.

    Digits are drawn with equal chances from all digits of the split, whose classes are equally frequent. A box is not
    made smaller by digits painted over it. A crop keeps the digits that have ink in it, with boxes clipped to it.

    Args:
        image_size: Side of the full images in pixels, or [height, width].
        digit_size: Side of the square tile that a digit comes in, in pixels; its ink fills 12/14 of it.
        num_digits: Digits in an image: a number, or [min, max], from which it is uniform, both included.
        max_overlap: Most pixels that a digit's tile may share with all earlier ones together; null: half a tile.
        channels: 1 or 3.
        digit_colors: Colours that each digit gets one of at random, as [red, green, blue] in [0, 1].
        background_color: Colour behind the digits, as [red, green, blue] in [0, 1].
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

    def __init__(
        self,
        *,
        image_size: int | Sequence[int] = 48,
        digit_size: int = 14,
        num_digits: int | Sequence[int] = (1, 5),
        max_overlap: float | None = None,
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
        self.save_hyperparameters(logger=False)  # names may clash with the model's: the run folder has the config
        own = dict(self.hparams)
        self.parameters = SceneParameters(**{key: own[key] for key in SceneParameters.__dataclass_fields__})
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
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the validation and test images."""
        return (self.parameters.channels, *self.parameters.canvas)

    @property
    def train_image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images."""
        return (self.parameters.channels, *self.parameters.window)

    @property
    def num_classes(self) -> int:
        """10."""
        return 10

    @property
    def max_objects(self) -> int:
        """N of the batch: the most digits in an image."""
        return self.parameters.count[1]

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
