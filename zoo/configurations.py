"""The configurations that come with the zoo, by their names.

A paper's main experiment is `spair`, say, its other ones `experiments/gmair/fruit2d`; what the zoo adds or changes is a
recipe, `recipes/quick/spair`; and `trainer/ddp` says, after any of these, where to train.
"""

import difflib
from pathlib import Path
from typing import Any

SUFFIXES = (".yaml", ".yml", ".json")
_MOST_VALUES, _DEEPEST = 100_000, 100  # of a configuration, and lists within lists


class ConfigurationError(ValueError):
    """A configuration that is not there, or that nobody can read."""


def folder() -> Path:
    """Where they are: `configs` of a clone, or of the installed package, where they lie within `zoo`."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def names() -> dict[str, Path]:
    """Files by their names, which are paths in `folder()` without the suffix."""
    root = folder()
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find(given: str) -> Path:
    """The file that a path or a name means; a path to a file comes first.

    Args:
        given: A path; or a name as in `names()`, with or without `configs/` or `recipes/` before it, and suffix.

    Raises:
        ConfigurationError: There is none; the message says what there is.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path
    known = names()
    name = given.replace("\\", "/").removeprefix("./").removeprefix("configs/")
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    for full in (name, f"recipes/{name}"):
        if full in known:
            return known[full]
    if path.is_dir():
        raise ConfigurationError(f"{given} is a folder: --config takes a YAML file or a name that `zoo list` shows")
    close = difflib.get_close_matches(name, known, n=2) or [own for own in known if own.split("/")[-1] == name][:2]
    hint = f"did you mean {' or '.join(close)}?" if close else "`python -m zoo list` shows their names"
    raise ConfigurationError(f"there is no file {given}, and no configuration of that name: {hint}")


def check_size(content: Any, name: object) -> None:
    """Refuse a configuration whose aliases stand for more than anybody would write, as parsers copy each.

    Args:
        content: What YAML or JSON was read as; aliases are the same object.
        name: Of the file, for the message.

    Raises:
        ConfigurationError: It has more than 100,000 values, or holds itself.
    """
    known: dict[int, int] = {}

    def count(part: Any, depth: int = 0) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if id(part) not in known:
            known[id(part)] = _MOST_VALUES + 1  # until it is known to end
            sizes = [count(value, depth + 1) for value in inner] if depth < _DEEPEST else [_MOST_VALUES + 1]
            known[id(part)] = 1 + sum(sizes)
        return known[id(part)] if inner else 1

    if count(content) > _MOST_VALUES:
        raise ConfigurationError(f"{name} has more than {_MOST_VALUES} values by its aliases, or is nested too deep")


def name_of(given: str) -> str:
    """The name of a configuration that comes with the zoo; of any other file its path, or what follows `configs` in it.

    Args:
        given: As for `find`.
    """
    try:
        path = find(given)
    except ConfigurationError:
        path = Path(given)
    shipped = {file.resolve(): name for name, file in names().items()}
    if (name := shipped.get(path.resolve())) is not None:
        return name
    start = len(path.parts) - path.parts[::-1].index("configs") if "configs" in path.parts else 0
    return "/".join(path.parts[start:])  # with its suffix, so that it cannot be taken for one of the zoo's


def read(path: Path) -> str:
    """The text of a configuration in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        ConfigurationError: It is neither.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8 ({error}): save it as UTF-8") from None


def summary(path: Path) -> str:
    """The first line of its comment."""
    first = read(path).split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
