"""Flags of Lightning's trainer that go against what the command line adds."""

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from zoo.commands.cli import main
from zoo.models import SPAIR

QUICK = str(Path(__file__).resolve().parents[3] / "configs" / "recipes" / "quick" / "spair.yaml")
SIZES = {"num_train": 32, "num_val": 8, "num_test": 8, "batch_size": 4, "eval_batch_size": 4, "source": "uci"}
SMALL = [f"--data.init_args.{key}={value}" for key, value in SIZES.items()]
SMALL += ["--model.init_args.backbone_channels=8", "--wandb=disabled", "--trainer.accelerator=cpu"]
SMALL += ["--trainer.max_steps=3", "--trainer.val_check_interval=2"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(*options: str) -> set[str]:
    """Train twice; returns the files that the first time left."""
    for _ in range(2):
        main(["fit", "--config", QUICK, *SMALL, *options])
        files = {str(path) for path in Path().rglob("*") if path.is_file() and "version_1" not in str(path)}
    return files


def test_without_checkpoints_the_last_weights_are_tested(caplog: pytest.LogCaptureFixture, capsys) -> None:
    with caplog.at_level("INFO"):
        files = fit("--trainer.enable_checkpointing=false")
    assert not any(file.endswith(".ckpt") for file in files)
    assert any(file.endswith("run.json") for file in files)
    assert "no best checkpoint was kept: testing the weights of step 3" in caplog.text
    assert "ap50_11pt" in capsys.readouterr().out


def test_without_logging_of_steps_validations_and_tests_are_logged_still() -> None:
    fit("--trainer.log_every_n_steps=0")
    (path,) = Path("runs").glob("*/version_0/metrics.csv")
    with path.open() as file:
        (*_, row) = csv.DictReader(file)
    assert {"val/loss", "test/loss"} <= row.keys()
    assert not any(name.startswith("train/") for name in row)


def test_barebones_leaves_nothing_behind() -> None:
    assert fit("--trainer.barebones=true") == set()


def test_a_run_for_development_takes_a_batch_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.fast_dev_run=true") == set()
    assert "ap50_11pt" in capsys.readouterr().out  # the test is tried, too


def test_without_a_logger_there_is_no_run_folder() -> None:
    files = fit("--trainer.logger=false")
    assert "runs" not in {Path(file).parts[0] for file in files}
    assert "config.yaml" not in files  # which the second run would not overwrite


@pytest.mark.parametrize("options", [{"log_every_n_steps": 0}, {"barebones": True}, {"fast_dev_run": True}])
def test_flags_hold_in_python_too(options: dict[str, Any], uci_data, tmp_path: Path) -> None:
    quiet = {} if options.get("barebones") else {"logger": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=2, default_root_dir=tmp_path, **quiet, **options)
    model = SPAIR(channels=1, backbone_channels=8)
    trainer.fit(model, uci_data())
    trainer.test(model, uci_data(), verbose=False)
    assert model.steps_trained == (1 if options.get("fast_dev_run") else 2)
