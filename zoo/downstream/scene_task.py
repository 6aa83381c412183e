"""SceneTask: a question about a scene, answered from its objects (Crawford and Pineau, AAAI 2019, section 5.3).

The second stage of the paper's experiments: the objects of a trained model, its weights held fast (`fixed`) or its
object encoder learning on (`unfixed`: `unfreeze: [encoder]`), are read by an LSTM, which learns `target`. In the first
stage any model of the zoo is trained as ever. Instead of a trained model a baseline may find the objects, which then
learns with the head. Widths and order are those of the paper's program, as the paper does not say them.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.base import SceneDataModule, SceneDataset
from datamodules.batch import Batch
from zoo import registry
from zoo.baselines.encoders import BASELINES, ConnCompEncoder
from zoo.downstream.heads import make_head
from zoo.features import first_objects, pick
from zoo.layers.schedules import Schedule
from zoo.loaders import as_batch
from zoo.models.base import ObjectModel
from zoo.scene import Scene
from zoo.sharing import weights

if TYPE_CHECKING:
    from zoo.features import Order

_FOUND = ("what", "presence", "boxes")  # what is kept of scenes that are seen but once
_LOOK_AT = 256  # images that are looked at at once for that


class SceneTask(ObjectModel):
    """A head that learns a task's answers from the objects that a model finds.

    `cross_entropy`, in nats, is what is minimised; `accuracy` stands beside it with weight 0, so that it is measured
    wherever losses are.

    Args:
        objects: What finds the objects: a trained checkpoint, as for `zoo.load`; or `ConvNet`, `TrueBB` or `ConnComp`
            (see `zoo.baselines.encoders`), which learn with the head.
        num_targets: Answers there are; targets are from 0 to `num_targets` - 1. 46 for the sum of five digits.
        channels: Image channels; those of the checkpoint.
        unfreeze: Parts of a checkpoint's model that learn with the head: none; names of its submodules; or `all`.
        head: `lstm`, `set_transformer` or `mean` (see `zoo.downstream.heads`).
        order: In which the LSTM reads objects: `slots`, that of detection; or `presence`, the likeliest first.
        threshold: Slots with at least this presence are objects.
        with_boxes: Whether the head sees boxes, in shares of the image, beside the vectors. The paper's does not.
        hidden: Hidden layers of the head's networks before and after its objects meet.
        object_dim: Features of an object that the LSTM reads.
        state_dim: Units of the LSTM; width of the other heads.
        cache: Look at the training scenes once and keep what is found there in memory. For a model that learns nothing.
        lr: Adam's learning rate.
        max_grad_norm: Largest norm of the gradient.
        baseline: Settings of a baseline, where they are not those of SPAIR's program: see its class.
        object_model: Class and hyperparameters of the checkpoint's model. Filled in from the checkpoint; what is saved
            has it, and the weights, so that it can be loaded where the checkpoint is not.

    Raises:
        ValueError: A hyperparameter is out of its range, or the checkpoint is not there or of other channels.
    """

    training_terms = ("cross_entropy", "accuracy")

    def __init__(
        self,
        *,
        objects: str = "ConvNet",
        num_targets: int = 46,
        channels: int = 3,
        unfreeze: Sequence[str] = (),
        head: str = "lstm",
        order: str = "slots",
        threshold: float = 0.5,
        with_boxes: bool = False,
        hidden: Sequence[int] = (100, 100),
        object_dim: int = 50,
        state_dim: int = 128,
        cache: bool = False,
        lr: Schedule = 1e-4,
        max_grad_norm: float = 1.0,
        baseline: dict[str, Any] | None = None,
        object_model: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.check_schedules()
        self.weigh_terms(None, accuracy=0.0)
        if num_targets < 2:
            raise ValueError(f"num_targets must be at least 2, got {num_targets}")
        first_objects(torch.zeros(1, 1), threshold, self._order)  # is there such an order?
        self.finder: nn.Module
        if objects in BASELINES:
            if unfreeze or cache:
                raise ValueError(f"unfreeze and cache are for trained models: {objects} learns with the head")
            self.finder = self._baseline(objects)
        else:
            if baseline:
                raise ValueError(f"baseline has settings of {' or '.join(BASELINES)}, and objects is {objects!r}")
            self.finder = self._trained(objects, object_model)
            self._freeze(self.finder, unfreeze)
        with torch.no_grad():  # how long vectors are, only a look tells
            what_dim = self._what_dim(channels)
        head_dim = what_dim + 4 * with_boxes
        self.head = make_head(head, head_dim, num_targets, hidden, object_dim, state_dim)
        self.finder.eval()

    @property
    def _order(self) -> "Order":
        return cast("Order", self.hp.order)

    @classmethod
    def image_limits(cls, init_args: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Images have the channels of the checkpoint."""
        objects = init_args.get("objects", "ConvNet")
        if objects in BASELINES:
            return {}
        known = init_args.get("object_model") or weights.read_record(weights.find(objects))
        return {"channels": (known["init_args"]["channels"],)}

    # what finds the objects

    def _baseline(self, objects: str) -> nn.Module:
        try:
            return BASELINES[objects](self.hp.channels, **(self.hp.baseline or {}))
        except TypeError as error:
            raise ValueError(f"baseline: {objects} does not take these settings: {error}") from error

    def _trained(self, objects: str, known: dict[str, Any] | None) -> ObjectModel:
        """The checkpoint's model; without its weights, where these come with our own."""
        apart = Context()  # in which Lightning does not take our hyperparameters for those of the model inside
        if known is None:
            model = apart.run(weights.load, objects)
            about = model.record()
            self.hparams["object_model"] = {"class": about["class"], "init_args": about["init_args"]}
        else:
            kind = registry.find_model(known["class"])
            if kind is None:
                raise ValueError(f"object_model has class {known['class']!r}; there are {sorted(registry.models())}")
            model = apart.run(lambda: kind(**known["init_args"]))
        if isinstance(model, SceneTask):
            raise ValueError(f"objects={objects!r} answers a task itself: name the model that found its objects")
        if model.hp.channels != self.hp.channels:
            raise ValueError(
                f"{objects} sees images of {model.hp.channels} channel(s), not {self.hp.channels}: set "
                f"model.init_args.channels and data.init_args.channels to {model.hp.channels}"
            )
        return model

    def _freeze(self, model: nn.Module, unfreeze: Sequence[str]) -> None:
        """Let none but the named parts learn."""
        names = ["all", *(name for name, part in model.named_children() if any(True for _ in part.parameters()))]
        if unknown := [name for name in unfreeze if name not in names]:
            raise ValueError(f"unfreeze has {unknown[0]!r}; parts of {type(model).__name__} are {names}")
        if unfreeze and self.hp.cache:
            raise ValueError("cache keeps what a model finds: leave out cache, or unfreeze")
        model.requires_grad_("all" in unfreeze)
        for name in unfreeze:
            if name != "all":
                model.get_submodule(name).requires_grad_(True)

    def _what_dim(self, channels: int) -> int:
        if not isinstance(self.finder, ObjectModel):
            return cast(int, self.finder.what_dim)
        side = self.finder.hparams.get("image_size") or 48
        height, width = (side, side) if isinstance(side, int) else side
        return self.finder.eval()(torch.zeros(1, channels, height, width)).what.shape[-1]

    @property
    def _rests(self) -> bool:
        """Whether nothing of the finder learns."""
        return not any(parameter.requires_grad for parameter in self.finder.parameters())

    def train(self, mode: bool = True) -> "SceneTask":
        """As ever, but objects are found without noise, as in evaluation."""
        super().train(mode)
        self.finder.eval()
        return self

    def see(self, batch: Batch) -> Scene:
        """The scene that the finder sees in a batch."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._rests):
            return cast(Scene, self.finder.see(batch))  # type: ignore[operator]

    def forward(self, image: Tensor) -> Scene:
        """The scene that the finder sees in (B, C, H, W) images; `TrueBB` needs a batch with boxes (`see`)."""
        self.check_image(image)
        return self.see(Batch(image=image))

    # the task

    def answer(self, batch: Batch) -> Tensor:
        """Logits (B, G) of the answers."""
        given = cast(dict[str, Tensor], batch)
        if "found_what" in given:
            what, presence, boxes = (given[f"found_{name}"] for name in _FOUND)
        else:
            scene = self.see(batch)
            what, presence, boxes = scene.what, scene.presence, scene.boxes
        H, W = batch["image"].shape[-2:]
        if self.hp.with_boxes:
            what = torch.cat([what, boxes / boxes.new_tensor([W, H, W, H])], -1)
        index, valid = first_objects(presence.detach(), self.hp.threshold, self._order)
        return cast(Tensor, self.head(pick(what, index), valid))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the true answers, and how often the likeliest is right.

        Raises:
            ValueError: The batch has no target.
        """
        target = _target(batch)
        logits = self.answer(batch)
        right = (logits.argmax(-1) == target).to(logits)
        return {"cross_entropy": F.cross_entropy(logits, target), "accuracy": right.mean()}

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Look at the targets while they are in main memory.

        Raises:
            ValueError: One is no answer that there is.
        """
        if isinstance(batch, dict) and "target" in batch:
            least, most = batch["target"].aminmax()
            if least < 0 or most >= self.hp.num_targets:
                wrong = int(least if least < 0 else most)
                raise ValueError(
                    f"the data have a target of {wrong}, but answers are 0 to {self.hp.num_targets - 1}: set "
                    f"model.init_args.num_targets" + (f" to {wrong + 1} or more" if wrong > 0 else "")
                )
        return batch

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """As for every model, and `answer` (B, G), probabilities."""
        batch = as_batch(batch)
        return {**super().predict_step(batch, batch_idx, dataloader_idx), "answer": self.answer(batch).softmax(-1)}

    # training

    def setup(self, stage: str) -> None:
        """Before training: tune connected components, and look at the scenes that are to be seen but once.

        Raises:
            ValueError: The data have no target.
        """
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or not isinstance(data, SceneDataModule):
            return
        scenes = data.datasets.get("train") or data.make_dataset("train")
        _target(scenes.batch([0]))
        if isinstance(self.finder, ConnCompEncoder) and self.trainer.ckpt_path is None:
            self.finder.fit(data)
        if self.hp.cache and not isinstance(scenes, _Seen):
            device = self.trainer.strategy.root_device
            data.datasets["train"] = _Seen(scenes, cast(ObjectModel, self.finder.to(device)))

    def parameter_groups(self) -> Iterable[nn.Parameter]:
        """Those that learn."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)


class _Seen(SceneDataset):
    """Scenes with what a model finds in them, which it looks for once: `found_what`, and so on."""

    def __init__(self, scenes: SceneDataset, model: ObjectModel) -> None:
        self.scenes = scenes
        parts: dict[str, list[Tensor]] = {f"found_{name}": [] for name in _FOUND}
        with torch.no_grad():
            for first in range(0, len(scenes), _LOOK_AT):
                image = scenes.batch(range(first, min(first + _LOOK_AT, len(scenes))))["image"].to(model.device)
                scene = model(image)
                for name in _FOUND:
                    parts[f"found_{name}"].append(getattr(scene, name).cpu())
        self.found = {name: torch.cat(values) for name, values in parts.items()}

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked."""
        chosen = torch.as_tensor(indices)
        found = {name: value[chosen] for name, value in self.found.items()}
        return cast(Batch, {**self.scenes.batch(indices), **found})


def _target(batch: Batch) -> Tensor:
    if "target" not in batch:
        raise ValueError(
            "these data have no target to learn: SetGameDataModule has one, MultiMNISTDataModule with "
            "data.init_args.target=sum, ShapeStacksDataModule with data.init_args.target=stability"
        )
    return batch["target"]
