"""A user's own `metrics.py` and `datamodules` hide none of ours, wherever the zoo is started from."""

import subprocess
import sys
from pathlib import Path

import pytest

from zoo import _beside, registry
from zoo.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With modules of our names, of which one says when it is imported."""
    (tmp_path / "metrics.py").write_text("print('theirs')\nown = 1\n")
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules" / "__init__.py").write_text("")
    (tmp_path / "datamodules" / "scenes.py").write_text("")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in that folder, which comes before all others as it does for every script."""
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_line_finds_its_own(folder: Path) -> None:
    done = run(folder, "-m", "zoo", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "MultiMNISTDataModule" in done.stdout
    assert "theirs" not in done.stdout


def test_a_script_gets_ours_and_is_told_what_is_hidden(folder: Path) -> None:
    code = "import zoo, metrics; metrics.AveragePrecision"
    done = run(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    assert f"means the object-centric zoo's here, and not {folder / 'metrics.py'}" in done.stderr
    assert done.stdout == ""


def test_a_script_that_has_imported_its_own_keeps_it(folder: Path) -> None:
    code = "import metrics, datamodules.scenes\nfrom importlib.util import find_spec\nimport zoo\n"
    code += "print(metrics.own, find_spec('metrics').origin, find_spec('datamodules').origin)"
    done = run(folder, "-c", code)
    assert done.stdout.split() == ["theirs", "1", *(str(ROOT / name / "__init__.py") for name in _beside.NAMES[::-1])]
    assert done.stderr.count("rename yours if you need both") == 2


def test_a_plugin_that_needs_what_is_hidden_is_told_in_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.py").write_text("from metrics import own\nfrom zoo.models import SPAIR\nclass Mine(SPAIR): ...\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(registry.PLUGINS, "mine")
    monkeypatch.setattr(sys, "argv", ["zoo", "fit"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = str(stop.value)
    assert said.startswith("zoo: cannot import name 'own' from 'metrics'")
    assert said.endswith(f"and not {folder / 'metrics.py'}: rename yours if you need both")


def test_a_folder_without_code_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics").mkdir()  # of results, say
    monkeypatch.syspath_prepend(tmp_path)
    assert _beside.hidden("metrics") is None
    spec = _beside._Finder.find_spec("metrics")
    assert spec is not None
    assert spec.origin == str(ROOT / "metrics" / "__init__.py")
    assert _beside._Finder.find_spec("json") is None
