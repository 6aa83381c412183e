"""What the zoo's JSON records hold, of checkpoints and of runs: one place that says it, and checks what is read.

Records are shared, copied and edited by hand. Whatever is wrong with one is said in a line that names the file and the
entry, before anything is built on it.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MOST = 10**7  # of any number of a model's hyperparameters: steps, units, sides
_LONGEST = 10**12  # steps, parameters


class RecordError(ValueError):
    """A record that is damaged, or none of the zoo's."""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LONGEST


def _seed(value: Any) -> bool:
    return isinstance(value, int)


def _seconds(value: Any) -> bool:
    return _number(value) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _figures(value: Any) -> bool:
    """By name; null where one is undefined."""
    return _mapping(value) and all(each is None or _number(each) for each in value.values())


def _history(value: Any) -> bool:
    return isinstance(value, list) and all(_figures(point) and _whole(point.get("step")) for point in value)


def _class_with_arguments(value: Any) -> bool:
    return _mapping(value) and _text(value.get("class")) and _mapping(value.get("init_args"))


Kind = Callable[[Any], bool]
_WORDS: dict[Kind, str] = {
    _text: "a word",
    _whole: f"a whole number from 0 to {_LONGEST:.0e}",
    _seed: "a whole number",
    _seconds: "a number of 0 or more",
    _mapping: "a mapping",
    _figures: "a mapping of names to numbers",
    _history: "a list of mappings of names to numbers, each with its step",
    _class_with_arguments: "a mapping with a class and its init_args",
}
# entries that have to be there, and others that may be, or be null
CHECKPOINT: tuple[dict[str, Kind], dict[str, Kind]] = (
    {"format_version": _whole, "class": _text, "init_args": _mapping},
    {
        "data": _class_with_arguments,
        "step": _whole,
        "parameters": _whole,
        "sha256": _text,
        "setting": _text,
        "metrics": _figures,
        "training": _mapping,
    },
)
RUN: tuple[dict[str, Kind], dict[str, Kind]] = (
    {"experiment": _text, "model": _text, "data": _text, "steps": _whole},
    {
        "changes": _text,
        "seed": _seed,
        "init": _mapping,
        "setting": _text,
        "revision": _text,
        "hardware": _text,
        "max_steps": _whole,
        "best_step": _whole,
        "tested_step": _whole,
        "parameters": _whole,
        "wall_s": _seconds,
        "peak_memory_gb": _seconds,
        "torch": _text,
        "history": _history,
        "metrics": _figures,
    },
)


def check(content: Any, fields: tuple[dict[str, Kind], dict[str, Kind]], source: Path) -> dict[str, Any]:
    """A record as it was read, if it holds what it should.

    Args:
        content: What JSON was read as.
        fields: `CHECKPOINT` or `RUN`; other entries are left as they are.
        source: Its file, for the message.

    Raises:
        RecordError: It is no mapping, lacks an entry, or has one of another kind.
    """
    if not _mapping(content):
        raise RecordError(f"{source} is damaged: it holds {_kind(content)} where a mapping should be")
    needed, others = fields
    if missing := [name for name in needed if name not in content]:
        raise RecordError(f"{source} is damaged: it has no {' and no '.join(missing)}")
    for name, kind in {**needed, **others}.items():
        value = content.get(name)
        if not (kind(value) or (value is None and name in others)):
            raise RecordError(f"{source} is damaged: its {name} must be {_WORDS[kind]}, and is {_brief(value)}")
    return dict(content)


def check_sizes(value: Any, source: Path, name: str = "init_args") -> None:
    """Refuse hyperparameters that no model has, which would be asked of memory.

    Args:
        value: Hyperparameters, or a part of them.
        source: Their file, for the message.
        name: What they are called there.

    Raises:
        RecordError: A whole number beyond `MOST`.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_sizes(part, source, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for part in value:
            check_sizes(part, source, name)
    elif isinstance(value, int) and abs(value) > MOST:
        raise RecordError(f"{source} is damaged: its {name} has {_brief(value)}, where {MOST:.0e} is the most")


def read_run(path: Path) -> dict[str, Any]:
    """The record of a run.

    Args:
        path: Its `run.json`.

    Raises:
        RecordError: It is damaged.
        OSError: It is not there, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecordError(f"{path} is damaged: {said}") from error
    return check(content, RUN, path)


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _brief(value: Any) -> str:
    if isinstance(value, int) and abs(value) > _LONGEST:
        return f"some 1e{math.floor(math.log10(abs(value)))}"
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
