"""The workspace on Weights & Biases, and the offline runs that it shows, read back as `wandb sync` would."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml
from helpers_wandb import read_offline_run

from zoo.commands import benchmark, dashboard
from zoo.commands.cli import main as train
from zoo.results import table as results

ws = pytest.importorskip("wandb_workspaces.workspaces", reason="wandb-workspaces is an extra")
ROOT = Path(__file__).resolve().parents[3]
TINY = {"num_train": 16, "num_val": 8, "num_test": 8, "batch_size": 8}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    wandb.teardown()  # its process stays in the folder where an earlier test started it
    yield
    wandb.teardown()


def panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def test_what_the_workspace_shows_is_what_runs_and_benchmarks_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains and compares offline, reads the runs back, and looks up each panel's keys in them."""
    monkeypatch.delenv("WANDB_MODE")
    options = [f"--data.init_args.{key}={value}" for key, value in TINY.items()]
    options += ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    options += ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--wandb=offline"]
    train(["fit", "--config", str(ROOT / "configs/recipes/quick/discrete_air.yaml"), *options])
    wandb.finish()  # as the end of the process does: only then is everything written
    (run,) = Path("runs").glob("*/version_0")
    (folder,) = (run / "wandb").glob("offline-run-*")
    fit = read_offline_run(folder)

    # the configuration, whole, and by what runs are grouped
    assert (fit["config"]["model"], fit["config"]["data"]) == ("DiscreteAIRRecipe", run.parent.name.split("_", 1)[1])
    assert fit["config"]["config"] == yaml.safe_load((run / "config.yaml").read_text())
    # pictures: logged with their digest, and there
    logged = {key: value for row in fit["history"] for key, value in row.items()}
    pictures = {key for key in logged if key.startswith("scenes/")}
    assert pictures == {"scenes/val", "scenes/test", "scenes/generated", "scenes/composed"}
    for key in pictures:
        assert logged[key]["_type"] == "images/separated"
        for name in logged[key]["filenames"]:
            assert name in fit["files"]
    # metrics: the last that were logged are those of the run's record
    tested = json.loads((run / "run.json").read_text())["metrics"]
    assert tested["mse"] == pytest.approx(logged["test/mse"], abs=1e-6)
    assert [row["val/loss"] for row in fit["history"] if "val/loss" in row][-1] > 0

    # a benchmark's table, row by row, and its plots
    benchmark_out = Path("comparison")
    (benchmark_out / "runs" / "one").mkdir(parents=True)
    (benchmark_out / "runs" / "one" / "version_0").symlink_to(run.absolute())
    benchmark.tabulate(benchmark_out)
    benchmark.log_to_wandb(benchmark_out, "offline", "zoo", benchmark.draw(benchmark_out))
    (folder,) = (benchmark_out / "wandb").glob("offline-run-*")
    compared = read_offline_run(folder)
    shown = {key: value for row in compared["history"] for key, value in row.items()}
    file = folder / "files" / shown["results"]["path"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == shown["results"]["sha256"]
    table = json.loads(file.read_text())
    (row,) = results.read(benchmark_out / "results.csv")
    assert dict(zip(table["columns"], map(str, table["data"][0]), strict=True)).keys() == {
        k for k, v in row.items() if v
    }
    assert table["data"][0][table["columns"].index("mse")] == tested["mse"]
    for key in dashboard.PLOTS:
        assert (folder / "files" / shown[key]["path"]).read_bytes().startswith(b"\x89PNG")

    # panels: each shows something that such runs log, but for what this model does not have
    missing = set()
    for shown_panels in panels(dashboard.specification(dashboard.workspace("zoo", "me"))).values():
        for panel in shown_panels:
            config = panel["config"]
            patterns = [config["metricRegex"]] if config.get("metricRegex") else []
            keys = config.get("metrics", []) + config.get("mediaKeys", [])
            if config.get("xAxis"):
                assert config["xAxis"] in logged
            assert patterns or keys or panel["viewType"] == "Weave"
            missing |= {key for key in keys if key not in logged and key not in shown}
            missing |= {p for p in patterns if not any(re.search(p, key) for key in logged)}
    masks = {f"{stage}/{name}" for stage in ("test", "val") for name in ("ari_fg", "miou_fg")}
    assert missing == {"clusters/embedding", "clusters/curves"} | masks


def test_the_file_is_the_workspace_and_is_written_without_a_network(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
    dashboard.main(["--wandb=offline", "--entity=me", "--wandb_project=zoo", "--out=folder/view.json"])
    assert "wandb login" in capsys.readouterr().out
    written = json.loads(Path("folder/view.json").read_text())
    assert (written["entity"], written["project"], written["name"]) == ("me", "zoo", "Model comparison")
    assert [*panels(written)] == ["Test", "Pictures", "Validation", "Training", "Benchmarks"]
    section = written["spec"]["section"]
    assert [part["name"] for part in section["runSets"][0]["grouping"]] == ["data.value", "model.value"]
    bar = panels(written)["Test"][0]["config"]
    assert (bar["metrics"], bar["groupBy"], bar["groupAgg"], bar["groupArea"]) == (
        ["test/ap50"], "model.value", "mean", "stddev",
    )  # fmt: skip
    # W&B's own reader understands it
    from wandb_workspaces.workspaces import internal

    view = internal.View(entity="me", project="zoo", display_name="x", name="nw-1-v", id="1", spec=written["spec"])
    again = ws.Workspace._from_model(view)
    shown = [[metric.name for metric in panel.metrics] for panel in again.sections[0].panels]
    assert shown == [[f"test/{name}"] for name in results.TITLES]


def test_it_is_sent_when_online_and_refusals_are_explained(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    sent = []

    def save(self: Any) -> Any:
        sent.append((self.entity, self.project))
        if self.project == "closed":
            raise ValueError("permission denied\nby the server")
        return SimpleNamespace(url="https://wandb.ai/team/open?nw=1")

    monkeypatch.setattr(ws.Workspace, "save", save)
    monkeypatch.setenv("WANDB_ENTITY", "team")
    dashboard.main(["--wandb=online", "--wandb_project=open"])
    assert sent == [("team", "open")]
    assert capsys.readouterr().out.splitlines() == ["dashboard.json", "https://wandb.ai/team/open?nw=1"]
    with pytest.raises(SystemExit, match=r"did not take the workspace of team/closed: permission denied$"):
        dashboard.main(["--wandb=online", "--wandb_project=closed"])
    assert Path("dashboard.json").is_file()  # all the same


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(SystemExit, match=r"pip install -U 'object-centric-zoo\[dashboard\]'"):
        dashboard.main(["--wandb=offline"])
    assert not Path("dashboard.json").exists()
