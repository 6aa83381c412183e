"""CLEVRTEX: three to ten textured objects on a textured ground, in front of a camera that moves a little.

Karazija, Laina and Rupprecht, "ClevrTex: A Texture-Rich Benchmark for Unsupervised Multi-Object Segmentation", 2021.
As in the benchmark's program, the first tenth of the images is for testing, the second for validation, the rest for
training, of the variant `outd` all are for testing; images are cropped to the 192 pixels in the middle and resized, the
image by antialiased bilinear interpolation, ids by taking single pixels. Boxes are those of the visible parts after
that. An object that is no longer to be seen is none; the others keep their order.

The published files, and how to get them, are described in `clevrtex_published`. `source: synthetic` draws scenes of
that kind instead: see `drawing/solids`.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from datamodules.base import SPLITS, Array, SceneDataModule, Split, check, range_name, size_name
from datamodules.clevrtex_published import MAX_OBJECTS, PUBLISHED, SHAPES, Published
from datamodules.drawing.solids import scenes as solids
from datamodules.drawing.solids.scenes import SIZES, VARIANTS
from datamodules.storage.cache import cache_folder, data_folder
from datamodules.storage.converted import ConvertedScenes, converted, pair_of_sides, scene_fields

SYNTHETIC: dict[Split, int] = {"train": 10_000, "val": 1_000, "test": 1_000}  # scenes, if not told


@dataclass(frozen=True, kw_only=True)
class CLEVRTEXParameters:
    """Which scenes, and how they are prepared; each parameter is documented in `CLEVRTEXDataModule`.

    Raises:
        ValueError: A parameter is out of its range.
    """

    source: Literal["published", "synthetic"] = "published"
    variant: str = "full"
    image_size: int | Sequence[int] = 128
    label: Literal["shape", "material", "size"] = "shape"
    num_objects: int | Sequence[int] = (3, 10)
    num_train: int | None = None
    num_val: int | None = None
    num_test: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check("source", self.source, self.source in ("published", "synthetic"), "published or synthetic")
        check("variant", self.variant, self.variant in VARIANTS, f"one of {', '.join(VARIANTS)}")
        object.__setattr__(self, "image_size", pair_of_sides(self.image_size))
        good = self.label in ("shape", "material", "size")
        check("label", self.label, good, "shape, material or size")
        counts = self.num_objects if isinstance(self.num_objects, Sequence) else [self.num_objects] * 2
        good = len(counts) == 2 and all(isinstance(count, int) for count in counts)
        good = good and 1 <= counts[0] <= counts[1] <= MAX_OBJECTS
        allowed = f"a whole number or [min, max] with 1 <= min <= max <= {MAX_OBJECTS}"
        check("num_objects", self.num_objects, good, allowed)
        object.__setattr__(self, "num_objects", tuple(counts))
        good = self.source == "synthetic" or self.counts == (3, MAX_OBJECTS)
        check("num_objects", self.num_objects, good, "left out with source='published'")
        for split in SPLITS:
            images = getattr(self, f"num_{split}")
            good = images is None or (isinstance(images, int) and images >= 1)
            check(f"num_{split}", images, good, "at least 1 or null")
        check("seed", self.seed, isinstance(self.seed, int) and self.seed >= 0, "a whole number, at least 0")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return pair_of_sides(self.image_size)

    @property
    def counts(self) -> tuple[int, int]:
        """Fewest and most objects of a synthetic scene."""
        return cast(tuple[int, int], self.num_objects)

    @property
    def name(self) -> str:
        """`clevrtex-full-128` or `clevrtex-synthetic-full-128`, with parts for what departs from the defaults.

        The number of validation scenes alone is left out: no figure of the test tells of it.
        """
        synthetic = self.source == "synthetic"
        parts = ["clevrtex", *["synthetic"] * synthetic, self.variant, size_name(self.size)]
        parts += [range_name(self.counts)] * (self.counts != (3, MAX_OBJECTS))
        parts += [f"n{self.num_train}"] * (self.num_train not in (None, SYNTHETIC["train"] if synthetic else None))
        parts += [f"test{self.num_test}"] * (self.num_test not in (None, SYNTHETIC["test"] if synthetic else None))
        parts += [self.label] * (self.label != "shape")
        parts += [f"s{self.seed}"] * (synthetic and self.seed != 0)
        return "-".join(parts)


class CLEVRTEX(ConvertedScenes):
    """CLEVRTEX, converted or drawn on first use and memory-mapped afterwards.

    Args:
        split: "train", "val" or "test"; of the published `outd` only "test".
        root: See `CLEVRTEXDataModule`, as for all that follow.
        download: Whether to download what is not there.
        data_dir: Folder of all data.
        **parameters: Fields of `CLEVRTEXParameters`.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: The published files are not there, nor what was converted from them.
        DatasetCorruptError: One of them is damaged or missing; the message names it.
        CacheError: The cache folder cannot be written.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        root: str | None = None,
        download: bool = False,
        data_dir: str | None = None,
        **parameters: Any,
    ) -> None:
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        own = self.parameters = CLEVRTEXParameters(**parameters)
        cache, images = cache_folder(data_folder(data_dir)), getattr(own, f"num_{split}")
        if own.source == "synthetic":
            folder = _drawn(own, split, images or SYNTHETIC[split], cache)
        else:
            folder = Published(own.variant, root, download, data_dir).convert(own.size, split, images)
        super().__init__(folder, label=own.label)


def _drawn(own: CLEVRTEXParameters, split: Split, images: int, cache: Path) -> Path:
    """The folder with the synthetic scenes of a split."""
    choice: dict[str, Any] = {"variant": own.variant, "split": split, "size": own.size, "num_objects": own.counts}
    choice["seed"] = own.seed

    def read(start: int) -> Iterator[dict[str, Array]]:
        return itertools.islice(solids.scenes(**choice, start=start), images - start)

    return converted(
        cache,
        f"clevrtex-synthetic-{own.variant}-{split}-{size_name(own.size)}",
        {**choice, "images": images, "version": solids.VERSION},
        {},
        scene_fields(own.size, own.counts[1], ("shape", "material", "size")),
        read,
        images,
    )


class CLEVRTEXDataModule(SceneDataModule):
    """CLEVRTEX, or synthetic scenes of its kind; the defaults are the benchmark's, and AST-Seg's batch size.

    Labels are shapes (`cube`, `cylinder`, `monkey`, `sphere`; of `outd` `cone`, `icosahedron`, `torus`, `teapot`; the
    synthetic scenes have a bear's head for the monkey's, and no teapot), or materials, in the order of their names, or
    sizes (`small`, `medium`, `large`).

    What a stage does not need is neither converted nor drawn: scenes for training only when training.

    Args:
        source: "published", or "synthetic" to draw scenes.
        variant: "full"; "outd", unseen shapes and materials; "camo", one material for all of an image; "pbg", textured
            objects on a plain ground; "vbg", plain objects on textured ground; "grassbg", textured objects on grass.
        image_size: Side of the images in pixels, or [height, width].
        label: What `labels` are: "shape", "material" or "size".
        num_objects: Objects in a synthetic scene: a number, or [min, max], from which it is uniform. Fewer may be seen.
        num_train: Training images: the first of the published ones, null: all of them; or that many synthetic scenes,
            null: 10,000.
        num_val: Validation images likewise; null: all, or 1,000 synthetic ones.
        num_test: Test images likewise; null: all, or 1,000 synthetic ones.
        test_also: Further variants, whose test images are tested and predicted on at once, as [outd, camo] with a
            `full` model: results are then named by variant, such as `test/miou/outd`.
        root: Folder that holds the published `clevrtex_VARIANT`, or that folder; null: `clevrtex` in `data_dir`.
        download: Whether to download the published archives if they are not there; `full` has 24 GB.
        data_dir: Folder of all data, where those converted or drawn are cached (in the user's cache folder if it is
            read-only); null: the environment variable ZOO_DATA, else `data`.
        seed: Of the synthetic scenes and of the training order.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process.

    Raises:
        ValueError: A parameter is out of its range.
    """

    def __init__(
        self,
        *,
        source: Literal["published", "synthetic"] = "published",
        variant: str = "full",
        image_size: int | Sequence[int] = 128,
        label: Literal["shape", "material", "size"] = "shape",
        num_objects: int | Sequence[int] = (3, 10),
        num_train: int | None = None,
        num_val: int | None = None,
        num_test: int | None = None,
        test_also: Sequence[str] | None = None,
        root: str | None = None,
        download: bool = False,
        data_dir: str | None = None,
        seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.parameters = self._keep_options(CLEVRTEXParameters)
        others = [test_also] if isinstance(test_also, str) else list(test_also or ())
        good = all(other in VARIANTS and other != variant for other in others) and len(set(others)) == len(others)
        allowed = f"of {', '.join(each for each in VARIANTS if each != variant)}, each once"
        check("test_also", test_also, good, allowed)
        self._also = others

    @functools.cached_property
    def _others(self) -> dict[str, "CLEVRTEXDataModule"]:
        # made when first asked for: what is made within this one's constructor, Lightning's command line takes for the
        # same, arguments and all
        choice = {key: value for key, value in self.hparams.items() if not key.startswith("_") and key != "test_also"}
        return {other: CLEVRTEXDataModule(**{**choice, "variant": other}) for other in self._also}

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as `clevrtex-full-128`; see `CLEVRTEXParameters.name`.

        Published images are counted, `clevrtex-camo-128-20000images`, unless they are as many as are known to be: a
        sample never goes by the name of the whole.
        """
        own = self.parameters
        if own.source == "synthetic":
            return own.name
        total = self._published.total
        return own.name + f"-{total}images" * (total != PUBLISHED.get(own.variant))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of all images."""
        return (3, *self.parameters.size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        own, synthetic = self.parameters, self.parameters.source == "synthetic"
        if own.label == "size":
            return SIZES
        look = solids.VARIANTS[own.variant]
        if own.label == "shape":
            return solids.SHAPES[look.family] if synthetic else SHAPES[own.variant]
        return look.objects if synthetic else self._published.materials

    @property
    def num_classes(self) -> int:
        """Number of shapes, materials or sizes; of the published materials those that occur in the variant.

        With `test_also` the most that a variant has.
        """
        return max([len(self.class_names), *(other.num_classes for other in self._others.values())])

    @property
    def max_objects(self) -> int:
        """N of the batch: the most objects in an image."""
        return self.parameters.counts[1]

    @functools.cached_property
    def _published(self) -> Published:
        own = self.hparams
        return Published(self.parameters.variant, own["root"], own["download"], own["data_dir"])

    def prepare_data(self) -> None:
        """Download, convert or draw what the stage at hand needs, in one process; without a trainer, everything."""
        stage = None if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value
        self.setup(stage)

    def setup(self, stage: str | None = None) -> None:
        """Load the splits that `stage` needs; null: all that there are."""
        only_test = self.parameters.source == "published" and self.parameters.variant == "outd"
        super().setup("test" if stage is None and only_test else stage)
        for other in self._others.values() if stage in (None, "test", "predict") else ():
            other.setup("test")

    def test_dataloader(self) -> Any:
        """In order, every scene once; with `test_also` a loader for each variant, by its name."""
        if not self._others:
            return super().test_dataloader()
        for other in self._others.values():
            other.trainer = self.trainer
        others = {name: other.test_dataloader() for name, other in self._others.items()}
        return {self.parameters.variant: super().test_dataloader(), **others}

    def predict_dataloader(self) -> Any:
        """The test scenes."""
        return self.test_dataloader()

    def make_dataset(self, split: Split) -> CLEVRTEX:
        """The scenes of a split; converts or draws them if that has not been done yet."""
        places = {key: self.hparams[key] for key in ("root", "download", "data_dir")}
        return CLEVRTEX(split, **places, **asdict(self.parameters))
