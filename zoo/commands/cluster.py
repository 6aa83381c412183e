"""What `python -m zoo cluster` does: results as JSON, pictures, and a table."""

import math
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from datamodules import SceneDataModule
from zoo.callbacks.clusters import publish
from zoo.downstream.clustering import Clustering, cluster
from zoo.downstream.embedding import TITLES, draw_curves, draw_embedding, read_curves
from zoo.files import write_json
from zoo.models.base import ObjectModel
from zoo.sharing.weights import SHIPPED

SCORES = ("hungarian_accuracy", "cluster_purity", "nmi")


def report(
    trainer: Trainer,
    model: ObjectModel,
    data: SceneDataModule,
    checkpoint: Path | None = None,
    out: str | None = None,
    **options: Any,
) -> Clustering:
    """Cluster what a model finds, and write clustering.json and pictures.

    Args:
        trainer: Has the device, the run folder and the loggers.
        model: With its weights.
        data: Where the scenes are from.
        checkpoint: Where the weights are from. In a run folder, its training is drawn too.
        out: Folder to write to; null: the run folder.
        options: Of `cluster`; the seed is the run's.

    Raises:
        ValueError: See `cluster` and `draw_embedding`.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    model.to(trainer.strategy.root_device)
    result = cluster(model, data, **options, seed=seed)
    for logger in trainer.loggers:
        scores = {f"cluster/{by}/{k}": v for by, scores in result.scores.items() for k, v in scores.items()}
        logger.log_metrics({"cluster/ap50": result.detections.ap50, **scores})
        logger.save()
    folder = Path(out or trainer.log_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    shipped = checkpoint is not None and checkpoint.parent == SHIPPED
    source = None if checkpoint is None else checkpoint.stem if shipped else str(checkpoint)
    record = {"checkpoint": source, **result.record()}
    write_json(folder / "clustering.json", record, indent=2)
    figures = {"embedding": draw_embedding(result.detections, result.clusters, seed=seed)}
    history = checkpoint.parent.parent / "metrics.csv" if checkpoint else None
    if history and history.is_file() and (curves := read_curves(history)):
        figures["curves"] = draw_curves(curves)
    publish(trainer, str(folder), figures)
    _print(result, folder)
    return result


def _print(result: Clustering, folder: Path) -> None:
    table = Table("clusters", *SCORES)
    for by, scores in result.scores.items():
        table.add_row(TITLES[by], *("" if math.isnan(scores[name]) else f"{scores[name]:.4f}" for name in SCORES))
    settings, console = result.settings, Console()
    console.print(
        f"{settings['model']} on {settings['data']}, {settings['num_clusters']} clusters, "
        f"ap50 {result.detections.ap50:.4f}: {folder}",
        soft_wrap=True,
    )
    console.print(table)
