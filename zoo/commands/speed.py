"""`python -m zoo speed NAME ...`: how fast models train and find objects here, and how far that is from the limit.

A NAME is a trained checkpoint or a configuration. A training step is forward, loss, backward and the optimiser's
step; inference is `forward`. Images are noise in memory, weights are a checkpoint's or a configuration's first ones:
of models whose work grows with what they find, that is what they find in noise. Times are medians of rounds that take
turns with a product of 1024 x 1024 matrices, on the same device and threads. GFLOP are those of the step's products
and convolutions; their share of the limit is their rate over that of this product. Each NAME is measured in a process
of its own; peak memory is what a step adds to weights and images.
"""

import contextlib
import functools
import multiprocessing
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from zoo import configurations
from zoo.commands import agreement
from zoo.commands.arguments import VerbParser
from zoo.commands.parser import parameters
from zoo.files import write_json
from zoo.models.base import ObjectModel
from zoo.sharing import weights

PRECISIONS = ("32-true", "bf16-mixed")
_SIDE = 1024  # of the matrices that the limit is measured with
_COLUMNS = {
    "model": "model",
    "batch": "batch",
    "device": "device",
    "precision": "precision",
    "training_images_per_second": "training, images/s",
    "inference_images_per_second": "inference, images/s",
    "training_gflop": "GFLOP a step",
    "share_of_limit": "share of the limit",
    "peak_mib": "peak, MiB",
}


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(prog="python -m zoo speed", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="checkpoint or configuration")
    parser.add_argument("--batch_size", type=int, help="images of a step (the configuration's, or 32)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["32-true"], help="each is measured")
    parser.add_argument("--threads", type=int, help="of a CPU (PyTorch's)")
    parser.add_argument("--rounds", type=int, default=7, help="of which times are the medians (7)")
    parser.add_argument("--out", type=Path, help="JSON file to write, too")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    for name in ("batch_size", "threads", "rounds"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        parser.error(f"--out {options.out}: there is no folder {options.out.parent}")
    rows = []
    for name in options.names:
        for precision in options.precision:
            try:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
                    rows.append(own.submit(measure, name, precision, options).result())
            except BrokenProcessPool:
                sys.exit(f"zoo: {name} ended its process, as one does that lacks memory: lower --batch_size")
            except (ValueError, OSError, RuntimeError) as error:
                sys.exit(f"zoo: {name}: {' '.join(str(error).split())[:300]}")
    if options.out is not None:
        write_json(options.out, rows)
    Console(width=None if sys.stdout.isatty() else 200).print(_table(rows))


def measure(name: str, precision: str, options: Namespace) -> dict[str, Any]:
    """Build a model and time it.

    Args:
        name: A checkpoint or a configuration.
        precision: One of `PRECISIONS`; bfloat16 by autocast, as the trainer's.
        options: `batch_size`, `device`, `threads` and `rounds` of the command line.

    Returns:
        `model`, `class`, `image_size` (height, width), `batch`, `device`, `threads`, `precision`;
        `training_images_per_second`, `inference_images_per_second`; `training_gflop`, of a step; `limit_gflops`, what
        matrix products reach a second, and `share_of_limit` in [0, 1] of a training step; `peak_mib` of it.

    Raises:
        ValueError: There is no such checkpoint or configuration, or it cannot be built.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, (channels, height, width), batch = build(name)
    batch = options.batch_size or batch
    device = torch.device(options.device)
    model = model.to(device)
    image = torch.rand(batch, channels, height, width).to(device)
    optimizer = cast(Any, model.configure_optimizers())["optimizer"]

    def in_precision() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    def train() -> None:
        with in_precision():
            loss = model._total(model.losses({"image": image}))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def infer() -> None:
        with in_precision(), torch.inference_mode():
            model(image)

    matrix = torch.rand(_SIDE, _SIDE, device=device, dtype=torch.bfloat16 if precision == "bf16-mixed" else None)
    modes = {"training": (train, True), "inference": (infer, False), "limit": (lambda: matrix @ matrix, False)}
    before = peak_mib(device)
    model.train()
    with FlopCounterMode(display=False) as counter:
        train()
    peak = peak_mib(device) - before
    seconds: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(1 + options.rounds):  # the first warms up
        for mode, (function, training) in modes.items():
            model.train(training)
            seconds[mode].append(_seconds(function, device))
    took = {mode: statistics.median(values[1:]) for mode, values in seconds.items()}
    gflop, limit = counter.get_total_flops() / 1e9, 2 * _SIDE**3 / 1e9 / took["limit"]
    return {
        "model": name,
        "class": type(model).__name__,
        "image_size": [height, width],
        "batch": batch,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "training_images_per_second": batch / took["training"],
        "inference_images_per_second": batch / took["inference"],
        "training_gflop": gflop,
        "limit_gflops": limit,
        "share_of_limit": gflop / took["training"] / limit,
        "peak_mib": peak,
    }


def build(name: str) -> tuple[ObjectModel, tuple[int, int, int], int]:
    """Of a checkpoint or a configuration: the model, its images' (channels, height, width), and the batch size.

    Raises:
        ValueError: There is no such checkpoint or configuration, or it cannot be built.
    """
    try:
        path = configurations.find(name)
        if path.suffix not in configurations.SUFFIXES:
            raise configurations.ConfigurationError(name)  # a checkpoint's file
    except configurations.ConfigurationError:
        record = weights.read_record(weights.find(name))
        data, model = record["data"], weights.load(name)
        if data is None:
            raise ValueError(
                f"the checkpoint {name} does not say what images it is for: name a configuration"
            ) from None
        parts = Namespace(class_path=data["class"], init_args=dict(data["init_args"]))
        own = agreement.find_class(parts.class_path)(**parts.init_args)
        return model, own.train_image_shape, parts.init_args.get("batch_size", 32)
    content = agreement.content_of(str(path))
    if not {"model", "data"} <= content.keys():
        raise ValueError(f"{path} does not name both a model and its data")
    model_part, data_part = (dict(content[part]) for part in ("model", "data"))
    data_type, model_type = (agreement.find_class(part["class_path"]) for part in (data_part, model_part))
    data_args, model_args = (dict(part.get("init_args") or {}) for part in (data_part, model_part))
    own = data_type(**data_args)
    channels, *size = own.train_image_shape
    follows = {"channels": channels, "image_size": tuple(size)}
    model_args |= {key: value for key, value in follows.items() if key in (parameters(model_type) or ())}
    return model_type(**model_args), own.train_image_shape, own.hparams.get("batch_size", 32)


def peak_mib(device: torch.device) -> float:
    """Most memory so far: of a GPU its allocator's, else the process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # knows better than `ru_maxrss`, which starts with the parent's
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    wait = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else contextlib.nullcontext
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    for column in _COLUMNS.values():
        table.add_column(column)
    for row in rows:
        table.add_row(*(_shown(key, row[key]) for key in _COLUMNS))
    return table


def _shown(key: str, value: Any) -> str:
    if key == "share_of_limit":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)
