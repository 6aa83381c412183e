"""Every shipped configuration takes two steps on data of its real size, by the command line."""

import gc
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import zoo
from zoo.commands import cli, curriculum

ROOT = Path(__file__).resolve().parents[1]
PARTS = {path: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").rglob("*.yaml"))}
CONFIGS = [path for path, content in PARTS.items() if "model" in content]
# fewer scenes, which are of their size all the same
FEW = {
    "MultiMNISTDataModule": {"num_train": 256, "num_val": 8, "num_test": 8, "source": "uci"},
    "PictureDataModule": {"num_train": 64, "eval_batch_size": None},  # which it has not: its tests are one scene
    "MultiSpritesDataModule": {"num_train": 256, "num_val": 8, "num_test": 8},
    "CLEVRTEXDataModule": {"num_train": 8, "num_val": 3, "num_test": 3},
    "Fruit2DDataModule": {"num_train": 256, "num_val": 8, "num_test": 8},
    "CLEVRDataModule": {},
    "ObjectsRoomDataModule": {"num_val": 2, "num_test": 3},
    "ShapeStacksDataModule": {},
    "SetGameDataModule": {"num_train": 256, "num_val": 8, "num_test": 8},
    "SpaceInvadersDataModule": {"num_train": 64, "num_val": 4, "num_test": 4, "source": "synthetic"},
}
SYNTHETIC = ("CLEVRTEXDataModule", "Fruit2DDataModule")  # there are drawn scenes for want of the published ones
AT_MOST = 15  # seconds of work, of which there is no more to wait for, until data that cannot be had are refused


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published files that are at hand, small stand-ins of the size of the real ones; no network, and no more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setattr(curriculum, "_run", lambda command: cli.main(command[3:]))
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "datamodules"))
    import test_clevr
    import test_objects_room
    import test_shapestacks
    from helpers_tfrecord import example, frame, write_records

    clevr = (frame(example(test_clevr.make_scene(number))) for number in range(10))
    write_records(tmp_path / "data" / "clevr_with_masks" / test_clevr.FILE, clevr)
    test_objects_room.root.__wrapped__(tmp_path)
    test_shapestacks.root.__wrapped__(tmp_path)


def cannot_be_had(content: dict[str, Any]) -> bool:
    """Whether a configuration needs what only a network has: scenes that were published, or ImageNet's weights."""
    model, data = (content[part].get("init_args", {}) for part in ("model", "data"))
    published = content["data"]["class_path"] in SYNTHETIC
    imagenet = (
        content["model"]["class_path"] in ("ASTSeg", "ASTSegRecipe")
        and model.get("backbone", "segformer") == "segformer"
    )
    return (published and data.get("source") != "synthetic") or (imagenet and model.get("pretrained", True))


def arguments(content: dict[str, Any]) -> list[str]:
    few = {"batch_size": 2, "eval_batch_size": 2} | FEW[content["data"]["class_path"]]
    trainer = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu"]
    trainer += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--wandb=disabled"]
    given = {key: value for key, value in few.items() if value is not None}
    return [*(f"--data.init_args.{key}={value}" for key, value in given.items()), *trainer, "--pictures.num_images=1"]


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_configuration_takes_two_steps_or_refuses_at_once(path: Path, files: None, tmp_path: Path) -> None:
    content = PARTS[path]
    if cannot_be_had(content):
        start = time.process_time()
        with pytest.raises(SystemExit, match=r"^zoo: .+") as refused:
            cli.main(["fit", "--config", str(path), *arguments(content)])
        assert time.process_time() - start < AT_MOST
        assert len(str(refused.value).splitlines()) == 1
        assert not (tmp_path / "runs").exists()
        pretrained = {"pretrained": False} if content["model"]["class_path"] in ("ASTSeg", "ASTSegRecipe") else {}
        synthetic = {"source": "synthetic"} if content["data"]["class_path"] in SYNTHETIC else {}
        instead = [f"--model.{key}={value}" for key, value in pretrained.items()]
        instead += [f"--data.{key}={value}" for key, value in synthetic.items()]
    else:
        instead = []
    cli.main(["fit", "--config", str(path), *arguments(content), *instead])
    name = content["model"]["class_path"].lower()
    (run,) = Path("runs").glob(f"{name}_*/version_0")
    assert zoo.load(run / "checkpoints" / "last.ckpt").steps_trained == 2
    assert "metrics" in json.loads((run / "run.json").read_text())
    shutil.rmtree("runs")  # large networks leave large files, and cycles of references
    gc.collect()


def test_there_is_a_way_to_few_scenes_of_every_configuration() -> None:
    assert {content["data"]["class_path"] for content in PARTS.values() if "data" in content} <= FEW.keys()
    assert len(CONFIGS) > 40
