"""Validation and test of a model: its loss terms, and every metric that the batch's and the scene's fields allow."""

from typing import TYPE_CHECKING, Any

import torch

from datamodules.batch import Batch
from zoo.layers.image_noise import ImageNoise
from zoo.layers.noise import mixed_seed, seeded
from zoo.loaders import LoaderMetrics, as_batch, stage_loader_names

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel


def measure(model: "ObjectModel", batch: Batch, batch_idx: int, loader: str) -> None:
    """Take a batch into the metrics of a loader, `model.evaluated[loader]`: loss terms, and those of its scenes.

    Args:
        model: In a trainer's validation or test.
        batch: As the loader has it.
        batch_idx: Number of it; with 0 a loader begins anew.
        loader: Stage and number of the loader, such as val0.
    """
    if loader not in model.evaluated:
        model.evaluated[loader] = LoaderMetrics().to(model.device)
    batch = as_batch(batch)
    metrics, image = model.evaluated[loader], batch["image"]
    assert isinstance(metrics, LoaderMetrics)
    if batch_idx == 0:  # whatever broke off before
        metrics.reset()
    # samplers of several processes deal out images one by one
    index = metrics.images + torch.arange(image.shape[0])
    own = ImageNoise(index * model.trainer.world_size + model.global_rank)
    # the same in every validation; what an image has none of its own of, depends on the batch
    with seeded(mixed_seed(model.global_rank, step=batch_idx), model.device), own:
        terms = model.losses(batch)
    sums = {"loss": model._total(terms)}
    if model.elbo_terms:
        sums["negative_elbo"] = torch.stack([terms[name] for name in model.elbo_terms if name in terms]).sum()
    scene = model.see(batch)
    if batch_idx == 0:
        scene.check(image)
    data = getattr(model.trainer, "datamodule", None)
    with torch.autocast(model.device.type, enabled=False):  # counts of pixels need more than eight bits
        metrics.update({**terms, **sums}, scene, batch, getattr(data, "num_classes", None))


def log_measures(model: "ObjectModel", stage: str) -> None:
    """Log what was measured on the loaders of a stage, `val` or `test`, and begin anew."""
    names = [] if model.trainer.barebones else stage_loader_names(model.trainer, stage)
    for i, name in enumerate(names):
        metrics = dict(model.evaluated.items()).get(f"{stage}{i}")
        if not isinstance(metrics, LoaderMetrics) or not metrics.images:
            continue
        for metric, value in metrics.compute().items():
            # of several loaders the first has plain names too, which monitors and tables look for
            for full in ([metric] if i == 0 else []) + ([f"{metric}/{name}"] if name else []):
                bar = stage == "val" and full in ("ap50", "count_accuracy")
                # the largest of equal values: all processes have the same, and Lightning is to know
                options: dict[str, Any] = {"sync_dist": True, "reduce_fx": "max", "add_dataloader_idx": False}
                model.log(f"{stage}/{full}", value.to(model.device), prog_bar=bar, **options)
        metrics.reset()
