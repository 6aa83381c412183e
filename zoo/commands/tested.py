"""What `matrix` and `robustness` share: a checkpoint measured on data, and recorded."""

import sys
from pathlib import Path

from datamodules.base import SceneDataModule
from zoo import registry
from zoo.downstream.measuring import class_probe, measure
from zoo.models.base import ObjectModel
from zoo.results import tested
from zoo.sharing import weights


def own_kind(model: ObjectModel) -> str | None:
    """The datamodule that a checkpoint was trained on, if the zoo has it."""
    record = model.data_record or {}
    name = record.get("class")
    return name if isinstance(name, str) and name in registry.datamodules() else None


def title(name: str, model: ObjectModel) -> str:
    """What a checkpoint of one's own is called: its configuration, data and seed, which tell runs apart."""
    training = model.facts.get("training", {})
    if not training.get("experiment"):
        return Path(name).stem
    data = (model.data_record or {}).get("name", "")
    return f"{training['experiment']} ({data}, seed {training.get('seed')})"


def record(
    verb: str,
    name: str,
    model: ObjectModel,
    data: SceneDataModule,
    num_scenes: int,
    out: Path,
    *,
    own: bool,
    shift: str = tested.NO_SHIFT,
    again: bool = False,
) -> None:
    """Measure a checkpoint, and record it in `out`, unless it is there.

    Args:
        verb: Of the command line that says so.
        name: Of the checkpoint, as it was given.
        model: With its weights.
        data: To be tested on.
        num_scenes: At most.
        out: CSV file of rows.
        own: Whether these are the data that it was trained on.
        shift: See `zoo.downstream.shifts`.
        again: Whether or not it is recorded.
    """
    shipped = name in weights.list_weights()
    series = name if shipped else title(name, model)
    if not again and tested.has(out, series, data.name, shift, num_scenes, model.steps_trained):
        return
    values = measure(model, data, num_scenes, shift)
    # shifts leave classes what they are: a probe of their own is the plain row's
    probe = class_probe(model, data, num_scenes) if shift == tested.NO_SHIFT else None
    training = model.facts.get("training", {})
    seconds = training.get("wall_s")
    row: dict[str, object] = {
        "checkpoint": series,
        "data": data.name,
        "shift": shift,
        "own": "yes" if own else "",
        "setting": model.facts.get("setting") or ("paper" if series.endswith("-paper") else "recipe"),
        "scenes": values["scenes"],
        "seed": training.get("seed"),
        "steps": model.steps_trained,
        "minutes": None if seconds is None else round(seconds / 60),
        "images_per_second": round(values["images_per_second"], 1),
        "probe": None if probe is None else round(probe, 4),
        "source": f"python -m zoo {verb} {name if shipped else 'RUN'} --num_scenes {num_scenes}",
    }
    metrics = {key: round(values[key], 4) for key in tested.METRICS if values.get(key) is not None}
    tested.add([{**row, **metrics}], out)
    shown = ", ".join(f"{key} {value}" for key, value in metrics.items())
    print(f"{series} on {data.name}, {shift}: {shown}", file=sys.stderr)
