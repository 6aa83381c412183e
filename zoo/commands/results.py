"""`python -m zoo results add RUN ...` records runs, `python -m zoo results table` prints the table of them."""

import sys
from pathlib import Path

from zoo.commands.arguments import VerbParser
from zoo.results import table


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(prog="python -m zoo results", description=f"{__doc__}\n{table.__doc__}")
    verbs = parser.add_subparsers(dest="action", required=True)
    adding = verbs.add_parser("add", help="record runs")
    adding.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    verbs.add_parser("table", help="print the table")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if options.action == "add":
        try:
            table.add(options.runs)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(f"zoo: {error}") from None
    else:
        print(table.table())
