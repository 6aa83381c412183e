"""What there is, and what is there of one's own."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from zoo import registry
from zoo.models import SPAIR

CODE = '''"""Somebody's paper."""
import zoo.models.spair
from datamodules.multi_mnist import MultiMNISTDataModule
from zoo.models.base import ObjectModel

raise RuntimeError("not to be imported for this")

class {name}(zoo.models.spair.SPAIR):
    pass

class {name}Again({name}):
    pass

class {name}Scenes(MultiMNISTDataModule):
    pass

class {name}Wrapped(
    dict[str, tuple[()]], MultiMNISTDataModule
):
    pass

class _Helper(ObjectModel):
    pass

class Unrelated:
    pass
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(registry.PLUGINS, raising=False)
    return tmp_path


def test_plugins_are_read_and_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoos = {*registry.models()}, {*registry.datamodules()}
    (folder / "lone_file.py").write_text(CODE.format(name="Lone"))
    (folder / "whole_package" / "parts").mkdir(parents=True)
    (folder / "whole_package" / "__init__.py").touch()
    (folder / "whole_package" / "parts" / "__init__.py").touch()
    (folder / "whole_package" / "parts" / "one.py").write_text(CODE.format(name="Part"))
    monkeypatch.setenv(registry.PLUGINS, "lone_file, whole_package.parts")
    models, data = registry.models(), registry.datamodules()
    assert {*models} - zoos[0] == {"Lone", "LoneAgain", "Part", "PartAgain"}
    assert {*data} - zoos[1] == {"LoneScenes", "LoneWrapped", "PartScenes", "PartWrapped"}
    assert (models["PartAgain"].module, models["PartAgain"].summary) == ("whole_package.parts.one", "Somebody's paper.")
    assert "lone_file" not in sys.modules
    with pytest.raises(RuntimeError, match="not to be imported"):
        models["Lone"].load()


def test_installed_packages_name_theirs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "installed_one.py").write_text(CODE.format(name="Installed"))
    point = EntryPoint("anything", "installed_one", "zoo.plugins")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "zoo.plugins" else [])
    registry._classes.cache_clear()
    assert registry.models()["Installed"].module == "installed_one"
    monkeypatch.undo()
    registry._classes.cache_clear()
    assert "Installed" not in registry.models()


def test_mistakes_name_the_fix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "another_spair.py").write_text("class SPAIR(ObjectModel): ...")
    for plugin, message in (
        ("another_spair", "another_spair has a class SPAIR, and so has zoo.models.spair.*rename yours"),
        ("no_such_module", "no module 'no_such_module', which ZOO_PLUGINS or an entry point names.*PYTHONPATH"),
        ("no_package.inner", "no module 'no_package.inner'"),
    ):
        monkeypatch.setenv(registry.PLUGINS, plugin)
        with pytest.raises(registry.PluginError, match=message):
            registry.models()
    done = subprocess.run([sys.executable, "-m", "zoo", "list"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("zoo: there is no module 'no_package.inner'")


def test_classes_that_are_imported_are_found_by_name() -> None:
    class Imported(SPAIR):
        """Not in a file of the zoo."""

    assert registry.find_model("Imported") is Imported
    assert registry.find_model("SPAIR") is SPAIR
    assert registry.find_model("Nothing") is None
