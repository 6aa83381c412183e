"""The checkpoint from which a run goes on."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` up to date: after every validation, and at the last step of training.

    Lightning's `save_last` renews its file only when a better checkpoint is found.
    """

    def __init__(self) -> None:
        self._saved_at = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save at the last step; after the epoch's end a run that is prolonged would skip the rest of the epoch."""
        if trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        log_dir = trainer.log_dir  # asks the other processes, so all of them have to come here
        training = trainer.state.fn == "fit" and not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", 0)
        if training and log_dir is not None and trainer.global_step != self._saved_at:
            self._saved_at = trainer.global_step
            last = Path(log_dir, "checkpoints", "last.ckpt")
            new = last.with_name(".last.ckpt.part")
            trainer.save_checkpoint(new)  # ends when all processes have come there
            if trainer.is_global_zero:
                new.replace(last)  # so that a run killed at any time leaves a whole one
