"""Turn a run into a checkpoint that comes with the zoo: `python -m zoo publish RUN NAME`.

Tests the run's best checkpoint on its own data, and with each further option of the command line, and writes weights,
record and measured results to zoo/checkpoints. The README's tables are made of these results: the short one of
`summary`, the full one of `table`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer, seed_everything

from zoo import registry
from zoo.commands.arguments import VerbParser
from zoo.results.table import TITLES
from zoo.sharing import weights

_COLUMNS = (  # those that any checkpoint has a figure for are shown
    *("ap50", "raw_ap50", "tile_ap50", "raw_tile_ap50", "ap", "raw_ap", "ap_11pt", "raw_ap_11pt", "raw_ap_spair"),
    *("count_accuracy", "category_correspondence", "hungarian_accuracy", "cluster_purity", "nmi"),
    *("ari_fg", "miou_fg", "miou", "mse"),
)

_SUMMARY = ("ap50", "count_accuracy", "hungarian_accuracy", "ari_fg", "miou_fg")

_OF_A_MACHINE = ("root", "data_dir", "num_workers")  # and no part of what was tested on


def test(checkpoint: Path, model_args: dict[str, Any], data_args: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a checkpoint on its test scenes, under changed arguments of the model and the data."""
    path = weights.find(checkpoint)
    record, state = weights.read(path)
    model = weights.build_model({**record, "init_args": {**record["init_args"], **model_args}}, path)
    weights.adopt(model, record, state, path)
    data = registry.make_data(record.get("data"), **data_args)
    seed_everything(0)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_model_summary=False)
    values = trainer.test(model, data, verbose=False)[0]
    metrics = {key.removeprefix("test/"): round(value, 4) for key, value in values.items()}
    changes = {key: value for key, value in {**model_args, **data_args}.items() if key not in _OF_A_MACHINE}
    return {"data": data.name, "options": changes, "metrics": metrics}


def publish(run: Path, name: str, variants: list[tuple[dict[str, Any], dict[str, Any]]], half: bool = False) -> Path:
    """Write zoo/checkpoints/NAME from a run folder.

    Args:
        run: The run folder, or a checkpoint of the zoo to be tested anew.
        name: Of the checkpoint.
        variants: Further (model arguments, data arguments) to test under.
        half: Keep parameters in half precision; what is tested is then rounded, too.

    Raises:
        CheckpointError: There is no such run or checkpoint, or nothing says how it was trained.
    """
    model = weights.load(run)
    if "training" not in model.facts:
        raise weights.CheckpointError(f"{run} does not say how it was trained: a run folder needs its run.json")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = weights.save(model, Path(folder, name), half=half)
        results = [test(checkpoint, *arguments) for arguments in [({}, {}), *variants]]
    return weights.save(model, weights.SHIPPED / name, half=half, metrics=results[0]["metrics"], results=results)


def table() -> str:
    """The measured results of all checkpoints, as Markdown."""
    records = weights.list_weights()
    measured = {metric for record in records.values() for result in record["results"] for metric in result["metrics"]}
    columns = [column for column in _COLUMNS if column in measured]
    lines = ["| checkpoint | test data | options | " + " | ".join(columns) + " |"]
    lines.append("|---" * (3 + len(columns)) + "|")
    for name, record in records.items():
        for result in record["results"]:
            values = [result["metrics"].get(column) for column in columns]
            cells = ["" if value is None else f"{value:.4f}" if value < 0.1 else f"{value:.3f}" for value in values]
            options = ", ".join(f"{k}: {'null' if v is None else v}" for k, v in result["options"].items())
            lines.append(f"| {name} | {result['data']} | {options} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary() -> str:
    """The main figures of all checkpoints, each on the data it was trained on, as Markdown: papers' settings first."""
    lines = ["| setting | checkpoint | test data | " + " | ".join(TITLES[metric] for metric in _SUMMARY) + " |"]
    lines.append("|---" * (3 + len(_SUMMARY)) + "|")
    records = {name: record for name, record in weights.list_weights().items() if record["results"]}
    for setting in ("paper", "recipe"):
        for name in [name for name in records if name.endswith(f"-{setting}")]:
            result = records[name]["results"][0]
            values = [result["metrics"].get(metric) for metric in _SUMMARY]
            cells = ["" if value is None else f"{value:.2f}" for value in values]
            data = "-".join(result["data"].split("-")[:2])
            lines.append(f"| {setting} | {name} | {data} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(prog="python -m zoo publish", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, or a checkpoint to be tested anew")
    parser.add_argument("name", help="name of the checkpoint")
    parser.add_argument(
        "--also", action="append", default=[], metavar="KEY=VALUE,...", help="test again with these arguments, in YAML"
    )
    parser.add_argument("--half", action="store_true", help="keep parameters in half precision")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if odd := [text for text in options.also if not all("=" in pair for pair in text.split(","))]:
        parser.error(f"--also {odd[0]}: must be KEY=VALUE, several with a comma between")
    try:
        known = weights.read_record(weights.find(options.run))["init_args"]
        variants = []
        for text in options.also:
            changes = {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in text.split(","))}
            in_model = {key: value for key, value in changes.items() if key in known}
            variants.append((in_model, {key: value for key, value in changes.items() if key not in known}))
        print(publish(options.run, options.name, variants, options.half))
    except (ValueError, OSError) as error:
        sys.exit(f"zoo: {error}")
