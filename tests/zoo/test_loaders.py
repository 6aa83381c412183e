"""Evaluation on any number of loaders and processes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from datamodules import MultiMNISTDataModule
from zoo.callbacks import MetricTable, ScenePictures, SceneWriter
from zoo.loaders import loader_names
from zoo.models import SPAIR

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def small(**arguments: Any) -> SPAIR:
    torch.manual_seed(0)
    own = {"backbone_channels": 8, "encoder_hidden": [16], "decoder_hidden": [16], "what_dim": 4}
    return SPAIR(channels=1, **{**own, **arguments})


def data(images: int, **parameters: Any) -> MultiMNISTDataModule:
    return MultiMNISTDataModule(
        channels=1, num_train=16, num_val=images, num_test=images, batch_size=8, source="uci", **parameters
    )


class Results(Callback):
    """Writes what was measured to a file: processes that are forked return nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.path.with_suffix(f".{trainer.global_rank}").write_text(json.dumps(values))


@pytest.mark.parametrize("images", [11, 12, 101])
def test_every_value_is_the_same_however_many_processes_there_are(images: int, tmp_path: Path) -> None:
    model = small()
    values: dict[tuple[int, int], dict[str, float]] = {}
    for processes, batch_size in [(1, images), (1, 4), (2, 4), (3, 5)]:
        several = {"strategy": "ddp_fork"} if processes > 1 else {}
        trainer = Trainer(devices=processes, callbacks=[Results(tmp_path / "values")], **QUIET, **several)
        trainer.test(model, data(images, eval_batch_size=batch_size), verbose=False)
        for rank in range(processes):
            values[processes, rank] = json.loads((tmp_path / f"values.{rank}").read_text())
            assert values[processes, rank] == pytest.approx(values[1, 0], rel=1e-6, abs=1e-6)
    assert {"test/loss", "test/kl_presence", "test/ap50", "test/mse"} <= set(values[1, 0])


def test_a_loss_that_is_no_number_is_not_left_out() -> None:
    model = small()
    model.losses = lambda batch: {"reconstruction": batch["image"].mean() / 0}  # type: ignore[method-assign]
    (values,) = Trainer(**QUIET).test(model, data(11), verbose=False)
    assert values["test/loss"] == float("inf")


class Several(LightningDataModule):
    """Two sets of scenes, named or not."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.sets = {"plain": data(5), "again": data(7, seed=1)}
        self.named, self.num_classes = named, 10

    def test_dataloader(self) -> Any:
        loaders = {name: one.test_dataloader() for name, one in self.sets.items()}
        return loaders if self.named else list(loaders.values())

    val_dataloader = predict_dataloader = test_dataloader


@pytest.mark.parametrize("named", [True, False])
def test_several_loaders_have_results_of_their_own(named: bool, tmp_path: Path, capsys) -> None:
    model, several = small(), Several(named)
    names = ["plain", "again"] if named else ["dataloader_idx_0", "dataloader_idx_1"]
    alone = [Trainer(**QUIET).test(model, one, verbose=False)[0] for one in several.sets.values()]
    callbacks = [MetricTable(), ScenePictures(num_images=2), SceneWriter()]
    options = {**QUIET, "logger": CSVLogger(tmp_path, version=0), "callbacks": callbacks}
    trainer = Trainer(**options)
    trainer.test(model, several, verbose=False)
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for metric in ("loss", "ap50", "mse"):
        for name, one in zip(names, alone, strict=True):
            assert values[f"test/{metric}/{name}"] == pytest.approx(one[f"test/{metric}"], rel=1e-6)
        assert values[f"test/{metric}"] == values[f"test/{metric}/{names[0]}"]  # for monitors and tables
    assert values["test/loss"] != values[f"test/loss/{names[1]}"]
    header = next(line for line in capsys.readouterr().out.splitlines() if "metric" in line and names[0] in line)
    assert names[1] in header
    folder = tmp_path / "lightning_logs" / "version_0"
    assert {f"test_{name}.png" for name in names} <= {path.name for path in (folder / "pictures").iterdir()}
    trainer.validate(model, several, verbose=False)
    assert trainer.callback_metrics[f"val/mse/{names[1]}"] == pytest.approx(values[f"test/mse/{names[1]}"])
    predictions = trainer.predict(model, several)
    assert [sum(len(batch["boxes"]) for batch in one) for one in predictions] == [5, 7]
    for name, images in zip(names, (5, 7), strict=True):
        assert np.load(folder / f"predictions-{name}.npz")["index"].tolist() == list(range(images))


def test_names_of_loaders() -> None:
    loader = DataLoader([1])
    assert (
        loader_names(loader) == loader_names({"only": loader}) == loader_names([loader]) == loader_names(None) == [""]
    )
    assert loader_names({"b": loader, "a": loader}) == ["b", "a"]
    assert loader_names([loader, loader]) == ["dataloader_idx_0", "dataloader_idx_1"]


def test_plain_loaders_of_images_will_do(tmp_path: Path) -> None:
    """Of tensors, or of images and labels, as torchvision's data sets yield; also of what cannot be indexed."""
    model, images = small(), torch.rand(5, 1, 48, 48)
    sets = {
        "tensors": DataLoader(images, batch_size=2),
        "pairs": DataLoader(TensorDataset(images, torch.arange(5)), batch_size=2),
        "batches": DataLoader([{"image": image} for image in images], batch_size=2),
        "stream": DataLoader(Stream(images), batch_size=2),
    }
    for i, (name, loader) in enumerate(sets.items()):
        options = {**QUIET, "logger": CSVLogger(tmp_path, version=i), "callbacks": [SceneWriter(), ScenePictures(2)]}
        trainer = Trainer(**options)
        found = trainer.predict(model, loader)
        with torch.no_grad():
            expected = model.eval()(images).boxes
        torch.testing.assert_close(torch.cat([batch["boxes"] for batch in found]), expected)
        written = np.load(tmp_path / "lightning_logs" / f"version_{i}" / "predictions.npz")
        assert written["index"].tolist() == [0, 1, 2, 3, 4], name
        (values,) = trainer.test(model, loader, verbose=False)
        assert set(values) >= {"test/loss", "test/mse"}
        assert "test/ap50" not in values


class Stream(IterableDataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __iter__(self) -> Any:
        return iter(self.images)
