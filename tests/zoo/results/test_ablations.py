"""Recipes trained without an addition, recorded and set beside the recipe itself."""

import csv
import inspect
import json
import re
from pathlib import Path

import pytest
import yaml

from zoo import configurations, registry
from zoo.commands.results import main
from zoo.results import ablations, table
from zoo.results.ablations import NOTHING
from zoo.sharing.former import DROPPED


def run(folder: Path, seed: int, ap: float | None, changes: str = "", steps: int = 10) -> Path:
    folder.mkdir(parents=True)
    record = {"experiment": "recipes/quick/spair", "changes": changes, "data": "digits", "seed": seed, "steps": steps}
    record["model"] = "SPAIRRecipe"
    metrics = {} if ap is None else {"metrics": {"ap50": ap, "negative_elbo": -1234.56}}
    (folder / "run.json").write_text(json.dumps({**record, **metrics}))
    return folder


def test_what_changes_without_an_addition_is_in_the_table(tmp_path):
    file, runs = tmp_path / "ablations.csv", tmp_path / "results.csv"
    ablations.add([run(tmp_path / "a", 0, 0.5, "x=1"), run(tmp_path / "b", 1, 0.7, "x=1")], "size_prior", file)
    ablations.add([run(tmp_path / "c", 0, 0.9, "x=2")], "bias", file)
    table.add([run(tmp_path / "d", 0, 0.8), run(tmp_path / "e", 1, 0.1, steps=99)], runs)  # one is of another length
    lines = ablations.table(file, runs).splitlines()
    assert lines[0].startswith("| recipe | test data | steps | without | seeds | AP (IoU 0.5) |")
    assert lines[2:] == [
        "| recipes/quick/spair | digits | 10 | nothing | 0 | 0.800 | -1234.6 |",
        "|  |  |  | bias | 0 | 0.900 | -1234.6 |",
        "|  |  |  | size_prior | 0, 1 | 0.600 | -1234.6 |",
    ]
    # one that was trained for this comparison goes before
    ablations.add([run(tmp_path / "f", 0, 0.75, "trainer.max_steps=10")], NOTHING, file)
    assert "| nothing | 0 | 0.750 |" in ablations.table(file, runs)
    # and one that is recorded again replaces what was there
    ablations.add([run(tmp_path / "g", 0, 0.2, "x=2")], "bias", file)
    assert "| bias | 0 | 0.200 |" in ablations.table(file, runs)


def test_the_command_line_records_them(tmp_path, monkeypatch, capsys):
    file = tmp_path / "ablations.csv"
    monkeypatch.setattr(ablations.add, "__defaults__", (file,))
    main(["add", str(run(tmp_path / "a", 0, 0.5)), "--without", "bias"])
    with file.open() as content:
        assert [row["without"] for row in csv.DictReader(content)] == ["bias"]
    before = file.read_text()
    with pytest.raises(SystemExit, match="has no metrics"):
        main(["add", str(run(tmp_path / "b", 0, None)), "--without", "bias"])
    assert file.read_text() == before
    assert not list(tmp_path.glob(".*"))
    main(["ablations"])
    assert capsys.readouterr().out == ablations.table() + "\n"


def test_what_is_recorded_is_an_addition_of_the_recipe_s_class():
    rows = table.read(ablations.ABLATIONS)
    assert rows
    for row in rows:
        config = yaml.safe_load(configurations.find(row["experiment"]).read_text(encoding="utf-8"))
        model = registry.models()[config["model"]["class_path"]].load()
        own = inspect.signature(vars(model)["__init__"]).parameters
        for name in row["without"].split(", "):
            known = {
                *own,
                "lr",
                "term_weights",
                *DROPPED.get(model.__name__, ()),
            }  # also what went
            assert name == NOTHING or name.split(".")[0].split(" ")[0] in known, name
        if not row["without"].startswith("lr "):  # of which every shortened run has its own
            changed = re.search(r"model\.init_args\.(?!(object_)?lr=|frozen_steps=)", row["changes"])
            assert (row["without"] == NOTHING) == (changed is None)
