"""Trained models for others: a folder that says what it holds, and the Hugging Face hub."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.files import to_json, write_json, write_whole
from zoo.sharing import weights

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel

LIBRARY = "object-centric-zoo"


def save_pretrained(
    model: "ObjectModel",
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    weights_license: str = "apache-2.0",
    **facts: Any,
) -> Path:
    """Write what `zoo.load(folder)` reads; see `ObjectModel.save_pretrained`."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    payload, record = weights.pack(model, **facts)
    card = model_card(record, name or target.resolve().name, weights_license)
    write_whole(target / weights.HUB_WEIGHTS, payload)
    write_json(target / weights.HUB_RECORD, record, indent=2)
    write_whole(target / "README.md", card.encode())
    return target


def push_to_hub(
    model: "ObjectModel",
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    weights_license: str = "apache-2.0",
    **facts: Any,
) -> str:
    """Upload what `zoo.load(repo_id)` downloads; see `ObjectModel.push_to_hub`."""
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name=LIBRARY)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, name=repo_id, weights_license=weights_license, **facts)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        said = message or f"Upload {type(model).__name__}"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=said))


def model_card(record: dict[str, Any], name: str, weights_license: str) -> str:
    """A README.md in the hub's format, from a checkpoint's record.

    Args:
        record: Of `zoo.sharing.weights.pack`.
        name: Of the checkpoint; of the repository, where it is in one.
        weights_license: As the hub abbreviates it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    from zoo.evaluation import METRIC_NAMES

    kind, data = record["class"], record.get("data") or {}
    data_name, measured = data.get("name", "unknown data"), record.get("metrics", {})
    metrics = {name: measured[name] for name in METRIC_NAMES if measured.get(name) is not None}  # and no loss terms
    known = registry.models().get(kind)
    evaluations = [
        EvalResult(
            task_type="object-detection",
            task_name="unsupervised object discovery",
            dataset_type=data_name,
            dataset_name=data_name,
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]
    about = ModelCardData(
        license=weights_license,
        library_name=LIBRARY,
        model_name=name if evaluations else None,
        tags=["object-centric-learning", "unsupervised-object-discovery", kind.lower()],
        pipeline_tag="object-detection",
        eval_results=evaluations or None,
    )
    sections = {
        f"{kind} on {data_name}, {record.get('setting', weights.RECIPE)}": known.summary if known else "",
        "Setting": _SETTINGS[record.get("setting", weights.RECIPE)],
        "Use": _USE.format(name=name, channels=record["init_args"].get("channels", 3)),
        "Intended use": _INTENDED.format(data=data_name),
        "Metrics": _table(("metric", "value"), metrics.items()) + _LEGEND if metrics else "None are recorded.",
        "Training": _training(record),
        "Data": f"{data.get('class', 'unknown')}, with\n\n{_code(data.get('init_args', {}))}",
        "Configuration": f"{record.get('parameters', 0):,} parameters.\n\n{_code(record['init_args'])}",
    }
    first, *rest = sections.items()
    lines = ["---", about.to_yaml().strip(), "---", "", f"# {first[0]}", "", first[1], ""]
    for title, text in rest:
        lines += [f"## {title}", "", text, ""]
    return "\n".join(lines)


_USE = """```python
import zoo

model = zoo.load("{name}")
scene = model.predict("photo.png")  # files, arrays, Pillow images or tensors, in {channels} channel(s)
print(scene.objects(threshold=0.5))  # for each image: box, score, category, slot
```

Files are safetensors and JSON: loading runs no code from them."""
_SETTINGS = {
    "paper": "The paper's: its model, hyperparameters, data and protocol.",
    weights.RECIPE: """A recipe: hyperparameters, data or protocol are not the paper's, so that these results are not
those of the paper's model.""",
}
_INTENDED = """Research on unsupervised object-centric learning: as a baseline, and for the boxes and appearance vectors
that it finds. It was trained without labels on {data}, and finds what looks like the objects there; on other images it
is to be trained anew. Presence is a confidence, not a calibrated probability. It is not meant for decisions about
people."""
_LEGEND = """
Measured on held-out scenes: `ap50` is average precision at an IoU of 0.5, area under the precision envelope; `ap` its
mean over IoU 0.1 to 0.9; names with `raw_` in front are of the boxes that the model attends to, before any trimming.
The others are described in `zoo.evaluation.SceneMetrics`."""


def _training(record: dict[str, Any]) -> str:
    facts = {"steps": record.get("step"), **(record.get("training") or {})}
    return _table(("", "value"), ((key, value) for key, value in facts.items() if value not in (None, "")))


def _table(head: tuple[str, str], rows: Any) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {key} | {value:.4g} |" if isinstance(value, float) else f"| {key} | {value} |" for key, value in rows]
    return "\n".join(lines) + "\n"


def _code(content: dict[str, Any]) -> str:
    return f"```json\n{to_json(content, indent=1)}\n```"
