"""Sheets of what was learned: which files come about, and what they are made of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from zoo.callbacks import ClusterPictures
from zoo.downstream.embedding import read_curves
from zoo.models import SPAIR, DiscreteAIR, SPAIRRecipe

TINY: dict[str, Any] = {"image_size": 48, "num_steps": 2, "num_categories": 3, "cell_hidden": 8, "patch_size": 8}
SLOTS = {"channels": 1, "backbone_channels": 4, "encoder_hidden": [8], "decoder_hidden": [8], "what_dim": 3}


class ImageLogger(CSVLogger):
    """Takes images, as W&B's does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.images: dict[str, list[Any]] = {}

    def log_image(self, key: str, images: list[Any]) -> None:
        self.images[key] = images


def fit(
    folder: Path, model: Any, data: Any, callback: ClusterPictures, steps: int, resume: str | None = None
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        callbacks=[ModelCheckpoint(filename="{step}", save_top_k=-1), callback],
        logger=ImageLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data, ckpt_path=resume)
    return trainer


def test_training_leaves_its_sheets(tmp_path: Path, uci_data: Any) -> None:
    data = uci_data(channels=1, num_val=12, eval_batch_size=5)
    for model, callback in (
        (DiscreteAIR(**TINY, initial_biases={"presence": 9.0}), ClusterPictures(num_points=10)),
        (SPAIRRecipe(**SLOTS, initial_biases={"presence": 9.0}), ClusterPictures(num_clusters=2, num_scenes=7)),
    ):
        trainer = fit(tmp_path / type(model).__name__, model, data, callback, 2)
        assert model.training == trainer.model.training
        assert trainer.log_dir is not None
        folder = Path(trainer.log_dir, "pictures")
        assert {path.name for path in folder.iterdir()} == {"curves.png", "embedding.png"}
        shown = trainer.logger.images
        assert shown.keys() == {"clusters/curves", "clusters/embedding"}
        for name in ("curves", "embedding"):
            (picture,) = shown[f"clusters/{name}"]
            assert picture.tobytes() == Image.open(folder / f"{name}.png").tobytes()
        assert {name: [list(p) for p in curve] for name, curve in callback.state_dict()["curves"].items()} == {
            name: [[step + 1, pytest.approx(value, nan_ok=True)] for step, value in curve]  # Lightning counts from 0
            for name, curve in read_curves(Path(trainer.log_dir, "metrics.csv")).items()
        }


def test_curves_go_on_where_a_run_does(tmp_path: Path, uci_data: Any) -> None:
    data, callback = uci_data(channels=1), ClusterPictures()
    first = fit(tmp_path, SPAIR(**SLOTS), data, callback, 2)
    checkpoint = Path(str(first.log_dir), "checkpoints", "step=2.ckpt")
    torch.load(checkpoint, weights_only=True)  # nothing but data
    again = ClusterPictures()
    fit(tmp_path, SPAIR(**SLOTS), data, again, 4, str(checkpoint))
    steps = [step for step, _ in again.state_dict()["curves"]["ap50"]]
    assert steps == [1, 2, 3, 4]
    assert again.state_dict()["curves"]["ap50"][:2] == callback.state_dict()["curves"]["ap50"]


def test_what_cannot_be_drawn_does_not_end_the_run(tmp_path: Path, uci_data: Any) -> None:
    with pytest.warns(UserWarning, match=r"no embedding\.png: 0 objects were found.*train"):
        trainer = fit(
            tmp_path,
            SPAIRRecipe(**SLOTS, initial_biases={"presence": -9.0}),
            uci_data(channels=1),
            ClusterPictures(),
            1,
        )
    assert trainer.global_step == 1
    assert {path.name for path in Path(str(trainer.log_dir), "pictures").iterdir()} == {"curves.png"}


@pytest.mark.parametrize("option", ["num_clusters", "num_scenes", "num_points"])
def test_wrong_options_are_named(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0.*at least 1"):
        ClusterPictures(**{option: 0})
