"""The checkpoints of a run: its last and its best, also where it was resumed; and the validation that ends it."""

import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

_BEFORE = "before.ckpt"  # the one that `last.ckpt` replaced, until it is known to be sound
_OF_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", "loops", "best")  # what weights alone do not need


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their target, then renames them: a run that is killed at any time leaves whole ones.

    (Lightning writes them to the temporary folder, from where, on another disk, they are copied.)
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to `path`, a file on this machine; anything else as Lightning does it."""
        if "://" in str(path):
            super().save_checkpoint(dict(checkpoint), path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a whole checkpoint or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(dict(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class LastValidation(Callback):
    """Validates at the end of training, too, where it ends between two validations or before the first."""

    def __init__(self) -> None:
        self._every: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember how often is validated."""
        self._every = trainer.check_val_every_n_epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """At the last step ask for an end of training, which Lightning validates at."""
        if _ends(trainer):
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = None  # in whatever epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was."""
        trainer.check_val_every_n_epoch = self._every


class BestCheckpoint(ModelCheckpoint):
    """Lightning's callback, for runs that are resumed: their best checkpoint is that of all their parts.

    A run goes on in a folder of its own. The best checkpoint so far is copied there and stays until there is a better
    one. If its file is gone, damaged or no longer the one that was the best (a run may be killed after it is written,
    and before `last.ckpt` is), it is made anew from what `last.ckpt` remembers: then with its weights alone.

    Attributes:
        best_step: The trainer's step at which the best checkpoint was saved; None if there is none.
    """

    best_step: int | None = None

    @property
    def state_key(self) -> str:
        """As Lightning's own has it, so that checkpoints of either are the other's."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def state_dict(self) -> dict[str, Any]:
        """Which is the best so far."""
        return {**super().state_dict(), "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state_dict)
        self.best_step = state_dict.get("best_step")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Bring the best checkpoint of the run that goes on into this one's folder."""
        states = checkpoint.get("callbacks", {})
        state = states.get(self.state_key)
        if state is None or not state["best_model_path"]:
            if any(key.startswith(ModelCheckpoint.__qualname__) for key in states) and state is None:
                rank_zero_warn(f"the best checkpoint was chosen otherwise before: by {self.monitor} from here on")
            return
        came: dict[str, str] = {}  # old path to new one
        if trainer.is_global_zero:
            came = self._bring(state, Path(str(trainer.ckpt_path)).parent, checkpoint)
        came = trainer.strategy.broadcast(came)
        states[self.state_key] = self._moved(state, came)
        if state["best_model_path"] not in came:
            rank_zero_warn("the best checkpoint so far is gone: the best from here on is kept")

    def _bring(self, state: Mapping[str, Any], folder: Path, checkpoint: dict[str, Any]) -> dict[str, str]:
        came = {}
        best = state["best_model_path"]
        step = state.get("best_step")
        for old in {**state["best_k_models"], best: None}:
            file, target = folder / Path(old).name, Path(str(self.dirpath), Path(old).name)
            content = _read(file)
            if old == best and (content is None or step not in (None, content["global_step"])):
                content = _remembered(checkpoint)
            if content is not None:
                if target != file:
                    write_checkpoint(content, target)
                came[old] = str(target)
        return came

    def _moved(self, state: dict[str, Any], came: Mapping[str, str]) -> dict[str, Any]:
        """The state, with the checkpoints that are there."""
        models = {came[old]: score for old, score in state["best_k_models"].items() if old in came}
        full = 0 < self.save_top_k == len(models)
        worst = (max if self.mode == "min" else min)(models, key=models.__getitem__) if full else ""
        there = state["best_model_path"] in came
        return {
            **state,
            "dirpath": self.dirpath,
            "best_model_path": came.get(state["best_model_path"], ""),
            "best_model_score": state["best_model_score"] if there else None,
            "best_step": state.get("best_step") if there else None,
            "best_k_models": models,
            "kth_best_model_path": worst,
            "kth_value": models.get(worst, self.kth_value),
        }

    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        """Not where there is a validation: `last.ckpt`, saved when that ends, has to know what was the best."""
        batches = trainer.num_val_batches
        validates = trainer.enable_validation and sum(batches if isinstance(batches, list) else [batches]) > 0
        if self._save_on_train_epoch_end is None and validates:
            return False
        return super()._should_save_on_train_epoch_end(trainer)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if filepath == self.best_model_path:
            self.best_step = trainer.global_step
        super()._save_checkpoint(trainer, filepath)


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` up to date: after every validation, and at the last step of training.

    Lightning's `save_last` renews its file only when a better checkpoint is found. This one holds the weights of the
    best checkpoint so far, too, so that a run can go on from it alone. Where gradients are accumulated it waits for the
    end of their window: a checkpoint does not hold them. A broken model does not replace the last good one.
    """

    def __init__(self) -> None:
        self._saving = False
        self._waits = False  # for the end of a window of accumulated gradients

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the model is broken.

        Raises:
            FloatingPointError: Weights or the validation's loss are no numbers any more; `last.ckpt` stays as it was.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.log_dir is None:
            return
        last = Path(trainer.log_dir, "checkpoints", "last.ckpt")
        before = last.with_name(_BEFORE)
        broken = _broken(trainer, pl_module)
        if broken and trainer.is_global_zero and before.is_file():
            before.replace(last)
        if broken:
            there = (
                f"{last}, of before, is whole: --ckpt_path {last}" if last.is_file() else "there is no checkpoint yet"
            )
            raise FloatingPointError(
                f"{broken} at step {trainer.global_step}: lower lr or max_grad_norm, or look at the inputs; {there}"
            )
        self._save(trainer)
        if trainer.is_global_zero:
            before.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save at the last step; after the epoch's end a run that is prolonged would skip the rest of the epoch."""
        if self._waits or _ends(trainer) or trainer.should_stop:
            self._save(trainer, keep=True)  # what was there, until a validation has shown that these weights are sound

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where a SIGTERM, such as of a cluster that takes back a node, ends training between two batches."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            self._save(trainer, keep=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the best weights so far, unless they are these."""
        best = best_checkpoint(trainer)
        if not self._saving or not trainer.is_global_zero or best is None or best.best_step is None:
            return
        if best.best_step == trainer.global_step:
            checkpoint["best"] = {"step": best.best_step}
        elif (content := _read(Path(best.best_model_path))) is not None:
            checkpoint["best"] = {"step": best.best_step, "state_dict": content["state_dict"]}

    def _save(self, trainer: Trainer, keep: bool = False) -> None:
        log_dir = trainer.log_dir  # asks the other processes, so all of them have to come here
        training = trainer.state.fn == "fit" and not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", 0)
        self._waits = training and trainer.fit_loop._should_accumulate() and not _ends(trainer)
        if training and log_dir is not None and not self._waits:
            last = Path(log_dir, "checkpoints", "last.ckpt")
            new = last.with_name(".last.ckpt.part")
            self._saving = True
            try:
                trainer.save_checkpoint(new)  # ends when all processes have come there
            finally:
                self._saving = False
            if trainer.is_global_zero:
                if keep and last.is_file():
                    _link(last, last.with_name(_BEFORE))
                new.replace(last)  # whole, whatever writes checkpoints


def _link(file: Path, other: Path) -> None:
    """Give a file another name, too."""
    other.unlink(missing_ok=True)
    try:
        os.link(file, other)
    except OSError:  # not on every file system
        shutil.copyfile(file, other)


def _broken(trainer: Trainer, pl_module: LightningModule) -> str:
    """What is wrong with a model that no run can go on from; empty for one that is sound."""
    loss = trainer.callback_metrics.get("val/loss")
    if loss is not None and not loss.isfinite():
        return f"the validation's loss is {loss.item()}"
    names = [name for name, value in pl_module.named_parameters() if not value.isfinite().all()]
    return f"weights are no numbers any more ({names[0]} and {len(names) - 1} more)" if names else ""


def best_checkpoint(trainer: Trainer) -> BestCheckpoint | None:
    """The callback that keeps a trainer's best checkpoint."""
    return next((each for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)), None)


def _ends(trainer: Trainer) -> bool:
    """Whether the batch is the last one of training."""
    epochs = trainer.max_epochs
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return 0 < trainer.max_steps <= trainer.global_step or (last_epoch and trainer.is_last_batch)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a checkpoint, its tensors left on disk until they are needed; None if it is missing or damaged."""
    if not path.is_file():  # missing, or the folder that a sharded one is
        return None
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError):
        return None
    return content if isinstance(content, dict) and {"state_dict", "global_step"} <= content.keys() else None


def _remembered(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """The best checkpoint as far as the last one holds it."""
    best = checkpoint.get("best")
    if best is None:
        return None
    if "state_dict" not in best:  # it is the best
        return {key: value for key, value in checkpoint.items() if key != "best"}
    weights = {key: value for key, value in checkpoint.items() if key not in _OF_TRAINING}
    record = {"zoo": {**checkpoint["zoo"], "step": best["step"]}} if "zoo" in checkpoint else {}
    return {**weights, **record, "state_dict": best["state_dict"], "global_step": best["step"]}
