"""What every model of the zoo is: named loss terms for training, a `Scene` for everything else."""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from datamodules.batch import Batch
from datamodules.images import Fit
from zoo.layers.image_noise import ImageNoise
from zoo.layers.noise import mixed_seed, seeded
from zoo.layers.precision import HALVES, unpacked
from zoo.layers.schedules import Schedule, check_schedule, schedule_value
from zoo.loaders import LoaderMetrics, as_batch, stage_loader_names
from zoo.scene import Scene
from zoo.sharing.former import FORMAT_VERSION, upgrade_state

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.prediction import Prediction

_LOOK_EVERY = 50  # steps between two looks at a GPU's loss where nothing is logged
_STATES = ("state_dict", "current_model_state")  # of a checkpoint; the second where weights are averaged


_Method = TypeVar("_Method", bound=Callable[..., Any])


class RefusedError(ValueError):
    """Something that a model cannot do, as it was asked to; the message names the fix."""


def in_working_precision(method: _Method) -> _Method:
    """Give a model's method tensors of the precision that it computes in (see `ObjectModel.working_dtype`)."""

    @functools.wraps(method)
    def run(self: "ObjectModel", *args: Any, **kwargs: Any) -> Any:
        dtype = self.working_dtype

        def fit(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        with unpacked(self) if self._in_halves() else nullcontext():
            return method(self, *map(fit, args), **{name: fit(value) for name, value in kwargs.items()})

    return run  # type: ignore[return-value]


def _signature(kind: type) -> inspect.Signature:
    """Of a constructor, with the parameters of the model above it in place of `**paper`, which goes there."""
    own = [*inspect.signature(vars(kind)["__init__"]).parameters.values()][1:]
    above = getattr(super(kind, kind), "__signature__", None)
    if above is not None and own and own[-1].kind == inspect.Parameter.VAR_KEYWORD:
        names = {parameter.name for parameter in own}
        own = [*own[:-1], *(parameter for name, parameter in above.parameters.items() if name not in names)]
    return inspect.Signature(own)


class ObjectModel(LightningModule):
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
        step: () int64, optimiser steps behind the weights; read `steps_trained`, for which no GPU is waited.
    """

    schedules: tuple[str, ...] = ("lr",)
    elbo_terms: tuple[str, ...] = ()
    training_terms: tuple[str, ...] = ()
    adam: dict[str, Any] = {}
    step: Tensor
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
        self.register_buffer("step", torch.tensor(0))
        self._steps = 0  # what `step` holds
        self._counted: int | None = None  # the trainer's steps, as far as they are in `step`
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

    def predict(
        self,
        images: Any,
        *,
        batch_size: int = 32,
        image_size: int | Sequence[int] | None = None,
        fit: Fit = "stretch",
        progress: bool = False,
    ) -> "Prediction":
        """See the objects in images of any origin.

        Args:
            images: A file or a folder of files; a Pillow image; a tensor (C, H, W) or (B, C, H, W); an array (H, W),
                (H, W, C) or (B, H, W, C); or a list of any of these. Whole numbers are from 0 to 255, others from 0 to
                1. Grey images are repeated for a model of 3 channels, colours become their luma for one of 1.
            batch_size: Images that are looked at at once.
            image_size: Side in pixels, or [height, width], that images are resized to; null: what the model reads if
                that is one size, else images stay as they are.
            fit: How they are resized: `stretch` ignores proportions, `pad` keeps them, with black at two sides.
            progress: Show a bar.

        Returns:
            A `Scene` of all images, in their order, on the CPU, with `image` as the model saw it. Its `objects()` are
            plain Python, in the pixels of the images as they were given.

        Raises:
            ImageError: Something is no image, a file is damaged, or sizes differ where none is asked for.
            ValueError: The model does not take images of that size.
        """
        from zoo.prediction import predict

        return predict(self, images, batch_size=batch_size, image_size=image_size, fit=fit, progress=progress)

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

    # precision

    @property
    def working_dtype(self) -> torch.dtype:
        """What is computed in: the weights' precision, but no less than single, as places need more than eight bits.

        Weights that are kept in less see and draw as if they were single. Autocast may still give layers less.
        """
        weights = next(self.parameters(), self.step)
        return torch.float64 if weights.dtype == torch.float64 else torch.float32

    def _in_halves(self) -> bool:
        return any(weights.dtype in HALVES for weights in self.parameters())

    def configure_callbacks(self) -> list[Callback]:
        """None of its own; the first hook of all, where what cannot be is refused before data are made."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, HalfPrecision):
            raise RefusedError(
                f"precision={plugin.precision} rounds boxes, pixels and the optimiser's steps to halves, in which "
                f"{type(self).__name__} neither learns nor can be measured: use bf16-mixed, or 32-true"
            )
        if self._in_halves():
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
        self._evaluate(batch, batch_idx, f"val{dataloader_idx}")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in validation."""
        self._evaluate(batch, batch_idx, f"test{dataloader_idx}")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """The fields of each image's scene that this model has (Lightning cannot handle frozen dataclasses)."""
        return {name: value for name, value in vars(self.see(as_batch(batch))).items() if value is not None}

    def _evaluate(self, batch: Batch, batch_idx: int, loader: str) -> None:
        if loader not in self.evaluated:
            self.evaluated[loader] = LoaderMetrics().to(self.device)
        batch = as_batch(batch)
        metrics, image = self.evaluated[loader], batch["image"]
        assert isinstance(metrics, LoaderMetrics)
        if batch_idx == 0:  # whatever broke off before
            metrics.reset()
        # samplers of several processes deal out images one by one
        index = metrics.images + torch.arange(len(image))
        own = ImageNoise(index * self.trainer.world_size + self.global_rank)
        # the same in every validation; what an image has none of its own of, depends on the batch
        with seeded(mixed_seed(self.global_rank, step=batch_idx), self.device), own:
            terms = self.losses(batch)
        sums = {"loss": self._total(terms)}
        if self.elbo_terms:
            sums["negative_elbo"] = torch.stack([terms[name] for name in self.elbo_terms if name in terms]).sum()
        scene = self.see(batch)
        if batch_idx == 0:
            scene.check(image)
        data = getattr(self.trainer, "datamodule", None)
        with torch.autocast(self.device.type, enabled=False):  # counts of pixels need more than eight bits
            metrics.update({**terms, **sums}, scene, batch, getattr(data, "num_classes", None))

    def _end_epoch(self, stage: str) -> None:
        names = [] if self.trainer.barebones else stage_loader_names(self.trainer, stage)
        for i, name in enumerate(names):
            metrics = dict(self.evaluated.items()).get(f"{stage}{i}")
            if not isinstance(metrics, LoaderMetrics) or not metrics.images:
                continue
            for metric, value in metrics.compute().items():
                # of several loaders the first has plain names too, which monitors and tables look for
                for full in ([metric] if i == 0 else []) + ([f"{metric}/{name}"] if name else []):
                    bar = stage == "val" and full in ("ap50", "count_accuracy")
                    # the largest of equal values: all processes have the same, and Lightning is to know
                    options: dict[str, Any] = {"sync_dist": True, "reduce_fx": "max", "add_dataloader_idx": False}
                    self.log(f"{stage}/{full}", value.to(self.device), prog_bar=bar, **options)
            metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set."""
        self._end_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test set."""
        self._end_epoch("test")

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
        if image.dtype != self.working_dtype or self._in_halves():
            raise ValueError(
                f"{name} computes in {self.working_dtype}, got {image.dtype} images and "
                f"{next(self.parameters()).dtype} weights: convert both, as by model.float() and image.float()"
            )
        looks = image.device.type == "cpu" and not torch.compiler.is_compiling()  # nor does an exported program
        if looks and not (image.numel() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"{name} expects pixels in [0, 1], got {_range(image)}; divide 8-bit images by 255")

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        weights_license: str = "apache-2.0",
        **facts: Any,
    ) -> "Path":
        """Write model.safetensors, config.json and a model card, from which `zoo.load(folder)` rebuilds the model.

        Args:
            folder: Made if need be.
            name: Of the checkpoint, for the card; null: the folder's.
            weights_license: Of the weights, as the Hugging Face hub abbreviates it.
            **facts: What else record and card should say, as JSON: `metrics`, a dict of numbers; `training`, a dict.
                What a loaded checkpoint says of itself is kept.

        Returns:
            The folder.
        """
        from zoo.hub import save_pretrained

        return save_pretrained(self, folder, name=name, weights_license=weights_license, **facts)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        message: str | None = None,
        weights_license: str = "apache-2.0",
        **facts: Any,
    ) -> str:
        """Upload to the Hugging Face hub what `zoo.load(repo_id)` reads, with a model card.

        Args:
            repo_id: As in `user/name`; made if need be.
            private: Whether a new repository is.
            token: Of the account; null: who is logged in (`hf auth login`).
            revision: Branch, made if need be; null: the main one.
            message: Of the commit.
            weights_license: As for `save_pretrained`.
            **facts: As for `save_pretrained`.

        Returns:
            Where it is.
        """
        from zoo.hub import push_to_hub

        options: dict[str, Any] = {"private": private, "token": token, "revision": revision, "message": message}
        return push_to_hub(self, repo_id, weights_license=weights_license, **options, **facts)

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
        self._counted, self.facts = None, {}
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
            checkpoint["state_dict"] = upgrade_state(str(record.get("class")), checkpoint["state_dict"])
        checkpoint["state_dict"].setdefault("step", torch.tensor(step))  # of before it was there


class ScheduledLR(LambdaLR):
    """Learning rates as a model's schedules have them at its own step, for each group by its `lr_name`."""

    def __init__(self, optimizer: torch.optim.Optimizer, model: ObjectModel) -> None:
        for group in optimizer.param_groups:
            group["initial_lr"] = 1.0  # the factor is the rate
        names = [group.get("lr_name", "lr") for group in optimizer.param_groups]
        super().__init__(optimizer, [lambda _, name=name: model.scheduled(name) for name in names])  # type: ignore[misc]

    def renew(self) -> None:
        """Set the rates of now, where a run goes on with others than its checkpoint had."""
        for group, rate in zip(self.optimizer.param_groups, self.lr_lambdas, strict=True):
            group["lr"] = rate(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _moves(schedule: Schedule) -> bool:
    return not isinstance(schedule, int | float)


def _range(image: Tensor) -> str:
    return f"{image.min().item():.4g} to {image.max().item():.4g}" if image.numel() else "no pixels"
