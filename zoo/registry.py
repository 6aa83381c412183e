"""Which models and datamodules there are, found by reading the source files: nothing is imported until it is used."""

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A class of the zoo.

    Attributes:
        name: The class's name, as used in YAML files and on the command line.
        module: Where it is defined.
        summary: First line of its file's docstring.
    """

    name: str
    module: str
    summary: str

    def load(self) -> type:
        """Import the class."""
        return getattr(importlib.import_module(self.module), self.name)


@cache
def models() -> dict[str, Entry]:
    """Models by name: the public subclasses of `ObjectModel`, or of another model, in the files of `zoo.models`."""
    return {entry.name: entry for entry in _subclasses("zoo.models", "ObjectModel")}


@cache
def datamodules() -> dict[str, Entry]:
    """Datamodules by name: the public subclasses of `SceneDataModule` in the files of `datamodules`."""
    return {entry.name: entry for entry in _subclasses("datamodules", "SceneDataModule")}


def _subclasses(package: str, base: str) -> Iterator[Entry]:
    # finding a submodule's spec imports its parent package: `zoo` and `datamodules` import nothing heavy when found so
    root = importlib.util.find_spec(package.split(".")[0])
    if root is None or not root.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    folder = Path(root.submodule_search_locations[0], *package.split(".")[1:])
    known = {base}
    found: list[tuple[str, ast.ClassDef, ast.Module]] = []
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [(path.stem, node, tree) for node in tree.body if isinstance(node, ast.ClassDef)]
    while True:  # until no class is left whose base has been found meanwhile
        new = [item for item in found if item[1].name not in known and _bases(item[1]) & known]
        if not new:
            return
        for stem, node, tree in new:
            known.add(node.name)
            if not node.name.startswith("_"):
                summary = (ast.get_docstring(tree) or "").split("\n")[0]
                yield Entry(node.name, f"{package}.{stem}", summary)


def _bases(node: ast.ClassDef) -> set[str]:
    return {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
