"""What is measured on a loader of evaluation, and what the loaders are called where there are several."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.batch import Batch
from zoo.evaluation import SceneMetrics
from zoo.scene import Scene


class ImageMean(Metric):
    """Mean over images of a value that comes as means over batches; what is not finite makes it so.

    (torchmetrics' MeanMetric either leaves NaN out or, told not to, forgets the weights.)
    """

    full_state_update = False

    total: Tensor
    images: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: Tensor, images: int) -> None:
        """Take in a scalar, the mean over that many images."""
        self.total = self.total + value.to(self.total) * images  # not in place: processes may share what was there
        self.images = self.images + images

    def compute(self) -> Tensor:
        """A scalar."""
        return self.total / self.images


class LoaderMetrics(nn.Module):
    """Means of loss terms over the images of a loader, and the metrics of its scenes.

    Under several processes as under one: terms are added up image by image, however many a process has.

    Attributes:
        images: How many this process has seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scenes, self.terms, self.images = SceneMetrics(), nn.ModuleDict(), 0

    def update(self, terms: Mapping[str, Tensor], scene: Scene, batch: Batch, num_classes: int | None = None) -> None:
        """Take in one batch.

        Args:
            terms: Named means over the batch's images.
            scene: What the model sees.
            batch: What there is.
            num_classes: As for `SceneMetrics.update`.
        """
        count = len(batch["image"])
        for name, value in terms.items():
            if name not in self.terms:
                mean = ImageMean().to(value.device)
                # single precision would round off what many batches add up to; Apple's GPUs have no double
                self.terms[name] = mean if value.device.type == "mps" else mean.set_dtype(torch.float64)
            cast(ImageMean, self.terms[name]).update(value.detach(), count)
        self.scenes.update(scene, batch, num_classes)
        self.images += count

    def compute(self) -> dict[str, Tensor]:
        """Terms and metrics, over all processes; all of them have to ask."""
        terms = {name: cast(ImageMean, mean).compute().float() for name, mean in self.terms.items()}
        return {**terms, **self.scenes.compute()}

    def reset(self) -> None:
        """Start anew."""
        self.scenes.reset()
        self.terms, self.images = nn.ModuleDict(), 0


def as_batch(batch: Any) -> Batch:
    """What a loader yields as a batch: images alone, or a tuple that begins with them, will do as well."""
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        batch = batch[0]
    return Batch(image=batch) if isinstance(batch, Tensor) else batch


def loader_names(loaders: Any) -> list[str]:
    """What follows a metric's name, for each loader.

    Args:
        loaders: A loader, or several, as a trainer has them in `val_dataloaders`, `test_dataloaders` and
            `predict_dataloaders`.

    Returns:
        "" for a single one. Of several, the keys of a dict; else, as in Lightning, `dataloader_idx_0` and so on.
    """
    several = list(loaders) if isinstance(loaders, Mapping | list | tuple) else [""]
    if len(several) < 2:
        return [""]
    named = isinstance(loaders, Mapping)
    return [str(name) if named else f"dataloader_idx_{i}" for i, name in enumerate(several)]


def stage_loader_names(trainer: Trainer, stage: str) -> list[str]:
    """The names of a trainer's loaders of "val", "test" or "predict"; see `loader_names`."""
    return loader_names(getattr(trainer, f"{stage}_dataloaders"))
