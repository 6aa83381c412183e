"""Test every checkpoint on every data set that fits it, without training: `python -m zoo matrix [CKPT ...]`.

A data set fits a checkpoint that takes its channels and sizes; that which it was trained on is as it was then, others
are drawn here, with their own settings. Detection, counts, masks, categories, a linear probe for classes and images a
second are measured on the first test scenes. Rows are recorded as they come, and not measured again: a run that was cut
short goes on. Checkpoints of models by data sets of one's own choice come of `python -m zoo benchmark --data NAME`.
"""

import sys
from pathlib import Path

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from zoo import registry
from zoo.commands.arguments import VerbParser
from zoo.results import tested


def run(names: list[str], kinds: list[str], num_scenes: int, out: Path, device: str, again: bool) -> None:
    """Measure what is not recorded yet.

    Raises:
        ValueError: There is no such checkpoint.
    """
    from zoo.commands.tested import own_kind, record
    from zoo.downstream.measuring import suitable
    from zoo.prediction import pick_device
    from zoo.sharing import weights

    for name in names:
        model = weights.load(name).to(pick_device(device))
        own = own_kind(model)
        for kind in dict.fromkeys([*([own] if own else []), *kinds]):
            data = suitable(model, kind)
            if data is None:
                print(f"{name}: {kind} does not fit", file=sys.stderr)
                continue
            record("matrix", name, model, data, num_scenes, out, own=kind == own, again=again)


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    from zoo.downstream.measuring import DATA, SLOW
    from zoo.sharing import weights

    parser = VerbParser(prog="python -m zoo matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CKPT", help="name, run folder or file (those of the zoo)")
    parser.add_argument("--data", nargs="+", metavar="NAME", help=f"datamodules (all drawn ones but {', '.join(SLOW)})")
    parser.add_argument("--num_scenes", type=int, default=500, help="test scenes (500)")
    parser.add_argument("--rows", type=Path, default=tested.TESTED, help="CSV file of rows (that of the zoo)")
    parser.add_argument("--again", action="store_true", help="measure what is recorded, too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if options.num_scenes < 1:
        sys.exit(f"zoo: --num_scenes {options.num_scenes} must be at least 1")
    kinds = options.data or [name for name in DATA if name not in SLOW]
    if unknown := [name for name in kinds if name not in registry.datamodules()]:
        sys.exit(f"zoo: --data {unknown[0]}: there are {', '.join(registry.datamodules())}")
    names = options.names or [*weights.list_weights()]
    try:
        run(names, kinds, options.num_scenes, options.rows, options.device, options.again)
    except (ValueError, OSError, DatasetNotFoundError, CacheError, DatasetCorruptError) as error:
        sys.exit(f"zoo: {error}")
    print(tested.matrix(options.rows))
