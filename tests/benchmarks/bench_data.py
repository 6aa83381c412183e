"""How fast scenes of CLEVRTEX's kind are drawn, published images converted, and both loaded.

python tests/benchmarks/bench_data.py [--scenes 256] [--batch-size 64] [--workers 2] [--root FOLDER]

Drawing and conversion are in processor time on one core; drawing includes the arrangement of the scenes. Loading is in
real time, from memory-mapped scenes in shuffled order, in the main process and by workers; the best of three passes.
Conversion needs `--root`, a folder with published files, of which a sample will do.
"""

import argparse
import itertools
import tempfile
import time

import timing
import torch

from datamodules import CLEVRTEXDataModule
from datamodules.clevrtex_published import Published, read_objects, read_scene
from datamodules.drawing.solids.scenes import VARIANTS, scenes

SIZES = (64, 128)
LOADED = 2048  # scenes


def draw(variant: str, size: int, count: int) -> float:
    """Seconds for a scene."""
    stream = scenes(variant, "train", (size, size), (3, 10), 0)
    next(stream)  # paints the materials, and arranges a block
    start = time.process_time()
    for _ in itertools.islice(stream, count):
        pass
    return (time.process_time() - start) / count


def convert(root: str, size: int, count: int) -> float:
    """Seconds for an image."""
    paths = list(itertools.islice(itertools.cycle(Published("full", root, False, None).images), count))
    names = {entry["material"] for path in paths for entry in read_objects(path, "full")}
    materials = dict.fromkeys(names, 0)
    start = time.process_time()
    for path in paths:
        read_scene(path, "full", (size, size), materials)
    return (time.process_time() - start) / count


def load(data: CLEVRTEXDataModule) -> float:
    """Images a second."""
    rates = []
    for _ in range(3):
        start, images = time.perf_counter(), 0
        for batch in data.train_dataloader():
            images += len(batch["image"])
        rates.append(images / (time.perf_counter() - start))
    return max(rates)


def main() -> None:
    """Print a table of drawing and conversion, and one of loading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds = {(variant, size): draw(variant, size, args.scenes) for variant in VARIANTS for size in SIZES}
    if args.root:
        seconds |= {("published full", size): convert(args.root, size, args.scenes) for size in SIZES}
    rows = [(name, f"{size} px", f"{1000 * s:.1f}", f"{1 / s:.0f}") for (name, size), s in seconds.items()]
    timing.print_table(("scenes", "image", "ms each", "a second"), rows)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            rates = []
            for workers in (0, args.workers):
                own = {"num_train": LOADED, "num_val": 1, "data_dir": folder}
                loading = {"batch_size": args.batch_size, "num_workers": workers}
                data = CLEVRTEXDataModule(source="synthetic", image_size=size, **own, **loading)
                data.setup("fit")
                rates.append(f"{load(data):.0f}")
            rows.append((f"batches of {args.batch_size}", f"{size} px", *rates))
    print()
    timing.print_table(("loading", "image", "images/s", f"{args.workers} workers"), rows)


if __name__ == "__main__":
    main()
