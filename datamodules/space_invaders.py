"""Space Invaders: frames of the Atari game under a random policy, or scenes drawn in its manner (SPAIR, section 5.4).

The paper collected frames through the Arcade Learning Environment (Bellemare et al. 2013), trained on random crops of
48 x 48 pixels and showed whole frames of 210 x 160. As its program does, at most 100 frames of an episode are taken,
and four crops of each; splits share no episode. The game tells no boxes: without them there is no AP.

`source: synthetic` needs no emulator and knows all boxes: an array of aliens of which some are left, shields that were
shot at, a ship, now and then a saucer, and shots, in the game's size, places and colours, with sprites of our own.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from datamodules.base import SPLITS, Array, SceneDataModule, Split, UInt8, check, size_name
from datamodules.batch import Batch
from datamodules.drawing.generated import (
    BLOCK,
    Colours,
    GeneratedDataModule,
    GeneratedParameters,
    GeneratedScenes,
    crop,
    in_blocks,
    ink_boxes,
    integers,
    pack,
    paint,
)
from datamodules.errors import DatasetNotFoundError
from datamodules.storage.cache import data_folder

VERSION = 1  # of the generator: raise it whenever the same parameters give other scenes
FRAME = (210, 160)  # (H, W) of the console's screen
FRAME_SKIP = 4  # frames for which an action is held
MARGIN = 30  # decisions at an episode's start that are not taken: the array is still being built up

# Of the synthetic scenes. `#` is opaque.
KINDS = ("squid", "crab", "jelly", "shield", "ship", "saucer", "shot")  # the classes, in the order of their labels
ARTWORK = {
    "squid": ("...##...", "..####..", ".######.", "##.##.##", "########", "..#..#..", ".#.##.#.", "#.#..#.#"),
    "crab": (".#....#.", "..#..#..", ".######.", "##.##.##", "########", "#.####.#", "#.#..#.#", "..#..#.."),
    "jelly": ("..####..", ".######.", "########", "#..##..#", "########", "..#..#..", ".##..##.", "##....##"),
    "shield": ("..####..", ".######.", *["########"] * 12, *["##....##"] * 4),
    "ship": ("...#...", "...#...", "..###..", "..###..", ".#####.", *["#######"] * 5),
    "saucer": ("..####..", ".######.", "##.##.##", "########", "..#..#.."),
    "shot": ("#",) * 6,
}
COLOURS: dict[str, tuple[int, int, int]] = {  # those of the console
    **dict.fromkeys(("squid", "crab", "jelly"), (134, 134, 29)),
    "shield": (181, 83, 40),
    "ship": (50, 132, 50),
    "saucer": (151, 25, 122),
    "shot": (142, 142, 142),
}
GROUND, GROUND_TOP = (80, 89, 22), 195
ROWS, COLUMNS, STEP = 6, 6, (16, 18)  # of the array of aliens, and (x, y) from one to the next
ALIENS = ROWS * COLUMNS
ARRAY = [KINDS[row // 2] for row in range(ROWS) for _ in range(COLUMNS)]
SLOTS = (*ARRAY, *["shield"] * 3, "ship", "saucer", *["shot"] * 3)
SIDE = 18  # of a tile that holds any sprite


@dataclass(frozen=True, kw_only=True)
class InvadersParameters(GeneratedParameters):
    """What the scenes depend on; each parameter is documented in `SpaceInvadersDataModule`.

    Raises:
        ValueError: A parameter is out of its range.
    """

    image_size: int | Sequence[int] = field(default=FRAME, init=False)
    channels: int = field(default=3, init=False)
    background_color: Sequence[float] = field(default=(0.0, 0.0, 0.0), init=False)
    source: Literal["ale", "synthetic"] = "ale"
    crop_size: int | Sequence[int] | None = 48
    crops_per_image: int = 4
    frames_per_episode: int = 100
    num_train: int = 16000
    num_val: int = 500
    num_test: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check("source", self.source, self.source in ("ale", "synthetic"), "ale or synthetic")
        self._whole("crops_per_image", "frames_per_episode")
        if self.crop_size is not None:
            self._pair("crop_size", "a whole number, [height, width] or null")
            fits = all(1 <= side <= full for side, full in zip(self.window, FRAME, strict=True))
            check("crop_size", self.crop_size, fits, f"from 1 to {list(FRAME)}")
        check("crops_per_image", self.crops_per_image, self.crops_per_image >= 1, "at least 1")
        check("frames_per_episode", self.frames_per_episode, self.frames_per_episode >= 1, "at least 1")
        check("masks", self.masks, not self.masks or self.source == "synthetic", "false, as the game tells no masks")

    @property
    def palette(self) -> Colours:
        """The colours of the kinds of sprites."""
        return [[part / 255 for part in COLOURS[kind]] for kind in KINDS]

    @property
    def count(self) -> tuple[int, int]:
        """Fewest and most objects of an image."""
        return (0, len(SLOTS))

    @property
    def window(self) -> tuple[int, int]:
        """(H, W) of training images."""
        return FRAME if self.crop_size is None else cast(tuple[int, int], self.crop_size)

    @property
    def name(self) -> str:
        """`spaceinvaders-ale-crop48x4`, with a part for each parameter that departs from its default."""
        parts = ["spaceinvaders", self.source]
        parts += [f"crop{size_name(self.window)}x{self.crops_per_image}"] * (self.crop_size is not None)
        parts += [f"e{self.frames_per_episode}"] * self.departs("frames_per_episode")
        parts += [f"n{self.num_train}"] * self.departs("num_train")
        parts += [f"s{self.seed}"] * self.departs("seed")
        return "-".join(parts)

    def manifest(self, split: Split) -> dict[str, Any]:
        """All parameters that the scenes of a split depend on, in JSON values."""
        unused = {"source"}  # part of the file's name
        unused |= {"crop_size", "crops_per_image"} if split != "train" or self.crop_size is None else set()
        unused |= {"frames_per_episode"} if self.source == "synthetic" else set()
        return {key: value for key, value in super().manifest(split).items() if key not in unused}


class SpaceInvaders(GeneratedScenes):
    """Frames, or scenes in their manner, made once from a seed and kept in a cache file.

    Args:
        split: "train", "val" or "test".
        data_dir: See `SpaceInvadersDataModule`, as for all that follow.
        **parameters: Fields of `InvadersParameters`.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: `source` is "ale", the frames are not in the cache, and ale-py is not installed.
        CacheError: The cache folder cannot be written.
    """

    def __init__(self, split: Split = "train", *, data_dir: str | None = None, **parameters: Any) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        self.parameters = InvadersParameters(**parameters)
        super().__init__(
            "spaceinvaders",
            split,
            data_folder(data_dir),
            self.parameters,
            {"source": self.parameters.source},
            VERSION,
            lambda: generate(self.parameters, split),
        )

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked; of the game, images alone."""
        batch = super().batch(indices)
        return batch if self.parameters.source == "synthetic" else Batch(image=batch["image"])


def generate(parameters: InvadersParameters, split: Split) -> dict[str, Tensor]:
    """Make the scenes of a split.

    Args:
        parameters: Where they come from, and how many.
        split: "train", "val" or "test". Only "train" is cut into crops.

    Returns:
        As `datamodules.drawing.generated.in_blocks`: with S scenes of up to N objects `images` (S, 3, H, W) uint8,
        `ink_boxes` (S, N, 4) int16, `labels` (S, N) uint8, `counts` (S,) uint8, and `masks` if asked for. Of the game,
        N is 0.

    Raises:
        DatasetNotFoundError: There is no emulator.
    """
    make = _drawn if parameters.source == "synthetic" else _Game(parameters.frames_per_episode).frames
    crops = parameters.crops_per_image if split == "train" and parameters.crop_size is not None else 0

    def block(rng: np.random.Generator) -> dict[str, Array]:
        scenes = make(parameters, rng)
        return pack(crop(scenes, parameters.window, crops, rng) if crops else scenes)

    return in_blocks(parameters, split, block, max(crops, 1))


class _Game:
    """The game in the emulator, played at random.

    Raises:
        DatasetNotFoundError: There is no emulator, or it does not bring the game along.
    """

    def __init__(self, frames_per_episode: int) -> None:
        fix = "pip install 'object-centric-zoo[atari]', or set data.init_args.source=synthetic for drawn scenes"
        if importlib.util.find_spec("ale_py") is None:
            raise DatasetNotFoundError(f"frames of Space Invaders come from ale-py, which is not installed: {fix}")
        from ale_py import ALEInterface, LoggerMode, roms

        path = roms.get_rom_path("space_invaders")
        if path is None:
            raise DatasetNotFoundError(f"ale-py has no game space_invaders: {fix}")
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.path = path
        self.emulator = ALEInterface()
        self.emulator.setFloat("repeat_action_probability", 0.0)
        self.most = frames_per_episode

    def frames(self, _: InvadersParameters, rng: np.random.Generator) -> dict[str, Array]:
        """BLOCK frames of as many episodes as they take: `images` (BLOCK, 3, 210, 160) uint8, and no objects."""
        found: list[UInt8] = []
        while len(found) < BLOCK:
            episode = self.episode(rng)
            chosen = np.sort(rng.permutation(len(episode))[: self.most])
            found += [episode[index] for index in chosen]
        images = np.stack(found[:BLOCK]).transpose(0, 3, 1, 2)
        return {
            "images": images,
            "ink_boxes": np.zeros((BLOCK, 0, 4), np.int64),
            "labels": np.zeros((BLOCK, 0), np.int64),
            "present": np.zeros((BLOCK, 0), bool),
            "tiles": np.zeros((BLOCK, 0, 1, 1), np.uint8),
            "anchors": np.zeros((BLOCK, 0, 2), np.int64),
        }

    def episode(self, rng: np.random.Generator) -> list[UInt8]:
        """What is on the screen, (210, 160, 3) uint8, after each decision but the first ones."""
        self.emulator.setInt("random_seed", int(integers(rng, 2**31 - 1, ())))
        self.emulator.loadROM(self.path)  # the seed counts from here
        actions, screens = self.emulator.getMinimalActionSet(), []
        while not self.emulator.game_over():
            action = actions[int(integers(rng, len(actions), ()))]
            for _ in range(FRAME_SKIP):
                self.emulator.act(action)
            screens.append(self.emulator.getScreenRGB())
        return screens[MARGIN:] or screens


def _sprites() -> UInt8:
    """(kinds, SIDE, SIDE) uint8, alpha of each kind of sprite in its tile's left top corner."""
    tiles = np.zeros((len(KINDS), SIDE, SIDE), np.uint8)
    for tile, kind in zip(tiles, KINDS, strict=True):
        rows = ARTWORK[kind]
        tile[: len(rows), : len(rows[0])] = 255 * np.array([[dot == "#" for dot in row] for row in rows])
    return tiles


def _drawn(parameters: InvadersParameters, rng: np.random.Generator) -> dict[str, Array]:
    """BLOCK whole scenes in the manner of the game."""
    n, kinds = BLOCK, np.array([KINDS.index(kind) for kind in SLOTS])
    tiles = np.repeat(_sprites()[kinds][None], n, axis=0)  # (n, slots, SIDE, SIDE)
    shields = slice(ALIENS, ALIENS + 3)
    # what shots have left of a shield: nothing of it, or all but some pixels
    tiles[:, shields] *= rng.random((n, 3, SIDE, SIDE)) >= 0.4 * rng.random((n, 3, 1, 1))
    anchors = np.zeros((n, len(SLOTS), 2), np.int64)
    row, column = np.divmod(np.arange(ALIENS), COLUMNS)
    corner = np.stack([4 + integers(rng, 58, (n,)), 30 + integers(rng, 24, (n,))], -1)  # of the array
    anchors[:, :ALIENS] = corner[:, None] + np.stack([column, row], -1) * STEP
    anchors[:, shields] = [[42, 157], [74, 157], [106, 157]]
    anchors[:, ALIENS + 3] = np.stack([10 + integers(rng, 130, (n,)), np.full(n, 185)], -1)
    anchors[:, ALIENS + 4] = np.stack([integers(rng, FRAME[1] - SIDE, (n,)), np.full(n, 12)], -1)
    anchors[:, ALIENS + 5 :] = np.stack([integers(rng, FRAME[1] - SIDE, (n, 3)), 40 + integers(rng, 140, (n, 3))], -1)
    # as many aliens as are left, from 1 to all; shields until late in the game; the rest now and then
    rank = np.argsort(np.argsort(rng.random((n, ALIENS)), axis=1), axis=1)
    present = np.zeros((n, len(SLOTS)), bool)
    present[:, :ALIENS] = rank <= integers(rng, ALIENS, (n, 1))
    chances = [0.85] * 3 + [0.95, 0.2] + [0.5] * 3
    present[:, ALIENS:] = rng.random((n, len(chances))) < chances
    colours = np.broadcast_to(kinds, present.shape)
    images, masks = paint(parameters, tiles, anchors, colours, present)
    images[:, :, GROUND_TOP:] = np.array(GROUND, np.uint8)[:, None, None]
    scenes = {
        "images": images,
        "ink_boxes": np.tile(anchors, 2) + ink_boxes(tiles),
        "labels": colours,
        "present": present,
        "tiles": tiles,
        "anchors": anchors,
    }
    return {**scenes, "masks": masks} if parameters.masks else scenes


class SpaceInvadersDataModule(GeneratedDataModule, SceneDataModule):
    """Frames of Space Invaders; the defaults are those of SPAIR's figure 6.

    Images are 3 x 210 x 160, and training sees crops of them. Of the game itself (`source: ale`) nothing is known but
    the frames. Of drawn scenes (`source: synthetic`) objects have boxes, tight on their pixels, and labels, the index
    into `KINDS`: three kinds of aliens, shield, ship, saucer, shot. The ground belongs to the background.

    Args:
        source: "ale": the game, by the package ale-py (the extra `atari`), under a policy that chooses among its six
            actions at random every fourth frame; "synthetic": scenes in its manner.
        crop_size: Side of the random crops that training scenes are, or [height, width]; null: whole frames.
        crops_per_image: Crops of each training frame.
        frames_per_episode: Most frames, at random, that are taken of one episode of the game.
        num_train: Whole training frames; with crops there are `crops_per_image` times as many training scenes.
        num_val: Validation frames, of other episodes.
        num_test: Test frames, of other episodes.
        seed: Of the scenes and of the training order.
        data_dir: Folder where scenes are cached (in the user's cache folder if it is read-only); null: the environment
            variable ZOO_DATA, else `data`.
        masks: Whether batches of synthetic scenes have `mask`: the object that was painted last.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process, which is fastest for these data.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: `source` is "ale" and ale-py is not installed, once data are asked for.
    """

    parameters: InvadersParameters

    def __init__(
        self,
        *,
        source: Literal["ale", "synthetic"] = "ale",
        crop_size: int | Sequence[int] | None = 48,
        crops_per_image: int = 4,
        frames_per_episode: int = 100,
        num_train: int = 16000,
        num_val: int = 500,
        num_test: int = 500,
        seed: int = 0,
        data_dir: str | None = None,
        masks: bool = False,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(InvadersParameters)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as `spaceinvaders-ale-crop48x4`; see `InvadersParameters.name`."""
        return self.parameters.name

    @property
    def train_image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images."""
        return (3, *self.parameters.window)

    @property
    def num_classes(self) -> int:
        """Kinds of sprites."""
        return len(KINDS)

    @property
    def has_objects(self) -> bool:
        """Whether boxes are known: of drawn scenes."""
        return self.parameters.source == "synthetic"

    def make_dataset(self, split: Split) -> SpaceInvaders:
        """The scenes of a split; plays or draws them if they are not on disk yet."""
        chosen = {each.name: getattr(self.parameters, each.name) for each in fields(self.parameters) if each.init}
        return SpaceInvaders(split, data_dir=self.hparams["data_dir"], **chosen)
