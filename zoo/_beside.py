"""Finds the packages `datamodules` and `metrics` that lie beside `zoo`, whatever else has their names.

Python looks into the working folder, or the script's, before it looks where packages are installed: a user's own
`metrics.py` would be imported instead of ours.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("datamodules", "metrics")
_HERE = Path(__file__).resolve().parents[1]


class HiddenModuleWarning(UserWarning):
    """A module of the user's has the name of one of ours, which is what importing it yields."""


class _Finder:
    """Asked before all others; says where ours are, and nothing of any other module."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in NAMES:
            return None
        if (theirs := hidden(name)) is not None:
            warnings.warn(_explain(name, theirs), HiddenModuleWarning, stacklevel=2)
        return PathFinder.find_spec(name, [str(_HERE)])


def hidden(name: str) -> Path | None:
    """The file of a module that Python would take for ours; null: there is none."""
    spec = PathFinder.find_spec(name)
    if spec is None or spec.origin is None or _is_ours(name, spec.origin):  # a folder without code has no origin
        return None
    return Path(spec.origin)


def install() -> None:
    """From now on these names mean our packages, also where others of their names have been imported already."""
    if not any(getattr(finder, "__qualname__", "") == _Finder.__qualname__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
    for name in NAMES:
        theirs = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.modules and (theirs is None or not _is_ours(name, theirs)):
            for module in [key for key in sys.modules if key.split(".")[0] == name]:
                del sys.modules[module]  # whoever has imported it keeps it


def explain(error: ImportError) -> str | None:
    """What to say of a failed import, if it was of a user's module that one of ours hides."""
    name = (error.name or "").split(".")[0]
    theirs = hidden(name) if name in NAMES else None
    return None if theirs is None else f"{error}: {_explain(name, theirs)}"


def _is_ours(name: str, origin: str) -> bool:
    return Path(origin).resolve().parent == _HERE / name


def _explain(name: str, theirs: Path) -> str:
    return f"`import {name}` means the object-centric zoo's here, and not {theirs}: rename yours if you need both"
