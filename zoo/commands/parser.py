"""What the command line makes of its arguments, and what it says of mistakes."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from zoo import configurations, registry

_PARTS = 3  # of a message of many
PARTS = ("model", "data")  # of a configuration that are a class with its parameters
_OTHER_NAMES = {  # that other programs have for what there is here
    **dict.fromkeys(("learning_rate", "learningrate", "learning-rate"), "lr"),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), "max_epochs"),
    **dict.fromkeys(("steps", "num_steps", "iterations", "iters"), "max_steps"),
    **dict.fromkeys(("checkpoint", "ckpt", "weights", "resume", "model_path"), "ckpt_path"),
    **dict.fromkeys(("gpus", "num_gpus", "n_gpus"), "devices"),
    **dict.fromkeys(("bs", "batchsize"), "batch_size"),
    **dict.fromkeys(("workers", "n_workers"), "num_workers"),
    **dict.fromkeys(("output", "output_dir", "log_dir", "logdir"), "runs"),
    **dict.fromkeys(("img_size", "imagesize", "resolution", "size"), "image_size"),
    **dict.fromkeys(("seed", "random_seed"), "seed_everything"),
    **dict.fromkeys(("dataset", "datamodule"), "data"),
    **dict.fromkeys(("name", "run"), "run_name"),
    **dict.fromkeys(("project",), "wandb_project"),
    **dict.fromkeys(("root", "data_path", "path", "dir", "images"), "folder"),
    **dict.fromkeys(("in_channels", "num_channels"), "channels"),
}


class UsageError(ValueError):
    """Arguments that cannot be what was meant."""


class ZooParser(LightningArgumentParser):
    """Says in a line what is wrong, and which keys or classes there are where one is not known.

    Attributes:
        given: The arguments: they tell which option a value belongs to.
    """

    given: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["allow_abbrev"] = False  # `--trainer.max_step` is a mistake, not `max_steps`
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and leave."""
        sys.exit(f"zoo: {self._hint(message) or brief(message, self.given)}")

    def _hint(self, message: str) -> str | None:
        # the wording of jsonargparse from 4.39 to 4.53
        if lacking := re.search(r"arguments are required: ([\w., ]+)", message):
            return _missing([name.split(".", 1)[-1] for name in lacking[1].split(", ")], self.given)
        unknown = re.search(r"(?:Option|Key) '(\w+)' is not (?:accepted|expected)", message)
        owner = re.search(r"class_path '([\w.]+)':", message)
        if unknown and owner:
            module, _, name = owner[1].rpartition(".")
            classes = {**registry.models(), **registry.datamodules()}
            kind = classes[name].load() if name in classes else getattr(sys.modules.get(module), name, None)
            return no_parameter(name, unknown[1], parameters(kind)) if kind is not None else None
        unknown = re.search(
            r"(?:accept (?:option|nested key) '|(?:Key|Option) '|nrecognized arguments: )(-*[\w.+-]+)", message
        )
        if unknown:
            return self._no_option(unknown[1])
        unknown = re.search(r"dot import path string: (\w+)", message)
        if unknown:
            asked = dict(pairwise([*options(self.given), ""]))
            own = (part for part in PARTS if unknown[1] in (class_of(self.given, part), asked.get(f"--{part}.help")))
            part = next(own, "")
            return no_class(part, unknown[1])
        return None

    def _no_option(self, name: str) -> str:
        """What to say of an option that is none."""
        if not name.startswith("-") and name in self.given:  # a word on its own
            value = f"; a checkpoint is given by --ckpt_path {name}" if "--ckpt_path" not in self.given else ""
            return f"{name!r} belongs to no option: options begin with --{value}"
        name = name.lstrip("-")
        *parent, last = name.split(".")
        known = self._options()
        beside = sorted(key for key in known if key.split(".")[:-1] == parent)
        within = {f"{part}.init_args.{key}" for part in PARTS for key in _parameters_given(self.given, part)}
        wanted = _OTHER_NAMES.get(last.lower(), last)
        same = sorted((key for key in {*known, *within} if key.split(".")[-1] == wanted), key=lambda key: len(key))
        close = difflib.get_close_matches(name, beside, n=1)
        meant = [key for key in same if key != name] if wanted != last or not close else close
        if name in ("image", "images"):
            return f"there is no option --{name} here; `predict --images FOLDER` takes images"
        if meant:
            return f"there is no option --{name}, did you mean {' or '.join(f'--{key}' for key in meant[:3])}?"
        if not beside:
            beside = sorted({key.split(".")[0] for key in known})
            if close := difflib.get_close_matches(name.split(".")[0], beside, n=1):
                return f"there is no {name.split('.')[0]!r}, did you mean {close[0]!r}?"
        return f"there is no option --{name}; there are {', '.join(beside)}"

    def _options(self) -> set[str]:
        choices = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        parsers = [self, *(parser for verbs in choices for parser in verbs.values())]
        return {action.dest for parser in parsers for action in parser._actions if action.option_strings} - {"help"}


# arguments before they are parsed


def options(argv: Sequence[str]) -> list[str]:
    """Arguments with `--key=value` as two."""
    return [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("-") and "=" in arg else [arg])]


def arrange(argv: Sequence[str]) -> list[str]:
    """Arguments in the order in which they count, whatever order they were given in.

    First configurations, found by their names or paths, then the classes of model and data, then all other options: so
    that what the command line says beats what a file says, and parameters find their class.

    Args:
        argv: The verb and what follows it.

    Raises:
        UsageError: An option lacks its value.
        ConfigurationError: A configuration is not there, or cannot be read.
    """
    verb, rest = argv[:1], list(argv[1:])
    configs: list[str] = []
    classes: dict[str, str] = {}
    others: list[str] = []
    while rest:
        arg = rest.pop(0)
        key, inline, value = arg.partition("=")
        if re.match(r"-[a-zA-Z]\w", key):
            raise UsageError(f"{key}: options begin with two dashes, as in -{key}")
        if key not in ("--config", "-c", *(f"--{part}" for part in PARTS), *(f"--{part}.class_path" for part in PARTS)):
            others.append(arg)
            continue
        if not inline:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"{key} needs a value: {_wanted(key)}")
            value = rest.pop(0)
        if key in ("--config", "-c"):
            configs += ["--config", _config(value)]
        else:
            classes[key.removeprefix("--").removesuffix(".class_path")] = value
    chosen = [part for name, value in classes.items() for part in (f"--{name}", value)]
    return [*verb, *configs, *chosen, *others]


def check(argv: Sequence[str]) -> None:
    """Refuse parameters that the classes of model and data do not have, in files and options, and say whose they are.

    Args:
        argv: Arranged, with what a checkpoint brings.

    Raises:
        UsageError: There is such a parameter, or no class to have it.
    """
    for part in PARTS:
        _check_part(argv, part)


def _config(given: str) -> str:
    """A configuration as the parser takes it: its path, or its text where the parser cannot read that."""
    if given.lstrip().startswith("{"):  # of a checkpoint, say
        return given
    path = configurations.find(given)
    text = configurations.read(path)
    try:
        content = yaml.safe_load(text)
        configurations.check_size(content, path)
    except RecursionError:
        raise configurations.ConfigurationError(f"{path} is nested too deep") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        tab = " (indent by spaces, not tabs)" if "\\t" in what or "cannot start any token" in what else ""
        raise configurations.ConfigurationError(f"{path}{where} is no YAML: {what}{tab}") from None
    if content is None:
        raise configurations.ConfigurationError(f"{path} is empty: expected sections such as model, data and trainer")
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else f"the text {text.strip()[:40]!r}"
        raise configurations.ConfigurationError(f"{path} holds {kind}, expected sections such as model, data, trainer")
    readable = path.read_bytes()[:2] not in (b"\xff\xfe", b"\xfe\xff")
    return str(path) if readable else text


def contents(argv: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and contents of the configurations among arranged arguments."""
    for key, value in pairwise([*argv, ""]):
        if key == "--config":
            text = value if "\n" in value or value.startswith("{") else configurations.read(configurations.find(value))
            yield value if "\n" not in value else "the configuration", yaml.safe_load(text)


def class_of(argv: Sequence[str], part: str) -> str | None:
    """The class that arranged arguments name for `model` or `data`; null: none."""
    given = next((value for key, value in pairwise([*argv, ""]) if key == f"--{part}"), None)
    if given is not None:
        return given
    found = None
    for _, content in contents(argv):
        section = content.get(part)
        found = (section.get("class_path") if isinstance(section, dict) else section) or found
    return found if isinstance(found, str) else None


def load_class(part: str, name: str | None) -> type | None:
    """The class of a name or import path, if it is one of the zoo's or of a plugin's."""
    known = registry.models() if part == "model" else registry.datamodules()
    package, _, short = (name or "").rpartition(".")
    entry = known.get(short)
    # a package may offer the class of a module within it
    return entry.load() if entry is not None and f"{entry.module}.".startswith(package and f"{package}.") else None


def parameters(kind: type) -> list[str] | None:
    """Names of a class's parameters; null: it takes any."""
    own = inspect.signature(kind).parameters.values()
    return None if any(p.kind == p.VAR_KEYWORD for p in own) else [p.name for p in own]


def _parameters_given(argv: Sequence[str], part: str) -> list[str]:
    kind = load_class(part, class_of(argv, part))
    return (parameters(kind) if kind is not None else None) or []


def _check_part(argv: Sequence[str], part: str) -> None:
    name = class_of(argv, part)
    kind = load_class(part, name)
    own = [match[1] for key in options(argv) if (match := re.match(rf"--{part}\.(?:init_args\.)?(\w+)", key))]
    own = [key for key in own if key not in ("help", "init_args", "dict_kwargs", "class_path")]
    if name is None:
        if own and f"--{part}.help" not in options(argv):
            known = registry.models() if part == "model" else registry.datamodules()
            having = [entry.name for entry in known.values() if own[0] in (parameters(entry.load()) or ())]
            classes = having if 0 < len(having) < 4 else list(known)
            what = "model" if part == "model" else "data set"
            raise UsageError(f"--{part}.{own[0]} is for a {what}, and none is named: --{part} {' or '.join(classes)}")
        return
    if kind is None:
        return
    names = parameters(kind)
    for file, content in contents(argv):
        section = content.get(part)
        if isinstance(section, dict):
            _check_section(file, part, section, kind, names)
    for key in own:
        if names is not None and key not in names:
            raise UsageError(no_parameter(kind.__name__, key, names, f"--{part}.init_args.{key}"))


def _check_section(file: str, part: str, section: dict[str, Any], kind: type, names: Sequence[str] | None) -> None:
    odd = [key for key in section if key not in ("class_path", "init_args", "dict_kwargs")]
    if odd and "class_path" in section:
        close = difflib.get_close_matches(odd[0], ["init_args", "dict_kwargs"], n=1) or ["init_args"]
        raise UsageError(f"{file}: {part} has a {odd[0]!r} beside class_path: parameters belong into {close[0]}")
    owner = str(section.get("class_path") or kind.__name__).rpartition(".")[2]  # another file's class may be another
    for key in (section.get("init_args") or {}) if owner == kind.__name__ else ():
        if names is not None and key not in names:
            raise UsageError(f"{file}: {no_parameter(owner, key, names)}")


# what is said


def no_parameter(owner: str, name: str, known: Sequence[str] | None, option: str | None = None) -> str:
    """What to say of a parameter that a class does not have."""
    known = known or []
    meant = [_OTHER_NAMES.get(name.lower(), "")]
    close = [key for key in meant if key in known] or difflib.get_close_matches(name, known, n=1)
    problem = f"{owner} has no parameter {name!r}" + (f" ({option})" if option and not close else "")
    return problem + (f", did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}")


def no_class(part: str, name: str) -> str:
    """What to say of a class that is not there; an empty part is neither model nor data."""
    models, data = list(registry.models()), list(registry.datamodules())
    known = {"model": models, "data": data}.get(part, [])
    lower = {key.lower().removesuffix("datamodule"): key for key in known}
    close = [lower[key] for key in difflib.get_close_matches(name.lower().removesuffix("datamodule"), lower, n=2)]
    close = close or [key for short, key in lower.items() if name.lower() in short][:2]
    what = {"model": "model", "data": "data set"}.get(part, "class")
    hint = f", did you mean {' or '.join(map(repr, close))}?" if close else ""
    if not known:
        from lightning.pytorch import callbacks

        close = difflib.get_close_matches(name, callbacks.__all__, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ": give its full import path, as in package.Class"
        return f"there is no {what} {name!r}{hint}"
    return f"there is no {what} {name!r}{hint or ';'} There are {', '.join(sorted(known))}"


def no_checkpoint(argv: Sequence[str]) -> str:
    """What to say of a verb that needs a checkpoint and has none."""
    verb, *rest = argv
    meant = ""
    for key in options(rest):
        lookalike = _OTHER_NAMES.get(key.lstrip("-")) == "ckpt_path" or difflib.get_close_matches(key, ["--ckpt_path"])
        if key.startswith("-") and lookalike:
            meant = f", not {key}"
        elif not key.startswith("-") and not meant and rest[0] == key:
            meant = f" {key}, say"
    return (
        f"{verb} needs --ckpt_path{meant}: a name (see `zoo list`), a run folder, a file, best or last; null: untrained"
    )


def _wanted(key: str) -> str:
    if key in ("--config", "-c"):
        return "a YAML file, or a name that `zoo list` shows, such as recipes/quick/spair"
    return ", ".join(registry.models() if "model" in key else registry.datamodules())


def _missing(names: Sequence[str], argv: Sequence[str]) -> str:
    """What to say where model, data or a parameter is lacking."""
    verb = argv[0] if argv else "fit"
    if set(names) <= set(PARTS):
        ways = [f"--{name} {'SPAIR' if name == 'model' else 'MultiMNISTDataModule'}" for name in names]
        return f"{verb} needs {' and '.join(names)}: --config spair, say, or {' '.join(ways)} (see `zoo list`)"
    owners = [(part, name) for name in names for part in PARTS if name in _parameters_given(argv, part)]
    said = ", ".join(f"--{part}.init_args.{name}" for part, name in owners) or ", ".join(names)
    owner = class_of(argv, owners[0][0]) if owners else verb
    return f"{owner} needs {said}"


def brief(message: str, argv: Sequence[str] = ()) -> str:
    """One line, without what jsonargparse says of alternatives that nobody meant."""
    key = re.search(r'Parser key "([\w.]+)"', message)
    lines = [line.strip() for line in message.split("\n")]
    if "Errors:" in lines:  # of a union of types: one for each
        lines = [line.removeprefix("- ") for line in lines[len(lines) - lines[::-1].index("Errors:") :]]
        lines = [line for line in lines if "NoneType" not in line and not line.startswith("Given value")]
    lines = [re.sub(r'^Parser key "[\w.]+": *', "", line) for line in lines if line]
    lines = [line for line in lines if line and not line.startswith(("Subtypes:", "Does not validate"))]
    types = [_type(line.removeprefix("Expected a ")) for line in lines if line.startswith("Expected a ")]
    value = next((match[1] for line in lines if (match := re.search(r"Got value: (.*)", line))), None)
    said = [line for line in lines if not line.startswith("Expected a ")]
    if types and not said:
        option = next((k for k in options(argv) if key and k.startswith("--") and k.endswith(f".{key[1]}")), None)
        name = option or (f"--{key[1]}" if key else "a value")
        after = dict(pairwise([*options(argv), ""])).get(option or f"--{key[1]}" if key else "", value)
        words = [word for kind in types if kind.startswith("one of ") for word in kind[7:].split(", ")]
        types = [kind for kind in types if not kind.startswith("one of ")]
        types += ["one of " + ", ".join(dict.fromkeys(words))] if words else []
        return f"{name} {after if value is None else value}: expected {' or '.join(dict.fromkeys(types))}"
    prefix = f"{key[1]}: " if key and said and key[1] not in said[0] else ""
    said = list(dict.fromkeys(said))
    more = f", and {len(said) - _PARTS} more" if len(said) > _PARTS + 1 else ""
    return prefix + "; ".join(said[:_PARTS] if more else said) + more


def _type(text: str) -> str:
    """As people say it."""
    text = re.split(r"\. Got value", text)[0]
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", text)
    if literal:
        return "one of " + ", ".join(part.strip(" '") for part in literal[1].split(","))
    names = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}
    names |= dict.fromkeys(("list", "tuple"), "a list")
    kind = re.fullmatch(r"<class '(?:[\w]+\.)*(\w+)'>", text)
    return names.get(kind[1], kind[1]) if kind else text
