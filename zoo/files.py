"""Files that are whole or not there, and JSON that any reader of JSON takes."""

import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, payload: bytes) -> None:
    """Write under a temporary name, then rename: no half-written file, whatever happens."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_zip(path: Path) -> None:
    """Look at the checksums (CRC-32) of all that a zip file holds, such as a checkpoint that `torch.save` wrote.

    `torch.load` does not, so that damaged weights would be taken for good ones. A gigabyte takes some 0.7 s.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no zip file, or damaged; the message names the entry.
    """
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"its zip file is damaged: {error}") from error
    if bad is not None:
        raise ValueError(f"the checksum of its entry {bad} is wrong")


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON of plain containers, numbers and strings; numbers that are none, or have no end, become null.

    Python's own writes NaN and Infinity, which are no JSON: browsers, `jq` and other languages refuse the whole file.

    Raises:
        TypeError: Something is no JSON value.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write `to_json(content)` as a whole file.

    Args:
        path: In a folder that is there.
        content: See `to_json`.
        indent: Spaces for each level; null: all in one line.

    Raises:
        TypeError: Something is no JSON value.
    """
    write_whole(path, (to_json(content, indent) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
