"""One line that says how far a run is."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from tqdm import tqdm  # type: ignore[import-untyped]


class StepProgress(ProgressBar):
    """Steps of all that there will be, their rate, the time left, the loss, and what checkpoints are chosen by.

    On a terminal one line that changes; elsewhere, such as in a log file, a line for each validation. Values are read
    from the device only when the line is drawn, at most twice a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Any = None
        self._validated = ""
        self._stage = ""

    def disable(self) -> None:
        """Draw nothing, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the line."""
        tqdm.write(" ".join(map(str, args)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the steps that were trained before, if the run goes on."""
        total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        self._begin("training", "step", total, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Draw, if it is time to."""
        bar = self._bar
        if bar is not None and bar.update(trainer.global_step - bar.n):
            bar.set_postfix_str(self._said(trainer), refresh=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that this is no step; a validation that stands alone has a line of its own."""
        if trainer.state.fn == TrainerFn.FITTING:
            if self._bar is not None and not trainer.sanity_checking:
                self._bar.set_postfix_str("validating", refresh=True)
        else:
            self._begin("validating", "batch", sum(trainer.num_val_batches), 0)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Count the batches of a validation that stands alone."""
        if self._stage == "validating" and self._bar is not None:
            self._bar.update()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the monitored metric; where the line cannot change, write one."""
        if trainer.sanity_checking:
            return
        if self._stage == "validating":
            self._end()
            return
        best = trainer.checkpoint_callback
        monitor = best.monitor if isinstance(best, ModelCheckpoint) else None
        value = trainer.callback_metrics.get(monitor or "")
        self._validated = "" if value is None else f"{monitor} {float(value):.4g}"
        if self._bar is not None:
            self._bar.set_postfix_str(self._said(trainer), refresh=True)
        elif self._enabled:
            total = self._total(trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches)
            of = f" of {total}" if total is not None else ""
            print(f"step {trainer.global_step}{of}: {self._said(trainer)}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the line as it is at the end."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line, so that what is said next has its own."""
        self._end()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._begin("testing", "batch", sum(trainer.num_test_batches), 0)

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Count."""
        if self._bar is not None:
            self._bar.update()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self._end()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._begin("predicting", "batch", sum(trainer.num_predict_batches), 0)

    def on_predict_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Count."""
        if self._bar is not None:
            self._bar.update()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self._end()

    def _begin(self, stage: str, unit: str, total: float, done: int) -> None:
        self._end()
        self._stage = stage
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total(total), initial=done, desc=stage, unit=unit, dynamic_ncols=True, mininterval=0.5
            )

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, ""

    @staticmethod
    def _total(steps: float) -> int | None:
        """A number of steps; null: nobody knows, as in a run that is limited by time."""
        return int(steps) if 0 <= steps < float("inf") else None

    def _said(self, trainer: Trainer) -> str:
        loss = trainer.callback_metrics.get("train/loss")
        return ", ".join(filter(None, ["" if loss is None else f"loss {float(loss):.4g}", self._validated]))
