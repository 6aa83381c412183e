"""Recorded runs: what training leaves, the rows made of it, the table made of these."""

import csv
import json
from pathlib import Path

import pytest
import yaml

import zoo
from zoo import configurations, registry
from zoo.commands.cli import main
from zoo.results import table as results

CONFIG = str(Path(__file__).resolve().parents[3] / "configs" / "recipes" / "quick" / "spair.yaml")
TINY = ["--data.init_args.num_train=8", "--data.init_args.num_val=4", "--data.init_args.num_test=4"]
TINY += ["--data.init_args.batch_size=4", "--data.init_args.source=uci", "--wandb=disabled"]
TINY += ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.val_check_interval=1"]


AIRS_DIGITS = "multimnist50-0to2-d28-z1.3sd0.1-margin-oinf-sum-c1-n60000-mnist10k-ink"
GMAIRS_DIGITS = "multimnist128-1to10-margin-o1764-sum-c1-n15000-mnist10k-ink"


def record(folder: Path, **changes: object) -> Path:
    """A run folder with a record as training leaves it."""
    about = {"experiment": "air", "changes": "", "seed": 0, "model": "AIR", "data": AIRS_DIGITS, "steps": 10}
    folder.mkdir(parents=True)
    content = {**about, "wall_s": 60.0, "metrics": {"count_accuracy": 0.9, "kl_where": 3.0}, **changes}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_training_leaves_a_record_that_counts_the_time_of_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lr = ["--model.init_args.lr", "3e-4"]
    main(["fit", "--config", CONFIG, *TINY, *lr, "--trainer.max_steps=2", "--seed_everything=7", "--run_name=first"])
    first = json.loads(Path("runs/first/version_0/run.json").read_text())
    assert (first["experiment"], first["seed"], first["steps"], first["model"]) == (
        "recipes/quick/spair",
        7,
        2,
        "SPAIRRecipe",
    )
    assert "model.init_args.lr=3e-4" in first["changes"]
    assert "seed" not in first["changes"]
    assert first["data"].endswith("uci-ink")
    assert first["wall_s"] > 0
    assert first["peak_memory_gb"] > 0.1
    assert 0 <= first["metrics"]["count_accuracy"] <= 1
    main(["fit", "--ckpt_path=runs/first/version_0", "--trainer.max_steps=3", "--run_name=second", "--wandb=disabled"])
    second = json.loads(Path("runs/second/version_0/run.json").read_text())
    assert (second["experiment"], second["steps"]) == ("recipes/quick/spair", 3)
    assert second["history"][:2] == first["history"]
    assert [point["step"] for point in second["history"]] == [1, 2, 3]
    assert second["wall_s"] >= second["history"][2]["wall_s"] > first["history"][1]["wall_s"]


def test_a_table_has_mean_and_deviation_over_seeds_beside_the_papers_figure(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    accuracies = (0.90, 0.94, 0.98)
    runs = [record(tmp_path / str(s), seed=s, metrics={"count_accuracy": a}) for s, a in enumerate(accuracies)]
    results.add(runs, path)
    results.add([record(tmp_path / "other", experiment="recipes/quick/spair")], path)
    lines = results.table(path).splitlines()
    assert lines[2] == f"| paper | air | {AIRS_DIGITS} | 3 | 10 | 1 | count_accuracy | 0.940 ± 0.040 | 0.985 |"
    assert lines[3] == f"| recipe | recipes/quick/spair | {AIRS_DIGITS} | 1 | 10 | 1 | count_accuracy | 0.900 |  |"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"changes": "trainer.max_steps=12000 checkpoint.monitor=val/loss"}, True),
        ({"changes": "model.init_args.presence_bias=0"}, False),
        ({"changes": "data.init_args.num_digits=[0,3]"}, False),
        ({"data": AIRS_DIGITS.replace("mnist10k", "uci")}, False),
        ({"data": "multimnist50-0to2-d20-o100-c1-mnist10k-ink"}, False),
        ({"experiment": "recipes/quick/air"}, False),
        ({"experiment": "air+mine.yaml"}, False),
        ({"experiment": "air.yaml"}, False),  # a file of one's own
    ],
    ids=str,
)
def test_a_papers_figure_stands_beside_its_own_setting_and_data_alone(
    tmp_path: Path, changes: dict[str, str], same: bool
) -> None:
    results.add([record(tmp_path / "run", **changes)], tmp_path / "results.csv")
    *_, line = results.table(tmp_path / "results.csv").splitlines()
    assert ("0.985" in line) == same
    assert line.startswith("| paper |") == (same or "data" in changes)


def test_every_published_figure_is_of_the_data_that_its_configuration_makes() -> None:
    checked = set()
    for figure in results.read(results.PUBLISHED):
        config = yaml.safe_load(configurations.find(figure["experiment"]).read_text())["data"]
        arguments = {**config.get("init_args", {})}
        if config["class_path"] == "MultiMNISTDataModule":
            arguments["source"] = "uci"
        if config["class_path"] == "CLEVRTEXDataModule" and arguments.get("source") != "synthetic":
            continue  # cannot say its name without its files
        data = registry.datamodules()[config["class_path"]].load()(**arguments)
        assert data.name.replace("-uci-", "-mnist-") == figure["data"], figure
        checked.add(data.name)
    assert len(checked) >= 6


def test_a_run_that_is_added_again_replaces_itself(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results.add([record(tmp_path / "a")], path)
    results.add([record(tmp_path / "b", metrics={"count_accuracy": 0.5})], path)
    (row,) = results.read(path)
    assert row["count_accuracy"] == "0.5"
    assert [p.name for p in tmp_path.glob("*.csv*")] == ["results.csv"]


def test_what_is_undefined_is_left_out(tmp_path: Path) -> None:
    metrics = {"count_accuracy": 0.5, "nmi": float("nan")}  # nothing was found that could be scored
    runs = [record(tmp_path / str(s), seed=s, metrics=metrics) for s in range(2)]
    results.add(runs, tmp_path / "results.csv")
    assert [row["nmi"] for row in results.read(tmp_path / "results.csv")] == ["", ""]
    assert "nmi" not in results.table(tmp_path / "results.csv")


def test_a_clustering_is_a_row_of_its_own(tmp_path: Path) -> None:
    scores = {"hungarian_accuracy": 0.6, "cluster_purity": 0.61, "nmi": 0.59}
    about = {"checkpoint": "spair-multimnist-recipe", "model": "SPAIR", "data": "digits", "num_clusters": 10, "seed": 3}
    content = {**about, "ap50": 0.96, "gmm": scores, "categories": None}
    (tmp_path / "clustering.json").write_text(json.dumps(content))
    results.add([tmp_path], tmp_path / "results.csv")
    (row,) = results.read(tmp_path / "results.csv")
    assert (row["experiment"], row["changes"], row["seed"]) == ("spair-multimnist-recipe + GMM", "", "3")
    assert (row["ap50"], row["hungarian_accuracy"], row["steps"]) == ("0.96", "0.6", "")


def test_runs_that_have_not_ended_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.json.*training has ended"):
        results.row(tmp_path)
    untested = record(tmp_path / "run")
    content = json.loads((untested / "run.json").read_text())
    del content["metrics"]
    (untested / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="test_after_fit"):
        results.row(untested)


def test_recorded_and_published_results_are_well_formed() -> None:
    with results.PUBLISHED.open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    configs = Path(__file__).resolve().parents[3] / "configs"

    def exists(experiment: str) -> bool:
        name = experiment.removesuffix(" + GMM")
        return name in zoo.list_weights() or (configs / f"{name}.yaml").is_file()

    for row in published:
        assert exists(row["experiment"]), row
        assert row["metric"] in results.METRIC_NAMES, row
        assert float(row["mean"]) >= 0, row
        assert row["source"], row
    for row in results.read():
        assert tuple(row) == results.COLUMNS
        assert exists(row["experiment"]), row


def test_gmairs_acc_is_many_to_one_and_no_papers_figure_stands_beside_one_to_one_accuracy(tmp_path: Path) -> None:
    """Equation 16 gives each category its most frequent class, also the same to several: that is purity."""
    published = results.read(results.PUBLISHED)
    assert "gmair" in {r["experiment"] for r in published if r["metric"] == "cluster_purity"}
    assert not [r for r in published if r["metric"] == "hungarian_accuracy"]
    metrics = {"hungarian_accuracy": 0.7, "cluster_purity": 0.75}
    results.add(
        [record(tmp_path / "run", experiment="gmair", data=GMAIRS_DIGITS, metrics=metrics)], tmp_path / "results.csv"
    )
    table = results.table(tmp_path / "results.csv")
    assert "| hungarian_accuracy | 0.700 |  |" in table
    assert "| cluster_purity | 0.750 | 0.804 ± 0.005 |" in table
