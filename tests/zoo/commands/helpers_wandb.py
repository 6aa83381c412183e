"""Reads what an offline run of Weights & Biases keeps for `wandb sync`: protocol buffers in LevelDB's log format."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_HEADER, _BLOCK = 7, 32768  # bytes; a block starts anew at every multiple, the file's header within the first


def records(file: Path) -> Iterator[Record]:
    """Of a .wandb file; checks each chunk's checksum."""
    content = file.read_bytes()
    assert b":W&B".startswith(content[:4])
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:  # too little for a chunk's header: padding
            at += _BLOCK - at % _BLOCK
            continue
        checksum, length, kind = struct.unpack_from("<IHB", content, at)
        chunk = content[at + _HEADER : at + _HEADER + length]
        if len(chunk) < length:  # still being written
            return
        assert checksum == zlib.crc32(chunk, zlib.crc32(bytes([kind]))), "damaged"
        at += _HEADER + length
        parts += chunk
        if kind in (1, 4):  # whole, or the last of several
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_offline_run(folder: Path) -> dict[str, Any]:
    """`config`, the last value of each; `history`, a list of what was logged at once; `files`, paths that it kept."""
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    for record in _whole(*folder.glob("*.wandb")):
        config |= _nested([*record.run.config.update, *record.config.update])
        if record.HasField("history"):
            history.append(_nested(record.history.item))
    files = sorted(
        path.relative_to(folder / "files").as_posix() for path in folder.glob("files/**/*") if path.is_file()
    )
    return {"config": config, "history": history, "files": files}


def _whole(file: Path, seconds: float = 30) -> list[Record]:
    """A run's records, once its last one is there: they are written in the background."""
    end = time.monotonic() + seconds
    while not (found := [*records(file)]) or not found[-1].HasField("exit"):
        assert time.monotonic() < end, f"{file} has no end"
        time.sleep(0.05)
    return found


def _nested(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        at = values
        for key in outer:
            at = at.setdefault(key, {})
        at[last] = json.loads(item.value_json)
    return values
