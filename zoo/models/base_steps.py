"""Where a model stands in its training: a count of its own, which follows the trainer that fits it."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from datamodules.batch import Batch


class CountsSteps(LightningModule):
    """The part of an `ObjectModel` that counts optimiser steps.

    A trainer that fits the model counts; who optimises it otherwise, in a loop or a module of their own, calls
    `advance`. The count goes with the model's state, to whoever loads it.

    Attributes:
        step: () int64, optimiser steps behind the weights; read `steps_trained`, for which no GPU is waited.
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.tensor(0))
        self._steps = 0  # what `step` holds
        self._counted: int | None = None  # the trainer's steps, as far as they are in `step`

    @property
    def steps_trained(self) -> int:
        """Optimiser steps behind the weights: schedules of a trained model stand where its training ended."""
        return self._steps

    @steps_trained.setter
    def steps_trained(self, steps: int) -> None:
        self._steps = steps
        self.step.fill_(steps)

    def advance(self, steps: int = 1) -> None:
        """Count optimiser steps. For whoever optimises the model without fitting it by a trainer of its own."""
        self.steps_trained = self._steps + steps

    def _follow_trainer(self) -> None:
        """Count the steps that the trainer which fits this model has taken since it was last looked at."""
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            taken = self._trainer.global_step
            if self._counted is not None and taken > self._counted:
                self.advance(taken - self._counted)
            self._counted = taken

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        """Know the step that is loaded; weights kept before there was one leave it as it is."""
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *rest)
        if prefix + "step" in state_dict:
            self._steps = int(self.step)
        elif prefix + "step" in missing:
            missing.remove(prefix + "step")

    def on_fit_start(self) -> None:
        """Count from here on."""
        self._counted = None

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step, once the step that it is for is counted."""
        self._follow_trainer()
        super().lr_scheduler_step(scheduler, metric)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the step."""
        self._follow_trainer()

    def on_train_end(self) -> None:
        """Count the last step; what the trainer does from here on is no training."""
        self._follow_trainer()
        self.steps_trained, self._counted = self._steps, None  # averaging of weights may have averaged the buffer
