"""`python -m zoo results add RUN ...` records runs; `table`, `pivot` and `ablations` print the tables of them."""

import sys
from pathlib import Path

from zoo.commands.arguments import VerbParser
from zoo.evaluation import METRIC_NAMES
from zoo.results import ablations, pivot, table


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(prog="python -m zoo results", description=f"{__doc__}\n{table.__doc__}\n{ablations.__doc__}")
    verbs = parser.add_subparsers(dest="action", required=True)
    adding = verbs.add_parser("add", help="record runs")
    adding.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    adding.add_argument("--without", metavar="NAME", help="they are a recipe without this addition of the zoo's")
    verbs.add_parser("table", help="print the table of runs, beside the papers' figures")
    verbs.add_parser("ablations", help="print the table of what the zoo's additions are worth")
    pivoting = verbs.add_parser("pivot", help="print models by metrics, the best bold")
    pivoting.add_argument("--format", choices=pivot.FORMATS, default="markdown", help="of the table (markdown)")
    pivoting.add_argument("--file", type=Path, default=table.RECORDED, help="a results.csv (the recorded runs)")
    pivoting.add_argument("--data", default="", help="only data whose name has this in it")
    pivoting.add_argument("--metrics", nargs="+", default=list(table.HEADLINES), metavar="NAME", help="columns")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    if options.action == "add":
        try:
            if options.without:
                ablations.add(options.runs, options.without)
            else:
                table.add(options.runs)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(f"zoo: {error}") from None
    elif options.action == "pivot":
        if unknown := [name for name in options.metrics if name not in table.COLUMNS]:
            raise SystemExit(
                f"zoo: --metrics {unknown[0]}: there is no such metric; there are {', '.join(METRIC_NAMES)}"
            )
        rows = [row for row in table.read(options.file) if options.data in row["data"]]
        if not rows:
            raise SystemExit(f"zoo: {options.file} has no runs{f' on {options.data!r}' if options.data else ''}")
        print(pivot.pivot(rows, options.format, options.metrics))
    else:
        print(table.table() if options.action == "table" else ablations.table())
