"""Mutates annotations at random and reads them: `python mutate_coco.py FOLDER SEED COUNT`, in a process of its own.

What comes back is a reading or a refusal in one line. Anything else, a crash of C code too, is the process's failure.
"""

import copy
import faulthandler
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from helpers_coco import NAMES, encoded, plain

from datamodules import DatasetCorruptError
from datamodules.folders.coco import Report, read_coco
from datamodules.folders.coco_values import paint
from datamodules.folders.named_files import match_files

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e6, 999999, 1e12, 1e300, -1e300, 2**31, -(2**31), 2**63, 10**30,
    float("nan"), float("inf"), float("-inf"), "", "0", "1", "x", "nan", "1e999", "\x00", "\ud800", "../../etc",
    "o" * 500, "0" * 50, "PPPP", "jU1d0X1", [], [[]], [[[]]], {}, [0] * 4, [1, 2, 3], [1e9] * 6, [float("nan")] * 8,
    {"size": [60, 90]}, {"size": [2**31, 2**31], "counts": "jU1"},
    {"size": [60, 90], "counts": [5400]}, {"size": [0, 0], "counts": ""},
    {"counts": [2**40], "size": [2**20, 2**20]}, [[5, 5, 5e5, 5e5, 7, 9]], [[0, 0, 90, 0, 90, 60] * 20],
]  # fmt: skip


def mutated(content: Any, rng: random.Random) -> Any:
    """With one place changed: a value replaced, left out, doubled, or scaled."""
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return content
        key = rng.choice(keys)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.12:
            break
        place = inner
    kind = rng.random()
    if kind < 0.1:
        del place[key]
    elif kind < 0.2 and isinstance(place, list):
        place.insert(rng.randrange(len(place) + 1), inner)
    elif kind < 0.3 and isinstance(inner, int | float):
        place[key] = inner * rng.choice([-1, 0, 0.01, 3, 1000, 1e15])
    elif kind < 0.4 and isinstance(inner, str) and inner:
        i = rng.randrange(len(inner))
        place[key] = inner[:i] + rng.choice(["", chr(rng.randrange(33, 300)), inner]) + inner[i + rng.randrange(2) :]
    else:
        place[key] = copy.deepcopy(rng.choice(NASTY))
    return content


def damaged(text: bytes, rng: random.Random) -> bytes:
    """With some bytes changed."""
    data = bytearray(text)
    for _ in range(rng.randrange(1, 4)):
        i = rng.randrange(len(data))
        data[i : i + rng.randrange(3)] = rng.choice(
            [b"", b"9", b"e9", b"-", b'"', b"]", b"[", b"\xff", b"NaN", b"null"]
        )
    return bytes(data)


def read(file: Path, folder: Path, skip_bad: bool) -> str:
    report = Report(skip_bad)
    try:
        images, _ = read_coco([file], report)
        known = match_files(images, [folder / name for name in NAMES], [folder], report)
    except DatasetCorruptError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message, message
        assert len(message) < 1000, message
        return "refused"
    for image in known.values():
        if image.size == (60, 90):  # as the files are: others are refused before they are painted
            outlines = [own.outline for own in image.objects if own.outline is not None]
            assert len(outlines) in (0, len(image.objects))
            ids = paint(outlines, image.size)
            assert ids.shape == (60, 90)
            assert ids.max(initial=0) <= len(outlines)
        for own in image.objects:
            x1, y1, x2, y2 = own.box
            assert 0 <= x1 < x2 <= image.size[1], own
            assert 0 <= y1 < y2 <= image.size[0], own
    return "skipped" if report.skipped else "read"


def main(folder: Path, seed: int, count: int) -> None:
    faulthandler.enable()
    rng, outcomes = random.Random(seed), Counter[str]()
    for i in range(count):
        content = plain()
        if i % 3:
            encoded(compressed=i % 3 == 1, every=rng.randrange(1, 3))(content)
        for _ in range(rng.choice([1, 1, 2, 5])):
            content = mutated(content, rng)
        text = json.dumps(content).encode()
        file = folder / "a.json"
        file.write_bytes(damaged(text, rng) if i % 10 == 9 else text)
        outcomes[read(file, folder, skip_bad=i % 2 == 1)] += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
