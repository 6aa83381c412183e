"""One's own images: a folder of them, with boxes (COCO's JSON) or masks (an image of ids for each) where there are any.

Images are resized once and kept in the cache as 8-bit arrays; a file that was added, removed or changed has them made
anew. Training looks at images alone; boxes and masks are for the metrics.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from datamodules.base import SceneDataModule, check
from datamodules.cache import cache_folder, data_folder
from datamodules.converted import Array, ConvertedScenes, converted, pack_scene, pair_of_sides
from datamodules.digits import SPLITS, Split
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError, ImageError
from datamodules.generated import size_name
from datamodules.images import Fit, fit_boxes, fit_image, fit_mask, image_files, place_image, read_image, to_channels

VERSION = 1  # of the conversion: raise it whenever the same files give other arrays
_NAMED = 3  # files that a message names


@dataclass(frozen=True)
class Annotation:
    """What COCO's JSON says of an image.

    Attributes:
        objects: Its annotations, crowds left out.
        size: (H, W) that their coordinates are in.
    """

    objects: list[dict[str, Any]]
    size: tuple[int, int]


class ImageFolder(ConvertedScenes):
    """Images of a split, converted on first use and memory-mapped afterwards.

    Args:
        folder: What `converted` returned.
        files: Of the split, in the order of their names.
        labelled: Whether objects have classes.

    Attributes:
        files: Of each scene.
    """

    def __init__(self, folder: Path, files: Sequence[Path], *, labelled: bool) -> None:
        super().__init__(folder, label="labels" if labelled else None)
        self.files = [files[i] for i in self._arrays["files"].tolist()]


class ImageFolderDataModule(SceneDataModule):
    """One's own images: those in the folders `train`, `val` and `test`, or, where there are none such, all, dealt.

    Args:
        folder: With images, at any depth.
        annotations: JSON file(s) in COCO's format, in `folder` or by their full path: boxes, classes, and masks if
            every annotation has one. An image's `file_name` is relative to the folder, or to that of its split.
        masks: Folder of images of ids, 0 for the background, named as the images are (`a/b.jpg` has `a/b.png`); ids may
            be numbers of 8 or 16 bits, a palette's, or colours. Boxes are tight around them.
        image_size: Side in pixels that images are resized to, or [height, width].
        fit: How: `stretch` ignores proportions, `pad` keeps them, with black at two sides.
        channels: 1 or 3; grey images are repeated, colours become their luma.
        max_objects: The most objects in an image, at most 255.
        shares: Of images for training, validation and testing where they are dealt, which is by a hash of their names.
        skip_bad: Leave out images that cannot be read or that annotations do not know, with a warning that names them,
            instead of stopping at the first.
        data_dir: In whose `cache` the resized images go (in the user's cache folder if it is read-only); null: the
            environment variable ZOO_DATA, else `data`.
        batch_size: Training scenes in a batch of one process.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Of the training order.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: The folder, or what is to go with it, is not there, or holds no images.
        DatasetCorruptError: A file is damaged, or files do not go together.
        CacheError: The cache folder cannot be written.
    """

    def __init__(
        self,
        *,
        folder: str,
        annotations: str | Sequence[str] | None = None,
        masks: str | None = None,
        image_size: int | Sequence[int] = 128,
        fit: Fit = "stretch",
        channels: int = 3,
        max_objects: int = 20,
        shares: Sequence[float] = (0.8, 0.1, 0.1),
        skip_bad: bool = False,
        data_dir: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed)
        self.save_hyperparameters(logger=False)  # names may clash with the model's: the run folder has the config
        self.root = Path(folder).expanduser()
        self.size = pair_of_sides(image_size)
        place_image((1, 1), self.size, fit)
        check("channels", channels, channels in (1, 3), "1 or 3")
        check("max_objects", max_objects, 1 <= max_objects <= 255, "from 1 to 255")
        good = len(shares) == 3 and all(share > 0 for share in shares)
        check("shares", shares, good, "three numbers above 0, for training, validation and testing")
        check("masks", masks, masks is None or annotations is None, "null where there are annotations")
        self._known: dict[Path, Annotation] | None = None
        self._categories: list[int] = []

    @property
    def name(self) -> str:  # type: ignore[override]
        """The folder's, and the images' size, with a part for each parameter that departs from its default."""
        hp = self.hparams
        own = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.root.resolve().name)
        parts = [own, size_name(self.size)] + [hp["fit"]] * (hp["fit"] != "stretch")
        return "-".join(parts + [f"c{hp['channels']}"] * (hp["channels"] != 3))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of all images."""
        return (self.hparams["channels"], *self.size)

    @property
    def num_classes(self) -> int:
        """Categories of the annotations; 1 where there are none."""
        self._annotations()
        return max(1, len(self._categories))

    @property
    def max_objects(self) -> int:
        """As given."""
        return self.hparams["max_objects"]

    def split_files(self, split: Split) -> list[Path]:
        """Image files of a split, sorted by their names.

        Raises:
            DatasetNotFoundError: There are none.
        """
        try:
            if (self.root / "train").is_dir():
                missing = [name for name in SPLITS if not (self.root / name).is_dir()]
                if missing:
                    raise DatasetNotFoundError(f"{self.root} has a folder train, but not {' and '.join(missing)}")
                return image_files(self.root / split)
            files = image_files(self.root)
        except FileNotFoundError as error:
            raise DatasetNotFoundError(str(error)) from None
        masks = self._masks_folder()
        if masks is not None and masks.is_relative_to(self.root):
            files = [path for path in files if not path.is_relative_to(masks)]
        if len(files) < len(SPLITS):
            raise DatasetNotFoundError(
                f"{len(files)} images in {self.root}: training, validation and test need one each"
            )
        dealt = sorted(files, key=lambda path: hashlib.sha256(path.relative_to(self.root).as_posix().encode()).digest())
        train, val, _ = (share / sum(self.hparams["shares"]) * len(files) for share in self.hparams["shares"])
        first = min(max(round(train), 1), len(files) - 2)
        second = min(max(round(train + val), first + 1), len(files) - 1)
        ends: dict[Split, tuple[int, int]] = {"train": (0, first), "val": (first, second), "test": (second, len(files))}
        return sorted(dealt[slice(*ends[split])])

    def make_dataset(self, split: Split) -> ImageFolder:
        """The images of a split; resizes them if that has not been done yet, or if files have changed."""
        hp, known, files = self.hparams, self._annotations(), self.split_files(split)
        has_masks = hp["masks"] is not None or (known is not None and self._all_segmented(known))
        fields: dict[str, Any] = {"images": (self.image_shape, "uint8"), "files": ((), "int32")}
        if known is not None or has_masks:
            boxes = "int16" if known is None else "float32"
            fields |= {"boxes": ((hp["max_objects"], 4), boxes), "counts": ((), "uint8")}
        if has_masks:
            fields["masks"] = (self.size, "uint8")
        if known is not None:
            fields["labels"] = ((hp["max_objects"],), "int16")
        options = {key: hp[key] for key in ("fit", "max_objects", "skip_bad", "annotations", "masks")}
        parameters = {"folder": str(self.root.resolve()), "split": split, "version": VERSION, "shape": self.image_shape}
        folder = converted(
            cache_folder(data_folder(hp["data_dir"])),
            f"{self.name}-{split}",
            parameters | options | {"shares": hp["shares"]},
            {"files": self._digest(files)},
            fields,
            lambda start: islice(self._read(files, known, has_masks), start, None),
            len(files),
        )
        return ImageFolder(folder, files, labelled=known is not None)

    # reading

    def _read(
        self, files: Sequence[Path], known: Mapping[Path, Annotation] | None, has_masks: bool
    ) -> Iterator[dict[str, Array]]:
        """Fields of each image."""
        bad = []
        for i, path in enumerate(files):
            try:
                scene = self._scene(path, known, has_masks)
            except (ImageError, DatasetCorruptError) as error:
                if not self.hparams["skip_bad"]:
                    raise DatasetCorruptError(f"{error}; skip_bad: true leaves out such images") from error
                bad.append(str(error))
                continue
            yield {**scene, "files": np.array(i)}
        if bad:
            more = f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            rank_zero_warn(f"{len(bad)} of {len(files)} images left out: {'; '.join(bad[:_NAMED])}{more}")

    def _scene(self, path: Path, known: Mapping[Path, Annotation] | None, has_masks: bool) -> dict[str, Array]:
        hp, most = self.hparams, self.hparams["max_objects"]
        original = read_image(path)
        image, place = fit_image(to_channels(original, hp["channels"]), self.size, hp["fit"])
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        if known is None and not has_masks:
            return {"images": pixels.transpose(2, 0, 1)}
        try:
            if known is None:
                mask = self._mask(path, place.size)
                return pack_scene(pixels, fit_mask(mask, self.size, hp["fit"]), most)
            if path not in known:
                raise DatasetCorruptError(f"{path} is in none of the annotations")
            own = known[path]
            if own.size != place.size:
                raise DatasetCorruptError(f"{path} has {place.size} pixels, its annotations are for {own.size}")
            n = len(own.objects)
            if n > most:
                raise ValueError(f"{n} objects in a scene, expected at most {most}")
        except ValueError as error:
            if isinstance(error, DatasetCorruptError):
                raise
            raise ValueError(f"{path}: {error}; raise max_objects") from error
        x, y, w, h = (torch.tensor([o["bbox"] for o in own.objects], dtype=torch.float32).view(-1, 4)).unbind(1)
        boxes, labels = np.zeros((most, 4), np.float32), np.zeros(most, np.int16)
        boxes[:n] = fit_boxes(torch.stack([x, y, x + w, y + h], 1), place).numpy()
        labels[:n] = [self._categories.index(o["category_id"]) for o in own.objects]
        scene = {"images": pixels.transpose(2, 0, 1), "boxes": boxes, "labels": labels, "counts": np.array(n)}
        if has_masks:
            scene["masks"] = fit_mask(_paint(own), self.size, hp["fit"])
        return scene

    def _masks_folder(self) -> Path | None:
        masks = self.hparams["masks"]
        return None if masks is None else self.root / Path(masks).expanduser()  # a full path stays one

    def _mask_file(self, path: Path) -> Path:
        folder = self._masks_folder()
        assert folder is not None
        return (folder / path.relative_to(self.root)).with_suffix(".png")

    def _mask(self, path: Path, size: tuple[int, int]) -> Array:
        """(H, W) ids from 1, 0 for the background."""
        file = self._mask_file(path)
        try:
            with Image.open(file) as picture:
                ids = np.asarray(picture)
        except FileNotFoundError:
            raise DatasetCorruptError(f"{path} has no mask {file}") from None
        except Exception as error:  # Pillow raises a dozen kinds for damaged files
            raise DatasetCorruptError(f"{file} cannot be read as a mask: {error}") from error
        if ids.ndim == 3:  # colours, black for the background
            ids = ids[..., :3].astype(np.int64) @ np.array([65536, 256, 1])
        if ids.shape != size:
            raise DatasetCorruptError(f"{file} has {ids.shape} pixels, its image has {size}")
        values, numbers = np.unique(ids, return_inverse=True)
        return numbers.reshape(ids.shape) + int(values[0] != 0)

    def _annotations(self) -> dict[Path, Annotation] | None:
        """By image file; null: there are none."""
        given = self.hparams["annotations"]
        if given is None or self._known is not None:
            return self._known
        known: dict[Path, Annotation] = {}
        categories: set[int] = set()
        for name in [given] if isinstance(given, str) else given:
            file = self.root / Path(name).expanduser()
            content = _read_coco(file)
            categories |= {category["id"] for category in content["categories"]}
            by_image: dict[int, list[dict[str, Any]]] = {}
            for own in content["annotations"]:
                if not own.get("iscrowd"):
                    by_image.setdefault(own["image_id"], []).append(own)
            categories |= {own["category_id"] for objects in by_image.values() for own in objects}
            for image in content["images"]:
                path = self._find(image["file_name"])
                if path in known:
                    raise DatasetCorruptError(f"{path} is annotated twice, also in {file}")
                known[path] = Annotation(by_image.get(image["id"], []), (image["height"], image["width"]))
        self._categories = sorted(categories)
        self._known = known
        return known

    def _find(self, name: str) -> Path:
        """The file that an annotation means."""
        if (self.root / name).is_file():
            return self.root / name
        found = [path for split in SPLITS if (path := self.root / split / name).is_file()]
        if len(found) > 1:
            raise DatasetCorruptError(
                f"{name} is annotated, and there is {' and '.join(map(str, found))}: write file_name relative to "
                f"{self.root}"
            )
        return found[0] if found else self.root / name

    def _all_segmented(self, known: Mapping[Path, Annotation]) -> bool:
        objects = [own for annotation in known.values() for own in annotation.objects]
        return bool(objects) and all(own.get("segmentation") for own in objects)

    def _digest(self, files: Sequence[Path]) -> str:
        """Changes when any file does."""
        if self.hparams["masks"] is not None:
            files = [*files, *map(self._mask_file, files)]
        given = self.hparams["annotations"] or []
        files = [
            *files,
            *(self.root / Path(name).expanduser() for name in ([given] if isinstance(given, str) else given)),
        ]
        digest = hashlib.sha256()
        for path in files:
            stat = path.stat() if path.is_file() else None
            digest.update(f"{path}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
        return digest.hexdigest()


def _read_coco(file: Path) -> dict[str, Any]:
    """COCO's JSON.

    Raises:
        DatasetNotFoundError: It is not there.
        DatasetCorruptError: It is no JSON, or not of that format.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        for own in content["images"]:
            own["id"], own["file_name"], own["height"], own["width"]
        for own in content["annotations"]:
            own["image_id"], own["category_id"]
            if len([float(v) for v in own["bbox"]]) != 4:
                raise ValueError(f"bbox {own['bbox']}")
        content.setdefault("categories", [])
    except FileNotFoundError:
        raise DatasetNotFoundError(f"there are no annotations {file}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetCorruptError(f"{file} is not in COCO's format: {type(error).__name__} {error}") from error
    return content


def _paint(annotation: Annotation) -> Array:
    """(H, W) ids of objects, in their order from 1; where they overlap, the smaller one is in front."""
    H, W = annotation.size
    masks = []
    for own in annotation.objects:
        code = own["segmentation"]
        if isinstance(code, list):  # polygons
            code = coco_mask.merge(coco_mask.frPyObjects(code, H, W))
        elif isinstance(code["counts"], list):
            code = coco_mask.frPyObjects(code, H, W)
        masks.append(coco_mask.decode(code).astype(bool))
    ids = np.zeros((H, W), np.uint8)
    for i in sorted(range(len(masks)), key=lambda i: -masks[i].sum()):
        ids[masks[i]] = i + 1
    return ids
