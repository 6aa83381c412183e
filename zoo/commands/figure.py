"""Draw a paper's figure: `python -m zoo figure spair/3`, for SPAIR's figure 3, from recorded points.

Points are recorded in zoo/results/figures.csv, each with its data, its number of scenes and the command that yields it.
`--run` measures them again, without training: of the checkpoints that come with the zoo, or of --ckpt_path, and of
connected components beside them; they replace what is recorded. `--ckpt_path ConnComp` measures these alone.
`gmair/training` takes folders of runs, whose validations its points are.

Figures of scenes, SPAIR's 5 and 6, are drawn of a checkpoint of theirs: `python -m zoo figure spair/6 --ckpt_path RUN`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from zoo.commands.arguments import VerbParser
from zoo.files import write_whole
from zoo.results import figures
from zoo.results import table as recorded

_SHIPPED = {"spair/2": ("spair-multimnist-recipe", "spair-multimnist-paper")}
_SHIPPED["spair/3"] = _SHIPPED["spair/2"]
_BASELINE = "ConnComp"
_SCENES = {"spair/5": ("SetGameDataModule", 4), "spair/6": ("SpaceInvadersDataModule", 3)}  # of what, and how many


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

    if figure not in crowding.SCENES and figure != "gmair/training":
        raise ValueError(
            f"the points of {figure} come of training: see the commands in its rows of {figures.POINTS.name}"
        )
    if figure == "gmair/training":
        yield from _validations(checkpoints)
        return
    alone = list(checkpoints) == [_BASELINE] and figure in _SHIPPED
    chosen = [*checkpoints] if checkpoints and not alone else [*_SHIPPED.get(figure, ())]
    if not chosen:
        raise ValueError(
            f"{figure} compares models that do not come with the zoo: train them, and name them by --ckpt_path"
        )
    data = None
    for name in chosen:
        model = weights.load(name)
        data = data or model.data_record
        if alone:
            continue
        shipped = name in weights.list_weights()
        series = name if shipped else model.facts.get("training", {}).get("experiment") or Path(name).stem
        yield from crowding.points(figure, series, model, model.data_record, num_scenes)
    if figure in _SHIPPED:  # figure 7 compares networks alone
        yield from crowding.points(figure, _BASELINE, None, data, num_scenes)


def _validations(runs: Sequence[str]) -> Iterator[dict[str, object]]:
    """Points of runs' own validations, a panel for each metric.

    Raises:
        ValueError: There is no such run, or its validations say nothing of these metrics.
    """
    if not runs:
        raise ValueError("gmair/training is of the validations of runs: name their folders by --ckpt_path")
    for name in runs:
        path = Path(name) / "run.json"
        if not path.is_file():
            raise ValueError(f"no {path}: is this the folder of a run whose training has ended?")
        record = json.loads(path.read_text(encoding="utf-8"))
        known = [
            own for own in record.get("history") or [] if any(own.get(key) is not None for key in figures.VALIDATED)
        ]
        if not known:
            raise ValueError(f"{path} has no validation with {', '.join(figures.VALIDATED)}: is it a run of GMAIR's?")
        for own in known:
            for key, panel in figures.VALIDATED.items():
                if own.get(key) is not None:
                    yield {
                        "figure": "gmair/training",
                        "panel": panel,
                        "series": " ".join(filter(None, [record["experiment"], record["changes"]])),
                        "setting": recorded.setting(record["experiment"], record["changes"]),
                        "x": own["step"] / 1000,
                        "y": round(own[key], 4),
                        "seed": record["seed"],
                        "scenes": "",
                        "steps": own["step"],
                        "data": f"{record['data']}, validation",
                        "source": "python -m zoo figure gmair/training --run --ckpt_path RUN",
                    }


def draw_of(figure: str, checkpoint: str, out: Path) -> Path:
    """Draw scenes with what a checkpoint finds in them: whole ones, if it was trained on crops.

    Raises:
        ValueError: There is no such checkpoint, it was trained on other data, or pictures have no such format.
    """
    import io

    import torch
    from PIL import Image

    from zoo.downstream.measuring import suitable
    from zoo.pictures.draw import draw_scenes
    from zoo.sharing import weights

    form = Image.registered_extensions().get(out.suffix or ".png")
    if form is None:
        raise ValueError(f"--out {out}: pictures have no format {out.suffix}; .png will do")
    kind, count = _SCENES[figure]
    model = weights.load(checkpoint).eval()
    record = model.data_record or {}
    if record.get("class") != kind:
        raise ValueError(f"{figure} is of {kind}: {checkpoint} was trained on {record.get('class')}")
    data = suitable(model, kind)
    if data is None:
        raise ValueError(f"{checkpoint} takes no images of {kind} as large as they are")
    batch = data.make_dataset("test").batch(range(count))
    with torch.inference_mode():
        scene = model.see(batch)
    buffer = io.BytesIO()
    about = f"{type(model).__name__}, {model.steps_trained} steps"
    draw_scenes(batch, scene, about=about).save(buffer, format=form)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, buffer.getvalue())
    return out


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
    parser.add_argument("figure", choices=[*figures.FIGURES, *_SCENES], help="paper and number", metavar="PAPER/NUMBER")
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
    shows = options.figure in _SCENES
    if shows and len(options.ckpt_path) != 1:
        sys.exit(f"zoo: {options.figure} is drawn of a checkpoint: name one by --ckpt_path")
    if options.ckpt_path and not options.run and not shows:
        sys.exit("zoo: --ckpt_path is for --run, which measures checkpoints")
    try:
        out = options.out or Path(f"{options.figure.replace('/', '-')}.png")
        if shows:
            print(draw_of(options.figure, options.ckpt_path[0], out))
            return
        if options.run:
            figures.add(_told(run(options.figure, options.ckpt_path, options.num_scenes)), options.rows)
        print(draw(options.figure, out, options.rows))
    except (ValueError, OSError, DatasetNotFoundError, CacheError, DatasetCorruptError) as error:
        sys.exit(f"zoo: {error}")
