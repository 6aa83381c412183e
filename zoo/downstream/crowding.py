"""How well objects are found in scenes that have more and more of them: SPAIR's figures 2, 3 and 7, without training.

Scenes are of the kind that a checkpoint was trained on, but for their size and number of objects, and whole. Average
precision is that of the paper: a mean over IoU 0.1, 0.2, ..., 0.9, each at 11 recalls.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from datamodules.base import SceneDataModule
from datamodules.batch import Batch
from metrics import AveragePrecision, CountAccuracy, CountError
from zoo import registry
from zoo.baselines.conn_comp import ConnComp
from zoo.results.figures import FIGURES
from zoo.scene import Scene

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel

# of a figure: size of its scenes in pixels, and how many objects these have
SCENES: dict[str, tuple[int, Sequence[int]]] = {
    "spair/2": (48, (1, 3, 5, 7, 9)),
    "spair/3": (84, range(1, 21)),
    "spair/7": (84, range(1, 21)),
}
_TUNING = 128  # training scenes that the threshold of ConnComp is chosen by, for each number of objects


def score(see: Callable[[Batch], Scene], batches: Iterator[Batch]) -> tuple[float, float, float]:
    """Average precision, mean absolute and mean 0-1 error of the number of objects."""
    precision = AveragePrecision(tuple(i / 10 for i in range(1, 10)), interpolation="11_points")
    error, right = CountError(), CountAccuracy()
    for batch in batches:
        scene = see(batch)
        precision.update(scene.boxes, scene.presence, batch["boxes"], batch["valid"])
        error.update(scene.presence, batch["valid"])
        right.update(scene.presence, batch["valid"])
    return float(precision.compute()), float(error.compute()), 1 - float(right.compute())


def scenes(
    data: dict[str, Any] | None, image_size: int, count: int, num_scenes: int, num_train: int | None = None
) -> SceneDataModule:
    """Scenes with so many objects, otherwise like those of a checkpoint.

    Args:
        data: The checkpoint's record of its data.
        image_size: In pixels.
        count: Objects in an image.
        num_scenes: For the test.
        num_train: For training; null: as many as the checkpoint saw.

    Raises:
        ValueError: The data have no such number to be set.
    """
    if not data or data["class"] != "MultiMNISTDataModule":
        raise ValueError(f"scenes of a given number of digits are for checkpoints of MultiMNIST, not of {data}")
    changes = {"image_size": image_size, "num_digits": count, "crop_size": None, "eval_batch_size": 50}
    sizes = {"num_val": 1, "num_test": num_scenes} | ({} if num_train is None else {"num_train": num_train})
    module: SceneDataModule = registry.make_data(data, **changes, **sizes)
    return module


@torch.no_grad()
def points(
    figure: str, series: str, model: "ObjectModel | None", data: dict[str, Any] | None, num_scenes: int
) -> Iterator[dict[str, object]]:
    """Points of a figure (`zoo.results.figures`) of a trained model, number by number of objects.

    Args:
        figure: One of `SCENES`.
        series: What the model is called.
        model: With its weights; null: ConnComp, its threshold tuned on training scenes of each number of objects.
        data: The record of the data that the checkpoint was trained on.
        num_scenes: At each number of objects.

    Raises:
        ValueError: As for `scenes`, or the model does not take images of that size.
    """
    size, counts = SCENES[figure]
    steps: object = ""
    if model is not None:
        model.eval()
        steps = model.steps_trained
    training = {} if model is None else model.facts.get("training", {})
    for count in counts:
        module = scenes(data, size, count, num_scenes)
        module.setup("test")
        batches: Iterator[Batch] = iter(module.test_dataloader())
        if model is not None:
            setting, values = model.facts.get("setting", "recipe"), score(model.see, batches)
        else:
            train = scenes(data, size, count, 1, _TUNING).make_dataset("train")
            tuned = ConnComp.tuned(train.batch(range(len(train))))
            setting, values = "baseline", score(lambda batch, see=tuned: see(batch["image"]), batches)  # type: ignore[misc]
        about = {
            "figure": figure,
            "series": series,
            "setting": setting,
            "x": count,
            "seed": training.get("seed", ""),
            "scenes": num_scenes,
            "steps": steps,
            "data": module.name,
            "source": f"python -m zoo figure {figure} --run --num_scenes {num_scenes}",
        }
        for panel, y in zip(FIGURES[figure].panels, islice(values, len(FIGURES[figure].panels)), strict=True):
            yield {**about, "panel": panel, "y": round(y, 4)}
