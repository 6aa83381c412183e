"""Records that are damaged are refused in a line that names the file and the entry, whatever reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo import registry
from zoo.commands import benchmark, curriculum
from zoo.models import SPAIR
from zoo.records import MOST, RUN, RecordError, check, read_run
from zoo.results import table
from zoo.sharing.weights import CheckpointError

SMALL: dict[str, Any] = {"channels": 1, "backbone_channels": 8, "backbone_features": 8, "lateral_hidden": [8]}
RECORD: dict[str, Any] = {
    "experiment": "spair", "changes": "", "seed": 0, "init": None, "model": "SPAIR", "data": "digits", "steps": 10,
    "max_steps": 10, "best_step": 5, "wall_s": 1.5, "history": [{"step": 5, "ap50": 0.5}], "metrics": {"ap50": 0.5},
}  # fmt: skip
DAMAGED: list[tuple[Any, str]] = [  # what stands in the file, what is said of it
    ([], "holds a list where a mapping should be"),
    (None, "holds null where a mapping should be"),
    ("spair", "holds a str"),
    ({key: RECORD[key] for key in ("experiment", "data")}, "has no model and no steps"),
    ({**RECORD, "steps": -1}, "its steps must be a whole number from 0"),
    ({**RECORD, "steps": True}, "its steps must be"),
    ({**RECORD, "steps": 10**400}, "its steps must be .*some 1e400"),
    ({**RECORD, "wall_s": "long"}, "its wall_s must be a number of 0 or more, and is 'long'"),
    ({**RECORD, "metrics": [1]}, "its metrics must be a mapping of names to numbers"),
    ({**RECORD, "metrics": {"ap50": "high"}}, "its metrics must be"),
    ({**RECORD, "history": [{"ap50": 0.5}]}, "its history must be a list of mappings"),
    ({**RECORD, "model": {"class": "SPAIR"}}, "its model must be a word"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED)
def test_a_damaged_record_of_a_run(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=message) as error:
        read_run(path)
    assert str(error.value).startswith(f"{path} is damaged: ")
    with pytest.raises(RecordError, match=message):
        table.row(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", '{"steps": 1', "[" * 100_000, '"\ud800"'.encode("utf-8", "surrogatepass")]
)
def test_what_is_no_json(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordError, match=r"run\.json is damaged: "):
        read_run(path)


def test_a_whole_record_is_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**RECORD, "more": [1]}))
    assert read_run(path) == {**RECORD, "more": [1]}
    assert check({**RECORD, "seed": None}, RUN, path)["seed"] is None


def test_a_benchmark_goes_on_beside_a_damaged_record(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, text in {"good": json.dumps(RECORD), "cut": json.dumps(RECORD)[:50], "untested": "{}"}.items():
        folder = tmp_path / "runs" / name / "version_0"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(text)
    assert [path.parents[1].name for path in benchmark.ended(tmp_path)] == ["good"]
    said = capsys.readouterr().err
    assert said.count("this run is left out") == 2
    benchmark.tabulate(tmp_path)
    assert [row["experiment"] for row in table.read(tmp_path / "results.csv")] == ["spair"]


@pytest.mark.parametrize(
    ("change", "test_after_fit", "done"),
    [
        ({}, True, True),
        ({"metrics": None}, True, False),
        ({"metrics": None}, False, True),
        ({"metrics": None, "steps": 9}, False, False),  # ended before its time
        ({"metrics": None, "steps": 9, "max_steps": None}, False, True),  # no number of steps was asked for
        ({"steps": "many"}, True, False),
    ],
)
def test_a_phase_is_done_once_its_steps_are(change: dict, test_after_fit: bool, done: bool, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**RECORD, **change}))
    assert curriculum._tested(tmp_path, {"test_after_fit": test_after_fit}) is done
    assert not curriculum._tested(tmp_path / "none", {})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return zoo.save(SPAIR(**SMALL), tmp_path_factory.mktemp("saved") / "spair")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": ["SPAIR"]}, r"spair\.json is damaged: its class must be a word"),
        ({"init_args": [1]}, "its init_args must be a mapping"),
        ({"format_version": "4"}, "its format_version must be a whole number"),
        ({"step": -3}, "its step must be a whole number"),
        ({"metrics": {"ap50": [1]}}, "its metrics must be a mapping of names to numbers"),
        ({"data": {"class": "MultiMNISTDataModule"}}, "its data must be a mapping with a class and its init_args"),
        ({"init_args": {**SMALL, "what_dim": 10**12}}, "its init_args.what_dim has 1000000000000, where 1e"),
        ({"init_args": {**SMALL, "encoder_hidden": [MOST, MOST]}}, "a model as it says would have 1e[+]14 parameters"),
        ({"init_args": {**SMALL, "what_dim": "wide"}}, "does not fit this version's SPAIR: "),
        ({"init_args": {**SMALL, "backbone_strides": []}}, "does not fit this version's SPAIR: "),
        (
            {"init_args": {**SMALL, "encoder_hidden": {"a": 1}}},
            "does not fit this version's SPAIR: |do not fit the model",
        ),
    ],
)
def test_a_damaged_record_of_a_checkpoint(change: dict, message: str, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "spair.safetensors"
    path.write_bytes(saved.read_bytes())
    record = json.loads(saved.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, **change}))
    with pytest.raises(CheckpointError, match=message) as error:
        zoo.load(path)
    assert len(str(error.value)) < 600


def test_data_that_nobody_knows_are_named() -> None:
    with pytest.raises(ValueError, match="does not say what data"):
        registry.make_data(None)
    with pytest.raises(ValueError, match="trained on Mine, which is none of the data known here"):
        registry.make_data({"class": "Mine", "init_args": {}})
    with pytest.raises(ValueError, match=r"do not fit this version's MultiMNISTDataModule: .*colour"):
        registry.make_data({"class": "MultiMNISTDataModule", "init_args": {"colour": 1}})
    record = {"class": "MultiMNISTDataModule", "init_args": {"num_digits": [1, 7]}}
    assert registry.make_data(record, num_digits=3).name.startswith("multimnist48-3-")
