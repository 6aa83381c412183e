"""Masks in image files, an id for each pixel, and ids that mean no object but what is not to be judged."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ImageOps
from scipy import ndimage

from datamodules.base import Array
from datamodules.errors import DatasetCorruptError
from datamodules.storage.images import open_image, orientation

VOID = 255  # of PASCAL VOC, Cityscapes and ADE20K
_WIDTH = 7  # pixels: borders are narrower; VOC's have five


@dataclass
class VoidWatch:
    """Looks for ids that are usually no objects.

    Attributes:
        masks: That have an id.
        borders: Of these, where it covers nothing but borders.
        beside: Where 255 stands beside smaller numbers that do not lead up to it.
    """

    masks: Counter[int] = field(default_factory=Counter)
    borders: Counter[int] = field(default_factory=Counter)
    beside: int = 0

    def look(self, ids: Array, values: Array, numbers: Array, *, colours: bool) -> None:
        """Add a mask: its (H, W) ids, `values` that occur, and (H, W) `numbers`, the place of each pixel's value."""
        present = set(values.tolist()) - {0}
        self.masks.update(present)
        self.beside += not colours and VOID in present and len(present) > 1 and VOID - 1 not in present
        self.borders.update(int(values[i]) for i in _borders(numbers) if values[i])

    def __str__(self) -> str:
        odd = {value for value, count in self.borders.items() if 2 * count >= self.masks[value]}
        found = [f"id {value} covers only borders in {self.borders[value]} masks" for value in sorted(odd)]
        found += [f"id {VOID} stands beside others in {self.beside} masks"] * (self.beside > 0)
        void = sorted(odd | ({VOID} if self.beside else set()))
        fix = f"void_ids: {void} if that is no object but void; void_ids: [] if it is one"
        return f"{' and '.join(found)}: say {fix}" if found else ""


def read_ids(file: Path, void_ids: Collection[int] = (), watch: VoidWatch | None = None) -> tuple[Array, bool]:
    """Read a mask, turned upright where its own metadata (EXIF) say how.

    Args:
        file: Of ids in 8 or 16 bits, of a palette's, or of colours, whose ids are 65536 red + 256 green + blue.
        void_ids: Ids that become background.
        watch: Is shown the ids as they are.

    Returns:
        (H, W) ids in their order from 1, 0 for the background; and whether the file said how it is to be turned.

    Raises:
        FileNotFoundError: It is not there.
        DatasetCorruptError: It is damaged, or no image.
    """
    try:
        with open_image(file) as picture:
            tagged = orientation(picture) > 1
            ids = np.asarray(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise DatasetCorruptError(f"{file} cannot be read as a mask: {error}") from error
    colours = ids.ndim == 3 and ids.shape[2] > 2
    if colours:
        ids = ids[..., :3].astype(np.int64) @ np.array([65536, 256, 1])
    elif ids.ndim == 3:  # grey, and how opaque
        ids = ids[..., 0]
    values, numbers = np.unique(ids, return_inverse=True)
    numbers = numbers.reshape(ids.shape)
    if watch is not None:
        watch.look(ids, values, numbers, colours=colours)
    kept = (values != 0) & ~np.isin(values, list(void_ids))
    return np.where(kept, np.cumsum(kept), 0)[numbers], tagged


def _borders(numbers: Array) -> list[int]:
    """Numbers that cover nothing but narrow lines along others, or along the edges of an (H, W) mask."""
    ids = numbers.astype(np.int32)
    areas = np.bincount(ids.ravel())
    high = ndimage.maximum_filter(ids, _WIDTH, mode="constant", cval=-1)
    inside = ids[ndimage.minimum_filter(ids, _WIDTH, mode="constant", cval=-1) == high]
    narrow = np.flatnonzero((areas > 0) & (np.bincount(inside, minlength=len(areas)) == 0))
    boxes = ndimage.find_objects(ids + 1)
    found = []
    for i in narrow:
        rows, columns = boxes[i]
        spanned = (rows.stop - rows.start) * (columns.stop - columns.start)
        if spanned < 2 * areas[i]:  # a small thing, not a line around one
            continue
        own = ids == i
        near = ndimage.maximum_filter((ids > 0) & ~own, _WIDTH)[own].mean()
        if spanned == ids.size or near > 0.5:
            found.append(int(i))
    return found
