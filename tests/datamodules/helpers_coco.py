"""Annotations of one small folder of images, and some hundred ways in which they are written otherwise, or badly.

Twelve images of 60 x 90 pixels have two objects each: of category 3 (label 0) and of category 90 (label 2).
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

NAMES = [f"s{i:02}.png" for i in range(12)]
SIZE = (60, 90)
Truth = Mapping[str, list[tuple[tuple[float, ...], int]]]  # objects of some images: box xyxy and label
Json = dict[str, Any]


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(NAMES):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[10:30, 20 + i : 45 + i] = 200
        pixels[40:52, 60:80] = (0, 150, 50)
        Image.fromarray(pixels).save(folder / name)


def truth() -> dict[str, list[tuple[tuple[float, ...], int]]]:
    return {n: [((20 + i, 10, 45 + i, 30), 0), ((60, 40, 80, 52), 2)] for i, n in enumerate(NAMES)}


def plain() -> Json:
    content: Json = {
        "info": {"description": "two rectangles"},
        "licenses": [],
        "images": [{"id": i + 1, "file_name": n, "height": 60, "width": 90} for i, n in enumerate(NAMES)],
        "annotations": [],
        "categories": [{"id": 3, "name": "a"}, {"id": 90, "name": "b"}, {"id": 7, "name": "never"}],
    }
    for i, name in enumerate(NAMES):
        for (x1, y1, x2, y2), label in truth()[name]:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": (3, 7, 90)[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    return content


@dataclass
class Variant:
    """One way to write annotations.

    Attributes:
        name: What is odd.
        file: The JSON's bytes.
        refused: What the error's one line says; "": it loads.
        differs: Objects of images that are not those of `truth`, where it loads, be it with skip_bad.
        says: What the printed line says.
        masks: Whether there are any.
        gone: Images that skip_bad leaves out.
        skippable: Whether skip_bad helps.
    """

    name: str
    file: bytes
    refused: str = ""
    differs: Truth = field(default_factory=dict)
    says: str = "24 objects, 3 categories"
    masks: bool = True
    gone: tuple[str, ...] = ()
    skippable: bool = True


ALL: list[Variant] = []
FIRST = {"s00.png": truth()["s00.png"][1:]}  # the first annotation left out


def variant(name: str, change: Callable[[Json], Any] | bytes, refused: str = "", **options: Any) -> None:
    """Add one: a change of the plain content in place (or what is returned instead), or the file itself."""
    if not isinstance(change, bytes):
        content = plain()
        changed = change(content)
        content = content if changed is None else changed
        change = json.dumps(content).encode()
    ALL.append(Variant(name, change, refused, **options))


def each(part: str, **values: Any) -> Callable[[Json], None]:
    """Set keys of all entries; a function is given the entry's own value."""

    def change(content: Json) -> None:
        for own in content[part]:
            for key, value in values.items():
                own[key] = value(own.get(key)) if callable(value) else copy.deepcopy(value)

    return change


def one(part: str, place: int = 0, **values: Any) -> Callable[[Json], None]:
    """The same of one entry."""

    def change(content: Json) -> None:
        for key, value in values.items():
            own = content[part][place]
            own[key] = value(own.get(key)) if callable(value) else copy.deepcopy(value)

    return change


def without(part: str, key: str, every: bool = False) -> Callable[[Json], None]:
    def change(content: Json) -> None:
        for own in content[part] if every else content[part][:1]:
            del own[key]

    return change


def both(*changes: Callable[[Json], Any]) -> Callable[[Json], None]:
    def change(content: Json) -> None:
        for own in changes:
            own(content)

    return change


def added(part: str, entry: Any) -> Callable[[Json], None]:
    return lambda content: content[part].append(entry)


def top(**values: Any) -> Callable[[Json], None]:
    return lambda content: content.update(values)


def dropped(*keys: str) -> Callable[[Json], None]:
    return lambda content: [content.pop(key) for key in keys].clear()


def rle(box: list[float], compressed: bool = True, size: tuple[int, int] = SIZE) -> Json:
    x, y, w, h = (round(v) for v in box)
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if compressed:
        return {"size": list(size), "counts": coco_mask.encode(mask)["counts"].decode()}
    flat = np.concatenate([[0], mask.ravel(order="F"), [1 - mask[-1, -1]]]).astype(int)
    ends = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], ends])).tolist()
    assert sum(runs) == mask.size
    return {"size": list(size), "counts": runs}


def encoded(compressed: bool, every: int = 1) -> Callable[[Json], None]:
    def change(content: Json) -> None:
        for own in content["annotations"][::every]:
            own["segmentation"] = rle(own["bbox"], compressed)

    return change


def counts(value: Any, **others: Any) -> Callable[[Json], None]:
    return one("annotations", segmentation={"size": [60, 90], "counts": value, **others})


SQUARE = [20, 10, 45, 10, 45, 30, 20, 30]
POINTS = [[20, 10], [45, 10], [45, 30], [20, 30]]
TEXT = json.dumps(plain())
CODE = rle([20, 10, 25, 20])["counts"]
NAN, INF = float("nan"), float("inf")

# what loads as if nothing were odd
variant("plain", lambda c: None)
variant("no info", dropped("info", "licenses"))
variant("info null, keys of others", top(info=None, licenses=None, videos=[]))
variant("bom", b"\xef\xbb\xbf" + TEXT.encode())
variant("utf-16", TEXT.encode("utf-16"))
variant("utf-16 little end first", TEXT.encode("utf-16-le"))
variant("utf-16 big end first", TEXT.encode("utf-16-be"))
variant("utf-32", TEXT.encode("utf-32"))
variant(
    "ids are texts", both(each("images", id=lambda v: f"img{v}"), each("annotations", image_id=lambda v: f"img{v}"))
)
variant("image_id in quotation marks", each("annotations", image_id=str))
variant("ids of images in quotation marks", each("images", id=str))
variant("ids are floats", both(each("images", id=float), each("annotations", image_id=float, category_id=float)))
variant("negative ids", both(each("images", id=lambda v: -v), each("annotations", image_id=lambda v: -v)))
variant("annotations without ids", without("annotations", "id", every=True))
variant("annotations' ids null", each("annotations", id=None))
variant("one id for two annotations", each("annotations", id=lambda v: v // 2))
variant("category_id of two types", one("annotations", category_id="3"))
variant("categories in quotation marks", each("categories", id=str))
variant("categories with spaces", each("annotations", category_id=lambda v: f" {v} "))
variant(
    "categories are texts",
    both(each("categories", id=lambda v: f"{v:03}"), each("annotations", category_id=lambda v: f"{v:03}")),
)
variant("categories without names", without("categories", "name", every=True))
variant("a category twice, word for word", added("categories", {"id": 3, "name": "a"}))
variant("two categories of one name", each("categories", name="thing"))
UNLISTED = {n: [(box, label // 2) for box, label in objects] for n, objects in truth().items()}
for name, value in {"null": None, "empty": []}.items():
    variant(f"categories {name}", top(categories=value), differs=UNLISTED, says="24 objects, 2 categories")
variant("categories missing", dropped("categories"), differs=UNLISTED, says="2 categories")
for value in ("0", "", False, None, 0.0, "false"):
    variant(f"iscrowd {value!r}", each("annotations", iscrowd=value))
variant("iscrowd missing", without("annotations", "iscrowd", every=True))
for value in (1, "1", True, 1.0, "True"):
    crowd = "23 objects, 3 categories, crowds left out: 1"
    variant(f"iscrowd {value!r}", one("annotations", iscrowd=value), differs=FIRST, says=crowd)
variant(
    "a crowd of nonsense",
    one("annotations", iscrowd=1, bbox=None, segmentation=7),
    differs=FIRST,
    says="crowds left out: 1",
)
variant("bbox in quotation marks", each("annotations", bbox=lambda v: [str(n) for n in v]))
variant("bbox of floats", each("annotations", bbox=lambda v: [float(n) for n in v]))
variant(
    "bbox beyond by rounding",
    one("annotations", bbox=[20, 10, 70.001, 20], segmentation=[[20, 10, 90, 10, 90, 30]]),
    differs={"s00.png": [((20, 10, 90, 30), 0), truth()["s00.png"][1]]},
    masks=False,
    says="24 objects, 3 categories",
)
for name, bbox, box in (
    ("all borders", [-10, -10, 500, 500], (0, 0, 90, 60)),
    ("the left border", [-5, 10, 50, 20], (0, 10, 45, 30)),
    ("the right border", [20, 10, 1e300, 20], (20, 10, 90, 30)),
    ("the upper border", [20, -1e9, 25, 1e9 + 30], (20, 0, 45, 30)),
    ("the lower border", [20, 10, 25, 50.5], (20, 10, 45, 60)),
):
    variant(
        f"bbox beyond {name}",
        one("annotations", bbox=bbox),
        differs={"s00.png": [(box, 0), truth()["s00.png"][1]]},
        says="24 objects, 3 categories, boxes clipped at the border: 1",
    )
variant(
    "areas odd", both(one("annotations", area=NAN), one("annotations", 1, area=None), without("annotations", "area"))
)
variant("sizes are floats", each("images", height=float, width=float))
variant("sizes in quotation marks", each("images", height=str, width=str))
variant("polygon flat", one("annotations", segmentation=SQUARE))
variant("polygon of points", one("annotations", segmentation=POINTS))
variant("polygons of points", one("annotations", segmentation=[POINTS]))
variant("polygon in quotation marks", one("annotations", segmentation=[[str(v) for v in SQUARE]]))
variant("polygon of floats", one("annotations", segmentation=[[float(v) for v in SQUARE]]))
variant("polygon closed", one("annotations", segmentation=[SQUARE + SQUARE[:2]]))
HALVES = [[20, 10, 30, 10, 30, 30, 20, 30], [30, 10, 45, 10, 45, 30, 30, 30]]
variant("polygon in two parts", one("annotations", segmentation=HALVES))
LARGE = [-50, -40, 200, -40, 200, 130, -50, 130]
variant(
    "polygon beyond the image",
    one("annotations", 1, bbox=[-50, -40, 250, 170], segmentation=[LARGE]),
    differs={"s00.png": [truth()["s00.png"][0], ((0, 0, 90, 60), 2)]},
    says="clipped at the border: 1",
)
variant("run lengths in text", encoded(True))
variant("run lengths in numbers", encoded(False))
variant(
    "run lengths in floats",
    both(
        encoded(False),
        one("annotations", segmentation=lambda v: {"size": [60.0, 90.0], "counts": [float(n) for n in v["counts"]]}),
    ),
)
variant("run lengths and polygons", encoded(True, every=3))
variant(
    "run lengths with empty ones",
    one(
        "annotations",
        segmentation=lambda v: {"size": [60, 90], "counts": [0, 0, *rle([20, 10, 25, 20], False)["counts"], 0, 0]},
    ),
)
for name, value in {"null": None, "empty": [], "an empty polygon": [[]], "an empty object": {}, "no text": ""}.items():
    variant(f"segmentation {name}", each("annotations", segmentation=value), masks=False)
variant("segmentation missing", without("annotations", "segmentation", every=True), masks=False)
variant("an annotation twice", lambda c: c["annotations"].append(c["annotations"][0]), says="repetitions left out: 1")
variant("an image twice", lambda c: c["images"].append(c["images"][0]), says="repetitions left out: 1")
variant(
    "an image that is not there",
    added("images", {"id": 99, "file_name": "none.png", "height": 5, "width": 5}),
    says="annotated images that are not there: 1",
)
variant(
    "an image without objects",
    lambda c: c.update(annotations=c["annotations"][2:]),
    differs={"s00.png": []},
    says="22 objects",
)
variant("no objects at all", top(annotations=[]), differs={name: [] for name in NAMES}, says="0 objects", masks=False)
for name, prefix in {
    "here": "./",
    "up and down": "other/../",
    "a folder": "images/",
    "another root": "/home/other/data/train/",
    "Windows": "C:\\Users\\other\\data\\",
    "backslashes": ".\\",
    "the web": "https://images.example.org/train/",
    "a file's address": "file:///data/",
}.items():
    variant(f"file names with {name}", each("images", file_name=lambda v, prefix=prefix: prefix + v))
variant("file names in capitals", each("images", file_name=str.upper))
variant("file names with spaces around", each("images", file_name=lambda v: f" {v}\n"))

# what is refused, one entry of it: skip_bad leaves it out
IMAGE = {"gone": ("s00.png",), "says": "22 objects, 3 categories"}
PAIR = {"gone": ("s00.png", "s01.png"), "says": "20 objects"}
for value, message in (
    (None, "id None is no id"),
    ([1], r"id \[1\] is no id"),
    (True, "id True is no id"),
    (NAN, "id nan is no id"),
    (1.5, r"id 1\.5 is no id"),
    ("", "id '' is no id"),
    ({}, "id {} is no id"),
):
    variant(f"image's id {value!r}", one("images", id=value), rf"a\.json: image .*{message}: write", **IMAGE)
variant("image without id", without("images", "id"), r"a\.json: image at place 1: id is missing: write", **IMAGE)
variant("two images of one id", one("images", id=2), r"image 2: id 2 is another image's: 's00\.png' has it too", **PAIR)
variant("two images of one id in two types", one("images", id="2"), "id 2 is another image's", **PAIR)
variant(
    "one image of two sizes", lambda c: c["images"].append({**c["images"][0], "height": 61}), "id 1 is another", **IMAGE
)
for value in (None, 7, "", " ", [], {"a": 1}):
    variant(
        f"file_name {value!r}", one("images", file_name=value), r"image 1: file_name .* is no name of a file", **IMAGE
    )
variant("file_name missing", without("images", "file_name"), "image 1: file_name None is no name", **IMAGE)
variant(
    "two images of one file",
    one("images", file_name="s01.png"),
    r"image 2: file_name 's01\.png' is annotated twice: .*a\.json: image 1 is the same file",
    **PAIR,
)
for value, message in (
    (0, "0 is no size"),
    (-60, "-60 is no size"),
    (60.5, r"60\.5 is no size"),
    (NAN, "is not all finite"),
    (INF, "is not all finite"),
    ("sixty", "'sixty' is not all numbers"),
    ([60], r"\[60\] is not all numbers"),
    (None, "is missing"),
    (1e12, "is no size"),
    (True, "True is not all finite"),
    (10**30, "is no size"),
    ({}, "is not all numbers"),
):
    variant(f"height {value!r}", one("images", height=value), rf"image 1: height .*{message}", **IMAGE)
variant("width missing", without("images", "width"), "image 1: width is missing: write the image's", **IMAGE)
SWAPPED = one("images", height=90, width=60)
variant(
    "height and width interchanged",
    both(SWAPPED, lambda c: c.update(annotations=c["annotations"][2:])),
    r"s00\.png: image has another size .*height first.* \(90, 60\): are height and width interchanged",
    **IMAGE,
)
variant(
    "another size", one("images", height=120, width=180), r"s00\.png: image has another size than its annot", **IMAGE
)
variant(
    "an image that is none", lambda c: c["images"].__setitem__(0, "s00.png"), "entry 's00.png' is no object", **IMAGE
)
variant(
    "an image is left out",
    lambda c: c.update(images=c["images"][1:], annotations=c["annotations"][2:]),
    r"s00\.png: image is in none of the annotations: they name 's01\.png'",
    **IMAGE,
)

DROPPED = {"differs": FIRST, "says": "23 objects, 3 categories, skipped: 1, 1 x "}
variant(
    "an annotation that is none", lambda c: c["annotations"].__setitem__(0, [1]), r"entry \[1\] is no object", **DROPPED
)
for value, message in (
    (4242, "4242 is none of the images: they are 1, 2, 3, 4, ..."),
    ("x", "'x' is none of the images"),
    (None, "None is no id"),
    ([], r"\[\] is no id"),
    (True, "True is no id"),
    (NAN, "nan is no id"),
    ({}, "{} is no id"),
):
    variant(f"image_id {value!r}", one("annotations", image_id=value), f"annotation 1: image_id {message}", **DROPPED)
variant("image_id missing", without("annotations", "image_id"), "annotation 1: image_id is missing", **DROPPED)
variant(
    "an unknown image more",
    added("annotations", {**plain()["annotations"][0], "id": 999, "image_id": 4242}),
    "annotation 999: image_id 4242 is none of the images",
    says="24 objects, 3 categories, skipped: 1, 1 x ",
)
for value, message in (
    (4, "4 is none of the categories: they are 3, 90, 7"),
    ("a", "'a' is none of the cat"),
    (None, "None is no id"),
    ([3], r"\[3\] is no id"),
    (INF, "inf is no id"),
):
    variant(f"category_id {value!r}", one("annotations", category_id=value), f"1: category_id {message}", **DROPPED)
variant("category_id missing", without("annotations", "category_id"), "category_id is missing", **DROPPED)
for value in (2, "maybe", [], -1, NAN, {}):
    variant(
        f"iscrowd {value!r}", one("annotations", iscrowd=value), "iscrowd .* is neither 0 nor 1: write 1", **DROPPED
    )
variant("an annotation's id is a list", one("annotations", id=[]), r"annotation \[\]: id \[\] is no id", **DROPPED)
for value, message in (
    (None, "bbox is missing"),
    ([20, 10, 25], "is not four numbers"),
    ([20, 10, 25, 20, 0], "is not four numbers"),
    ({"x": 1}, "is not four numbers"),
    ("20 10 25 20", "is not four numbers"),
    ([[20, 10], [25, 20]], "is not four"),
    ([20, 10, [25], 20], "is not all numbers"),
    ([NAN, 10, 25, 20], "bbox .nan, 10, 25, 20. is not all finite"),
    ([20, 10, INF, 20], "is not all finite"),
    ([20, None, 25, 20], "bbox .20, None, 25, 20. is not all numbers"),
    ([20, True, 25, 20], "True, 25, 20. is not all finite"),
    ([20, "x", 25, 20], "is not all numbers"),
    ([45, 10, -25, 20], "has no size"),
    ([20, 10, 0, 20], "has no size"),
    ([20, 10, 25, 1e-30], "has no size"),
    ([1000, 1000, 5, 5], "is outside the image: which is 90 pixels wide and 60 high"),
    ([-30, 10, 25, 20], "is outside"),
    ([90, 60, 5, 5], "is outside"),
    ([0.2, 0.2, 0.3, 0.3], "is within one pixel: multiply by width 90 and height 60"),
    ([0.9, 0.9, 0.2, 0.2], "is within one pixel"),
    ([20, 10, 10**400, 20], "is not all finite"),
    ([1e308, 1e308, 1e308, 1e308], "is outside"),
    (0, "is not four numbers"),
    ([], "is not four numbers"),
):
    variant(
        f"bbox {str(value)[:40]}", one("annotations", bbox=value), rf"a\.json: annotation 1: .*{message}", **DROPPED
    )
variant("bbox missing", without("annotations", "bbox"), "annotation 1: bbox is missing: write", **DROPPED)
for value, message in (
    ([[20, 10, 45, 30]], "polygon of less than three"),
    ([[20, 10]], "polygon of less than"),
    ([SQUARE[:7]], "polygon of less"),
    ([[]] * 2, "polygon of less"),
    ([SQUARE, []], "polygon of less"),
    ([SQUARE, [1, 2]], "polygon of less"),
    ([[*SQUARE[:7], NAN]], "nan is not all finite"),
    ([[*SQUARE[:7], None]], "None is not all numbers"),
    ([[*SQUARE[:7], "x"]], "'x' is not all"),
    ([[*SQUARE[:7], 1e12]], "outline longer than"),
    ([[*SQUARE[:7], -1e300]], "outline longer"),
    ([[*SQUARE[:7], INF]], "is not all finite"),
    ([SQUARE, [1e9, 1e9, 1e9 + 1, 1e9, 1e9, 1e9 + 1]], "outline longer"),
    ([[*SQUARE[:7], 10**400]], "is not all finite"),
    ([[20, 1e6] + [0, 1e6, 0, -1e6] * 4], "outline longer"),
    ("polygon", "neither polygons nor"),
    (7, "neither polygons nor"),
    (True, "neither polygons nor"),
    (NAN, "neither polygons"),
    ([SQUARE, 7], "is no list of polygons"),
    ([None], "None is not all num"),
    ([{}], "{} is not all numbers"),
    ([[0.2, 0.2, 0.5, 0.2, 0.5, 0.5]], "is within one pixel: multiply"),
    ([[60, 40, 80, 40, 80, 52]], "is outside its bbox: it is from"),
    ([[20, 10] * 4], "has no size"),
    (None, "segmentation is missing"),
    ([], "segmentation is missing: 23 other objects have one"),
    ([[[1, 2], [3]]], "is not all numbers"),
    (["a"], "'a' is not all numbers"),
):
    name = f"segmentation {str(value)[:60]}"
    variant(name, one("annotations", segmentation=value), rf"a\.json: annotation 1: .*{message}", **DROPPED)
variant("one segmentation missing", without("annotations", "segmentation"), "1: segmentation is missing: 23", **DROPPED)
RUNS = rle([20, 10, 25, 20], False)["counts"]
for value, message in (
    (RUNS[:-1], "are no run lengths of the image: and do not add up to 60 x 90"),
    ([*RUNS, 1], "do not add up"),
    ([-1, 5401], "do not add up"),
    ([NAN], "nan is not all finite"),
    ([None], "None is not all numbers"),
    ([0.5] * 10800, "do not add up"),
    ([1e18, 5400 - 1e18], "do not add up"),
    ([5400], "cover no pixel"),
    ([], "do not add up"),
    (["x"], "'x' is not all numbers"),
    (None, "are no run lengths"),
    (7, "are no run lengths"),
    ({}, "are no run lengths"),
    ("", "do not add up"),
    (CODE[:-3], "add up to|no compressed"),
    (CODE + "o", "no compressed run lengths"),
    ("o" * 10**5, "no compressed run"),
    ("\u00e9" + CODE, "no compressed run"),
    ("jU\x00", "no compressed run"),
    (CODE * 2, "do not add up"),
    ("~~~~", "no compressed"),
    ([[1, 2]], "is not all numbers"),
):
    variant(f"run lengths {str(value)[:40]!r}", counts(value), rf"annotation 1: .*{message}", **DROPPED)
for value in ([90, 60], [30, 45], None, [60], [60, 90, 1], 60, [1e9, 1e9], [0, 0], "60x90"):
    message = r"segmentation\.size .*is not its image's: which is \[60, 90\], height first"
    variant(f"run lengths of size {value}", counts(CODE, size=value), message, **DROPPED)
for value in ([None, 90], [NAN, 90], ["x", 90]):
    variant(f"run lengths of size {value}", counts(CODE, size=value), "annotation 1: size .* is not all", **DROPPED)
variant("run lengths without size", one("annotations", segmentation={"counts": CODE}), "is not its image's", **DROPPED)
variant("run lengths without counts", one("annotations", segmentation={"size": [60, 90]}), "no run lengths", **DROPPED)

FEW = {"differs": {n: objects[1:] for n, objects in truth().items()}}
variant(
    "a category is none",
    lambda c: c["categories"].__setitem__(0, "a"),
    "category at place 1: entry 'a' is no",
    **FEW,
    says="12 objects, 2 categories",
)
FEW["differs"] = {n: [(objects[1][0], 1)] for n, objects in truth().items()}
ALL[-1].differs = FEW["differs"]
variant(
    "a category's id is null", one("categories", id=None), "id None is no id", **FEW, says="12 objects, 2 categories"
)
variant("a category without id", without("categories", "id"), "id is missing", **FEW, says="12 objects, 2 categories")
variant(
    "two categories of one id",
    one("categories", 2, id=3),
    "id 3 is another category's: 'a' has it too",
    says="24 objects, 2 categories",
    differs=UNLISTED,
)
MANY = [{**plain()["annotations"][0], "id": 1000 + i, "bbox": [20, 10, 25, 20]} for i in range(40)]
variant(
    "many objects",
    lambda c: c["annotations"].extend(MANY),
    r"s00\.png: .*max_objects: 42, not 20 at most; raise max_obj",
    **IMAGE,
)

# what is refused as a whole
for name, value, message in (
    ("nothing", b"", r"a\.json is no JSON: "),
    ("half", TEXT[:-200].encode(), "is no JSON"),
    ("text", b"no json", "is no JSON"),
    ("lines", b'{"images": []}\n{"images": []}', "is no JSON: Extra data"),
    ("an archive", b"PK\x03\x04\xff\xfe", "is no JSON"),
    ("latin-1", TEXT.replace('"a"', '"\u00e9"').encode("latin-1"), "is no JSON: .*export it again, as UTF-8"),
    ("lists without end", b"[" * 10**5, "is no JSON"),
    ("a list", b"[]", r"a\.json is a list, expected COCO's format"),
    ("null", b"null", "is a NoneType, expected"),
    ("a number", b"1", "is a int, expected"),
    ("endless digits", b"1" * 5000, "is no JSON"),
    ("an empty object", b"{}", "has no list of images: it has none"),
):
    variant(f"file of {name}", value, message, skippable=False)
for part in ("images", "annotations", "categories"):
    for value in ({}, "x", 7):
        variant(
            f"{part} {value!r}", top(**{part: value}), rf"a\.json has no list of {part}: {part} is ", skippable=False
        )
for part in ("images", "annotations"):
    variant(f"{part} null", top(**{part: None}), f"no list of {part}: {part} is None", skippable=False)
    variant(f"{part} missing", dropped(part), f"no list of {part}: it has", skippable=False)
variant("no images", top(images=[]), r"a\.json is about no image", skippable=False)
variant(
    "LabelMe's",
    lambda c: {"version": "5", "shapes": [], "imagePath": "s00.png"},
    "it has 'version', 'shapes'",
    skippable=False,
)
variant(
    "results",
    lambda c: [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}],
    "is a list",
    skippable=False,
)
variant(
    "other images",
    each("images", file_name=lambda v: f"other{v}"),
    r"a\.json names none of the images in .*: 'others00\.png', .*; they are 's\d\d\.png'",
    skippable=False,
)
variant(
    "bbox of corners",
    both(each("annotations", bbox=lambda v: [v[0], v[1], v[0] + v[2], v[1] + v[3]])),
    r"a\.json: bbox seems to be \[x1, y1, x2, y2\]: \d+ of 24",
    skippable=False,
)
