"""Scenes on disk, for use elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from zoo.loaders import stage_loader_names

_LEFT_OUT = ("reconstruction", "background")  # as large as the images themselves


class SceneWriter(BasePredictionWriter):
    """Writes predicted scenes to `predictions.npz` in the run folder: each field of `Scene`, over all images.

    Reconstructions and backgrounds are left out. `index` says which image of the set each row is. Of several loaders
    each has a file with its name, as in `predictions-outd.npz`; under several processes each writes a file with its
    rank in the name.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._fields: dict[int, dict[str, list[np.ndarray]]] = {}  # by the number of the loader

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, torch.Tensor],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep a batch."""
        kept = {name: value for name, value in prediction.items() if name not in _LEFT_OUT}
        fields = self._fields.setdefault(dataloader_idx, {})
        if batch_indices is None or len(batch_indices) != len(kept["boxes"]):  # what has no sampler comes in order
            first = sum(map(len, fields.get("index", [])))
            batch_indices = range(first, first + len(kept["boxes"]))
        kept["index"] = torch.tensor(list(batch_indices))
        for name, value in kept.items():
            fields.setdefault(name, []).append(value.cpu().numpy())

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, under a temporary name first."""
        log_dir = trainer.log_dir
        if log_dir is None:
            return
        names = stage_loader_names(trainer, "predict")
        for number, fields in self._fields.items():
            parts = ["predictions", names[number], str(trainer.global_rank) if trainer.world_size > 1 else ""]
            name = "-".join(filter(None, parts)) + ".npz"
            temporary = Path(log_dir, f".{name}")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                arrays: dict[str, Any] = {key: np.concatenate(values) for key, values in fields.items()}
                np.savez_compressed(file, **arrays)
            temporary.replace(Path(log_dir, name))
            print(f"scenes of {len(arrays['index'])} images: {Path(log_dir, name)}")
        self._fields = {}
