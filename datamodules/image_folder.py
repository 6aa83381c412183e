"""One's own images: a folder of them, with boxes (COCO's JSON) or masks (an image of ids for each) where there are any.

Images are resized once and kept in the cache as 8-bit arrays; a file that was added, removed or changed has them made
anew. Training looks at images alone; boxes and masks are for the metrics.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.base import SPLITS, Array, SceneDataModule, Split, check, size_name
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError, ImageError
from datamodules.folders.coco import AnnotatedImage, Report, read_coco
from datamodules.folders.coco_values import AnnotationError, Id, few, paint
from datamodules.folders.look import has_colour, look
from datamodules.folders.mask_files import VoidWatch, read_ids
from datamodules.folders.named_files import match_files
from datamodules.folders.split_folders import deal, split_folders
from datamodules.storage.cache import cache_folder, data_folder
from datamodules.storage.converted import ConvertedScenes, converted, pack_scene, pair_of_sides
from datamodules.storage.images import (
    Fit,
    fit_boxes,
    fit_image,
    fit_mask,
    image_files,
    open_image,
    orientation,
    place_image,
    read_image,
    to_channels,
    turn_boxes,
    turn_mask,
)

VERSION = 2  # of the conversion: raise it whenever the same files give other arrays
SIDE = 128  # of images in pixels, where nothing is said of it


class ImageFolder(ConvertedScenes):
    """Images of a split, converted on first use and memory-mapped afterwards.

    Args:
        folder: What `converted` returned.
        files: Of the split, in the order of their names.
        labelled: Whether objects have classes.

    Attributes:
        files: Of each scene.
        total: Files of the split, those that were left out among them.
    """

    def __init__(self, folder: Path, files: Sequence[Path], *, labelled: bool) -> None:
        super().__init__(folder, label="labels" if labelled else None)
        self.total = len(files)
        self.files = [files[i] for i in self._arrays["files"].tolist()]

    @property
    def objects(self) -> int:
        """In all images; 0 where nobody knows."""
        return int(self._arrays["counts"].sum()) if "counts" in self._arrays else 0


class ImageFolderDataModule(SceneDataModule):
    """One's own images: those in the folders `train`, `val` (or `valid`) and `test`, or, without these, all, dealt.

    Args:
        folder: With images, at any depth.
        annotations: JSON file(s) in COCO's format, in `folder`, in each of its splits' folders, or by their full path:
            boxes, classes, and masks if every object has one. An image's `file_name` is relative to the JSON's folder,
            to `folder` or to that of its split.
        masks: Folder of images of ids, 0 for the background, named as the images are (`a/b.jpg` has `a/b.png`); ids may
            be numbers of 8 or 16 bits, a palette's, or colours. Boxes are tight around them.
        void_ids: Ids in masks that are no objects but background, as 255 is in VOC's; a colour's is 65536 red + 256
            green + blue. Null: none, with a warning where an id looks so.
        image_size: Side in pixels that images are resized to, or [height, width]; null: 128, or, on the command line,
            what goes with the model.
        fit: How: `stretch` ignores proportions, `pad` keeps them, with black at two sides.
        channels: 1 or 3; grey images are repeated, colours become their luma; null: 3 where any image is in colour.
        max_objects: The most objects in an image, at most 255.
        shares: Of images for training, validation and testing where they are dealt, which is by a hash of their names.
        skip_bad: Leave out annotations that contradict themselves, and images that cannot be read or that annotations
            do not know, and count them by their reasons, instead of stopping at the first.
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
        void_ids: Sequence[int] | None = None,
        image_size: int | Sequence[int] | None = None,
        fit: Fit = "stretch",
        channels: int | None = None,
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
        self.size = pair_of_sides(SIDE if image_size is None else image_size)
        place_image((1, 1), self.size, fit)
        check("channels", channels, channels in (None, 1, 3), "1 or 3, or null")
        check("max_objects", max_objects, 1 <= max_objects <= 255, "from 1 to 255")
        good = len(shares) == 3 and all(share > 0 for share in shares)
        check("shares", shares, good, "three numbers above 0, for training, validation and testing")
        check("masks", masks, masks is None or annotations is None, "null where there are annotations")
        check("void_ids", void_ids, void_ids is None or masks is not None, "null where there are no masks")
        self._known: dict[Path, AnnotatedImage] | None = None
        self._categories: dict[Id, int] = {}  # places of categories by id
        self._report = Report(skip_bad)
        self._said = ""

    @property
    def name(self) -> str:  # type: ignore[override]
        """The folder's, and the images' size, with a part for each parameter that departs from its default."""
        hp = self.hparams
        own = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.root.resolve().name)
        parts = [own, size_name(self.size)] + [hp["fit"]] * (hp["fit"] != "stretch")
        return "-".join(parts + [f"c{self.channels}"] * (self.channels != 3))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of all images."""
        return (self.channels, *self.size)

    @functools.cached_property
    def channels(self) -> int:
        """As given, or else what the images have."""
        given = self.hparams["channels"]
        return given or (3 if has_colour(self._all_files()) else 1)

    @property
    def looks(self) -> str | None:
        """Such as `30 images of 640x480, colour`; null where no image can be opened."""
        seen = look(self._all_files())
        return None if seen is None else str(seen)

    @property
    def has_objects(self) -> bool:
        """Whether there are annotations or masks."""
        return self.hparams["annotations"] is not None or self.hparams["masks"] is not None

    def _all_files(self) -> list[Path]:
        return [path for split in SPLITS for path in self.split_files(split)]

    @property
    def num_classes(self) -> int:
        """Categories of the annotations; 1 where there are none."""
        self._annotations()
        return max(1, len(self._categories))

    @property
    def max_objects(self) -> int:
        """As given."""
        return self.hparams["max_objects"]

    def prepare_data(self) -> None:
        """Resize the images of all splits, where that has not been done yet, and say what there is."""
        read = {split: self.make_dataset(split) for split in SPLITS}
        images = ", ".join(f"{len(dataset)} {split}" for split, dataset in read.items())
        parts = [f"{self.root}: {sum(map(len, read.values()))} images ({images})"]
        left_out = sum(dataset.total - len(dataset) for dataset in read.values())
        parts += [f"{left_out} images left out"] * bool(left_out)
        if self._known is not None or self.hparams["masks"] is not None:
            parts.append(f"{sum(dataset.objects for dataset in read.values())} objects")
        if self._known is not None:
            parts += [f"{len(self._categories)} categories", *filter(None, [str(self._report)])]
        said = ", ".join(parts)
        if said != self._said:  # the trainer asks before each of its tasks
            rank_zero_info(said)
        self._said = said

    def split_files(self, split: Split) -> list[Path]:
        """Image files of a split, sorted by their names.

        Raises:
            DatasetNotFoundError: There are none.
        """
        try:
            if folders := self._split_folders():
                return image_files(folders[split])
            files = image_files(self.root)
        except FileNotFoundError as error:
            raise DatasetNotFoundError(str(error)) from None
        masks = self._masks_folder()
        if masks is not None and masks.is_relative_to(self.root):
            files = [path for path in files if not path.is_relative_to(masks)]
        return deal(files, self.root, self.hparams["shares"])[split]

    def make_dataset(self, split: Split) -> ImageFolder:
        """The images of a split; resizes them if that has not been done yet, or if files have changed."""
        hp, known, files = self.hparams, self._annotations(), self.split_files(split)
        has_masks = hp["masks"] is not None or _outlined(known)
        fields: dict[str, Any] = {"images": (self.image_shape, "uint8"), "files": ((), "int32")}
        if known is not None or has_masks:
            boxes = "int16" if known is None else "float32"
            fields |= {"boxes": ((hp["max_objects"], 4), boxes), "counts": ((), "uint8")}
        if has_masks:
            fields["masks"] = (self.size, "uint8")
        if known is not None:
            fields["labels"] = ((hp["max_objects"],), "int32")
        options = {key: hp[key] for key in ("fit", "max_objects", "skip_bad", "annotations", "masks", "void_ids")}
        parameters = {"folder": str(self.root.resolve()), "split": split, "version": VERSION, "shape": self.image_shape}
        folder = converted(
            cache_folder(data_folder(hp["data_dir"])),
            f"{self.name}-{split}",
            parameters | options | {"shares": hp["shares"]},
            {"files": self._digest(files)},
            fields,
            lambda start: islice(self._read(split, files, known, has_masks), start, None),
            len(files),
            keep_part=False,  # once files are mended, nothing that was made before serves
        )
        return ImageFolder(folder, files, labelled=known is not None)

    # reading

    def _read(
        self, split: Split, files: Sequence[Path], known: Mapping[Path, AnnotatedImage] | None, has_masks: bool
    ) -> Iterator[dict[str, Array]]:
        """Fields of each image."""
        report, watch, left_out = Report(self.hparams["skip_bad"]), VoidWatch(), len(files)
        for i, path in enumerate(files):
            with report.guard(str(path)):
                scene = self._scene(path, known, has_masks, report, watch)
                left_out -= 1
                yield {**scene, "files": np.array(i)}
        if left_out == len(files):
            raise DatasetCorruptError(f"all {len(files)} images of the split {split} are bad: {report}")
        if left_out:
            rank_zero_warn(f"{left_out} of {len(files)} images left out: {report}")
        elif report.noted:
            rank_zero_warn(f"{split}: {report}")
        if str(watch) and self.hparams["void_ids"] is None:
            rank_zero_warn(f"{split}: {watch}")

    def _scene(
        self,
        path: Path,
        known: Mapping[Path, AnnotatedImage] | None,
        has_masks: bool,
        report: Report,
        watch: VoidWatch,
    ) -> dict[str, Array]:
        hp, most = self.hparams, self.hparams["max_objects"]
        try:
            image, place = fit_image(to_channels(read_image(path), self.channels), self.size, hp["fit"])
        except ImageError as error:
            raise AnnotationError("image", "cannot be read", str(error.__cause__ or error)) from error
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        if known is None and not has_masks:
            return {"images": pixels.transpose(2, 0, 1)}
        if known is None:
            mask = fit_mask(self._mask(path, place.size, report, watch), self.size, hp["fit"])
            _check_count(int(np.count_nonzero(np.unique(mask))), most)
            return pack_scene(pixels, mask, most)
        if path not in known:
            fix = f"they name {few(image.name for image in known.values())}: annotate it, or move it"
            raise AnnotationError("image", "is in none of the annotations", fix)
        own = known[path]
        if len(own.objects) > most:
            _check_count(max(len(image.objects) for image in known.values()), most)
        how = _turn(path, own.size, place.size, report)
        given = torch.tensor([o.box for o in own.objects], dtype=torch.float32).view(-1, 4)
        n, boxes, labels = len(given), np.zeros((most, 4), np.float32), np.zeros(most, np.int32)
        boxes[:n] = fit_boxes(turn_boxes(given, own.size, how), place).numpy()
        labels[:n] = [self._categories[o.category] for o in own.objects]
        scene = {"images": pixels.transpose(2, 0, 1), "boxes": boxes, "labels": labels, "counts": np.array(n)}
        if has_masks:
            ids = paint([o.outline for o in own.objects if o.outline is not None], own.size)
            scene["masks"] = fit_mask(turn_mask(ids, how), self.size, hp["fit"])
        return scene

    def _masks_folder(self) -> Path | None:
        masks = self.hparams["masks"]
        return None if masks is None else self.root / Path(masks).expanduser()  # a full path stays one

    def _mask_file(self, path: Path) -> Path:
        folder = self._masks_folder()
        assert folder is not None
        return (folder / path.relative_to(self.root)).with_suffix(".png")

    def _mask(self, path: Path, size: tuple[int, int], report: Report, watch: VoidWatch) -> Array:
        """(H, W) ids from 1, 0 for the background."""
        file = self._mask_file(path)
        try:
            ids, tagged = read_ids(file, self.hparams["void_ids"] or (), watch)
        except FileNotFoundError:
            raise AnnotationError("image", "has no mask", f"there is no {file}") from None
        except DatasetCorruptError as error:
            raise AnnotationError("mask", "cannot be read", f"{file}: {error.__cause__}") from error
        shape = (ids.shape[0], ids.shape[1])
        return ids if tagged and shape == size else turn_mask(ids, _turn(path, shape, size, report))

    def _annotations(self) -> dict[Path, AnnotatedImage] | None:
        """By image file; null: there are none."""
        if self.hparams["annotations"] is None or self._known is not None:
            return self._known
        report = Report(self.hparams["skip_bad"])
        images, categories = read_coco(self._annotation_files(), report)
        files = [path for split in SPLITS for path in self.split_files(split)]
        folders = [self.root, *self._split_folders().values()]
        known = match_files(images, files, folders, report)
        ordered = sorted(categories, key=lambda key: (isinstance(key, str), key))  # numbers before texts
        self._categories = {key: i for i, key in enumerate(ordered)}
        self._known, self._report = known, report
        return known

    def _annotation_files(self) -> list[Path]:
        """JSON files: each name's own, or one in each split's folder.

        Raises:
            DatasetNotFoundError: Only some splits have it.
        """
        given, files = self.hparams["annotations"] or [], []
        for name in [given] if isinstance(given, str) else given:
            file = self.root / Path(name).expanduser()
            own = [folder / name for folder in self._split_folders().values()]
            there = [path for path in own if path.is_file()]
            if file.is_file() or not there:
                files.append(file)
            elif len(there) < len(own):
                missing = " and ".join(str(path) for path in own if path not in there)
                raise DatasetNotFoundError(f"there are annotations {there[0]}, but not {missing}")
            else:
                files += own
        return files

    def _split_folders(self) -> dict[Split, Path]:
        return split_folders(self.root, self._masks_folder())

    def _digest(self, files: Sequence[Path]) -> str:
        """Changes when any file does."""
        if self.hparams["masks"] is not None:
            files = [*files, *map(self._mask_file, files)]
        digest = hashlib.sha256()
        for path in [*files, *self._annotation_files()]:
            stat = path.stat() if path.is_file() else None
            digest.update(f"{path}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
        return digest.hexdigest()


def _outlined(known: Mapping[Path, AnnotatedImage] | None) -> bool:
    """Whether there are masks: all objects have them, or none."""
    return any(own.outline is not None for image in (known or {}).values() for own in image.objects)


def _check_count(count: int, most: int) -> None:
    if count > most:
        fix = f"raise max_objects to {count}" if count <= 255 else "255 are the most that there can be"
        raise AnnotationError("image", "has more objects than max_objects", f"{count}, not {most} at most; {fix}")


def _turn(path: Path, size: tuple[int, int], upright: tuple[int, int], report: Report) -> int:
    """How masks or boxes of `size` (H, W) are to be turned to lie on an image of `upright`: as `orientation` has it.

    Whoever drew them on the pixels as they are stored had another image before them than is seen, if the file says that
    it is to be turned.

    Raises:
        AnnotationError: The sizes differ otherwise.
    """
    with open_image(path) as picture:
        how = orientation(picture)
    if size == upright:
        if 1 < how <= 4 or (how > 4 and size[0] == size[1]):
            report.note(
                "images are turned by their metadata (EXIF), annotations taken as drawn upon what is seen", str(path)
            )
        return 1
    if how > 4 and size[::-1] == upright:
        report.note(
            "images are turned by their metadata (EXIF), annotations too, as drawn upon stored pixels", str(path)
        )
        return how
    swapped = ": are height and width interchanged?" if size[::-1] == upright else ""
    fix = f"it has {upright} pixels, height first, its annotations are for {size}{swapped}"
    raise AnnotationError("image", "has another size than its annotations", fix)
