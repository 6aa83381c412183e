"""Tasks learned from objects: what learns, what is kept, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

import zoo
from zoo.commands import cli
from zoo.downstream.scene_task import SceneTask

SPAIR = "spair-multimnist-recipe"
DATA = {"channels": 1, "target": "sum", "source": "uci", "num_train": 16, "num_val": 4, "num_test": 4, "batch_size": 4}
SMALL = ["--data=MultiMNISTDataModule", *(f"--data.{name}={value}" for name, value in DATA.items()),
         "--wandb=disabled", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
         "--trainer.max_steps=2", "--trainer.val_check_interval=1", "--checkpoint.monitor=val/accuracy"]  # fmt: skip


def fit(*more: str) -> Path:
    cli.main(["fit", "--model=SceneTask", *SMALL, *more])
    return max(Path("runs").glob("*/version_*"), key=lambda path: path.stat().st_mtime)


def trained(uci_data, steps: int = 3, **options):
    torch.manual_seed(0)
    task, data = SceneTask(channels=1, lr=1e-2, **options), uci_data(target="sum", num_train=16)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    Trainer(max_steps=steps, accelerator="cpu", limit_val_batches=0, **quiet).fit(task, datamodule=data)
    changed = {name.split(".")[0] + "." + name.split(".")[1] for name, value in task.state_dict().items()
               if "." in name and not value.equal(before[name])}  # fmt: skip
    return task, changed


def test_a_frozen_model_learns_nothing(uci_data) -> None:
    task, changed = trained(uci_data, objects=SPAIR)
    assert changed == {"head.before", "head.lstm", "head.after"}
    assert not task.finder.training


def test_what_is_unfrozen_learns(uci_data) -> None:
    assert trained(uci_data, objects=SPAIR, unfreeze=["encoder"])[1] - {"head.before", "head.lstm", "head.after"} == {
        "finder.encoder"
    }
    assert trained(uci_data, objects=SPAIR, unfreeze=["all"])[1] >= {"finder.encoder", "head.lstm"}


def test_looking_once_learns_the_same(uci_data) -> None:
    often, once = (trained(uci_data, objects=SPAIR, cache=cache)[0].state_dict() for cache in (False, True))
    for name, value in often.items():
        torch.testing.assert_close(once[name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("objects", ["ConvNet", "TrueBB", "ConnComp"])
def test_baselines_learn_with_the_head(uci_data, objects: str) -> None:
    assert any(name.startswith("finder.") for name in trained(uci_data, objects=objects)[1])


def test_the_accuracy_is_counted_and_not_minimised(uci_data) -> None:
    task, _ = trained(uci_data, objects="ConvNet", steps=1)
    batch = uci_data(target="sum").make_dataset("test").batch(range(8))
    terms, answer = task.losses(batch), task.answer(batch)
    chosen = [int(row.argmax()) == int(target) for row, target in zip(answer, batch["target"], strict=True)]
    assert float(terms["accuracy"]) == pytest.approx(sum(chosen) / 8)
    log_probability = answer.log_softmax(-1)[torch.arange(8), batch["target"]]
    torch.testing.assert_close(task._total(terms), -log_probability.mean())


def test_boxes_are_seen_in_shares_of_the_image() -> None:
    torch.manual_seed(0)
    task = SceneTask(objects="TrueBB", channels=1, with_boxes=True, num_targets=3)
    batch = {"image": torch.zeros(1, 1, 48, 48), "valid": torch.ones(1, 1, dtype=torch.bool)}
    left, right = (task.answer({**batch, "boxes": torch.tensor([[[x, 0.0, x + 8, 8.0]]])}) for x in (0.0, 24.0))
    assert (left - right).abs().max() > 1e-5


def test_it_is_trained_resumed_tested_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fit(f"--model.objects={SPAIR}", "--model.cache=true")
    assert {"accuracy", "cross_entropy", "ap50"} <= json.loads((run / "run.json").read_text())["metrics"].keys()
    cli.main(["fit", "--ckpt_path=last", "--trainer.max_steps=3", "--wandb=disabled"])
    task = zoo.load(run)
    assert isinstance(task, SceneTask)
    monkeypatch.setattr(
        "zoo.sharing.weights.find", lambda *_: pytest.fail("the checkpoint of the objects is not needed")
    )
    again = SceneTask(**dict(task.hparams))
    again.load_state_dict(task.state_dict())
    image = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.answer({"image": image}), task.answer({"image": image}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([f"--model.objects={SPAIR}", "--data.target=null"], "no target to learn"),
        ([f"--model.objects={SPAIR}", "--data.channels=3"], "model.init_args.channels can be 1"),
        (["--model.num_targets=2"], "answers are 0 to 1: set model.init_args.num_targets"),
        (["--model.objects=nobody"], "no checkpoint 'nobody'"),
        ([f"--model.objects={SPAIR}", "--model.unfreeze=[eye]"], "unfreeze has 'eye'"),
        (
            [f"--model.objects={SPAIR}", "--model.unfreeze=[encoder]", "--model.cache=true"],
            "leave out cache, or unfreeze",
        ),
        (["--model.cache=true"], "ConvNet learns with the head"),
        (["--model.order=size"], "order must be one of"),
    ],
)
def test_what_cannot_be_is_refused(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        fit(*options)
    assert said in str(stop.value.code)


def test_a_task_finds_no_objects_for_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    SceneTask(objects="ConvNet", channels=1).save_pretrained(tmp_path / "answers")
    with pytest.raises(ValueError, match="answers a task itself"):
        SceneTask(objects=str(tmp_path / "answers"), channels=1)
