"""Draw a paper's figure from recorded points: `python -m zoo figure spair/3`, for SPAIR's figure 3.

Points are recorded in zoo/results/figures.csv, each with its data, its number of scenes and the command that yields it.
`--run` measures them again, without training: of the checkpoints that come with the zoo, or of --ckpt_path, and of
connected components beside them; they replace what is recorded.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from zoo.commands.arguments import VerbParser
from zoo.files import write_whole
from zoo.results import figures

_SHIPPED = {"spair/2": ("spair-multimnist-recipe", "spair-multimnist-paper")}
_SHIPPED["spair/3"] = _SHIPPED["spair/2"]
_BASELINE = "ConnComp"


def run(figure: str, checkpoints: Sequence[str], num_scenes: int) -> Iterator[dict[str, object]]:
    """Measure a figure's points: of checkpoints, then, but in figure 7, of connected components.

    Args:
        figure: As in `spair/3`.
        checkpoints: See `zoo.load`; none: those that come with the zoo.
        num_scenes: For each point.

    Raises:
        ValueError: The figure's points need training, or there is no such checkpoint, or its data have no number of
            objects to be set.
    """
    from zoo.downstream import crowding
    from zoo.sharing import weights

    if figure not in crowding.SCENES:
        raise ValueError(
            f"the points of {figure} come of training: see the commands in its rows of {figures.POINTS.name}"
        )
    chosen = [*checkpoints] or [*_SHIPPED.get(figure, ())]
    if not chosen:
        raise ValueError(
            f"{figure} compares models that do not come with the zoo: train them, and name them by --ckpt_path"
        )
    data = None
    for name in chosen:
        model = weights.load(name)
        data = data or model.data_record
        shipped = name in weights.list_weights()
        series = name if shipped else model.facts.get("training", {}).get("experiment") or Path(name).stem
        yield from crowding.points(figure, series, model, model.data_record, num_scenes)
    if figure in _SHIPPED:  # figure 7 compares networks alone
        yield from crowding.points(figure, _BASELINE, None, data, num_scenes)


def draw(figure: str, out: Path, rows: Path = figures.POINTS) -> Path:
    """Draw a figure's recorded points into a file, a PNG or, by its suffix, whatever matplotlib writes.

    Raises:
        ValueError: There is no such figure, no point of it, or no format of that suffix.
    """
    import io

    from zoo.downstream.curves import draw_curves

    about = figures.FIGURES.get(figure)
    if about is None:
        raise ValueError(f"no figure {figure!r}: there are {', '.join(figures.FIGURES)}")
    points = figures.read(figure, rows)
    if not points:
        raise ValueError(f"no point of {figure} is recorded in {rows}; --run measures them")
    buffer = io.BytesIO()
    draw_curves(about, points).savefig(buffer, format=out.suffix.removeprefix(".") or "png", dpi=150)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, buffer.getvalue())
    return out


def _told(points: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    """The same points; each is told as soon as it is measured, as all take minutes."""
    for point in points:
        print(f"{point['series']}, {point['x']}: {point['panel']} {point['y']}", file=sys.stderr)
        yield point


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(prog="python -m zoo figure", description=__doc__)
    parser.add_argument("figure", choices=[*figures.FIGURES], help="paper and number", metavar="PAPER/NUMBER")
    parser.add_argument("--out", type=Path, help="file to write: .png, .pdf, .svg (PAPER-NUMBER.png)")
    parser.add_argument("--rows", type=Path, default=figures.POINTS, help="CSV file of points (that of the zoo)")
    parser.add_argument("--run", action="store_true", help="measure the points first")
    parser.add_argument(
        "--ckpt_path", nargs="+", default=[], metavar="CKPT", help="checkpoints to measure (those of the zoo)"
    )
    parser.add_argument("--num_scenes", type=int, default=500, help="test scenes for each point (500)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if options.num_scenes < 1:
        sys.exit(f"zoo: --num_scenes {options.num_scenes} must be at least 1")
    if options.ckpt_path and not options.run:
        sys.exit("zoo: --ckpt_path is for --run, which measures checkpoints")
    try:
        if options.run:
            figures.add(_told(run(options.figure, options.ckpt_path, options.num_scenes)), options.rows)
        print(draw(options.figure, options.out or Path(f"{options.figure.replace('/', '-')}.png"), options.rows))
    except (ValueError, OSError, DatasetNotFoundError, CacheError, DatasetCorruptError) as error:
        sys.exit(f"zoo: {error}")
