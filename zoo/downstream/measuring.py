"""A checkpoint on data that need not be those it was trained on: what fits, and what is measured there.

`python -m zoo matrix` has every checkpoint on every data set that fits it, `python -m zoo robustness` on its own kind
of data under shifts.
"""

import inspect
import time
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from datamodules.base import SceneDataModule
from datamodules.batch import Batch
from zoo import registry
from zoo.downstream import probes
from zoo.downstream.shifts import OTHER_SCENES, SHIFTS
from zoo.evaluation import SceneMetrics
from zoo.models.base import ObjectModel

# every data set that can be drawn here, with settings of their own where a checkpoint was trained on others
DATA: dict[str, dict[str, Any]] = {
    "MultiMNISTDataModule": {},
    "MultiSpritesDataModule": {},
    "Fruit2DDataModule": {"source": "synthetic", "image_size": 64},
    "CLEVRTEXDataModule": {"source": "synthetic", "image_size": 64},
    "SetGameDataModule": {},
    "SpaceInvadersDataModule": {"source": "synthetic", "eval_batch_size": 10},
}
SLOW = ("SpaceInvadersDataModule",)  # frames of 210 x 160 pixels have many times the cells of other scenes
_BATCH = 50


def suitable(model: ObjectModel, name: str) -> SceneDataModule | None:
    """A data set as a model takes it: with its channels and image size; of the kind it was trained on, where it was.

    Args:
        model: With the record of its data.
        name: Of a datamodule.

    Returns:
        The data, with masks where they have them; null: these images are not such as the model takes.
    """
    kind = registry.datamodules()[name].load()
    known = inspect.signature(kind).parameters
    record = model.data_record or {}
    options: dict[str, Any] = {}
    if record.get("class") == name:
        options = dict(record["init_args"])
    else:
        options = {"eval_batch_size": _BATCH, **DATA.get(name, {})}
        side = model.hparams.get("image_size")
        if "channels" in known:
            options["channels"] = model.hp.channels
        if side is not None and "image_size" in known:
            options["image_size"] = side
    options.pop("crop_size", None)  # test scenes are whole in any case
    if "masks" in known and options.get("source") not in ("ale", "published"):  # which have none
        options["masks"] = True
    data = kind(**options)
    return data if takes(model, data) else None


def takes(model: ObjectModel, data: SceneDataModule) -> bool:
    """Whether a model looks at such images, which a blank one tells: parts of it may want another size than it does."""
    blank = torch.zeros(1, *data.image_shape, device=model.device)
    try:
        model.check_image(blank)
        with torch.no_grad():
            model.eval()(blank)
    except ValueError:
        return False
    return True


def shifted(model: ObjectModel, shift: str) -> SceneDataModule:
    """The data a checkpoint was trained on, for a shift.

    Raises:
        ValueError: It does not say what it was trained on.
    """
    record = model.data_record
    if not record or record["class"] not in registry.datamodules():
        raise ValueError("it does not say what data of the zoo it was trained on")
    data = suitable(model, record["class"])
    if data is None:
        raise ValueError(f"it does not take the images of {record['class']} that it says it was trained on")
    if shift in OTHER_SCENES:
        options = {**data.hparams, **OTHER_SCENES[shift][record["class"]]}
        return type(data)(**options)
    return data


def measure(
    model: ObjectModel, data: SceneDataModule, num_scenes: int, shift: str = "", seed: int = 0
) -> dict[str, float]:
    """Metrics of a model on the first test scenes.

    Args:
        model: With its weights, on any device.
        data: Where scenes are from.
        num_scenes: At most.
        shift: One of `SHIFTS`, or none.
        seed: Of shifts that are random.

    Returns:
        `scenes`, `images_per_second` of `forward`, and the metrics of `zoo.evaluation` that model and data both have.
    """
    generator = torch.Generator().manual_seed(seed)
    metrics = SceneMetrics().to(model.device)
    scenes, seconds = 0, 0.0
    model.eval()
    with torch.inference_mode():
        for given in probes.first_scenes(data, "test", num_scenes):
            batch = SHIFTS[shift](given, generator) if shift in SHIFTS else given
            batch = cast(
                Batch, {name: value.to(model.device) for name, value in cast(Mapping[str, Tensor], batch).items()}
            )
            began = time.perf_counter()
            scene = model.see(batch)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            seconds += time.perf_counter() - began
            scenes += len(batch["image"])
            metrics.update(scene, batch, data.num_classes)
    values = {name: float(value) for name, value in metrics.compute().items()}
    return {"scenes": scenes, "images_per_second": scenes / seconds, **values}


def class_probe(model: ObjectModel, data: SceneDataModule, num_scenes: int) -> float | None:
    """Accuracy of a linear probe for classes, fitted to objects of validation scenes, on those of test scenes.

    Null where nothing is known of classes, or too few objects are found to fit a probe to.
    """
    if data.num_classes < 2 or not data.has_objects:
        return None
    found = [probes.collect(model, probes.first_scenes(data, split, num_scenes)) for split in ("val", "test")]
    if min(len(each.inputs["what"]) for each in found) < probes.LEAST or "class" not in found[0].properties:
        return None
    train, test = ((each.inputs["what"], each.properties["class"]) for each in found)
    return None if len(train[1].unique()) < 2 else probes.fit_and_score("linear", train, test)
