"""What the command line says of mistakes."""

import difflib
import inspect
import re
import sys
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from zoo import registry


class ZooParser(LightningArgumentParser):
    """Says in a line what is wrong, and which keys or classes there are where one is not known.

    Attributes:
        given: The arguments and the text of the configurations among them: they name the classes in play.
    """

    given = ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and leave."""
        sys.exit(f"zoo: {self._hint(message) or brief(message)}")

    def _hint(self, message: str) -> str | None:
        classes = {**registry.models(), **registry.datamodules()}
        # the wording of jsonargparse from 4.39 to 4.53
        unknown = re.search(r"(?:Option|Key) '(\w+)' is not (?:accepted|expected)", message)
        if unknown:
            named = {name: entry for name, entry in classes.items() if re.search(rf"\b{name}\b", self.given)} or classes
            parameters = {name: list(inspect.signature(entry.load()).parameters) for name, entry in named.items()}
            owner = re.search(r"class_path '[\w.]*?(\w+)':", message)
            # where the message does not say whose: the class that has something like it
            likeness = {name: max(_likeness(unknown[1], key) for key in keys) for name, keys in parameters.items()}
            name = owner[1] if owner and owner[1] in parameters else max(likeness, key=lambda name: likeness[name])
            return _choices(f"{name} has no parameter {unknown[1]!r}", unknown[1], parameters[name])
        unknown = re.search(r"(?:accept (?:option|nested key) '|Key '|nrecognized arguments: --)([\w.]+)", message)
        if unknown:
            *parent, _ = unknown[1].split(".")
            choices = [action.choices for action in self._actions if isinstance(action.choices, dict)]
            parsers = [self, *(parser for verbs in choices for parser in verbs.values())]
            keys = {action.dest for parser in parsers for action in parser._actions}
            known = sorted(key for key in keys if key.split(".")[:-1] == parent)
            return _choices(f"there is no {unknown[1]!r}", unknown[1], known)
        unknown = re.search(r"dot import path string: (\w+)", message)
        if unknown:
            return _choices(f"there is no class {unknown[1]!r}", unknown[1], list(classes))
        return None


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def brief(message: str) -> str:
    """Without what jsonargparse says of alternatives that nobody meant."""
    noise = ("- Expected a <class 'NoneType'>", "Given value")
    return "\n".join(line for line in message.split("\n") if not line.strip().startswith(noise))


def _choices(problem: str, wrong: str, known: list[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=2)
    return f"{problem}{f', did you mean {close[0]!r}?' if close else ';'} There are: {', '.join(sorted(known))}"
