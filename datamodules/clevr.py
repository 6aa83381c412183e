"""CLEVR with masks: scenes of shiny and matt solids on a grey ground, of DeepMind's Multi-Object Datasets.

The published file is `clevr_with_masks_train.tfrecords` (10.5 GB, 100,000 scenes of 240 x 320 pixels with up to ten
objects) in https://storage.googleapis.com/multi-object-datasets/clevr_with_masks. It is read once, in about half an
hour, and kept as uint8 arrays: 6.6 GB at 128 px.

"The CLEVR test set" is not one set. Which scenes it has is `splits`:

- `ast`: first tenth test, second tenth validation, rest training, as AST-Seg's program has it.
- `clevrtex`: the first 15,000 test, the next 15,000 validation, rest training (the ClevrTex benchmark).
- `genesis`: of the first 70,000 the first 10,000 test, the next 10,000 validation, rest training (GENESIS-V2).
- `iodine`: the first 70,000 training, the next 320 test (IODINE, Slot Attention); they have no validation set: ours is
  the 320 scenes after those.

Colours, materials, shapes and sizes are numbered in the file as CLEVR's names are not given: only that equal numbers
mean equal classes is known.

Sources: Johnson et al., "CLEVR", 2017; Kabra et al., "Multi-Object Datasets", 2019; Sauvalle and de La Fortelle,
"Unsupervised Multi-object Segmentation Using Attention and Soft-argmax", 2023 (AST-Seg).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datamodules.base import SPLITS, Array, SceneDataModule, Split, check, size_name
from datamodules.batch import Batch
from datamodules.storage.converted import (
    ConvertedDataModule,
    ConvertedScenes,
    Resampling,
    centre_crop,
    pack_scene,
    scene_fields,
)
from datamodules.storage.multi_object import MultiObjectParameters, convert_records

VERSION = 1  # of the conversion: raise it whenever the same parameters give other arrays
FILE = "clevr_with_masks_train.tfrecords"
SCENES = 100_000
HEIGHT, WIDTH, MASKS = 240, 320, 11  # the first mask is the background's
MAX_OBJECTS = MASKS - 1
CLASSES = {"shape": 3, "color": 8, "material": 2, "size": 2}
# Of each split the first scene and one past the last one; fractions are of all scenes.
RANGES: dict[str, dict[Split, tuple[float, float]]] = {
    "ast": {"test": (0.0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1.0)},
    "clevrtex": {"test": (0, 15_000), "val": (15_000, 30_000), "train": (30_000, 1.0)},
    "genesis": {"test": (0, 10_000), "val": (10_000, 20_000), "train": (20_000, 70_000)},
    "iodine": {"train": (0, 70_000), "test": (70_000, 70_320), "val": (70_320, 70_640)},
}
FEATURES: dict[str, tuple[tuple[int, ...], str]] = {
    "image": ((HEIGHT, WIDTH, 3), "uint8"),
    "mask": ((MASKS, HEIGHT, WIDTH), "uint8"),
    **dict.fromkeys(CLASSES, ((MASKS,), "uint8")),
}


@dataclass(frozen=True, kw_only=True)
class CLEVRParameters(MultiObjectParameters):
    """Which scenes, and how they are prepared; each parameter is documented in `CLEVRDataModule`.

    Raises:
        ValueError: A parameter is out of its range.
    """

    image_size: int | Sequence[int] = 128
    crop: int | None = 192
    splits: Literal["ast", "clevrtex", "genesis", "iodine"] = "ast"
    label: Literal["shape", "color", "material", "size"] = "shape"
    swap_colors: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cropped_within(HEIGHT)
        self.one_of("splits", *RANGES)
        self.one_of("label", *CLASSES)

    @property
    def name(self) -> str:
        """`clevr-128-ast`, with a part for each parameter that departs from its default."""
        parts = [f"clevr-{size_name(self.size)}-{self.splits}"]
        parts += [f"crop{self.crop}" if self.crop else "uncropped"] * (self.crop != 192)
        parts += [self.resampling] * (self.resampling != "bilinear")
        parts += [self.label] * (self.label != "shape")
        parts += ["bgr"] * self.swap_colors
        parts += [f"n{self.num_scenes}"] * (self.num_scenes is not None)
        return "-".join(parts)

    @property
    def max_objects(self) -> int:
        """10."""
        return MAX_OBJECTS

    @property
    def num_classes(self) -> int:
        """Of what `label` names."""
        return CLASSES[self.label]


class CLEVR(ConvertedScenes):
    """CLEVR with masks, converted on first use and memory-mapped afterwards.

    Args:
        split: "train", "val" or "test".
        data_dir: See `CLEVRDataModule`, as for all that follow.
        **parameters: Fields of `CLEVRParameters`.

    Raises:
        ValueError: A parameter is out of its range, or the split has no scenes.
        DatasetNotFoundError: The published file is not there, nor what was converted from it.
        DatasetCorruptError: It is damaged, or not the published file; the message names the record.
        CacheError: The cache folder cannot be written.
    """

    def __init__(self, split: Split = "train", *, data_dir: str | None = None, **parameters: Any) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        self.parameters = CLEVRParameters(**parameters)
        own = self.parameters
        folder = convert_records(
            f"clevr-{size_name(own.size)}",
            data_dir,
            "clevr_with_masks",
            FILE,
            FEATURES,
            {"size": own.size, "crop": own.crop, "resampling": own.resampling, "version": VERSION},
            scene_fields(own.size, MAX_OBJECTS, tuple(CLASSES)),
            self._pack,
            SCENES,
            own.num_scenes,
        )
        super().__init__(folder, label=own.label)
        self.start, self.stop = split_range(own.splits, split, self.stop)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked."""
        batch = super().batch(indices)
        if self.parameters.swap_colors:
            batch["image"] = batch["image"].flip(1)
        return batch

    def _pack(self, example: Mapping[str, Array]) -> dict[str, Array]:
        """Fields of `scene_fields` from an example."""
        own = self.parameters
        image = centre_crop(example["image"], own.crop)
        masks = centre_crop(example["mask"].transpose(1, 2, 0), own.crop)
        image, masks = own.resized(image, masks)
        # 0 stands for none, as the background has it
        classes = {name: example[name][1:].astype(np.int8) - 1 for name in CLASSES}
        return pack_scene(image, masks.argmax(axis=2), MAX_OBJECTS, **classes)


def split_range(splits: str, split: Split, total: int) -> tuple[int, int]:
    """First scene of a split of a file with `total` scenes, and one past the last one.

    Raises:
        ValueError: There are none.
    """
    start, stop = (int(end * total) if isinstance(end, float) else end for end in RANGES[splits][split])
    stop = min(stop, total)
    if start >= stop:
        raise ValueError(
            f"splits={splits!r} leaves no {split} scenes of {total}, the first would be number {start}; raise "
            "num_scenes or choose other splits"
        )
    return start, stop


class CLEVRDataModule(ConvertedDataModule, SceneDataModule):
    """CLEVR with masks, by default prepared as AST-Seg's program does it, which made its figures.

    AST-Seg's paper says otherwise: as in GENESIS-V2, which is `splits: genesis` and `resampling: nearest`.

    Boxes are tight around what is visible of an object. Objects that are not visible after cropping and resizing are
    none. Labels are those of the file less one, -1 where it has none for an object.

    Args:
        image_size: Side of the images in pixels, or [height, width].
        crop: Side of the square in the middle that is resized; null: all 240 x 320 pixels.
        resampling: How images are resized: `bilinear`, by Pillow, which antialiases; `nearest`, GENESIS-V2's, which
            takes single pixels. Masks are resized by taking the pixel under the centre or, as there, under the corner.
        splits: Which scenes are for training, validation and testing: `ast`, `clevrtex`, `genesis` or `iodine`; see
            the module.
        label: What `labels` tells apart: `shape` (3 classes), `color` (8), `material` (2) or `size` (2).
        swap_colors: Exchange red and blue, as AST-Seg's program does by a slip in its conversion to PNG.
        num_scenes: Convert only the first scenes of the file, to which the splits are then applied; null: all.
        data_dir: Folder with `clevr_with_masks/clevr_with_masks_train.tfrecords`, in whose `cache` the conversion goes
            (in the user's cache folder if it is read-only); null: the environment variable ZOO_DATA, else `data`.
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
        image_size: int | Sequence[int] = 128,
        crop: int | None = 192,
        resampling: Resampling = "bilinear",
        splits: Literal["ast", "clevrtex", "genesis", "iodine"] = "ast",
        label: Literal["shape", "color", "material", "size"] = "shape",
        swap_colors: bool = False,
        num_scenes: int | None = None,
        data_dir: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(CLEVRParameters)

    def make_dataset(self, split: Split) -> CLEVR:
        """The scenes of a split; converts the published file if that has not been done yet."""
        return CLEVR(split, data_dir=self.hparams["data_dir"], **self.parameters.__dict__)
