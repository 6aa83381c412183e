"""Whole files, and JSON that is JSON."""

import json
import math
import re
from pathlib import Path

import pytest

import zoo
from zoo import files
from zoo.models import SPAIR
from zoo.sharing import hub, weights

ROOT = Path(zoo.__file__).parents[1]


def strictly(text: str):
    """Parse as other languages do."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    content = {"nmi": math.nan, "psnr": math.inf, "more": [1.5, -math.inf, (0, math.nan)], "text": "NaN", "none": None}
    files.write_json(tmp_path / "a.json", content)
    said = strictly((tmp_path / "a.json").read_text())
    assert said == {"nmi": None, "psnr": None, "more": [1.5, None, [0, None]], "text": "NaN", "none": None}
    assert files.to_json([math.nan]) == "[null]"
    assert math.isnan(content["nmi"])  # not changed in place


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"a": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert strictly((tmp_path / "a.json").read_text()) == [1]


def test_checkpoints_and_cards_with_undefined_metrics_are_json(tmp_path: Path) -> None:
    """As of a model that found nothing: `config.json`, the record, and the card's blocks."""
    model = SPAIR(channels=1, backbone_channels=8)
    model.facts = {"metrics": {"ap50": 0.5, "nmi": math.nan}, "training": {"wall_s": math.inf}}
    model.data_record = {"class": "MultiMNISTDataModule", "name": "digits", "init_args": {"share": math.nan}}
    folder = hub.save_pretrained(model, tmp_path / "shared")
    record = strictly((folder / "config.json").read_text())
    assert record["metrics"] == {"ap50": 0.5, "nmi": None}
    zoo.save(model, tmp_path / "own")
    assert strictly((tmp_path / "own.json").read_text())["training"] == {"wall_s": None}
    again = zoo.load(folder)  # and once more, with nulls
    card = hub.model_card(weights.pack(again)[1], "again", "apache-2.0")
    assert "nmi" not in card
    assert "nan" not in card.lower()
    for block in re.findall(r"```json\n(.*?)```", card + (folder / "README.md").read_text(), re.DOTALL):
        strictly(block)


def test_json_is_written_in_one_place() -> None:
    """No module of the zoo has a `json.dump` of its own, but to compare or to parse again."""
    allowed = {"files.py": 1, "cli.py": 2, "curriculum.py": 2}
    found = {path.name: path.read_text().count("json.dump") for path in ROOT.glob("zoo/**/*.py")}
    assert {name: count for name, count in found.items() if count} == allowed
