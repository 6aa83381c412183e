"""What every model of the zoo is: named loss terms for training, a `Scene` for everything else."""

import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.layers.noise import mixed_seed, seeded
from zoo.layers.precision import in_halves, working_dtype
from zoo.layers.precision import in_working_precision as in_working_precision
from zoo.layers.schedules import Schedule, check_schedule, schedule_value
from zoo.loaders import as_batch
from zoo.models.base_measures import log_measures, measure
from zoo.models.base_rates import ScheduledLR
from zoo.models.base_steps import CountsSteps
from zoo.models.base_use import Usable
from zoo.scene import Scene
from zoo.sharing.former import FORMAT_VERSION, upgrade_state

_LOOK_EVERY = 50  # steps between two looks at a GPU's loss where nothing is logged
_STATES = ("state_dict", "current_model_state")  # of a checkpoint; the second where weights are averaged


class RefusedError(ValueError):
    """Something that a model cannot do, as it was asked to; the message names the fix."""


def _signature(kind: type) -> inspect.Signature:
    """Of a constructor, with the parameters of the model above it in place of `**paper`, which goes there."""
    own = [*inspect.signature(vars(kind)["__init__"]).parameters.values()][1:]
    above = getattr(super(kind, kind), "__signature__", None)
    if above is not None and own and own[-1].kind == inspect.Parameter.VAR_KEYWORD:
        names = {parameter.name for parameter in own}
        own = [*own[:-1], *(parameter for name, parameter in above.parameters.items() if name not in names)]
    return inspect.Signature(own)


class ObjectModel(Usable, CountsSteps):
    """A model of the zoo: owns the steps, the optimiser, and the logging of loss terms and schedules.

    A subclass takes flat hyperparameters by keyword, calls `self.save_hyperparameters()`, and defines the methods
    below. A subclass of that one takes its own hyperparameters and `**paper`, all others, which it hands to the
    constructor above: what is saved there and the signature have them all.

    - `losses(batch)`: named terms, scalars in nats per image, whose sum, weighted by `self.term_weights`, is minimised;
    - `forward(image)`: a deterministic `Scene`;
    - `generate(...)`: a `Scene` drawn from the prior, where the paper has one.

    Hyperparameters named in `schedules` may be numbers or [start, end, steps, shape]; read them by `self.scheduled`.

    Where a model stands in its training is its own: `steps_trained`, the buffer `step` of its state. A trainer that
    fits it counts there; who optimises it otherwise, in a loop or a module of their own, calls `advance`.

    Attributes:
        elbo_terms: Names of the loss terms whose plain sum is the negative evidence lower bound, where a model has one.
            It is logged as `negative_elbo`, whatever the terms' weights, and without the terms that only training has.
        training_terms: Names of the loss terms beside these.
        term_weights: Name of a loss term to its weight; terms that are not named have weight 1.
        schedules: Names of the hyperparameters that follow a schedule.
        adam: Further arguments of the optimiser.
    """

    schedules: tuple[str, ...] = ("lr",)
    elbo_terms: tuple[str, ...] = ()
    training_terms: tuple[str, ...] = ()
    adam: dict[str, Any] = {}
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have `forward` and `generate` take any precision, and the signature name all hyperparameters."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__signature__ = _signature(cls)
        for name in ("forward", "generate"):
            if name in vars(cls):
                setattr(cls, name, in_working_precision(vars(cls)[name]))

    def __init__(self) -> None:
        super().__init__()
        self.term_weights: dict[str, Schedule] = {}
        self.evaluated = nn.ModuleDict()  # stage and number of a loader to what is measured on it
        self.data_record: dict[str, Any] | None = None
        self._noise_seed: int | None = None  # of the training
        self.facts: dict[str, Any] = {}  # what its checkpoint says of training and results

    # what a paper defines

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms, each a scalar in nats per image."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Scene:
        """See the objects in (B, C, H, W) images with values in [0, 1]."""
        raise NotImplementedError

    def see(self, batch: Batch) -> Scene:
        """The scene of a batch: of its images alone, unless a paper tells its model more."""
        return self(batch["image"])

    # hyperparameters

    @classmethod
    def image_limits(cls, init_args: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Values that `channels` and `image_size` are limited to beyond what data may have, where they are."""
        return {}

    @property
    def hp(self) -> Any:
        """The hyperparameters, read by attribute."""
        return self.hparams

    def check_schedules(self, **bounds: tuple[float, float]) -> None:
        """Raise ValueError if a scheduled hyperparameter or weight is malformed; called by subclasses' constructors.

        Args:
            **bounds: Smallest and largest value of hyperparameters that have bounds.
        """
        for name in self.schedules:
            check_schedule(name, self.hparams[name], bounds.get(name))
        for name, weight in self.term_weights.items():
            check_schedule(f"the weight of {name}", weight)

    def weigh_terms(self, given: Mapping[str, Schedule] | None, **standard: Schedule) -> None:
        """Set the weights of loss terms; called by subclasses' constructors.

        Args:
            given: The hyperparameter `term_weights`: weights that are not the standard ones, by their terms' names.
            **standard: The paper's, where they are not 1.

        Raises:
            ValueError: There is no such term.
        """
        known = (*self.elbo_terms, *self.training_terms)
        if unknown := [name for name in given or {} if name not in known]:
            raise ValueError(f"term_weights has {unknown[0]!r}; the loss terms are {list(known)}")
        self.term_weights = {**standard, **(given or {})}

    @staticmethod
    def start_biases(given: Mapping[str, float] | None, places: Mapping[str, Tensor]) -> None:
        """Set initial biases; called by subclasses' constructors.

        Args:
            given: The hyperparameter `initial_biases`: values by the names of `places`.
            places: Views of the parameters that they go into.

        Raises:
            ValueError: There is no such bias.
        """
        for name, value in (given or {}).items():
            if name not in places:
                raise ValueError(f"initial_biases has {name!r}; what can start at a value is {list(places)}")
            with torch.no_grad():
                places[name].fill_(value)

    def scheduled(self, name: str) -> float:
        """Value of a scheduled hyperparameter at the current step."""
        return schedule_value(self.hparams[name], self.steps_trained)

    # precision

    @property
    def working_dtype(self) -> torch.dtype:
        """What is computed in: the weights' precision, but no less than single, as places need more than eight bits.

        Weights that are kept in less see and draw as if they were single. Autocast may still give layers less.
        """
        return working_dtype(self)

    def configure_callbacks(self) -> list[Callback]:
        """None of its own; the first hook of all, where what cannot be is refused before data are made."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, HalfPrecision):
            raise RefusedError(
                f"precision={plugin.precision} rounds boxes, pixels and the optimiser's steps to halves, in which "
                f"{type(self).__name__} neither learns nor can be measured: use bf16-mixed, or 32-true"
            )
        if in_halves(self):
            raise RefusedError(
                f"a trainer needs {type(self).__name__}'s weights in single precision: call model.float(); "
                "precision=bf16-mixed computes in halves where that does no harm"
            )
        return []

    # steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted sum of the loss terms."""
        self._follow_trainer()
        with self._own_noise(batch_idx):
            terms = self.losses(batch)
        loss = self._total(terms)
        if self._shares_gradients():
            loss = loss + sum(0 * p.flatten()[0] for p in self.resting_parameters())
        every = getattr(self._trainer, "log_every_n_steps", 1)  # 0: never
        looks = self.global_step % (every or _LOOK_EVERY) == 0
        if looks or self.device.type == "cpu":  # a GPU is only asked when it has to answer anyway
            self._check_finite(terms)
        if looks and every:
            self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, sync_dist=True)
            self.log_dict({f"schedule/{name}": value for name, value in self._moving().items()})
            self.log("train/loss", loss.detach(), sync_dist=True)
            self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss terms, and every metric that the batch's and the scene's fields allow."""
        measure(self, batch, batch_idx, f"val{dataloader_idx}")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in validation."""
        measure(self, batch, batch_idx, f"test{dataloader_idx}")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """The fields of each image's scene that this model has (Lightning cannot handle frozen dataclasses)."""
        return {name: value for name, value in vars(self.see(as_batch(batch))).items() if value is not None}

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set."""
        log_measures(self, "val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test set."""
        log_measures(self, "test")

    def _own_noise(self, batch_idx: int) -> AbstractContextManager[None]:
        """Noise as a function of the training's seed, the model's step, the process and the batch among the step's.

        So a resumed run draws what the uninterrupted one did, and nobody else's random numbers are touched.
        """
        seed = torch.initial_seed() if self._noise_seed is None else self._noise_seed
        part = batch_idx % int(getattr(self._trainer, "accumulate_grad_batches", 1))  # of the batches of a step
        return seeded(mixed_seed(seed, self.global_rank, part, step=self.steps_trained), self.device)

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        weights = {name: schedule_value(self.term_weights.get(name, 1.0), self.steps_trained) for name in terms}
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()

    def _moving(self) -> dict[str, float]:
        """Values of now of what follows a schedule: hyperparameters by name, weights by their term's."""
        moving = {name: self.scheduled(name) for name in self.schedules if _moves(self.hparams[name])}
        weights = {name: weight for name, weight in self.term_weights.items() if _moves(weight)}
        return {**moving, **{f"{name}_weight": schedule_value(w, self.steps_trained) for name, w in weights.items()}}

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"the loss term {name!r} is {value.item()} at step {self.global_step}: lower lr or max_grad_norm, "
                    "or look at the inputs; the last checkpoint before it is in the run folder"
                )

    def check_image(self, image: Tensor) -> None:
        """Refuse what is no batch of images for this model; models call it where images come in.

        Args:
            image: (B, C, H, W) float in [0, 1], C this model's `channels`. Values are looked at on a CPU only.

        Raises:
            ValueError: Number of dimensions, channels, type or range are off; the message names the fix.
        """
        name, channels = type(self).__name__, self.hp.channels
        if image.ndim != 4 or image.shape[1] != channels or not image.is_floating_point():
            raise ValueError(
                f"{name} expects float images of shape (B, {channels}, H, W), got {image.dtype} of shape "
                f"{tuple(image.shape)}; set model.init_args.channels and data.init_args.channels alike"
            )
        if image.dtype != self.working_dtype or in_halves(self):
            raise ValueError(
                f"{name} computes in {self.working_dtype}, got {image.dtype} images and "
                f"{next(self.parameters()).dtype} weights: convert both, as by model.float() and image.float()"
            )
        looks = image.device.type == "cpu" and not torch.compiler.is_compiling()  # nor does an exported program
        if looks and not (image.numel() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"{name} expects pixels in [0, 1], got {_range(image)}; divide 8-bit images by 255")

    # optimisation

    def parameter_groups(self) -> Any:
        """What is optimised: parameters, or groups of them as Adam takes them, some with an `lr_name` of their own."""
        return self.parameters()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam. A group of parameters follows the hyperparameter that its `lr_name` names, `lr` by default.

        Fused, unless precision is mixed: fused steps unscale gradients themselves, too late for clipping.
        """
        mixed = self._trainer is not None and isinstance(self._trainer.precision_plugin, MixedPrecision)
        return self.follow_schedules(torch.optim.Adam(self.parameter_groups(), **self.adam, fused=not mixed))

    def follow_schedules(self, optimizer: torch.optim.Optimizer) -> OptimizerLRScheduler:
        """What `configure_optimizers` returns for an optimiser whose learning rates are the model's schedules."""
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ScheduledLR(optimizer, self), "interval": "step"}}

    def on_train_start(self) -> None:
        """Take the user's seed for the noise, unless a run goes on, and learning rates as they are wished for now."""
        if self._noise_seed is None or self.trainer.ckpt_path is None:
            self._noise_seed = self.trainer.strategy.broadcast(torch.initial_seed())
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ScheduledLR):
                config.scheduler.renew()

    def resting_parameters(self) -> Iterable[nn.Parameter]:
        """Those that the losses of this step do not depend on, such as of a part that is held fast for some steps.

        DDP waits for a gradient of every parameter. These get one of zeros, which is gone again before the optimiser's
        step: as in a single process they have none, which Adam does not count as a step.
        """
        return ()

    def on_after_backward(self) -> None:
        """Take away the gradients that were for DDP alone."""
        if self._shares_gradients():
            for parameter in self.resting_parameters():
                parameter.grad = None

    def _shares_gradients(self) -> bool:
        return self._trainer is not None and isinstance(self._trainer.strategy, DDPStrategy)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm to `max_grad_norm`, unless the trainer was given a value of its own."""
        limit = self.hparams["max_grad_norm"] if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm or "norm")

    # checkpoints

    def on_fit_start(self) -> None:
        """Remember what the model is trained on, for its checkpoints."""
        super().on_fit_start()
        self.facts = {}
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.data_record = {
                "class": type(data).__name__,
                "name": getattr(data, "name", type(data).__name__),
                "init_args": {k: v for k, v in data.hparams.items() if not k.startswith("_")},
            }

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of its model and data, as JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "init_args": {k: v for k, v in self.hparams.items() if not k.startswith("_")},
            "data": self.data_record,
            "step": self.steps_trained,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the record, from which `zoo.load` and the command line rebuild model and data, and the noise's seed."""
        self._follow_trainer()
        checkpoint["zoo"] = self.record()
        checkpoint["noise_seed"] = self._noise_seed
        for name in _STATES:  # which may have been taken before the last step was counted, or be an average
            if "step" in checkpoint.get(name, {}):
                checkpoint[name]["step"] = torch.tensor(self.steps_trained)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the checkpoint's model was trained on, for how long, and from which seed."""
        record = checkpoint.get("zoo") or {}
        self.data_record = record.get("data")
        self._noise_seed = checkpoint.get("noise_seed")
        step = record.get("step", checkpoint["global_step"])
        if record.get("format_version", FORMAT_VERSION) < FORMAT_VERSION:
            checkpoint["state_dict"] = upgrade_state(record, checkpoint["state_dict"])
        checkpoint["state_dict"].setdefault("step", torch.tensor(step))  # of before it was there


def _moves(schedule: Schedule) -> bool:
    return not isinstance(schedule, int | float)


def _range(image: Tensor) -> str:
    return f"{image.min().item():.4g} to {image.max().item():.4g}" if image.numel() else "no pixels"
