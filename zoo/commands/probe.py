"""Probe what a checkpoint's vectors say of objects: class, position, size and colour, those that its data have.

Linear probes and small networks read the vector, vector and box, and as controls the pixels of the box and the vectors
of random weights. Scenes are of the data that the checkpoint was trained on. Prints a table and writes probes.json.
"""

import inspect
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from zoo import registry
from zoo.commands.arguments import VerbParser
from zoo.downstream.probes import PROBES, probe
from zoo.files import write_json
from zoo.prediction import pick_device
from zoo.sharing import weights


def run(
    checkpoint: str, num_scenes: int, match: str, out: Path, device: str, seed: int, label: str | None = None
) -> None:
    """Probe, print and write.

    Raises:
        ValueError: See `probe`; or the checkpoint does not say what it was trained on, or its data have classes of one
            kind alone.
    """
    model = weights.load(checkpoint).to(pick_device(device))
    record = model.data_record
    given = record["init_args"] if record else {}  # fewer scenes are the first of many, and sooner there
    fewer = {key: min(given[key], num_scenes) for key in ("num_train", "num_test") if given.get(key)}
    entry = registry.datamodules().get(record["class"]) if record else None
    if label is not None and entry is not None and "label" not in inspect.signature(entry.load()).parameters:
        raise ValueError(f"{entry.name} has classes of one kind: leave out --label {label}")
    data = registry.make_data(record, **fewer, **({} if label is None else {"label": label}))
    rows, found = probe(model, data, num_scenes, match, seed)  # type: ignore[arg-type]
    if label is not None:  # sizes and colours are measured, too
        rows = [
            {**row, "property": f"{label} (class)" if row["property"] == "class" else row["property"]} for row in rows
        ]
    about = {"checkpoint": checkpoint, "data": data.name, "num_scenes": num_scenes, "match": match, "seed": seed}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {**about, **found, "rows": rows}, indent=2)
    table = Table("property", "metric", "input", *PROBES)
    for first in rows[:: len(PROBES)]:
        same = [row for row in rows if (row["property"], row["input"]) == (first["property"], first["input"])]
        table.add_row(first["property"], first["metric"], first["input"], *(f"{row['score']:.3f}" for row in same))
    console = Console()
    console.print(
        f"{checkpoint} on {data.name}: {found['found']:.1%} of {found['objects']} objects found; {out}", soft_wrap=True
    )
    console.print(table)


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(prog="python -m zoo probe", description=__doc__)
    parser.add_argument("--ckpt_path", required=True, metavar="CKPT", help="name, run folder, file, best or last")
    parser.add_argument("--num_scenes", type=int, default=1000, help="training scenes to fit to (1000)")
    parser.add_argument("--match", choices=["boxes", "masks"], default="boxes", help="what has to overlap (boxes)")
    parser.add_argument("--label", help="which class, of data that tell several, such as CLEVRTEX: material")
    parser.add_argument("--out", type=Path, default=Path("probes.json"), help="file to write (probes.json)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    parser.add_argument("--seed", type=int, default=0, help="of the networks and of the random weights (0)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if options.num_scenes < 1:
        sys.exit(f"zoo: --num_scenes {options.num_scenes} must be at least 1")
    try:
        chosen = options.match, options.out, options.device, options.seed, options.label
        run(options.ckpt_path, options.num_scenes, *chosen)
    except (ValueError, OSError, DatasetNotFoundError, CacheError, DatasetCorruptError) as error:
        sys.exit(f"zoo: {error}")
