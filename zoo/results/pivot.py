"""Recorded runs as a table of models by metrics, for a paper or a slide: Markdown, CSV or LaTeX.

For each data set the best mean of a metric is bold, where there are several; papers' figures, where setting, data and
metric are theirs, have lines of their own and do not compete.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal, get_args

from zoo.results.table import HEADLINES, TITLES, published, setting_of

Format = Literal["markdown", "csv", "latex"]
FORMATS: tuple[Format, ...] = get_args(Format)
_LOWER_IS_BETTER = ("count_error", "mse", "normalized_error", "mse_sum")
_PREFIX = re.compile(r"^(model|data|trainer)\.(init_args\.)?")  # of an option, whose last part says enough in a table
_LATEX = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}


@dataclass(frozen=True)
class Cell:
    """A metric of some seeds.

    Attributes:
        mean: Over them.
        std: Their sample standard deviation; null: of one.
    """

    mean: float
    std: float | None


@dataclass(frozen=True)
class Line:
    """A configuration on a data set.

    Attributes:
        data: The data set.
        setting: "paper" or "recipe" (see `zoo.results.table.setting`).
        name: The configuration's, without what all on these data have in common.
        seeds: How many; null: a paper's figures.
        cells: By metric.
    """

    data: str
    setting: str
    name: str
    seeds: int | None
    cells: Mapping[str, Cell]


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the folders that all are in and the options that all end with; one name stays as it is."""
    if len(set(names)) < 2:
        return list(names)
    parts = [name.replace("/", "/\0").replace(" ", " \0").split("\0") for name in names]
    shortest = min(map(len, parts))
    start = next((i for i in range(shortest) if len({own[i] for own in parts}) > 1), shortest - 1)
    start = min(start, shortest - 1)
    end = 0
    while end < shortest - start - 1 and len({own[-1 - end] for own in parts}) == 1 and "=" in parts[0][-1 - end]:
        end += 1
    return ["".join(own[start : len(own) - end]).strip() for own in parts]


def lines(rows: Sequence[Mapping[str, str]], metrics: Sequence[str] = HEADLINES) -> list[Line]:
    """Lines of the table, by data set and in the order of configurations.

    Args:
        rows: Of `zoo.results.table.read`.
        metrics: Columns; a line has those that it has values of.
    """
    groups: dict[str, dict[tuple[str, str], list[Mapping[str, str]]]] = {}
    for row in rows:
        groups.setdefault(row["data"], {}).setdefault((row["experiment"], row["changes"]), []).append(row)
    found = []
    for data, own in sorted(groups.items()):
        keys = sorted(own)
        names = [" ".join([key[0], *(_PREFIX.sub("", change) for change in key[1].split())]) for key in keys]
        for key, name in zip(keys, short_names(names), strict=True):
            cells, papers = {}, {}
            for metric in metrics:
                values = [float(row[metric]) for row in own[key] if row.get(metric)]
                if values:
                    cells[metric] = Cell(mean(values), stdev(values) if len(values) > 1 else None)
                figure = published(*key, data, metric)
                if figure is not None:
                    papers[metric] = Cell(float(figure["mean"]), float(figure["std"] or 0) or None)
            found.append(Line(data, setting_of(*key), name, len(own[key]), cells))
            found += [Line(data, "paper", f"{name}, as published", None, papers)] * bool(papers)
    return found


def pivot(rows: Sequence[Mapping[str, str]], form: Format = "markdown", metrics: Sequence[str] = HEADLINES) -> str:
    """The table.

    Args:
        rows: Of `zoo.results.table.read`.
        form: "markdown", "csv" (with columns of means and of deviations, all digits, nothing bold) or "latex" (for the
            package booktabs).
        metrics: Columns; those that no row has are left out.

    Raises:
        ValueError: There is no such form.
    """
    if form not in FORMATS:
        raise ValueError(f"form={form!r}: must be one of {', '.join(FORMATS)}")
    table = lines(rows, metrics)
    shown = [metric for metric in metrics if any(metric in line.cells for line in table)]
    if form == "csv":
        return _csv(table, shown)
    best = _best(table, shown)
    head = ["test data", "setting", "configuration", "seeds", *(TITLES.get(metric, metric) for metric in shown)]
    body, before = [], ""
    for line in table:
        texts = []
        for metric in shown:
            cell = line.cells.get(metric)
            text = "" if cell is None else _text(cell, form)
            strong = cell is not None and line.seeds is not None and best.get((line.data, metric)) == f"{cell.mean:.3f}"
            texts.append(_bold(text, form) if strong else text)
        about = ["" if line.data == before else line.data, line.setting, line.name, str(line.seeds or "")]
        body.append([*(map(_escaped, about) if form == "latex" else about), *texts])
        before = line.data
    if form == "markdown":
        rule = "|---" * 4 + "|---:" * len(shown) + "|"
        return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in body)])
    end = r" \\"
    inner = [" & ".join(row) + end for row in body]
    begin = rf"\begin{{tabular}}{{llll{'r' * len(shown)}}}"
    top = " & ".join(map(_escaped, head)) + end
    return "\n".join([begin, r"\toprule", top, r"\midrule", *inner, r"\bottomrule", r"\end{tabular}"])


def _best(table: Sequence[Line], metrics: Sequence[str]) -> dict[tuple[str, str], str]:
    """By data set and metric, the best mean as it is printed, where there are at least two."""
    best = {}
    for data in {line.data for line in table}:
        for metric in metrics:
            own = [
                line.cells[metric].mean for line in table if line.data == data and line.seeds and metric in line.cells
            ]
            if len(own) > 1:
                best[data, metric] = f"{min(own) if metric in _LOWER_IS_BETTER else max(own):.3f}"
    return best


def _text(cell: Cell, form: Format) -> str:
    spread = "" if cell.std is None else rf" $\pm$ {cell.std:.3f}" if form == "latex" else f" ± {cell.std:.3f}"
    return f"{cell.mean:.3f}{spread}"


def _bold(text: str, form: Format) -> str:
    return rf"\textbf{{{text}}}" if form == "latex" else f"**{text}**"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _csv(table: Sequence[Line], metrics: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["data", "setting", "configuration", "seeds", *(f"{m}{part}" for m in metrics for part in ("", "_std"))]
    )
    for line in table:
        values: list[object] = []
        for metric in metrics:
            cell = line.cells.get(metric)
            values += ["", ""] if cell is None else [cell.mean, "" if cell.std is None else cell.std]
        writer.writerow([line.data, line.setting, line.name, line.seeds or "", *values])
    return buffer.getvalue().rstrip("\n")
