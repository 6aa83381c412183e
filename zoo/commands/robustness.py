"""Test checkpoints under shifts, on the kind of data that they were trained on: `python -m zoo robustness [CKPT ...]`.

Shifts are crops, occlusion, colours, brightness, blur, noise and, of CLEVRTEX, unseen shapes and materials (see
zoo/downstream/shifts.py), each with the truth that goes with it. Rows are recorded as they come, and not measured
again. Prints average precision at an IoU of 0.5, and draws it.
"""

import sys
from pathlib import Path

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from zoo.commands.arguments import VerbParser
from zoo.downstream.shifts import NAMES, applies
from zoo.files import write_whole
from zoo.results import tested


def run(names: list[str], shifts: list[str], num_scenes: int, out: Path, device: str, again: bool) -> None:
    """Measure what is not recorded yet.

    Raises:
        ValueError: There is no such checkpoint, or it does not say what it was trained on.
    """
    from zoo.commands.tested import own_kind, record
    from zoo.downstream.measuring import shifted
    from zoo.prediction import pick_device
    from zoo.sharing import weights

    for name in names:
        model = weights.load(name).to(pick_device(device))
        for shift in (tested.NO_SHIFT, *shifts):
            if shift != tested.NO_SHIFT and not applies(shift, model.hp.channels, own_kind(model) or ""):
                continue
            try:
                data = shifted(model, shift)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            record("robustness", name, model, data, num_scenes, out, own=True, shift=shift, again=again)


def draw(rows: Path, out: Path) -> None:
    """Draw the recorded rows into a file.

    Raises:
        ValueError: No row is recorded, or matplotlib writes no such file.
    """
    import io

    from zoo.downstream.comparison import draw_shifts

    values = tested.by_shift(path=rows)
    if not values:
        raise ValueError(f"no row of a shift is recorded in {rows}")
    buffer = io.BytesIO()
    draw_shifts(values).savefig(buffer, format=out.suffix.removeprefix(".") or "png", dpi=150)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, buffer.getvalue())


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    from zoo.sharing import weights

    parser = VerbParser(prog="python -m zoo robustness", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CKPT", help="name, run folder or file (those of the zoo)")
    parser.add_argument("--shifts", nargs="+", default=[*NAMES], choices=NAMES, metavar="NAME", help="(all)")
    parser.add_argument("--num_scenes", type=int, default=500, help="test scenes (500)")
    parser.add_argument("--rows", type=Path, default=tested.TESTED, help="CSV file of rows (that of the zoo)")
    parser.add_argument("--out", type=Path, default=Path("robustness.png"), help="picture (robustness.png)")
    parser.add_argument("--again", action="store_true", help="measure what is recorded, too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if options.num_scenes < 1:
        sys.exit(f"zoo: --num_scenes {options.num_scenes} must be at least 1")
    try:
        names = options.names or [*weights.list_weights()]
        run(names, options.shifts, options.num_scenes, options.rows, options.device, options.again)
        draw(options.rows, options.out)
    except (ValueError, OSError, DatasetNotFoundError, CacheError, DatasetCorruptError) as error:
        sys.exit(f"zoo: {error}")
    print(tested.robustness(options.rows))
    print(options.out)
