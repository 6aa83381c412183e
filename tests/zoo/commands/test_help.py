"""Every field that a YAML file may have says what it means, under --help."""

import contextlib
import inspect
import re
import sys

import pytest

from zoo import __main__ as command_line
from zoo import registry
from zoo.commands import help as help_texts
from zoo.commands.cli import main

OPTION = re.compile(r"^  (?:-\w\b[^\n]*?, )?--(?:no_)?([\w.+]+)(.*?)(?=^  -|^\S|\Z)", re.MULTILINE | re.DOTALL)


def texts(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What --help says of each option, without its metavariable, type and default."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code
    found = {}
    for name, rest in OPTION.findall(capsys.readouterr().out):
        words = " ".join(re.sub(r"^[^\n]*?(?: {2,}|\n)", "", rest, count=1).split())
        found[name] = re.sub(r"\((?:required, )?(?:type|default):.*\)$", "", words).strip()
    return found


@pytest.mark.parametrize("name", [*registry.models(), *registry.datamodules()])
def test_every_parameter_of_models_and_datamodules_has_a_text(name: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    part = "model" if name in registry.models() else "data"
    entry = {**registry.models(), **registry.datamodules()}[name]
    said = texts(["fit", f"--{part}.help", name], capsys)
    parameters = [*inspect.signature(entry.load()).parameters]
    assert parameters
    assert not [key for key in parameters if not said.get(f"{part}.{key}")], said


def test_every_option_of_training_has_a_text(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = texts(["fit", "--help"], capsys)
    assert {"runs", "wandb", "test_after_fit", "pictures.threshold", "checkpoint.monitor"} <= said.keys()
    assert not [key for key, text in said.items() if not text]


def test_a_parameter_without_a_text_is_noticed(tmp_path, capsys, monkeypatch) -> None:
    """That is, the tests above can fail."""
    code = '''"""A model of one's own."""

from zoo.models import SPAIR


class Undocumented(SPAIR):
    """A class.

    Args:
        other: Has a text.
    """

    def __init__(self, *, one: int = 3, other: int = 4) -> None: ...
'''
    (tmp_path / "mine_undocumented.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(registry.PLUGINS, "mine_undocumented")
    said = texts(["fit", "--model.help", "Undocumented"], capsys)
    assert said == {"model.one": "", "model.other": "Has a text."}


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "cluster"])
def test_the_short_help_names_options_that_there_are(verb: str, capsys, monkeypatch) -> None:
    said = {}
    for flag in ("--help", "--help_all"):
        monkeypatch.setattr(sys, "argv", ["zoo", verb, flag])
        with contextlib.suppress(SystemExit):
            command_line.main()
        said[flag] = capsys.readouterr().out
    assert f"--{'help'}_all" in said["--help"]
    assert len(said["--help"].splitlines()) < 40 < len(said["--help_all"].splitlines())
    assert max(map(len, said["--help"].splitlines())) <= 150
    known = set(re.findall(r"--[\w.]+", said["--help_all"]))
    named = help_texts.options(verb)
    assert named
    assert set(named) <= known
