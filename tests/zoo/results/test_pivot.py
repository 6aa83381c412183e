"""The table of models by metrics: means, deviations, what is bold, in each form."""

import csv
import io
from pathlib import Path
from statistics import mean, stdev

import pytest

from zoo.commands import results as command
from zoo.results.pivot import lines, pivot, short_names

AIRS = "multimnist50-0to2-d28-z1.3sd0.1-margin-oinf-sum-c1-n60000-mnist10k-ink"


def row(experiment: str, data: str = "scenes", changes: str = "", **metrics: float) -> dict[str, str]:
    return {"experiment": experiment, "changes": changes, "data": data, **{k: str(v) for k, v in metrics.items()}}


ROWS = [
    *(row("recipes/quick/air", ap50=value, mse=0.02) for value in (0.9, 0.94)),
    *(row("recipes/quick/dair", ap50=value, mse=0.01) for value in (0.8, 0.85, 0.99)),
    row("air", AIRS, count_accuracy=0.97),
]


def test_means_deviations_and_the_best_of_each_data_set() -> None:
    table = pivot(ROWS, metrics=("ap50", "count_accuracy", "mse", "nmi")).splitlines()
    assert table[0] == (
        "| test data | setting | configuration | seeds | AP (IoU 0.5) | count accuracy | squared error of a pixel |"
    )
    std = stdev([0.8, 0.85, 0.99])
    assert table[2:] == [
        f"| {AIRS} | paper | air | 1 |  | 0.970 |  |",
        "|  | paper | air, as published |  |  | 0.985 |  |",  # no competitor: nothing is bold
        "| scenes | recipe | air | 2 | **0.920 ± 0.028** |  | 0.020 ± 0.000 |",
        f"|  | recipe | dair | 3 | 0.880 ± {std:.3f} |  | **0.010 ± 0.000** |",
    ]


def test_csv_has_all_digits_and_latex_is_escaped() -> None:
    (air, *_) = [own for own in csv.DictReader(io.StringIO(pivot(ROWS, "csv"))) if own["data"] == "scenes"]
    assert float(air["ap50"]) == mean([0.9, 0.94])
    assert float(air["ap50_std"]) == stdev([0.9, 0.94])
    other = row("recipes/quick/air", changes="model.init_args.num_steps=3", ap50=0.5)
    latex = pivot([*ROWS, other], "latex", ("ap50",))
    assert r"num\_steps=3" in latex
    assert r"\textbf{0.920 $\pm$ 0.028}" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {4}  # one column more than separators, in each line
    assert latex.splitlines()[0] == r"\begin{tabular}{llllr}"
    with pytest.raises(ValueError, match="must be one of markdown, csv, latex"):
        pivot(ROWS, "html")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["recipes/quick/air", "recipes/quick/dair"], ["air", "dair"]),
        (["recipes/quick/air", "recipes/spair/air"], ["quick/air", "spair/air"]),
        (["air", "air lr=1"], ["air", "air lr=1"]),
        (["recipes/quick/air lr=1", "recipes/quick/dair lr=1"], ["air", "dair"]),
        (["recipes/quick/air"], ["recipes/quick/air"]),
        (["a", "a"], ["a", "a"]),
        ([], []),
    ],
)
def test_names_lose_what_all_have_in_common_and_stay_different(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short
    assert len(set(short)) == len(set(names))


def test_ties_are_all_bold() -> None:
    table = pivot([row("air", ap50=0.5), row("dair", ap50=0.5)])
    assert table.count("**0.500**") == 2


def test_the_command_prints_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["pivot", "--data", "clevrtex", "--metrics", "ari_fg"])
    said = capsys.readouterr().out
    assert "ARI-FG" in said
    assert "multimnist" not in said
    for wrong, message in (
        (["--metrics", "precision"], "no such metric"),
        (["--file", str(tmp_path / "none.csv")], "has no runs"),
        (["--data", "nowhere"], "has no runs on 'nowhere'"),
    ):
        with pytest.raises(SystemExit, match=message):
            command.main(["pivot", *wrong])
    assert {line.data for line in lines(ROWS)} == {"scenes", AIRS}
