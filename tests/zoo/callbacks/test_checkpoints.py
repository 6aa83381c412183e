"""The best and the last checkpoint of a run, in one part or several."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.callbacks.checkpoints import write_checkpoint
from zoo.commands.cli import main
from zoo.models.spair import SPAIR
from zoo.models.spair_recipe import SPAIRRecipe

ROOT = Path(__file__).resolve().parents[3]
QUICK = str(ROOT / "configs" / "recipes" / "quick" / "spair.yaml")
SIZES = {"num_train": 32, "num_val": 8, "num_test": 8, "batch_size": 4, "eval_batch_size": 4, "source": "uci"}
MODEL = {"backbone_channels": 8, "encoder_hidden": "[16]", "decoder_hidden": "[16]", "what_dim": 4}
SMALL = [f"--data.init_args.{key}={value}" for key, value in SIZES.items()]
SMALL += [f"--model.init_args.{key}={value}" for key, value in MODEL.items()]
SMALL += ["--wandb=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL += ["--trainer.accelerator=cpu", "--pictures.num_images=1", "--pictures.every_n_validations=100"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(steps: int, interval: int, *options: str) -> list[str]:
    about = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={interval}"]
    return ["fit", "--config", QUICK, *SMALL, *about, *options]


def fit(steps: int, interval: int, *options: str) -> Path:
    """Train; returns the run folder."""
    before = set(Path().glob("*/*/version_*"))
    main(command(steps, interval, *options))
    (run,) = set(Path().glob("*/*/version_*")) - before
    return run


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def read(run: Path, name: str) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / name, weights_only=True)


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return read(run, name)["state_dict"]


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


EARLY = "--checkpoint.mode=max"  # of what training lowers: an early validation is the best


def without_times(run: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in record(run)["history"]]


@pytest.mark.parametrize("remains", ["all", "last", pytest.param("damaged", marks=pytest.mark.slow), "newer"])
def test_a_resumed_run_has_the_best_of_all_its_parts(remains: str, caplog: pytest.LogCaptureFixture) -> None:
    whole, first = fit(8, 2, EARLY), fit(4, 2, EARLY)
    checkpoints = first / "checkpoints"
    source = first
    if remains == "last":
        source = Path("elsewhere.ckpt")
        shutil.move(checkpoints / "last.ckpt", source)
        shutil.rmtree(first)
    elif remains == "damaged":
        content = (checkpoints / "best.ckpt").read_bytes()
        (checkpoints / "best.ckpt").write_bytes(content[:1000])
    elif remains == "newer":  # as if it was killed after this was written, and before last.ckpt
        shutil.copy(whole / "checkpoints" / "last.ckpt", checkpoints / "best.ckpt")
    with caplog.at_level("INFO"):
        resumed = fit(8, 2, EARLY, f"--ckpt_path={source}")
    step = record(whole)["best_step"]
    assert step <= 4
    assert f"testing the best checkpoint: step {step}, val/negative_elbo" in caplog.text
    for name in ("best.ckpt", "last.ckpt"):
        assert same(weights(whole, name), weights(resumed, name))
    assert read(resumed, "best.ckpt")["zoo"]["step"] == step
    for key in ("best_step", "tested_step", "metrics", "steps"):
        assert record(resumed)[key] == record(whole)[key], key
    assert record(whole)["tested_step"] == step
    assert without_times(whole) == without_times(resumed)
    states = [read(run, "last.ckpt")["callbacks"] for run in (whole, resumed)]
    one, other = (next(state for key, state in each.items() if key.startswith("ModelCheckpoint")) for each in states)
    assert one["best_model_score"] == other["best_model_score"]
    assert Path(other["best_model_path"]) == resumed / "checkpoints" / "best.ckpt"
    if remains == "last":  # and once more, from what a run has that went on
        again = fit(10, 2, EARLY, f"--ckpt_path={resumed}")
        assert record(again)["best_step"] == step
        assert same(weights(whole, "best.ckpt"), weights(again, "best.ckpt"))


def test_a_killed_run_goes_on_to_the_same_best() -> None:
    """Killed where it hurts: right after the best checkpoint of a validation is written, before the last one is."""
    code = f"""
import os, signal, sys
from zoo.callbacks import BestCheckpoint
saves = BestCheckpoint._save_checkpoint
def save(self, trainer, path):
    saves(self, trainer, path)
    if trainer.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
BestCheckpoint._save_checkpoint = save
from zoo.commands.cli import main
main({command(8, 2)!r})
"""
    whole = fit(8, 2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    killed = whole.parent / "version_1"
    assert (read(killed, "best.ckpt")["global_step"], read(killed, "last.ckpt")["global_step"]) == (6, 4)
    resumed = fit(8, 2, "--ckpt_path=last")
    assert record(resumed)["best_step"] == record(whole)["best_step"] == 8
    for name in ("best.ckpt", "last.ckpt"):
        assert same(weights(whole, name), weights(resumed, name))
    assert without_times(whole) == without_times(resumed)


@pytest.mark.parametrize(
    ("steps", "interval", "options", "validated"),
    [
        (3, 100, [], [3]),  # below the first validation
        (5, 2, [], [2, 4, 5]),  # between two
        (4, 2, [], [2, 4]),
        (9, 8, [], [8, 9]),  # 8 batches are an epoch
        (5, 1.0, ["--trainer.check_val_every_n_epoch=3"], [5]),
        (-1, 3, ["--trainer.max_epochs=1"], [3, 6, 8]),
    ],
)
def test_a_fit_ends_with_a_validation_of_its_last_step(steps, interval, options, validated) -> None:
    run = fit(steps, interval, *options)
    assert [point["step"] for point in record(run)["history"]] == validated
    assert (record(run)["steps"], record(run)["tested_step"]) == (validated[-1], record(run)["best_step"])
    assert "loss" in record(run)["metrics"]


def test_what_is_prolonged_ends_with_its_own_last_step() -> None:
    whole, first = fit(7, 100), fit(6, 100)
    resumed = fit(7, 100, f"--ckpt_path={first}")
    assert same(weights(whole, "last.ckpt"), weights(resumed, "last.ckpt"))
    assert [point["step"] for point in record(resumed)["history"]] == [6, 7]
    assert record(resumed)["steps"] == record(resumed)["best_step"] == record(resumed)["tested_step"] == 7
    # what is done already is not done again, and still tested
    done = fit(7, 100, f"--ckpt_path={resumed}")
    assert record(done)["metrics"] == record(resumed)["metrics"]
    assert record(done)["tested_step"] == 7


def test_without_validation_the_last_weights_are_tested(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run = fit(3, 2, "--trainer.limit_val_batches=0")
    assert "no best checkpoint was kept: testing the weights of step 3" in caplog.text
    assert (record(run)["best_step"], record(run)["tested_step"]) == (None, 3)
    assert "loss" in record(run)["metrics"]
    assert read(run, "last.ckpt")["global_step"] == 3


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some" / "best.ckpt"
    write_checkpoint({"a": torch.ones(3)}, path)

    def full(content: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint({"a": torch.zeros(3)}, path)
    assert torch.load(path)["a"].sum() == 3
    assert [file.name for file in path.parent.iterdir()] == ["best.ckpt"]


def test_a_run_starts_from_weights_with_a_fresh_optimiser_at_the_model_s_own_step(capsys, monkeypatch) -> None:
    first = fit(4, 2)
    begun: dict[str, Any] = {}
    monkeypatch.setattr(
        SPAIR,
        "on_train_start",
        lambda self: begun.update({name: value.clone() for name, value in self.state_dict().items()}),
    )
    second = fit(2, 2, "--init", str(first), "--data.init_args.num_train=24")
    assert same(begun, weights(first, "best.ckpt"))
    then = record(first)["best_step"]
    assert record(second)["init"] == {"checkpoint": str(first), "step": then, "sha256": None}
    assert (record(first)["init"], record(second)["steps"], record(second)["tested_step"]) == (None, 2, then + 2)
    assert "init=" in record(second)["changes"]
    content = read(second, "last.ckpt")
    assert content["global_step"] == 2
    assert content["state_dict"]["step"] == then + 2
    assert {float(state["step"]) for state in content["optimizer_states"][0]["state"].values()} == {2.0}
    # what goes on by itself still says where it began
    more = fit(4, 2, "--ckpt_path", str(second))
    assert record(more)["init"] == record(second)["init"]
    Path("tuned.yaml").write_text(f"init: {first}\n")  # in a configuration, too
    third = fit(2, 2, "--data.init_args.num_train=24", "--config", "tuned.yaml")
    assert same(weights(third, "last.ckpt"), weights(second, "last.ckpt"))


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("fit", ["--init"], "--init needs a value"),
        ("fit", ["--init", "a.ckpt", "--ckpt_path", "b.ckpt"], "give one of them, and once"),
        ("test", ["--init", "a.ckpt"], "test takes --ckpt_path a.ckpt"),
        ("fit", ["--init", "spair-multimnist-recipe"], "do not fit this model.*without --init"),
    ],
)
def test_what_cannot_be_started_from_is_said(verb: str, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main([verb, *command(2, 2, *options)[1:]])
    assert not list(Path().glob("*/*/version_*"))


def ended(batch: int, do: Any, *options: str) -> tuple[Any, Path]:
    """Train until something happens after so many batches; returns how that ended, and the run folder."""
    seen = 0

    def on_train_batch_end(self: SPAIR, *_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == batch:
            do(self)

    before = set(Path().glob("*/*/version_*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SPAIRRecipe, "on_train_batch_end", on_train_batch_end)
        with pytest.raises(SystemExit) as said:
            main(command(8, 4, *options))
    (run,) = set(Path().glob("*/*/version_*")) - before
    return said.value.code, run


def terminate(_: SPAIR) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_sigterm_saves_says_so_by_its_exit_code_and_loses_nothing() -> None:
    whole = fit(8, 4)
    code, run = ended(3, terminate)
    assert code == 143
    assert read(run, "last.ckpt")["global_step"] == 3  # between validations
    on = fit(8, 4, f"--ckpt_path={run}")
    assert same(weights(on, "last.ckpt"), weights(whole, "last.ckpt"))
    assert without_times(on) == without_times(whole)


def test_ctrl_c_ends_with_its_exit_code() -> None:
    def interrupt(_: SPAIR) -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    try:
        code, run = ended(6, interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning has it ignored from here on
    assert code == 130
    assert read(run, "last.ckpt")["global_step"] == 4


def test_accumulated_gradients_are_not_lost() -> None:
    """Validations after 4 batches lie within a window of 3; a checkpoint there would go on without its gradients."""
    every = "--trainer.accumulate_grad_batches=3"
    whole = fit(8, 4, every)
    code, run = ended(7, terminate, every)
    assert code == 143
    assert read(run, "last.ckpt")["global_step"] == 2  # six batches
    on = fit(8, 4, every, f"--ckpt_path={run}")
    assert same(weights(on, "last.ckpt"), weights(whole, "last.ckpt"))


def test_a_broken_model_does_not_replace_the_last_good_one() -> None:
    whole = fit(8, 4)

    @torch.no_grad()
    def explode(model: SPAIR) -> None:
        for parameter in model.parameters():
            parameter.mul_(1e30)

    code, _ = ended(8, explode)
    last = str(code).rpartition("--ckpt_path ")[2]
    assert torch.load(last, weights_only=True)["global_step"] == 4
    on = fit(8, 4, f"--ckpt_path={last}")
    assert same(weights(on, "last.ckpt"), weights(whole, "last.ckpt"))
