"""`python -m zoo list` and the usage: what there is to choose from."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import zoo
from zoo import configurations, registry
from zoo.__main__ import listing, usage
from zoo.results import table as results
from zoo.sharing import weights
from zoo.sharing.former import upgrade


def test_checkpoints_are_listed_with_data_metrics_size_and_licence() -> None:
    lines = {line.split()[0]: line for line in listing().splitlines() if line.startswith("  ")}
    for path in weights.SHIPPED.glob("*.safetensors"):
        record = json.loads(path.with_suffix(".json").read_text())
        said = re.search(
            r"(?<=: )(\w+) on ([\w.-]+) by (\S+), ([\d.]+) M param.*, ([\d.]+) MB, ([\w.-]+): (.*)", lines[path.stem]
        )
        assert said, lines[path.stem]
        setting = path.stem.rsplit("-", 1)[-1]  # names say it, too
        assert lines[path.stem].split()[1] == f"{setting}:"
        assert zoo.list_weights()[path.stem]["setting"] == setting
        experiment, changes = (record["training"].get(key, "") for key in ("experiment", "changes"))
        assert results.setting(experiment, changes) == setting
        assert said[1] == upgrade(record)["class"]
        assert said[2] == record["data"]["name"]
        model = yaml.safe_load(configurations.find(said[3]).read_text())["model"]["class_path"]
        assert model in (said[1], "DAIR")
        assert float(said[4]) == pytest.approx(record["parameters"] / 1e6, abs=0.005)
        assert float(said[5]) == pytest.approx(path.stat().st_size / 1e6, abs=0.05)
        assert said[6] == "apache-2.0"
        assert f"ap50 {record['metrics']['ap50']:.3f}" in said[7]
    assert {*registry.models(), *registry.datamodules()} <= lines.keys()


def test_a_record_may_name_another_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.load("spair-multimnist-recipe")
    zoo.save(model, tmp_path / "theirs", license="cc-by-nc-4.0")
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    assert zoo.list_weights()["theirs"]["license"] == "cc-by-nc-4.0"
    assert re.search(r"theirs +recipe: SPAIRRecipe on .* M parameters, 1\.7 MB, cc-by-nc-4\.0: ap50", listing())


def test_the_usage_names_every_verb_and_each_is_there() -> None:
    verbs = re.findall(r"^  (\w+) +\S", usage().split("examples:")[0], re.MULTILINE)
    assert {"fit", "list", "show", "page", "dashboard", "benchmark", "export", "predict"} <= {*verbs}
    folder = Path(zoo.__file__).parent
    for verb in {*verbs} - {"fit", "validate", "test", "predict", "cluster", "list"}:
        assert "def main(" in (folder / "commands" / f"{verb}.py").read_text()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does, only sooner
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run([sys.executable, "-m", "zoo", "list"], stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
