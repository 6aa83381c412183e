"""What a checkpoint or run folder may decide on the command line: which of the known classes, and their numbers.

Both are things that people share. A class of theirs is looked up by its name among those of the zoo, of plugins, and of
what has been imported already; nothing is imported because they name it. What else a run's configuration names, such as
callbacks and loggers, is refused unless the user says `--trust`.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules import SceneDataModule
from zoo import registry
from zoo.models.base import ObjectModel
from zoo.sharing.weights import CheckpointError

FLAG = "--trust"
_SECTIONS = ("trainer", "checkpoint", "pictures")
_PLAIN = (  # of a run's configuration: what is no class
    *_SECTIONS,
    *("seed_everything", "runs", "run_name", "wandb", "wandb_project", "test_after_fit", "background_config"),
)
_CLASSES = ("accelerator", "callbacks", "logger", "plugins", "profiler", "strategy")  # of the trainer, by name or path
_ENVIRONMENTS = "lightning.pytorch.plugins.environments."  # where a run was started, which the next start says anew
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def known_class(part: str, named: Any, source: Path, asked: str = "") -> str:
    """The path of a class that a record or configuration names, if that is one that is known.

    Args:
        part: `model` or `data`.
        named: A name, or a path as in `zoo.models.spair.SPAIR`.
        source: Which file says so, for the message.
        asked: Class that the command line names, which is the user's word.

    Raises:
        CheckpointError: It is none: importing what a file names would run what is in it.
    """
    name = named.rpartition(".")[2] if isinstance(named, str) else ""
    if name and asked.rpartition(".")[2] == name:
        return asked
    if part == "model":
        kind = registry.find_model(name)
    else:
        entry = registry.datamodules().get(name)
        kind = entry.load() if entry else next((k for k in _below(SceneDataModule) if k.__name__ == name), None)
    base = ObjectModel if part == "model" else SceneDataModule
    module = named.rpartition(".")[0] if isinstance(named, str) else ""
    same = not module or getattr(sys.modules.get(module), name, None) is kind  # what is imported by now
    if kind is None or not issubclass(kind, base) or not same:
        known = sorted(registry.models() if part == "model" else registry.datamodules())
        raise CheckpointError(
            f"{source} names {named!r} as its {part}, which is none of {known}: what a file names is not imported. If "
            f"it is yours, say --{part} {named}, or name its module in the environment variable {registry.PLUGINS}"
        )
    return f"{kind.__module__}.{kind.__qualname__}"


def check_arguments(part: str, init_args: Any, source: Path) -> None:
    """Refuse parameters that are classes themselves.

    Raises:
        CheckpointError: A parameter names one.
    """
    if not isinstance(init_args, Mapping):
        raise CheckpointError(f"{source} is damaged: the parameters of its {part} are no mapping")
    if found := next(_class_paths(init_args), None):
        raise CheckpointError(f"{source} names the class {found!r} as a parameter of its {part}, which is not imported")


def plain(config: Any, source: Path, asked: Mapping[str, str]) -> dict[str, Any]:
    """Of a run's configuration model, data, and what is plain numbers and words.

    Args:
        config: As read.
        source: Its file.
        asked: Classes that the command line names, by part.

    Raises:
        CheckpointError: It names further classes, without which the run would be another, or is no configuration.
    """
    if not isinstance(config, Mapping) or not all(isinstance(config.get(part) or {}, Mapping) for part in _SECTIONS):
        raise CheckpointError(f"{source} is damaged: it is no configuration of a run")
    kept = {key: config[key] for key in ("model", "data", *_PLAIN) if key in config}
    for part, place in (
        ("trainer", "default_root_dir"),
        ("checkpoint", "dirpath"),
    ):  # where to write is the user's word
        if part in kept:
            kept[part] = {key: value for key, value in (kept[part] or {}).items() if key != place}
    trainer = kept.get("trainer") or {}
    if _is_an_environment(trainer.get("plugins")):
        trainer = kept["trainer"] = {key: value for key, value in trainer.items() if key != "plugins"}
    named = [*_class_paths({key: kept.get(key) for key in _PLAIN})]
    named += [word for key in _CLASSES for word in _words(trainer.get(key)) if _DOTTED.fullmatch(word)]
    if named:
        raise CheckpointError(
            f"{source} names {', '.join(sorted(set(named)))}, which going on would import and run: say {FLAG} if you "
            "know where the run is from"
        )
    for part, base in (("model", ObjectModel), ("data", SceneDataModule)):
        if part in kept:
            given = kept[part]
            if not isinstance(given, Mapping) or "class_path" not in given:
                raise CheckpointError(f"{source} is damaged: its {part} has no class_path ({base.__name__})")
            kept[part] = {**given, "class_path": known_class(part, given["class_path"], source, asked.get(part, ""))}
            check_arguments(part, given.get("init_args") or {}, source)
    return kept


def _is_an_environment(plugins: Any) -> bool:
    return isinstance(plugins, Mapping) and str(plugins.get("class_path")).startswith(_ENVIRONMENTS)


def _below(base: type) -> Iterator[type]:
    known: list[type] = base.__subclasses__()
    for kind in known:
        yield kind
        yield from _below(kind)


def _class_paths(value: Any) -> Iterator[str]:
    """Classes that jsonargparse would import somewhere within a value."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield str(value["class_path"])
        for part in value.values():
            yield from _class_paths(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _class_paths(part)


def _words(value: Any) -> Iterator[str]:
    for word in value if isinstance(value, list | tuple) else [value]:
        if isinstance(word, str):
            yield word
