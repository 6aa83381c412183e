"""`python -m zoo results add RUN ...` records runs; `table` and `ablations` print the tables of them."""

import sys
from pathlib import Path

from zoo.commands.arguments import VerbParser
from zoo.results import ablations, table


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(prog="python -m zoo results", description=f"{__doc__}\n{table.__doc__}\n{ablations.__doc__}")
    verbs = parser.add_subparsers(dest="action", required=True)
    adding = verbs.add_parser("add", help="record runs")
    adding.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    adding.add_argument("--without", metavar="NAME", help="they are a recipe without this addition of the zoo's")
    verbs.add_parser("table", help="print the table of runs, beside the papers' figures")
    verbs.add_parser("ablations", help="print the table of what the zoo's additions are worth")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if options.action == "add":
        try:
            if options.without:
                ablations.add(options.runs, options.without)
            else:
                table.add(options.runs)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(f"zoo: {error}") from None
    else:
        print(table.table() if options.action == "table" else ablations.table())
