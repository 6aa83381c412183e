"""Values of COCO's JSON, each checked before it is used: ids, numbers, boxes, polygons and run lengths.

No value reaches pycocotools' C code, which checks nothing, before it was checked here.
"""

import contextlib
import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from datamodules.base import Array

Id = int | str  # numbers in quotation marks are numbers
Box = tuple[float, float, float, float]  # xyxy in pixels, half-open
# polygons (x1, y1, x2, y2, ...), or run lengths: int64, column by column, those of the background first
Outline = list[Array] | Array

LARGEST = 2**17  # pixels of a side: more than any format of images has
LONGEST = 1e6  # pixels of an outline, of which pycocotools lists every fifth part: bounds its memory
TINY = 0.01  # pixels: boxes that are narrower have no size, and what is nearer to the border is not beyond it
_FLAGS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_SIDE = "write the image's, a whole number of pixels"
_BOX = "write [x, y, width, height], in pixels"
_OUTLINE = "write polygons [[x1, y1, x2, y2, x3, y3, ...]], or run lengths {size: [height, width], counts: ...}"
_RUNS = "encode the mask anew, pixels column by column, by pycocotools.mask.encode"

_shown = reprlib.Repr()
_shown.maxstring = 100


class AnnotationError(ValueError):
    """A value that cannot be used.

    Args:
        key: That it stands under.
        reason: What is wrong with it, whatever the value; faults are counted by key and reason.
        fix: What to write instead.
        value: As it was found; none: there is nothing to be shown.

    Attributes:
        kind: Key and reason.
    """

    def __init__(self, key: str, reason: str, fix: str, *value: object) -> None:
        self.kind = f"{key} {reason}"
        super().__init__(f"{' '.join([key, *map(_shown.repr, value), reason])}: {fix}")


# values


def record(value: Any) -> dict[str, Any]:
    """An entry of a list, which is to be an object with keys."""
    if not isinstance(value, dict):
        raise AnnotationError("entry", "is no object", "write {id: ..., ...}", value)
    return value


def identifier(own: dict[str, Any], key: str) -> Id:
    """An id: a whole number, or a text that is none."""
    if key not in own:
        raise AnnotationError(key, "is missing", "write it")
    value = own[key]
    if isinstance(value, str) and re.fullmatch("-?(0|[1-9][0-9]{0,17})", value.strip()):
        return int(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise AnnotationError(key, "is no id", "write a whole number or a text", value)
    return value


def numbers(values: Sequence[Any], key: str, fix: str) -> list[float]:
    """All of them as finite floats, be they in quotation marks."""
    if {*map(type, values)} <= {int, float}:  # as nearly always
        with contextlib.suppress(OverflowError):
            found = [*map(float, values)]
            if math.isfinite(sum(found)):
                return found
    found = []
    for value in values:
        shown = values if len(values) == 4 else value
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            raise AnnotationError(key, "is not all numbers", fix, shown) from None
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise AnnotationError(key, "is not all finite numbers", fix, shown)
        found.append(number)
    return found


def side(own: dict[str, Any], key: str) -> int:
    """Height or width of an image."""
    if own.get(key) is None:
        raise AnnotationError(key, "is missing", _SIDE)
    (value,) = numbers([own[key]], key, _SIDE)
    if not (1 <= value <= LARGEST and value.is_integer()):
        raise AnnotationError(key, "is no size", _SIDE, own[key])
    return int(value)


def flag(own: dict[str, Any], key: str) -> bool:
    """0 or 1, false or true; false where there is none."""
    value = own.get(key)
    text = "" if value is None else str(value).lower() if isinstance(value, bool | int | float | str) else "?"
    if text not in _FLAGS:
        raise AnnotationError(key, "is neither 0 nor 1", "write 1 for a crowd, 0 for an object", value)
    return _FLAGS[text]


def few(values: Iterable[Any]) -> str:
    """Some values for a message."""
    shown = [*map(_shown.repr, islice(values, 5))]
    return ", ".join(shown[:4] + ["..."] * (len(shown) > 4)) or "none"


@dataclass
class Boxes:
    """Reads the boxes of a file, and looks at them together for coordinates of another kind."""

    total: int = 0
    beyond: int = 0  # that reach beyond their image
    corners: int = 0  # that would not if they were two corners

    def read(self, own: dict[str, Any], size: tuple[int, int]) -> tuple[Box, bool]:
        """An annotation's box within its image of `size` (H, W), and whether it reached beyond."""
        value, (H, W) = own.get("bbox"), size
        if value is None:
            raise AnnotationError("bbox", "is missing", _BOX)
        if not isinstance(value, list) or len(value) != 4:
            raise AnnotationError("bbox", "is not four numbers", _BOX, value)
        x, y, w, h = numbers(value, "bbox", _BOX)
        if min(w, h) < TINY:
            raise AnnotationError("bbox", "has no size", f"{_BOX}, the last two above 0", value)
        if max(x, y, w, h) <= 1 and size != (1, 1):
            fix = f"multiply by width {W} and height {H} if it is relative to them"
            raise AnnotationError("bbox", "is within one pixel", fix, value)
        box = (max(x, 0.0), max(y, 0.0), min(x + w, float(W)), min(y + h, float(H)))
        if min(box[2] - box[0], box[3] - box[1]) < TINY:
            fix = f"which is {W} pixels wide and {H} high: correct the box or the size"
            raise AnnotationError("bbox", "is outside the image", fix, value)
        clipped = max(-x, -y, x + w - W, y + h - H) > TINY
        self.total += 1
        self.beyond += clipped
        self.corners += 0 <= x < w <= W and 0 <= y < h <= H
        return box, clipped

    def check(self) -> None:
        """Refuse boxes that were all meant otherwise."""
        if self.total == self.corners >= 4 and 2 * self.beyond >= self.total:
            reason = f"seems to be [x1, y1, x2, y2]: {self.beyond} of {self.total} are beyond their image otherwise"
            raise AnnotationError("bbox", reason, "write [x, y, width, height] (subtract x1 and y1)")


def outline_of(own: dict[str, Any], size: tuple[int, int], box: Box) -> Outline | None:
    """An annotation's segmentation in an image of `size` (H, W); null: it has none."""
    value = own.get("segmentation")
    if value in (None, [], [[]], {}, ""):
        return None
    if isinstance(value, dict):
        outline: Outline = (runs := _runs(value, size))
        x1, y1, x2, y2 = _extent_of_runs(runs, size[0])
    elif isinstance(value, list):
        outline = parts = _polygons(value)
        points = np.concatenate(parts).reshape(-1, 2)
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        if max(x2, y2) <= 1:
            fix = f"multiply by width {size[1]} and height {size[0]} if it is relative"
            raise AnnotationError("segmentation", "is within one pixel", fix, value)
        if x2 <= x1 or y2 <= y1:
            raise AnnotationError("segmentation", "has no size", _OUTLINE, value)
    else:
        raise AnnotationError("segmentation", "is neither polygons nor run lengths", _OUTLINE, value)
    if min(x2, box[2]) <= max(x1, box[0]) or min(y2, box[3]) <= max(y1, box[1]):
        fix = f"it is from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}): correct the one or the other"
        raise AnnotationError("segmentation", "is outside its bbox", fix)
    return outline


def _polygons(value: list[Any]) -> list[Array]:
    """Polygons, whether they are several, one that is flat, or points [x, y]."""
    if not isinstance(value[0], list):
        value = [value]
    elif all(isinstance(point, list) and len(point) == 2 for point in value):
        value = [[v for point in value for v in point]]
    polygons = []
    for part in value:
        if not isinstance(part, list):
            raise AnnotationError("segmentation", "is no list of polygons", _OUTLINE, value)
        if part and all(isinstance(point, list) and len(point) == 2 for point in part):
            part = [v for point in part for v in point]
        polygon = np.array(numbers(part, "segmentation", _OUTLINE))
        if len(polygon) < 6 or len(polygon) % 2:
            raise AnnotationError("segmentation", "has a polygon of less than three points", _OUTLINE, part)
        # halves, as the difference of two huge numbers would be infinite
        length = np.abs(polygon / 2 - np.concatenate([polygon[2:], polygon[:2]]) / 2).sum() * 2
        if not max(length, np.abs(polygon).max()) <= LONGEST:
            raise AnnotationError("segmentation", f"has an outline longer than {LONGEST:g} pixels", "correct it", part)
        polygons.append(polygon)
    return polygons


def _runs(value: dict[str, Any], size: tuple[int, int]) -> Array:
    """Run lengths of a mask of `size` (H, W), int64."""
    given, counts = value.get("size"), value.get("counts")
    if not isinstance(given, list) or len(given) != 2 or tuple(numbers(given, "size", _OUTLINE)) != size:
        fix = f"which is [{size[0]}, {size[1]}], height first: {_RUNS}"
        raise AnnotationError("segmentation.size", "is not its image's", fix, given)
    if isinstance(counts, str):
        counts = _decode(counts)
    if not isinstance(counts, list):
        raise AnnotationError("segmentation.counts", "are no run lengths", _RUNS, counts)
    runs = numbers(counts, "segmentation.counts", _RUNS)
    if sum(runs) != size[0] * size[1] or not all(run >= 0 and run.is_integer() for run in runs):
        fix = f"and do not add up to {size[0]} x {size[1]}: {_RUNS}"
        raise AnnotationError("segmentation.counts", "are no run lengths of the image", fix, counts)
    if not any(runs[1::2]):
        raise AnnotationError("segmentation.counts", "cover no pixel", "leave out the annotation", counts)
    return np.array(runs, np.int64)


def _decode(code: str) -> list[int]:
    """Run lengths of COCO's compressed text.

    Numbers to the base 32, low digits first, six bits a character from "0" on, of which the highest says that another
    one follows; the last one's highest digit has the sign. From the fourth number on, they are differences to the last
    but one.
    """
    runs: list[int] = []
    number = shift = 0
    for character in code:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 50:
            break
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16 > 0) << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    else:
        if shift == 0:
            return runs
    raise AnnotationError("segmentation.counts", "are no compressed run lengths", _RUNS, code)


def _extent_of_runs(runs: Array, height: int) -> Box:
    """Box xyxy around what they cover, which is something."""
    ends = np.cumsum(runs)
    first, last = ends[: len(ends) // 2 * 2 : 2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    left, right = first // height, last // height
    if (left < right).any():  # such a run reaches the bottom of one column and the top of the next
        return int(left.min()), 0, int(right.max()) + 1, height
    return int(left.min()), int((first % height).min()), int(right.max()) + 1, int((last % height).max()) + 1


def paint(outlines: Sequence[Outline], size: tuple[int, int]) -> Array:
    """(H, W) uint8 ids of at most 255 objects, in their order from 1; where they overlap, the smaller one is in front.

    Args:
        outlines: As `outline_of` returned them for an image of that size.
        size: (H, W).
    """
    H, W = size
    masks = []
    for outline in outlines:
        if isinstance(outline, list):
            code = coco_mask.merge(coco_mask.frPyObjects(outline, H, W))
            runs: Array = np.array(_decode(code["counts"].decode()))
        else:
            runs = outline
        masks.append(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(W, H).T)
    ids = np.zeros((H, W), np.uint8)
    for i in sorted(range(len(masks)), key=lambda i: -masks[i].sum()):
        ids[masks[i]] = i + 1
    return ids
