"""The command line, run in this process unless a test is about processes."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
import yaml
from PIL import Image

import zoo
from zoo.commands.cli import main

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PUBLISHED = ("CLEVRDataModule", "ObjectsRoomDataModule", "ShapeStacksDataModule")  # nothing stands in for their files
HEAVY = (
    "ASTSeg",
    "ASTSegRecipe",
    "BackgroundAE",
    "BackgroundAERecipe",
)  # up to 120 million parameters: their own tests train small ones
QUICK = str(ROOT / "configs" / "recipes" / "quick" / "spair.yaml")
TINY_DATA = {"num_train": 64, "num_val": 12, "num_test": 12, "batch_size": 4, "eval_batch_size": 5}
SMALL = [f"--data.init_args.{key}={value}" for key, value in TINY_DATA.items()]
SMALL += ["--wandb=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL += ["--trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*options: str, config: str = QUICK, steps: int = 4) -> Path:
    """Train for some steps, validating at every other one; returns the run folder."""
    before = set(Path("runs").glob("*/version_*"))
    interval = ["--trainer.val_check_interval=2", f"--trainer.max_steps={steps}"]
    source = ["--data.init_args.source=uci"] if config == QUICK else []
    main(["fit", "--config", config, *SMALL, *source, *interval, *options])
    (run,) = set(Path("runs").glob("*/version_*")) - before
    return run


def rows(run: Path) -> list[dict[str, str]]:
    """Of the run's metrics."""
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_has_a_folder_of_its_own_with_everything_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = fit(), fit()
    assert first.parent.name == second.parent.name == "spairrecipe_multimnist48-1to5-c1-n64-uci-ink"
    assert (first.name, second.name) == ("version_0", "version_1")
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["model"]["init_args"]["importance_floor"] == 0.0025  # from the file
    assert config["model"]["init_args"]["what_dim"] == 50  # a default, written down all the same
    assert config["seed_everything"] == 0
    assert {"val/ap50", "val/loss", "val/count_accuracy", "test/ap50", "val/kl_presence"} <= set(rows(first)[0])
    assert {"val/negative_elbo", "test/negative_elbo"} <= set(rows(first)[0])
    by_name = {f"{kind}{name}" for kind in ("", "raw_") for name in ("ap50", "ap_spair", "ap50_gmair", "tile_ap50")}
    assert {f"test/{name}" for name in by_name} <= set(rows(first)[0])
    assert {path.name for path in (first / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    pictures = {path.name for path in (first / "pictures").iterdir()}
    names = {"val_step0000002.png", "val_step0000004.png", "test.png", "last.png", "generated.png"}
    assert pictures == names
    assert Image.open(first / "pictures" / "last.png").width > 500
    table = capsys.readouterr().out
    assert all(f" {name} " in table for name in by_name)  # boxes raw and derived, in one command
    # same seed, same numbers
    metrics = [(run / "metrics.csv").read_text() for run in (first, second)]
    assert metrics[0] == metrics[1]


def test_a_checkpoint_brings_model_and_data_and_gives_way_to_explicit_values(capsys, caplog) -> None:
    run = fit("--model.init_args.what_dim=7")
    capsys.readouterr()
    quiet = ["--wandb=disabled", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    with caplog.at_level("INFO"):
        main(["test", "--ckpt_path", str(run), *quiet])
        assert "in the checkpoint" not in caplog.text
        main(["test", "--ckpt_path", str(run), "--model.init_args.trim_threshold=null", *quiet])
    assert "model.init_args.trim_threshold is None here, 0.2 in the checkpoint" in caplog.text
    newest = max(Path("runs").glob("*/version_*"), key=lambda path: int(path.name.split("_")[1]))
    config = yaml.safe_load((newest / "config.yaml").read_text())
    assert config["model"]["init_args"]["what_dim"] == 7  # the checkpoint's
    assert config["model"]["init_args"]["trim_threshold"] is None  # the command line's
    assert config["data"]["init_args"]["num_test"] == 12


def test_explicit_values_beat_the_checkpoint_when_training_goes_on() -> None:
    run = fit()
    fit("--ckpt_path", str(run), "--model.init_args.lr=0.5", config=QUICK, steps=6)
    resumed = zoo.load(run.parent / "version_1" / "checkpoints" / "last.ckpt")
    assert resumed.hp.lr == 0.5


def test_best_last_and_run_folders_are_checkpoints() -> None:
    with pytest.raises(SystemExit, match=r"no last\.ckpt in runs"):
        main(["test", "--ckpt_path", "last"])
    run = fit()
    for name in ("best", "last", str(run), str(run / "checkpoints" / "last.ckpt")):
        main(["validate", f"--ckpt_path={name}", "--wandb=disabled", "--trainer.enable_progress_bar=false"])
    main(["validate", "--ckpt_path=last", "--runs=runs", "--run_name", run.parent.name, "--wandb=disabled"])
    # a run folder goes on under its own configuration, trainer and all
    main(["fit", "--ckpt_path", str(run), "--trainer.max_steps=6"])
    content = torch.load(run.parent / "version_6" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 6
    assert [row["step"] for row in rows(run.parent / "version_6") if row.get("val/loss")] == ["5"]  # 4 were done


def test_the_test_of_a_checkpoint_is_the_test_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit()
    main(["test", "--ckpt_path", str(run), "--wandb=disabled", "--trainer.enable_progress_bar=false"])
    after_fit, later = ([r for r in rows(run.parent / v) if r.get("test/loss")] for v in ("version_0", "version_1"))
    for metric in ("test/mse", "test/loss", "test/ap"):
        assert float(later[0][metric]) == pytest.approx(float(after_fit[0][metric]), rel=1e-5)


def test_predict_writes_the_scenes_of_all_test_images(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit()
    main(["predict", "--ckpt_path", str(run), "--wandb=disabled", "--trainer.enable_progress_bar=false"])
    written = run.parent / "version_1" / "predictions.npz"
    assert f"scenes of 12 images: {written}" in capsys.readouterr().out
    scenes = np.load(written)
    assert scenes["index"].tolist() == list(range(12))
    assert scenes["boxes"].shape == (12, 16, 4)
    assert scenes["what"].shape == (12, 16, 50)


def parses(*options: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *options, "--print_config"])
    assert ended.value.code == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_configuration_trains_and_says_what_it_is(config: Path) -> None:
    assert config.read_text().startswith("# ")
    content = yaml.safe_load(config.read_text())
    if "model" not in content:  # an overlay
        parses("--config", QUICK, "--config", str(config), *SMALL)
        return
    if content["model"]["class_path"] in HEAVY and "quick" not in config.parts:
        parses("--config", str(config))
        return
    small = ["--data.init_args.num_train=16", "--data.init_args.batch_size=2"]
    data = content["data"]["class_path"]
    if data == "MultiMNISTDataModule":
        small.append("--data.init_args.source=uci")
    elif data in ("CLEVRTEXDataModule", "Fruit2DDataModule", "SpaceInvadersDataModule"):
        small.append("--data.init_args.source=synthetic")  # the others need a download, or a package
    elif data == "PictureDataModule":  # one picture: training scenes alone can be fewer
        few = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
        main(["fit", "--config", str(config), *small, *few, "--wandb=disabled"])
        return
    elif data in PUBLISHED:
        parses("--config", str(config))
        return
    if content["model"]["class_path"] in ("ASTSeg", "ASTSegRecipe"):
        small.append("--model.init_args.frozen_steps=0")  # no trained background is at hand
    fit(*small, "--trainer.max_steps=1", "--trainer.val_check_interval=1", config=str(config))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.init_args.importance_flor=3"],
            "SPAIRRecipe has no parameter 'importance_flor', did you mean 'importance_floor'",
        ),
        (["--trainer.maxsteps=3"], "no option --trainer.maxsteps, did you mean --trainer.max_steps"),
        (["--data.init_args.digitsize=14"], "no parameter 'digitsize', did you mean 'digit_size'"),
        (["--model=SPIAR"], "no model 'SPIAR', did you mean 'SPAIR'"),
        (["--model.init_args.channels=2"], "channels must be one of"),
        (["--data.init_args.num_digits=40"], "14 digits of 14 px are the most"),
        (["--data.init_args.source=svhn"], "source"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--ckpt_path=spair-multimnits"], "spair-multimnist-recipe"),
    ],
)
def test_mistakes_are_explained_in_a_line(options: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", QUICK, *SMALL, "--data.init_args.source=uci", *options])
    assert message in str(stop.value)
    assert "Given value" not in str(stop.value)


def test_missing_digits_without_network_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", "nothing-here")
    # a proxy that nobody answers stands for a missing network
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(SystemExit, match=r"MNIST is not in nothing-here.*source: uci"):
        main(["fit", "--config", QUICK, *SMALL, "--data.init_args.source=mnist"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["list"]])
def test_light_verbs_answer_at_once_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys, runpy; sys.argv = ['zoo', *sys.argv[1:]]\ntry:\n    runpy.run_module('zoo', run_name='__main__')\n"
    )
    code += "except SystemExit as stop:\n    assert not stop.code\nassert 'torch' not in sys.modules"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 2
    assert "SPAIR" in done.stdout if arguments == ["list"] else "python -m zoo VERB" in done.stdout


def test_an_unknown_verb_lists_the_verbs() -> None:
    done = subprocess.run([sys.executable, "-m", "zoo", "train"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no verb 'train'" in done.stderr
    assert "validate" in done.stderr


def test_training_needs_neither_the_command_line_nor_a_dashboard() -> None:
    """From Python, with jsonargparse and wandb out of reach."""
    code = """
import sys
sys.modules["jsonargparse"] = sys.modules["wandb"] = None
from lightning.pytorch import Trainer
from datamodules import MultiMNISTDataModule
from zoo.callbacks import MetricTable, ScenePictures
from zoo.models import SPAIR
data = MultiMNISTDataModule(channels=1, num_train=64, num_val=8, num_test=8, source="uci")
model = SPAIR(channels=1, backbone_channels=8)
trainer = Trainer(accelerator="cpu", max_steps=2, val_check_interval=1, callbacks=[ScenePictures(), MetricTable()])
trainer.fit(model, data)
assert trainer.global_step == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_two_processes_test_as_one(own_folder: Path) -> None:
    """DDP sees each scene once: 11 scenes in two processes give what one process gives."""
    run = fit("--data.init_args.num_test=11")
    common = ["test", "--ckpt_path", str(run), "--wandb=disabled", "--trainer.enable_progress_bar=false"]
    common += ["--trainer.accelerator=cpu", "--data.init_args.eval_batch_size=3", "--runs"]
    for name, devices in (("one", 1), ("two", 2)):
        command = [sys.executable, "-m", "zoo", *common, name, f"--trainer.devices={devices}"]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120
        )
        assert done.returncode == 0, done.stderr
    values = {}
    for name in ("one", "two"):
        (path,) = Path(name).glob("*/version_0/metrics.csv")
        with path.open() as file:
            values[name] = {k: float(v) for k, v in next(csv.DictReader(file)).items() if v}
    for metric in ("test/ap50", "test/ap_11pt", "test/count_accuracy", "test/count_error", "test/mse"):
        assert values["one"][metric] == pytest.approx(values["two"][metric], rel=1e-5), metric


def test_an_offline_dashboard_run_keeps_the_configuration_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    run = fit("--wandb=offline", steps=2)
    wandb.finish()  # as the end of the process does: only then is everything written
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert list(folder.rglob("media/images/scenes/*.png"))
    (file,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 20  # another process writes it
    while b"importance_floor" not in file.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    content = file.read_bytes()
    assert content.count(b"check_val_every_n_epoch") == 1  # the whole configuration, once
    assert b"importance_floor" in content


def test_what_a_checkpoint_finds_is_clustered(capsys: pytest.CaptureFixture[str]) -> None:
    common = [*SMALL, "--data.init_args.source=uci", "--num_clusters=3", "--num_scenes=30"]
    main(["cluster", "--ckpt_path", "discrete-air-multimnist-recipe", "--covariance=diag", *common])
    (run,) = Path("runs").glob("discreteairrecipe_*/version_0")
    record = json.loads((run / "clustering.json").read_text())
    settings = {
        "checkpoint": "discrete-air-multimnist-recipe",
        "covariance": "diag",
        "num_clusters": 3,
        "train_scenes": 30,
    }
    assert settings.items() <= record.items()
    assert record["test_scenes"] == 12  # of TINY_DATA
    assert 0 < record["gmm"]["nmi"] < 1
    assert f"{record['categories']['cluster_purity']:.4f}" in capsys.readouterr().out
    with (run / "metrics.csv").open() as file:
        assert float(next(csv.DictReader(file))["cluster/gmm/nmi"]) == pytest.approx(record["gmm"]["nmi"])
    assert yaml.safe_load((run / "config.yaml").read_text())["num_clusters"] == 3
    assert [path.name for path in (run / "pictures").iterdir()] == ["embedding.png"]  # it comes with no history
    trained = fit()
    main(["cluster", "--ckpt_path", str(trained), "--out=elsewhere", *common])
    assert {path.name for path in Path("elsewhere/pictures").iterdir()} == {"embedding.png", "curves.png"}
    assert json.loads(Path("elsewhere/clustering.json").read_text())["model"] == "SPAIRRecipe"
    assert len(list(Path("runs").glob("*/version_*"))) == 2  # the first one's and the training's
    for options, message in (
        (["--ckpt_path", str(trained), "--num_fits=0"], "num_fits is 0, expected at least 1"),
        (["--config", QUICK], "cluster needs --ckpt_path"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["cluster", *options, *common])
