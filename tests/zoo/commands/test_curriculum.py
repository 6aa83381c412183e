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
from datamodules import MultiMNISTDataModule
from zoo.commands import cli, curriculum

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
        name = "".join(argument.removeprefix("--run_name=") for argument in arguments if "--run_name=" in argument)
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
    parent = f"import sys; from zoo.commands import curriculum; curriculum._run([sys.executable, '-c', {child!r}])"
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


@pytest.fixture
def one_command(phases, monkeypatch: pytest.MonkeyPatch):
    """`fit` of a configuration that names the background's, which lies beside it elsewhere."""
    Path("mine").mkdir()
    for name in ("background.yaml", "objects.yaml"):
        Path(name).rename(Path("mine", name))
    objects = Path("mine/objects.yaml")
    objects.write_text("background_config: background.yaml\n" + objects.read_text())

    def start(*options: str, config: str = "mine/objects.yaml") -> list[str]:
        """Returns the runs that are new."""
        phases.started.clear()
        before = set(Path("runs").glob("*/version_*"))
        cli.main(["fit", "--config", config, "--wandb=disabled", "--pictures.num_images=1", *options])
        return sorted(path.parent.name.split("_")[0] for path in set(Path("runs").glob("*/version_*")) - before)

    start.started = phases.started
    return start


def break_off(monkeypatch: pytest.MonkeyPatch, model: str, step: int) -> None:
    """Let a model's training end at a step as if it were killed."""
    from zoo.models import ASTSeg, BackgroundAE

    owner = {"ASTSeg": ASTSeg, "BackgroundAE": BackgroundAE}[model]
    whole = owner.training_step

    def step_or_end(self, batch, batch_idx):
        if self.global_step == step:
            raise subprocess.CalledProcessError(-9, ["killed"])
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(owner, "training_step", step_or_end)


def test_fit_trains_the_background_first_and_says_so(one_command, capsys) -> None:
    assert one_command() == ["astseg", "backgroundae"]
    said = capsys.readouterr().out
    assert "phase 1 of 3, the background alone, 0 of 4 steps are done: " in said
    assert "phases 2 and 3: objects before the background, then both" in said
    (last,) = Path("runs").glob("astseg_*/version_0/checkpoints/last.ckpt")
    (first,) = Path("runs").glob("backgroundae_*/version_0/checkpoints/last.ckpt")
    model, background = zoo.load(last), zoo.load(first)
    assert model.steps_trained == background.steps_trained == 4
    config = yaml.safe_load((last.parents[1] / "config.yaml").read_text())
    assert config["model"]["init_args"]["background"] == str(first)
    assert config["model"]["init_args"]["background_width"] == 0.1  # of the background's own form
    # done is done
    with pytest.raises(SystemExit) as ended:
        one_command()
    assert not ended.value.code
    assert "phases 2 and 3 are done, 4 steps" in capsys.readouterr().out
    assert one_command("--run_name=again") == ["again", "again"]  # each phase by its name
    # another seed is another training, of both; another learning rate of the objects is none of the background's
    assert one_command("--seed_everything=1") == ["astseg", "backgroundae"]
    assert one_command("--model.init_args.lr=0.01") == ["astseg"]
    assert one_command.started == []


@pytest.mark.parametrize("model", ["BackgroundAE", "ASTSeg"])
def test_fit_goes_on_where_it_broke_off(one_command, monkeypatch, model: str) -> None:
    whole = tuple(zoo_state(one_command, "--run_name=whole"))
    with monkeypatch.context() as patch:
        break_off(patch, model, 3)
        with pytest.raises((SystemExit, subprocess.CalledProcessError)):
            one_command()
    one_command()
    assert len(one_command.started) == (model == "BackgroundAE")
    assert all(resumed(arguments) for arguments in one_command.started)
    newest = max(Path("runs").glob("astseg_*/version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    assert newest.parents[1].name == ("version_1" if model == "ASTSeg" else "version_0")
    for got, expected in zip(zoo.load(newest).parameters(), whole, strict=True):
        assert torch.equal(got, expected)


def zoo_state(one_command, *options: str) -> list[torch.Tensor]:
    one_command(*options)
    return [*zoo.load(Path("runs/whole/version_0/checkpoints/last.ckpt")).parameters()]


def test_overlays_and_options_are_for_all_phases(one_command) -> None:
    Path("overlay.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 2}, "checkpoint": {"monitor": "val/mse"}}))
    one_command(
        "--config", "overlay.yaml", "--data.init_args.num_val=3", "--model.init_args.num_slots=2", "--runs=else"
    )
    (first,) = Path("else").glob("backgroundae_*/version_0/config.yaml")
    (last,) = Path("else").glob("astseg_*/version_0/config.yaml")
    background, objects = (yaml.safe_load(path.read_text()) for path in (first, last))
    for config in (background, objects):
        assert config["trainer"]["max_steps"] == 2
        assert config["data"]["init_args"]["num_val"] == 3
    assert [config["checkpoint"]["monitor"] for config in (background, objects)] == ["val/ap50", "val/mse"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--background_config=null"], "frozen_steps=2 needs a trained background: .*background_config"),
        (["--background_config=none.yaml"], "background_config: there is no file none.yaml"),
        (["--trainer.fast_dev_run=true"], "fast_dev_run keeps no checkpoint"),
        (["--model.init_args.encoder_layers=-1"], "encoder_layers must be at least 0"),
        (["--model.init_args.backbone=segformer"], "pretrained: true needs channels: 3"),
        (["--model.init_args.background=none.ckpt"], "none.ckpt"),
        (["--data.init_args.image_size=48"], "image_size is 64, but data.init_args.image_size is 48"),
        (["--data.init_args.num_digits=200"], "are the most that were found to fit"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_made(one_command, monkeypatch, options, message: str) -> None:
    monkeypatch.setattr(MultiMNISTDataModule, "make_dataset", lambda *_: pytest.fail("data were made"))
    with pytest.raises(SystemExit, match=message) as ended:
        one_command(*options)
    assert str(ended.value).startswith("zoo: ")
    assert one_command.started == []
    assert not Path("runs").exists()


def test_a_background_is_not_needed_for_what_is_trained_at_once_or_goes_on(one_command) -> None:
    assert one_command("--model.init_args.frozen_steps=0") == ["astseg"]
    (last,) = Path("runs").glob("astseg_*/version_0/checkpoints/last.ckpt")
    assert one_command(f"--ckpt_path={last}", "--trainer.max_steps=6") == ["astseg"]
    assert one_command.started == []


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
