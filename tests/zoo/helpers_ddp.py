"""Trains configurations for three steps, in one process or in two: `helpers_ddp.py OUT PROCESSES CONFIG...`.

Each step's gradients, and the weights after the last, go to OUT/<number>-<rank>.pt. In one process each half of the
global batch is a batch of its own, whose gradients are accumulated; noise depends on the half alone. So the two have
to be equal, batch statistics and all.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer

from datamodules.base import SceneDataModule, SceneDataset
from datamodules.batch import Batch
from zoo import registry
from zoo.models import ObjectModel

STEPS, HALF = 3, 2  # HALF: images in the batch of one of two processes
PHASE = 2  # after so many steps what was held fast is let go


class Scenes(SceneDataset):
    """Noise with a bright square in it, and the image's number as `target`."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return 2 * HALF * (STEPS + 1)

    def batch(self, indices: Sequence[int]) -> Batch:
        images = []
        for index in indices:
            image = 0.2 * torch.rand(self.shape, generator=torch.Generator().manual_seed(index))
            image[:, 8 : 20 + index % 5, 10 : 24 + index % 3] += 0.6
            images.append(image)
        valid = torch.tensor([[True, False]]).expand(len(images), 2)
        boxes = torch.tensor([[[10.0, 8, 24, 20], [0, 0, 0, 0]]]).expand(len(images), 2, 4)
        labels = torch.zeros_like(valid, dtype=torch.long)
        return Batch(image=torch.stack(images), boxes=boxes, labels=labels, valid=valid, target=torch.tensor(indices))


class Data(SceneDataModule):
    """The scenes, for every split."""

    name, num_classes, max_objects, image_shape = "noise", 1, 2, (0, 0, 0)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(batch_size=HALF)
        self.image_shape = shape

    def make_dataset(self, split: Any) -> Scenes:
        return Scenes(self.image_shape)


def build(path: str) -> tuple[ObjectModel, Data]:
    """The model of a configuration, with phases of two steps and small pretrained networks, and data for it."""
    config = yaml.safe_load(Path(path).read_text())
    name, arguments = config["model"]["class_path"], dict(config["model"].get("init_args", {}))
    if name in ("ASTSeg", "ASTSegRecipe"):
        arguments |= {"pretrained": False, "segformer": "nvidia/mit-b0", "background": None}
        arguments["frozen_steps"] = PHASE if arguments.get("frozen_steps") else 0
    torch.manual_seed(0)
    model = registry.models()[name].load()(**arguments)
    if name in ("ASTSeg", "ASTSegRecipe"):
        model._has_start = True  # no trained background is at hand
    size = model.hparams.get("image_size") or config["data"].get("init_args", {}).get("image_size", 48)
    height, width = (size, size) if isinstance(size, int) else size
    losses = model.losses

    def same_noise(batch: Batch) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(1000 * model.global_step + int(batch["target"][0]))
            return losses(batch)

    model.losses = same_noise
    return model, Data((model.hp.channels, height, width))


class Gradients(Callback):
    """Keeps what the optimiser is given at each step; where there is no gradient, None."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor | None]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.steps.append({name: None if p.grad is None else p.grad.clone() for name, p in named})


def main(out: str, processes: str, *configs: str) -> None:
    torch.set_num_threads(1)
    for number, path in enumerate(configs):
        model, data = build(path)
        gradients = Gradients()
        trainer = Trainer(
            accelerator="cpu",
            devices=int(processes),
            strategy="ddp" if processes == "2" else "auto",
            accumulate_grad_batches=2 // int(processes),
            max_steps=STEPS,
            val_check_interval=STEPS,
            check_val_every_n_epoch=None,
            limit_val_batches=1,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[gradients],
        )
        trainer.fit(model, data)
        result = {"gradients": gradients.steps, "weights": dict(model.named_parameters())}
        torch.save(result, Path(out, f"{number}-{trainer.global_rank}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
