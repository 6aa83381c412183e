"""Which models and datamodules there are, found by reading the source files: nothing is imported until it is used.

Beside those of the zoo, there are those of one's own: of the modules and packages that the environment variable
`ZOO_PLUGINS` names, separated by commas, and of those that installed packages name as entry points of `zoo.plugins`.
A checkpoint never says what is to be imported.
"""

import ast
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

PLUGINS = "ZOO_PLUGINS"
_CLASS = re.compile(r"^class (\w+)(?:\[.*?\])?\((.*?)\)\s*:", re.MULTILINE | re.DOTALL)


class PluginError(ValueError):
    """Models or datamodules of one's own that cannot be found, or not be told from others."""


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


def models() -> dict[str, Entry]:
    """Models by name: the public subclasses of `ObjectModel`, or of another model, in the files of `zoo.models`.

    Raises:
        PluginError: A plugin is not there, or has a class of a name that is taken.
    """
    return _classes("zoo.models", "ObjectModel", os.environ.get(PLUGINS, ""))


def datamodules() -> dict[str, Entry]:
    """Datamodules by name: the public subclasses of `SceneDataModule` in the files of `datamodules`.

    Raises:
        PluginError: A plugin is not there, or has a class of a name that is taken.
    """
    return _classes("datamodules", "SceneDataModule", os.environ.get(PLUGINS, ""))


def make_data(record: Mapping[str, Any] | None, **changes: Any) -> Any:
    """The datamodule that a checkpoint was trained on.

    Args:
        record: What it says of that: `class` and `init_args` (`ObjectModel.data_record`).
        **changes: Arguments in place of those.

    Raises:
        ValueError: It says nothing, names a class that is not known here, or arguments that it does not take.
    """
    if not record:
        raise ValueError("the checkpoint does not say what data it was trained on")
    entry = datamodules().get(record["class"])
    if entry is None:
        raise ValueError(
            f"the checkpoint was trained on {record['class']}, which is none of the data known here, "
            f"{sorted(datamodules())}: name the module that has it in the environment variable {PLUGINS}"
        )
    try:
        return entry.load()(**{**record["init_args"], **changes})
    except TypeError as error:
        raise ValueError(f"the checkpoint's data do not fit this version's {entry.name}: {error}") from error


@cache
def tasks() -> dict[str, Entry]:
    """What learns a task from objects, by name: public subclasses of `ObjectModel` in the files of `zoo.downstream`."""
    return {entry.name: entry for entry in _subclasses(_files("zoo.downstream"), {"ObjectModel"})}


def find_model(name: str) -> type | None:
    """The model or task of that name: the zoo's, a plugin's, or else an own class that has been imported already."""
    listed = {**tasks(), **models()}
    if name in listed:
        return listed[name].load()
    from zoo.models.base import ObjectModel

    classes: list[type] = [ObjectModel]
    for known in classes:  # grows as it goes
        classes += known.__subclasses__()
    return next((known for known in classes if known.__name__ == name), None)


@cache
def _classes(package: str, base: str, plugins: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    known = {base}
    named = [part.strip() for part in plugins.split(",") if part.strip()]
    for module in dict.fromkeys([package, *named, *(point.value for point in entry_points(group="zoo.plugins"))]):
        for entry in _subclasses(_files(module), known):
            if entry.name in found:
                raise PluginError(
                    f"{entry.module} has a class {entry.name}, and so has {found[entry.name].module}: "
                    "checkpoints know models by their names, so rename yours"
                )
            found[entry.name] = entry
    return found


def _files(module: str) -> dict[str, Path]:
    """Source files by module: of a package, those in it."""
    try:
        spec = importlib.util.find_spec(module)  # imports the packages around it: `zoo` imports nothing heavy
    except (ModuleNotFoundError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0])
        return {_join(module, path.stem): path for path in sorted(folder.glob("*.py"))}
    if spec is not None and spec.origin is not None and Path(spec.origin).suffix == ".py":
        return {module: Path(spec.origin)}
    raise PluginError(
        f"there is no module {module!r}, which {PLUGINS} or an entry point names: run from its folder with "
        "`python -m zoo`, put its folder into PYTHONPATH, or install it"
    )


def _join(package: str, stem: str) -> str:
    return package if stem == "__init__" else f"{package}.{stem}"


def _subclasses(files: dict[str, Path], known: set[str]) -> Iterator[Entry]:
    """Classes with a base that is known, which they are then too."""
    found: list[tuple[str, ast.ClassDef, ast.Module]] = []
    for module, text in _candidates(
        {module: path.read_text(encoding="utf-8") for module, path in files.items()}, known
    ):
        tree = ast.parse(text, str(files[module]))
        found += [(module, node, tree) for node in tree.body if isinstance(node, ast.ClassDef)]
    while new := [item for item in found if _bases(item[1]) & known]:  # until no class has a base found meanwhile
        found = [item for item in found if item not in new]
        for module, node, tree in new:
            known.add(node.name)
            if not node.name.startswith("_"):
                summary = (ast.get_docstring(tree) or "").split("\n")[0]
                yield Entry(node.name, module, summary)


def _candidates(texts: dict[str, str], known: set[str]) -> Iterator[tuple[str, str]]:
    """Texts of modules that may have a class with a known base: the others need not be parsed, which takes its time."""
    classes = {module: [match.groups() for match in _CLASS.finditer(text)] for module, text in texts.items()}
    names = {*known}
    while new := {
        name
        for own in classes.values()
        for name, bases in own
        if name not in names and names & {*re.findall(r"\w+", bases)}
    }:
        names |= new
    return ((module, texts[module]) for module, own in classes.items() if names & {name for name, _ in own})


def _bases(node: ast.ClassDef) -> set[str]:
    return {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
