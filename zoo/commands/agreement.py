"""Model and data agree on the images: how many channels they have, and how large they are.

A model follows its data, data follow their model where only the model says something, and what was said of both has to
be the same. What a configuration says counts for the data that it names: other data on the command line begin anew.
All of this is settled on arguments, before anything is built or any data are made.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from zoo import registry

if TYPE_CHECKING:
    from datamodules import SceneDataModule

CHANNELS, IMAGE_SIZE = KEYS = ("channels", "image_size")
_PARTS = ("model", "data")
_LOADING = {"batch_size", "eval_batch_size", "num_workers", "data_dir"}  # the same to all data
_OF_IMAGES = ("mse", "normalized_error", "mse_sum")  # metrics that need no objects to be known


class AgreementError(ValueError):
    """A model and data that were told different things."""


@dataclass
class Said:
    """What arguments say of the images.

    Attributes:
        classes: Names of the model's and of the data's class.
        values: Parameters among `KEYS` that were given to each.
        replaced: The data that a configuration named, where later arguments name others: class and parameters.
        own: All parameters that were given to the data in their place.
    """

    classes: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=lambda: {part: {} for part in _PARTS})
    replaced: dict[str, Any] | None = None
    own: set[str] = field(default_factory=set)


def said_by(argv: Sequence[str], fixed: Mapping[str, Any] | None = None) -> Said:
    """What arguments say of the images.

    Args:
        argv: Of a verb.
        fixed: Parameters of a model whose weights are there already: it follows no data.
    """
    said = Said(values={"model": {}, "data": {}})
    last: dict[str, Any] = {}  # the data of the configuration so far
    for part, name, values in _statements(argv):
        name = name and name.split(".")[-1]
        if name and said.classes.setdefault(part, name) != name:
            said.classes[part], said.values[part] = name, {}
            if part == "data":
                said.values["model"], said.replaced, said.own, last = {}, last or said.replaced, set(), {}
        if part == "data":
            said.own |= values.keys()
            last = {"class": said.classes.get("data"), "init_args": {**last.get("init_args", {}), **values}}
        said.values[part] |= {key: values[key] for key in KEYS if values.get(key) is not None}
    if fixed is not None:
        said.values["model"] = {key: fixed[key] for key in KEYS if key in fixed} | said.values["model"]
    return said


def _statements(argv: Sequence[str]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Part, class if one is named, and parameters, in the order in which arguments say so."""
    options = [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]
    for option, value in pairwise([*options, ""]):
        part, _, key = option.removeprefix("--").partition(".")
        if option in ("--config", "-c"):
            content = content_of(value)
            yield from (_statement(part, content[part]) for part in _PARTS if content.get(part))
        elif option in ("--model", "--data"):
            yield _statement(part, content_of(value) or value)
        elif option.startswith("--") and part in _PARTS:
            key = key.removeprefix("init_args.")
            yield part, (value if key == "class_path" else None), {key.partition(".")[0].rstrip("+"): _value(value)}


def _statement(part: str, said: Any) -> tuple[str, str | None, dict[str, Any]]:
    if isinstance(said, dict):
        return part, said.get("class_path"), said.get("init_args") or {}
    return part, str(said), {}


def content_of(value: str) -> dict[str, Any]:
    """What a configuration says: a file's, or one written out on the command line; nothing if it is neither."""
    path = Path(value)
    try:
        text = path.read_text(encoding="utf-8") if path.suffix in (".yaml", ".yml", ".json") else value
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):  # the parser says what is wrong with it
        return {}
    return content if isinstance(content, dict) else {}


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def agree(config: Any, said: Said) -> list[str]:
    """Make model and data in a verb's configuration agree.

    Args:
        config: With `model` and `data`, each a `class_path` and `init_args`; changed in place.
        said: Whence what they are told.

    Returns:
        What is to be told of it, a line each.

    Raises:
        AgreementError: They were told different things; the message names both parameters.
        ValueError: A parameter of the data is out of its range.
    """
    lines: list[str] = []
    model, data = (_Part(part, config[part], said.values[part]) for part in _PARTS)
    for part in (model, data):
        for key in KEYS:
            if key in part.args and key not in part.said:
                part.args[key] = part.default(key)
    if said.replaced is not None:  # the parser carries over what other data were told under the same name
        for key in set(data.args.keys()) - said.own - _LOADING:
            data.args[key] = data.default(key)
    if IMAGE_SIZE in data.args and data.args[IMAGE_SIZE] is None:
        lines += _propose(model, data, said.replaced)
    limits = model.type.image_limits(dict(model.args)) if hasattr(model.type, "image_limits") else {}
    for key in KEYS:
        if key in model.args:
            lines += _settle(key, model, data, limits.get(key))
    own = data.build()
    if IMAGE_SIZE in model.args and own.image_shape != own.train_image_shape:
        raise AgreementError(
            f"{model.name} reads images of one size, but {data.name} has {_size(own.train_image_shape[1:])} for "
            f"training and {_size(own.image_shape[1:])} for evaluation"
        )
    if data.args.get(CHANNELS, 0) is None:
        data.args[CHANNELS] = own.image_shape[0]
    if own.looks is not None:
        channels, height, width = own.train_image_shape
        lines.append(f"{own.looks}; the model sees {width}x{height}x{channels}")
    return lines


def agree_on_monitor(config: Any) -> list[str]:
    """Where no objects are known, choose checkpoints by the loss instead of what is measured against them."""
    from zoo.evaluation import METRIC_NAMES  # takes its time

    name = str(config.checkpoint.monitor).removeprefix("val/")
    if name not in METRIC_NAMES or name in _OF_IMAGES or _Part("data", config.data, {}).build().has_objects:
        return []
    config.checkpoint.monitor, config.checkpoint.mode = "val/loss", "min"
    return [f"without annotations there is no val/{name}: the best checkpoint is the one of the least val/loss"]


def find_class(path: str) -> Any:
    """The class that a dot import path means, or a name of the zoo's or a plugin's."""
    entries = {**registry.models(), **registry.tasks(), **registry.datamodules()}
    if path in entries:
        return entries[path].load()
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class _Part:
    """The model, or the data: its class, what it is told, and what it was told by the user."""

    def __init__(self, part: str, config: Any, said: Mapping[str, Any]) -> None:
        self.part, self.path, self.args, self.said = part, config.class_path, config.get("init_args") or {}, said
        self.name = self.path.split(".")[-1]
        self.type: Any = find_class(self.path)
        self._built: tuple[dict[str, Any], SceneDataModule] | None = None

    def default(self, key: str) -> Any:
        parameter = inspect.signature(self.type).parameters[key]
        return self.args[key] if parameter.default is inspect.Parameter.empty else parameter.default

    def key(self, key: str) -> str:
        return f"{self.part}.init_args.{key}"

    def build(self) -> "SceneDataModule":
        args = dict(self.args)
        if self._built is None or self._built[0] != args:
            self._built = args, self.type(**args)
        return self._built[1]


def _settle(key: str, model: "_Part", data: "_Part", limits: Sequence[int] | None) -> list[str]:
    """Make one parameter the same for both."""
    shape = data.build().image_shape
    has: Any = shape[0] if key == CHANNELS else (shape[1], shape[2])
    wants = _plain(key, model.args[key])
    if key == CHANNELS and wants not in (1, 3):
        return []  # which the model itself refuses
    if key in model.said or (key not in data.said and limits is not None and not _within(has, limits)):
        if key not in model.said and limits is not None:
            model.args[key] = _nearest(has, limits)
            wants = _plain(key, model.args[key])
        if wants == has:
            return []
        if key not in data.args and limits is not None and not _within(has, limits):
            raise AgreementError(
                f"{model.name} reads images whose {key} is {' or '.join(map(str, limits))}, but {data.name} has always "
                f"{_show(has)}: choose another model, or other data"
            )
        if key not in data.args:
            raise AgreementError(
                f"{model.key(key)} is {_show(wants)}, but {data.name} has always {_show(has)}: leave "
                f"{model.key(key)} out"
            )
        if key in data.said:
            raise AgreementError(
                f"{model.key(key)} is {_show(wants)}, but {data.key(key)} is {_show(has)}: make them alike, or leave "
                "one of them out, which then follows the other"
            )
        data.args[key] = _written(wants)
        return [f"{data.name} follows the model: {key} {_show(wants)}"]
    if limits is not None and not _within(has, limits):
        raise AgreementError(
            f"{model.key(key)} can be {' or '.join(map(str, limits))}, but {data.key(key)} is {_show(has)}: "
            "set it to one of these, or leave it out"
        )
    if wants == has:
        return []
    model.args[key] = _written(has)
    return [f"{model.name} follows the data: {key} {_show(has)}"]


def _propose(model: "_Part", data: "_Part", replaced: Mapping[str, Any] | None) -> list[str]:
    """A size for images that have none of their own: what the model is made for."""
    size, why = None, ""
    if IMAGE_SIZE in model.said:
        return []  # the data follow
    if replaced is not None and replaced.get("class"):
        try:
            own = find_class(replaced["class"])(**replaced["init_args"])
            size, why = own.image_shape[1:], f"that of the configuration's {replaced['class']}"
        except Exception:  # it is not what is going to be used
            size = None
    if size is None and IMAGE_SIZE in model.args:
        size, why = _plain(IMAGE_SIZE, model.args[IMAGE_SIZE]), f"{model.name}'s"
    if size is None:
        size, why = data.build().image_shape[1:], "as nothing says otherwise"
    data.args[IMAGE_SIZE] = _written(size)
    return [f"no {data.key(IMAGE_SIZE)} is given: {_size(size)}, {why}"]


def _plain(key: str, value: Any) -> Any:
    """A size as (height, width)."""
    if key != IMAGE_SIZE:
        return value
    return (value, value) if isinstance(value, int) else tuple(value)


def _written(value: Any) -> Any:
    """A size as people write it."""
    return value if isinstance(value, int) else value[0] if value[0] == value[1] else list(value)


def _show(value: Any) -> str:
    return str(_written(value))


def _size(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def _within(has: Any, limits: Sequence[int]) -> bool:
    return has in limits if isinstance(has, int) else has[0] == has[1] and has[0] in limits


def _nearest(has: Any, limits: Sequence[int]) -> int:
    """The least that is large enough, or else the largest."""
    least = has if isinstance(has, int) else max(has)
    return min((limit for limit in limits if limit >= least), default=max(limits))
