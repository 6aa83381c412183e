"""`python -m zoo export --ckpt_path NAME --format onnx`, and what comes of it."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from zoo.commands.arguments import VerbParser
from zoo.sharing import export as exporting
from zoo.sharing import weights


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(
        prog="python -m zoo export",
        description=f"{__doc__}\n{exporting.__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ckpt_path", required=True, help="a name, a run folder, a file, best, last or an id on the hub"
    )
    parser.add_argument("--format", choices=get_args(exporting.Format), default="torch", help="torch or onnx (torch)")
    parser.add_argument("--out", type=Path, help="file to write (NAME.pt2 or NAME.onnx)")
    parser.add_argument(
        "--image_size", type=int, nargs=2, metavar=("H", "W"), help="of images (what it was trained on)"
    )
    parser.add_argument("--batch_size", type=int, help="images that the program takes at once (any number)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    try:
        model = weights.load(options.ckpt_path)
        out = options.out or Path(Path(options.ckpt_path).stem)
        size, batch = options.image_size, options.batch_size
        path = exporting.export(model, out, options.format, image_size=size, batch_size=batch)
    except (ValueError, OSError, exporting.ExportError) as error:
        sys.exit(f"zoo: {error}")
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
