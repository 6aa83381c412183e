"""What people share, checkpoints and run folders, imports and runs nothing of its own on the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zoo
from zoo.commands.cli import main
from zoo.commands.trust import known_class, plain
from zoo.models import SPAIR
from zoo.sharing.weights import CheckpointError

SMALL = {"channels": 1, "backbone_channels": 4, "encoder_hidden": [8], "decoder_hidden": [8], "what_dim": 2}
DATA = {"class": "MultiMNISTDataModule", "name": "x", "init_args": {"num_train": 8, "num_val": 8, "num_test": 8}}
EVIL = "evil_module_of_a_stranger"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working folder that leaves a file behind where it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "it_ran"
    code = f"open({str(marker)!r}, 'w').close()\n\ndef __getattr__(name):\n    open({str(marker)!r}, 'w').close()\n"
    (tmp_path / f"{EVIL}.py").write_text(code)
    return marker


def refused(arguments: list[str], marker: Path, message: str) -> None:
    with pytest.raises(SystemExit) as said:
        main(arguments)
    assert message in str(said.value)
    assert not marker.exists()
    assert EVIL not in sys.modules


def shared(folder: Path, kind: str, **change: Any) -> Path:
    """A checkpoint with a changed record, as safetensors or as Lightning's."""
    model = SPAIR(**SMALL)
    model.data_record = DATA
    path = zoo.save(model, folder / "shared")
    record = {**json.loads(path.with_suffix(".json").read_text()), **change}
    path.with_suffix(".json").write_text(json.dumps(record))
    if kind == "safetensors":
        return path
    path = folder / "run" / "version_0" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"zoo": record, "global_step": 1, "state_dict": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("verb", ["test", "validate", "predict", "cluster", "fit"])
@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": f"{EVIL}.Model"}, f"{EVIL}.Model"),
        ({"data": {**DATA, "class": f"{EVIL}.Data"}}, f"names '{EVIL}.Data' as its data"),
        ({"init_args": {**SMALL, "background": {"class_path": f"{EVIL}.Background"}}}, f"{EVIL}.Background"),
        ({"data": {**DATA, "init_args": {"source": [{"class_path": f"{EVIL}.S"}]}}}, f"{EVIL}.S"),
    ],
)
def test_a_record_imports_nothing(
    verb: str, kind: str, change: dict[str, Any], message: str, marker: Path, tmp_path: Path
) -> None:
    refused([verb, "--ckpt_path", str(shared(tmp_path, kind, **change))], marker, message)


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": {"callbacks": [{"class_path": f"{EVIL}.Callback"}]}},
        {"trainer": {"callbacks": f"{EVIL}.Callback"}},
        {"trainer": {"logger": {"class_path": f"{EVIL}.Logger"}}},
        {"trainer": {"plugins": [f"{EVIL}.Plugin"]}},
        {"trainer": {"strategy": f"{EVIL}.Strategy"}},
        {"model": {"class_path": f"{EVIL}.SPAIR", "init_args": SMALL}},
        {"data": {"class_path": f"{EVIL}.MultiMNISTDataModule"}},
        {"checkpoint": {"monitor": {"class_path": f"{EVIL}.M"}}},
    ],
)
def test_a_run_s_configuration_imports_nothing(change: dict[str, Any], marker: Path, tmp_path: Path) -> None:
    path = shared(tmp_path, "ckpt")
    (path.parents[1] / "config.yaml").write_text(yaml.safe_dump(change))
    refused(["fit", "--ckpt_path", str(path.parents[1])], marker, EVIL)


def test_with_trust_a_run_goes_on_with_its_callbacks(marker: Path, tmp_path: Path) -> None:
    path = shared(tmp_path, "ckpt")
    config = {"trainer": {"callbacks": [{"class_path": f"{EVIL}.Callback"}], "max_steps": 1}}
    (path.parents[1] / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):  # there is no such callback, as its module says when it has run
        main(["fit", "--ckpt_path", str(path.parents[1]), "--trust"])
    assert marker.exists()
    sys.modules.pop(EVIL, None)


def test_only_a_run_s_model_data_and_plain_numbers_are_taken() -> None:
    config = {
        "model": {"class_path": "zoo.models.SPAIR", "init_args": SMALL},
        "data": {"class_path": "MultiMNISTDataModule"},
        "trainer": {"max_steps": 7, "strategy": "ddp", "callbacks": None, "default_root_dir": "elsewhere"},
        "seed_everything": 3,
        "weights_only": False,  # would have Lightning unpickle whatever a checkpoint holds
        "config": "elsewhere.yaml",
        "optimizer": {"class_path": "torch.optim.SGD"},
    }
    taken = plain(config, Path("config.yaml"), {})
    assert taken.keys() == {"model", "data", "trainer", "seed_everything"}
    assert taken["model"]["class_path"] == "zoo.models.spair.SPAIR"
    assert taken["trainer"] == {"max_steps": 7, "strategy": "ddp", "callbacks": None}


def test_where_a_run_was_started_is_not_taken() -> None:
    """Of configs/trainer/slurm.yaml, which the next start says again."""
    started = {"class_path": "lightning.pytorch.plugins.environments.SLURMEnvironment"}
    taken = plain({"trainer": {"max_steps": 7, "plugins": started}}, Path("config.yaml"), {})
    assert taken["trainer"] == {"max_steps": 7}
    for others in ({"class_path": f"{EVIL}.Plugin"}, f"{EVIL}.Plugin"):
        with pytest.raises(CheckpointError, match=EVIL):
            plain({"trainer": {"plugins": [started, others]}}, Path("config.yaml"), {})


def test_a_class_of_one_s_own_is_known_once_it_is_imported_or_named_by_the_user() -> None:
    class Mine(SPAIR):
        pass

    source = Path("x.json")
    assert known_class("model", "Mine", source) == f"{__name__}.{Mine.__qualname__}"
    assert known_class("model", "Yours", source, asked="your_package.Yours") == "your_package.Yours"
    with pytest.raises(CheckpointError, match="say --model Yours"):
        known_class("model", "Yours", source)
    for named in ("os.path.SPAIR", "zoo.models.air.SPAIR", 7, None, ["SPAIR"]):
        with pytest.raises(CheckpointError, match="what a file names is not imported"):
            known_class("model", named, source)
