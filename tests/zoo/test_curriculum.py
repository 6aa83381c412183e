"""The three phases in one command, on small networks and few steps, each run in this process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import zoo
from zoo import cli, curriculum

DATA = {
    "class_path": "MultiMNISTDataModule",
    "init_args": {
        "image_size": 64,
        "channels": 1,
        "source": "uci",
        "num_digits": [1, 3],
        "num_train": 32,
        "num_val": 4,
        "num_test": 4,
        "batch_size": 4,
    },
}
TRAINER = {
    "accelerator": "cpu",
    "val_check_interval": 2,
    "check_val_every_n_epoch": None,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
BACKGROUND = {"channels": 1, "image_size": 64, "form": "simple", "width": 0.1}
AST_SEG = {
    "channels": 1,
    "image_size": 64,
    "num_slots": 3,
    "what_dim": 4,
    "backbone": "unet",
    "encoder_layers": 0,
    "unet_channels": [4, 8, 8],
    "unet_stride": 4,
    "glimpse_size": 8,
    "background_form": "simple",
    "frozen_steps": 2,
}


@pytest.fixture
def phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The program with small configurations; yields what it started, as (run name, resumed, arguments)."""
    monkeypatch.chdir(tmp_path)
    for name, model, args, steps in (("background", "BackgroundAE", BACKGROUND, 4), ("objects", "ASTSeg", AST_SEG, 4)):
        config = {
            "model": {"class_path": model, "init_args": args},
            "data": DATA,
            "trainer": {**TRAINER, "max_steps": steps},
        }
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    started: list[list[str]] = []
    killed: dict[str, int] = {}  # name of a run: at which step

    def run(command: list[str]) -> None:
        arguments = command[3:]  # python -m zoo
        started.append(arguments)
        name = next(argument.removeprefix("--run_name=") for argument in arguments if "--run_name=" in argument)
        if name in killed:
            cli.main([*arguments, f"--trainer.max_steps={killed.pop(name)}"])
            raise subprocess.CalledProcessError(-9, command)
        cli.main(arguments)

    monkeypatch.setattr(curriculum, "_run", run)

    def start(*options: str) -> Path:
        started.clear()
        files = ["--background", "background.yaml", "--config", "objects.yaml"]
        return curriculum.main([*files, "--run_name=both", "--wandb=disabled", *options])

    start.started, start.killed = started, killed
    return start


def resumed(arguments: list[str]) -> bool:
    return any(argument.startswith("--ckpt_path=") for argument in arguments)


def test_all_phases_run_once_and_go_on_where_they_were(phases) -> None:
    phases.killed["both_background"] = 2
    with pytest.raises(SystemExit, match="a phase ended with -9"):
        phases()  # killed in phase 1
    phases.killed["both"] = 2
    with pytest.raises(SystemExit, match="a phase ended with -9"):
        phases()  # killed at the end of phase 2
    assert [resumed(arguments) for arguments in phases.started] == [True, False]
    last = phases()
    assert [resumed(arguments) for arguments in phases.started] == [True]  # nothing of phase 1
    model, background = zoo.load(last), zoo.load(Path("runs/both_background/version_1/checkpoints/last.ckpt"))
    assert model.steps_trained == background.steps_trained == 4
    # phase 3 moved it away from phase 1's
    assert not torch.equal(next(model.background.parameters()), next(background.net.parameters()))
    # of results it records what the configuration does not say, but not where phase 1 was
    changes = json.loads((last.parents[1] / "run.json").read_text())["changes"]
    assert changes == "model.init_args.background_code_dim=16 model.init_args.background_width=0.1"
    assert phases() == last
    assert phases.started == []


def test_a_damaged_checkpoint_is_passed_over(phases, capsys) -> None:
    phases.killed["both"] = 2
    with pytest.raises(SystemExit, match="a phase ended with -9"):
        phases()
    (last,) = Path("runs/both").glob("*/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:1000])
    model = zoo.load(phases())
    assert "older checkpoint: " in capsys.readouterr().out
    assert [argument for argument in phases.started[0] if "--ckpt_path" in argument] == [
        f"--ckpt_path={last.with_name('best.ckpt')}"
    ]
    assert model.steps_trained == 4


@pytest.mark.skipif(os.name == "nt", reason="no such signals")
def test_what_is_terminated_ends_its_phase(tmp_path) -> None:
    """Else the phase would go on alone, beside the one of the curriculum's next start."""
    pid = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    parent = f"import sys; from zoo import curriculum; curriculum._run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(("most", "form"), [(0.0, "complex"), (1.0, "simple")])
def test_the_form_of_the_background_is_chosen(phases, monkeypatch, most: float, form: str) -> None:
    monkeypatch.setattr(curriculum, "SIMPLE_STEPS_TO_CHOOSE", 2)
    monkeypatch.setattr(curriculum, "SIMPLE_STEPS", 3)
    monkeypatch.setattr(curriculum, "MOST_CHANGE", most)
    model = zoo.load(phases("--choose_form"))
    assert model.hp.background_form == form
    assert len(phases.started) == 3
    phases("--choose_form")
    assert phases.started == []


def test_mistakes_are_named(phases, capsys) -> None:
    for option in ("--run_nmae=x", "--run_nmae=v1.2", "--ckpt_path=x.ckpt"):
        with pytest.raises(SystemExit):
            phases(option)
        assert f"unknown {option.split('=')[0]};" in capsys.readouterr().err
    config = yaml.safe_load(Path("background.yaml").read_text())
    del config["trainer"]["max_steps"]
    Path("background.yaml").write_text(yaml.safe_dump(config))
    phases("--trainer.max_steps=2")
    with pytest.raises(SystemExit, match=r"sets trainer\.max_steps"):
        phases()
