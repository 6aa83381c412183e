"""Command lines of the verbs that need no trainer: options in full, and a line for each mistake."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class VerbParser(argparse.ArgumentParser):
    """Takes no abbreviations, shows descriptions as they are written, and says in a line what is wrong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        defaults = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*args, **{**defaults, **kwargs})
        self.given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Remember what was given, for hints."""
        self.given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, in a line, and leave with 2."""
        verb = self.prog.removeprefix("python -m ").removeprefix("zoo ")
        if lacking := re.match(r"the following arguments are required: (.*)", message):
            message = f"{verb} needs {lacking[1]}{self._meant(lacking[1].split(', '))}; --help says more"
        elif unknown := re.match(r"unrecognized arguments: (.*)", message):
            word = unknown[1].split()[0].split("=")[0]
            known = sorted({option for option in self._option_string_actions if option.startswith("--")})
            if not word.startswith("-"):
                message = f"{word!r} belongs to no option of {verb}: there are {', '.join(known)}"
            else:
                close = difflib.get_close_matches(word, known, n=1)
                hint = f", did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
                message = f"{verb} has no option {word}{hint}"
        else:
            message = re.sub(r"^argument ", "", message)
        self.exit(2, f"zoo: {message}\n")

    def _meant(self, lacking: Sequence[str]) -> str:
        """Which options that there are not may be those that are lacking."""
        own = [arg.split("=")[0] for arg in self.given if arg.startswith("--")]
        own = [arg for arg in own if arg not in self._option_string_actions]
        close = [arg for arg in own if difflib.get_close_matches(arg, lacking, n=1)]
        return f", not {close[0]}" if close else ""
