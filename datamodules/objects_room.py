"""ObjectsRoom: up to three solids in a room, of DeepMind's Multi-Object Datasets.

The published files are in https://storage.googleapis.com/multi-object-datasets/objects_room: `objects_room_train`
(1,000,000 scenes) and, for tests beyond the training distribution, about 1,000 scenes each in
`objects_room_test_empty_room`, `objects_room_test_six_objects` and `objects_room_test_identical_color` (four to six
objects), all ending in `.tfrecords`. Images have 64 x 64 pixels; a training file takes 17 GB converted.

A scene has a mask each for the sky, the floor and two halves of the wall, and then one for each object. But where only
one wall is in view there are three masks of background, and the objects' move up by one: taking the first four for
background, as published programs do, then loses an object. `background_masks` chooses.

Splits are those of GENESIS-V2, whose preprocessing AST-Seg says it shares: the first `num_test` scenes of the training
file are for testing, the next `num_val` for validation, the rest for training.

Sources: Kabra et al., "Multi-Object Datasets", 2019; Engelcke, Parker Jones and Posner, "GENESIS-V2", 2021; Sauvalle
and de La Fortelle, "Unsupervised Multi-object Segmentation Using Attention and Soft-argmax", 2023 (AST-Seg).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datamodules.base import SPLITS, Array, SceneDataModule, Split, check, size_name
from datamodules.storage.converted import (
    ConvertedDataModule,
    ConvertedScenes,
    Resampling,
    pack_scene,
    scene_fields,
)
from datamodules.storage.multi_object import MultiObjectParameters, convert_records

VERSION = 1  # of the conversion: raise it whenever the same parameters give other arrays
SIDE = 64
MASKS = {"train": 7, "empty_room": 4, "six_objects": 10, "identical_color": 10}  # in each file
SCENES = {"train": 1_000_000, "empty_room": 1_000, "six_objects": 1_000, "identical_color": 1_000}
BACKGROUNDS = 4
FLOOR, WALL, OTHER_WALL = 1, 2, 3  # masks; sky is 0
CLEARLY = 3  # pixels from which a border of two masks is no accident of a single pixel

Variant = Literal["empty_room", "six_objects", "identical_color"]


@dataclass(frozen=True, kw_only=True)
class ObjectsRoomParameters(MultiObjectParameters):
    """Which scenes, and how they are prepared; each parameter is documented in `ObjectsRoomDataModule`.

    Raises:
        ValueError: A parameter is out of its range.
    """

    background_masks: Literal["four", "detected"] = "four"
    test_variant: Variant | None = None
    num_val: int = 10_000
    num_test: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("background_masks", "four", "detected")
        variants = [variant for variant in MASKS if variant != "train"]
        good = self.test_variant is None or self.test_variant in variants
        check("test_variant", self.test_variant, good, f"null or one of {', '.join(variants)}")
        for name in ("num_val", "num_test"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")

    @property
    def max_objects(self) -> int:
        """3, or 6 with a `test_variant` of more objects."""
        return max(MASKS["train"], MASKS[self.test_variant or "train"]) - BACKGROUNDS

    @property
    def name(self) -> str:
        """`objectsroom-64`, with a part for each parameter that departs from its default."""
        parts = [f"objectsroom-{size_name(self.size)}"]
        parts += [self.resampling] * (self.resampling != "bilinear" and self.size != (SIDE, SIDE))
        parts += [self.background_masks] * (self.background_masks != "four")
        parts += [self.test_variant] if self.test_variant else []
        splits = (self.num_val, self.num_test)
        parts += [f"val{splits[0]}test{splits[1]}"] * (splits != (10_000, 10_000))
        parts += [f"n{self.num_scenes}"] * (self.num_scenes is not None)
        return "-".join(parts)


class ObjectsRoom(ConvertedScenes):
    """ObjectsRoom, converted on first use and memory-mapped afterwards.

    Args:
        split: "train", "val" or "test".
        data_dir: See `ObjectsRoomDataModule`, as for all that follow.
        **parameters: Fields of `ObjectsRoomParameters`.

    Raises:
        ValueError: A parameter is out of its range, or the split has no scenes.
        DatasetNotFoundError: The published file is not there, nor what was converted from it.
        DatasetCorruptError: It is damaged, or not the published file; the message names the record.
        CacheError: The cache folder cannot be written.
    """

    def __init__(self, split: Split = "train", *, data_dir: str | None = None, **parameters: Any) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        own = self.parameters = ObjectsRoomParameters(**parameters)
        variant = (own.test_variant or "train") if split == "test" else "train"
        most = max(MASKS[variant] - BACKGROUNDS, 1)  # an array without rows cannot be mapped
        features: dict[str, tuple[tuple[int, ...], str]] = {
            "image": ((SIDE, SIDE, 3), "uint8"),
            "mask": ((MASKS[variant], SIDE, SIDE), "uint8"),
        }

        def pack(example: Mapping[str, Array]) -> dict[str, Array]:
            entities = example["mask"].argmax(axis=0)
            backgrounds = BACKGROUNDS
            if own.background_masks == "detected" and has_one_wall(entities, MASKS[variant]):
                backgrounds -= 1
            mask, image = np.maximum(entities - (backgrounds - 1), 0), example["image"]
            return pack_scene(*own.resized(image, mask), most)

        folder = convert_records(
            f"objectsroom-{variant}-{size_name(own.size)}",
            data_dir,
            "objects_room",
            f"objects_room_{'test_' * (variant != 'train')}{variant}.tfrecords",
            features,
            {
                "size": own.size,
                "resampling": own.resampling if own.size != (SIDE, SIDE) else None,
                "background_masks": own.background_masks,
                "version": VERSION,
            },
            scene_fields(own.size, most),
            pack,
            SCENES[variant],
            own.num_scenes if variant == "train" else None,
        )
        held_out = own.num_test + own.num_val
        bounds = {"test": (0, own.num_test), "val": (own.num_test, held_out), "train": (held_out, None)}
        start, stop = bounds[split] if variant == "train" else (0, None)
        super().__init__(folder, start, stop, max_objects=own.max_objects)


def has_one_wall(entities: Array, masks: int) -> bool:
    """Whether the fourth mask is an object's: only one wall is in view, and there are three masks of background.

    A heuristic on what a room looks like. Two walls meet in an upright line and never share columns; an object stands
    before the wall that is above it, or has floor on both sides. Where the last mask is used, four are background.

    Args:
        entities: (H, W), mask of each pixel.
        masks: How many a scene has at most.

    Returns:
        False where the fourth mask is empty.
    """
    wall, other, floor = (entities == entity for entity in (WALL, OTHER_WALL, FLOOR))
    if not other.any() or (entities == masks - 1).any():
        return False
    columns = (wall.any(axis=0) & other.any(axis=0)).sum()
    floor_left, floor_right = floor.argmax(axis=1), floor.shape[1] - 1 - floor[:, ::-1].argmax(axis=1)
    left, right = other.argmax(axis=1), other.shape[1] - 1 - other[:, ::-1].argmax(axis=1)
    rows = (floor.any(axis=1) & other.any(axis=1) & (floor_left < left) & (right < floor_right)).sum()
    return bool(max(columns, rows) >= CLEARLY)


class ObjectsRoomDataModule(ConvertedDataModule, SceneDataModule):
    """ObjectsRoom; the defaults are those of AST-Seg.

    Boxes are tight around what is visible of an object. There are no classes.

    Args:
        image_size: Side of the images in pixels, or [height, width]; published images have 64.
        resampling: How images of other sizes are made: `bilinear`, by Pillow, which antialiases; `nearest`, which takes
            single pixels (GENESIS-V2). Masks are resized by taking the pixel under the centre or, as there, the corner.
        background_masks: `four`: the first four masks are background (AST-Seg, GENESIS-V2); `detected`: three where
            only one wall is in view, by `has_one_wall`, which has been tried on drawn rooms only.
        test_variant: Test on `empty_room`, `six_objects` or `identical_color`; null: on scenes of the training file.
        num_val: Validation scenes, after those for testing in the training file.
        num_test: Test scenes, the first ones of the training file; with a `test_variant` they are left out.
        num_scenes: Convert only the first scenes of the training file; null: all.
        data_dir: Folder with `objects_room/objects_room_train.tfrecords`, in whose `cache` the conversion goes (in the
            user's cache folder if it is read-only); null: the environment variable ZOO_DATA, else `data`.
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
        image_size: int | Sequence[int] = SIDE,
        resampling: Resampling = "bilinear",
        background_masks: Literal["four", "detected"] = "four",
        test_variant: Variant | None = None,
        num_val: int = 10_000,
        num_test: int = 10_000,
        num_scenes: int | None = None,
        data_dir: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(ObjectsRoomParameters)

    def make_dataset(self, split: Split) -> ObjectsRoom:
        """The scenes of a split; converts the published file if that has not been done yet."""
        return ObjectsRoom(split, data_dir=self.hparams["data_dir"], **self.parameters.__dict__)
