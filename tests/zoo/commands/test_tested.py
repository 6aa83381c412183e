"""Checkpoints on all data that fit them, and under shifts: what is measured, recorded, not measured again, and told."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from datamodules import MultiMNISTDataModule, SpaceInvadersDataModule
from zoo.commands import matrix, robustness
from zoo.commands.tested import title
from zoo.downstream import measuring
from zoo.models.base import ObjectModel
from zoo.results import tested
from zoo.sharing import weights

SPAIR, AIR = "spair-multimnist-recipe", "air-multimnist-recipe"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def built_in_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that say that they were trained on few of scikit-learn's digits, as there may be no others."""
    load = weights.load

    def loaded(name: str) -> ObjectModel:
        model = load(name)
        few = {"source": "uci", "num_val": 40, "num_test": 40}
        model.data_record["init_args"] |= few
        return model

    monkeypatch.setattr(weights, "load", loaded)
    monkeypatch.setitem(measuring.DATA, "MultiSpritesDataModule", {"num_val": 40, "num_test": 40})


def test_the_matrix_is_of_what_fits_and_goes_on_where_it_was(
    built_in_digits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--num_scenes=30", "--rows=rows.csv", "--data", "MultiSpritesDataModule", "SetGameDataModule"]
    matrix.main([SPAIR, *arguments])
    rows = {row["data"]: row for row in tested.read(Path("rows.csv"))}
    assert [*rows] == ["multimnist48-1to5-c1-uci-ink", "multisprites64-0to3"]
    own, other = rows.values()
    assert (own["own"], other["own"], own["scenes"], own["shift"]) == ("yes", "", "30", "none")
    assert own["steps"] == str(zoo.list_weights()[SPAIR]["step"])
    assert float(own["ap50"]) > 0.6  # of digits of another hand
    assert float(own["images_per_second"]) > 0
    assert 0.2 < float(own["probe"]) <= 1
    assert own["ari_fg"]
    assert own["source"] == f"python -m zoo matrix {SPAIR} --num_scenes 30"
    said = capsys.readouterr()
    assert "SetGameDataModule does not fit" in said.err
    assert said.out.count(SPAIR) == 1  # named in the first of its lines

    def nothing(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("zoo.commands.tested.measure", nothing)
    matrix.main([SPAIR, *arguments])
    with pytest.raises(AssertionError, match="measured again"):
        matrix.main([SPAIR, *arguments, "--again"])
    with pytest.raises(AssertionError, match="measured again"):  # as 3 scenes are not 30
        matrix.main([SPAIR, "--num_scenes=3", *arguments[1:]])


def test_robustness_is_measured_and_drawn(built_in_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    robustness.main([SPAIR, "--num_scenes=30", "--rows=rows.csv", "--out=shifts.png"])
    rows = {row["shift"]: row for row in tested.read(Path("rows.csv"))}
    assert set(rows) == {"none", "crop", "occlusion", "brightness", "blur", "noise"}  # digits are grey
    assert float(rows["occlusion"]["ap50"]) < float(rows["none"]["ap50"])
    assert rows["none"]["probe"]
    assert not rows["blur"]["probe"]
    head, _, line, path = capsys.readouterr().out.strip().splitlines()
    assert head == "| checkpoint | test data | none | blur | brightness | crop | noise | occlusion |"
    assert line.startswith(f"| {SPAIR} | multimnist48-1to5 | ")
    with Image.open(path) as picture:
        assert picture.getpixel((2, 2))[:3] == (255, 255, 255)


def test_scores_are_those_of_the_scenes() -> None:
    """Of a model that is right: nothing is missed, and what a shift does to truth is done to what it is scored by."""
    data = MultiMNISTDataModule(channels=1, num_val=1, num_test=20, source="uci", masks=True)

    class Knows(torch.nn.Module):
        device = torch.device("cpu")

        def see(self, batch: dict) -> zoo.Scene:
            image, boxes = batch["image"], batch["boxes"]
            return zoo.Scene(
                reconstruction=image, boxes=boxes, presence=batch["valid"].float(), what=boxes, mask=batch["mask"]
            )

    for shift in ("", "crop", "occlusion"):
        values = measuring.measure(Knows(), data, 15, shift)
        assert (values["scenes"], values["count_accuracy"], values["mse"]) == (15, 1, 0)
        assert values["ap50"] == pytest.approx(1)
        assert values["ari_fg"] == pytest.approx(1)


def test_data_fit_by_channels_and_size() -> None:
    air, gmair = zoo.load(AIR), zoo.load("gmair-fruit2d-synthetic-recipe")
    assert measuring.suitable(air, "MultiSpritesDataModule").image_shape == (1, 50, 50)
    assert measuring.suitable(air, "MultiMNISTDataModule").hparams["num_digits"] == [0, 2]  # its own
    assert measuring.suitable(air, "SetGameDataModule") is None
    assert not measuring.takes(air, SpaceInvadersDataModule())
    assert not measuring.takes(
        zoo.load("ast-seg-clevrtex-synthetic-recipe"), SpaceInvadersDataModule()
    )  # its background
    assert measuring.suitable(gmair, "SetGameDataModule").image_shape == (3, 48, 48)
    assert measuring.suitable(gmair, "Fruit2DDataModule").hparams["source"] == "synthetic"


def test_a_row_replaces_the_one_that_it_measures_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    row = {"checkpoint": "a", "data": "digits-1-x", "shift": "none", "own": "yes", "setting": "recipe", "ap50": 0.5}
    tested.add([row, {**row, "shift": "blur", "ap50": float("nan")}, {**row, "checkpoint": "b", "ap50": 0.25}], file)
    tested.add([{**row, "ap50": 0.75}], file)
    assert [(r["checkpoint"], r["shift"], r["ap50"]) for r in tested.read(file)] == [
        *(("a", "blur", ""), ("a", "none", "0.75"), ("b", "none", "0.25"))
    ]
    assert tested.by_shift(path=file) == {"a": {"none": 0.75}, "b": {"none": 0.25}}
    assert "| a | digits-1 | 0.75 |  |" in tested.robustness(file)
    before = file.read_text()
    for wrong, message in (({**row, "speed": 1}, "no column 'speed'"), ({**row, "shift": ""}, "lacks its shift")):
        with pytest.raises(ValueError, match=message):
            tested.add([{**row, "ap50": 0}, wrong], file)
    assert file.read_text() == before


@pytest.mark.parametrize("verb", [matrix, robustness])
def test_mistakes_are_told(verb, tmp_path: Path) -> None:
    for args, message in (
        (["--num_scenes", "0"], "--num_scenes 0 must be at least 1"),
        (["nobody", "--rows", "rows.csv"], "no checkpoint 'nobody'"),
        ([SPAIR, "--device", "abacus", "--rows", "rows.csv"], "abacus"),
    ):
        with pytest.raises(SystemExit, match=message):
            verb.main(args)
    assert not list(tmp_path.iterdir())


def test_mistakes_of_one_verb_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"--data Digits: there are .*MultiMNISTDataModule"):
        matrix.main(["--data", "Digits"])
    with pytest.raises(SystemExit):
        robustness.main(["--shifts", "storm"])
    assert "storm" in capsys.readouterr().err
    model = zoo.load(SPAIR)
    model.data_record = None
    with pytest.raises(ValueError, match="does not say what data"):
        measuring.shifted(model, "blur")


def test_recorded_rows_are_such_as_may_be_recorded(tmp_path: Path) -> None:
    rows = tested.read()
    assert rows
    tested.add(rows, tmp_path / "again.csv")
    assert tested.read(tmp_path / "again.csv") == rows
    assert {row["checkpoint"] for row in rows} == set(zoo.list_weights())


def test_runs_are_told_apart_by_what_they_were_trained_on() -> None:
    model = zoo.load(SPAIR)
    model.facts = {"training": {"experiment": "recipes/quick/spair", "seed": 2}}
    model.data_record = {**model.data_record, "name": "digits"}
    assert title("runs/a/version_0", model) == "recipes/quick/spair (digits, seed 2)"
    model.facts = {}
    assert title("files/mine.safetensors", model) == "mine"
