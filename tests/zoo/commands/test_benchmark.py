"""A grid of jobs: what is run, what is not run again, what a crash or a kill costs, what is written of it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import pytest
from PIL import Image

from zoo.commands import benchmark
from zoo.commands.benchmark import Job, run_jobs
from zoo.downstream.comparison import draw_bars, draw_progress
from zoo.results import table as results

ROOT = Path(__file__).resolve().parents[3]
# stands for training: writes what a run leaves, as soon as there is a file `go`; the configuration says how it ends
STAND_IN = """
import json, os, sys, time
from pathlib import Path
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
config, seed = Path(arguments["--config"]), int(arguments["--seed_everything"])
print("seed", seed, "begins", flush=True)
while not Path("go").exists():
    time.sleep(0.02)
if f"crash {seed}" in config.read_text():
    sys.exit("out of memory")
folder = Path(arguments["--runs"], arguments["--run_name"], "version_0")
(folder / "checkpoints").mkdir(parents=True)
history = [{"step": i, "wall_s": 60.0 * i, "ap50": i / 4 + seed / 100} for i in range(4)]
about = {"experiment": config.stem, "changes": "", "data": "digits", "seed": seed, "steps": 3, "wall_s": 180.0}
about |= {"model": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "history": history}
(folder / "run.json").write_text(json.dumps({**about, "metrics": {"ap50": 0.75 + seed / 100, "nmi": 0.5}}))
with open("done", "a") as file:
    file.write(config.stem + str(seed) + chr(10))
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that train nothing, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    Path("stand_in.py").write_text(STAND_IN)
    command = Job.command
    monkeypatch.setattr(Job, "command", lambda job: [sys.executable, "stand_in.py", *command(job)[4:12]])
    Path("go").touch()


def configs(**contents: str) -> list[Path]:
    paths = []
    for name, content in contents.items():
        Path(f"{name}.yaml").write_text(content)
        paths.append(Path(f"{name}.yaml"))
    return paths


def run(*arguments: str) -> None:
    benchmark.main([*arguments, "--wandb=disabled", "--out=out"])


def done() -> list[str]:
    return sorted(Path("done").read_text().split()) if Path("done").exists() else []


def test_a_grid_is_run_once_and_only_what_is_missing_is_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    configs(a="one", b="two")
    grid = ["--configs", "a.yaml", "b.yaml", "--seeds", "0", "1"]
    run(*grid, "--jobs=2")
    assert done() == ["a0", "a1", "b0", "b1"]
    rows = results.read(Path("out/results.csv"))
    assert [(row["experiment"], row["seed"], row["ap50"]) for row in rows] == [
        *(("a", "0", "0.75"), ("a", "1", "0.76")),
        *(("b", "0", "0.75"), ("b", "1", "0.76")),
    ]
    ours = [0.75, 0.76]
    assert f"| a | digits | 2 | 3 | 3 | ap50 | {mean(ours):.3f} ± {stdev(ours):.3f} |" in capsys.readouterr().out
    assert f"{mean(ours):.3f} ± {stdev(ours):.3f}" in Path("out/results.md").read_text()
    assert r"\begin{tabular}" in Path("out/results.tex").read_text()
    assert Path("out/means.csv").read_text().startswith("data,setting,configuration,seeds,")
    assert {Image.open(f"out/{name}.png").format for name in ("bars", "progress")} == {"PNG"}
    run(*grid, "--jobs=2")
    assert len(done()) == 4  # nothing again
    run(*grid[:-1], "1", "2")
    assert done() == ["a0", "a1", "a2", "b0", "b1", "b2"]  # seed 0 is still in the table
    assert len(results.read(Path("out/results.csv"))) == 6
    configs(a="one, changed")
    run(*grid)
    assert len(done()) == 8  # of the new content; its rows replace those of the old one
    assert len(results.read(Path("out/results.csv"))) == 6
    run(*grid, "--trainer.max_steps=5")
    assert len(done()) == 12  # so are options


def test_a_crash_costs_its_own_job_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configs(a="crash 1", b="")
    grid = ["--configs", "a.yaml", "b.yaml", "--seeds", "0", "1"]
    with pytest.raises(SystemExit, match=r"1 of 4 jobs failed: a-\w+-seed1"):
        run(*grid)
    out = capsys.readouterr()
    assert "failed (exit code 1), see" in out.out + out.err
    assert "out of memory" in out.out + out.err
    assert len(results.read(Path("out/results.csv"))) == 3
    with pytest.raises(SystemExit, match="1 of 1 jobs failed"):
        run(*grid)
    assert done() == ["a0", "b0", "b1"]


def test_a_killed_benchmark_goes_on_without_repeating_jobs(tmp_path: Path, capsys) -> None:
    """One job has ended and one is at work when the benchmark is killed; that one is left alone and then counts."""
    configs(a="")
    Path("go").unlink()
    code = "import sys; from zoo.commands import benchmark; command = benchmark.Job.command\n"
    code += "benchmark.Job.command = lambda job: [sys.executable, 'stand_in.py', *command(job)[4:12]]\n"
    code += "benchmark.main(['--configs', 'a.yaml', '--seeds', '0', '1', '2', '--out=out', '--wandb=disabled'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(Path("out/logs").glob("*seed0.txt")))
    Path("go").touch()
    wait_for(lambda: done() == ["a0"])
    Path("go").unlink()
    # not only a log: before the job has begun it is nobody's
    wait_for(lambda: any("begins" in log.read_text() for log in Path("out/logs").glob("*seed1.txt")))
    process.kill()
    process.wait()
    missing = [Job(Path("a.yaml"), seed, (), (tmp_path / "out")) for seed in (1, 2)]
    assert [job.run for job in missing] == [None, None]
    assert run_jobs(missing[:1], 1, []) == []  # at work: not begun again
    assert "another benchmark is at it" in "".join(capsys.readouterr())
    Path("go").touch()
    wait_for(lambda: missing[0].run)
    run("--configs", "a.yaml", "--seeds", "0", "1", "2")
    assert done() == ["a0", "a1", "a2"]
    assert len(results.read(Path("out/results.csv"))) == 3


def test_a_stopped_benchmark_stops_its_jobs() -> None:
    configs(a="")
    Path("go").unlink()
    code = "import sys; from zoo.commands import benchmark; command = benchmark.Job.command\n"
    code += "benchmark.Job.command = lambda job: [sys.executable, 'stand_in.py', *command(job)[4:12]]\n"
    code += "benchmark.main(['--configs', 'a.yaml', '--out=out', '--wandb=disabled'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(Path("out/logs").glob("*seed0.txt")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    Path("go").touch()
    time.sleep(0.5)
    assert done() == []
    run("--configs", "a.yaml")
    assert done() == ["a0"]


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_a_termination_while_a_job_is_begun_stops_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("go").unlink()
    (path,) = configs(a="")
    begun, start = [], benchmark._start

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)
        begun.append(start(*arguments))
        return begun[0]

    def leave(*_) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(benchmark, "_start", interrupted)
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(SystemExit):
            run_jobs([Job(path, 0, (), tmp_path / "out")], 1, [])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert begun[0].process.returncode == -signal.SIGTERM


def test_each_job_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    (config,) = configs(a="")
    jobs = [Job(config, seed, (), tmp_path / "out") for seed in range(4)]
    assert run_jobs(jobs, 2, ["5", "7"]) == []
    rows = [json.loads(path.read_text()) for path in benchmark.ended(tmp_path / "out")]
    assert {row["model"] for row in rows} == {"5", "7"}


def test_mistakes_are_explained() -> None:
    for arguments, message in (
        (["--configs", "none.yaml"], "there is no file none.yaml, and no configuration"),
        (["--configs", "a.yaml", "--jobs=-1"], "--jobs -1 must be at least 1"),
        (["--configs", "a.yaml", "--seeds", "-3"], "--seeds -3 must be at least 0"),
    ):
        configs(a="")
        with pytest.raises(SystemExit, match=message):
            run(*arguments)


def test_bars_are_means_with_deviations_beside_the_papers_figures() -> None:
    data = "multimnist50-0to2-d28-z1.3sd0.1-margin-oinf-sum-c1-n60000-mnist10k-ink"
    common = {"experiment": "air", "changes": "", "data": data, "nmi": ""}
    rows = [{**common, "count_accuracy": str(value)} for value in (0.9, 0.94, 0.98)]
    figure = draw_bars([*rows, {**common, "experiment": "mine", "count_accuracy": "0.5", "ap50": "0.4"}])
    assert figure is not None
    ap, count = figure.axes
    assert ap.get_title(loc="left") == "AP (IoU 0.5)"
    assert [bar.get_width() for bar in count.patches] == pytest.approx([0.94, 0.5])
    assert "0.940 ± 0.040" in [text.get_text() for text in count.texts]
    (paper,) = [line for line in count.lines if line.get_color() == "black" and len(line.get_xdata()) == 2]
    assert paper.get_xdata()[0] == 0.985  # of zoo/results/published.csv
    assert draw_bars([{**common, "nmi": ""}]) is None


def test_progress_is_metrics_against_steps_and_minutes() -> None:
    run = {"experiment": "mine", "changes": "", "data": "digits"}
    history = [{"step": 1, "wall_s": 90.0, "ap50": 0.25}, {"step": 2, "wall_s": 180.0, "ap50": 0.5, "nmi": 0.1}]
    figure = draw_progress([{**run, "history": history}, run])
    assert figure is not None
    by_step, _, ap, nmi = figure.axes
    assert [list(data) for data in by_step.lines[0].get_data()] == [[1, 2], [0.25, 0.5]]
    assert [list(data) for data in ap.lines[0].get_data()] == [[1.5, 3.0], [0.25, 0.5]]
    assert [list(data) for data in nmi.lines[0].get_data()] == [[3.0], [0.1]]
    assert draw_progress([run]) is None


def test_progress_of_seeds_has_their_mean_and_a_band() -> None:
    run = {"experiment": "mine", "changes": "", "data": "digits"}
    seeds = [[{"step": 1, "wall_s": 60.0, "ap50": v}, {"step": 2, "wall_s": 120.0, "ap50": v}] for v in (0.2, 0.4)]
    figure = draw_progress([{**run, "history": history} for history in seeds])
    assert figure is not None
    ax = figure.axes[0]
    *_, middle = ax.lines
    assert list(middle.get_data()[1]) == pytest.approx([0.3, 0.3])
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.3 - 0.02**0.5, 0.3 + 0.02**0.5))
    other = draw_progress([{**run, "history": seeds[0]}, {**run, "history": seeds[1][:1]}])  # one was cut short
    assert other is not None
    assert not other.axes[0].collections


def test_figures_stand_beside_what_is_drawn_and_names_are_short() -> None:
    common = {"changes": "", "data": "digits"}
    rows = [{**common, "experiment": f"recipes/quick/{name}", "ap50": "0.99"} for name in ("air", "dair", "air")]
    figure = draw_bars(rows)
    assert figure is not None
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["air", "dair"]
    assert all(text.get_position()[0] > 1 for text in ax.texts)


def test_a_real_job_is_in_the_table_of_an_offline_dashboard_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line: one job is trained and tested, and its row is read back from the offline run."""
    tiny = {"num_train": 8, "num_val": 4, "num_test": 4, "batch_size": 4, "source": "uci"}
    options = [f"--data.init_args.{key}={value}" for key, value in tiny.items()]
    options += ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    command = [
        sys.executable,
        "-m",
        "zoo",
        "benchmark",
        "--configs",
        str(ROOT / "configs" / "recipes" / "quick" / "spair.yaml"),
    ]
    command += ["--seeds", "3", "--out=real", *options]
    # the jobs have none, so that the test is over sooner
    (environment := dict(os.environ)).update(PYTHONPATH=str(ROOT), WANDB_MODE="disabled")
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "1 jobs, 0 of them done" in ran.stdout
    (row,) = results.read(Path("real/results.csv"))
    assert (row["experiment"], row["seed"], row["steps"], row["model"]) == (
        "recipes/quick/spair",
        "3",
        "2",
        "SPAIRRecipe",
    )
    assert row["data"].endswith("uci-ink")
    assert all(row[name] for name in ("revision", "parameters", "wall_s", "peak_memory_gb", "hardware", "ap50"))
    (run_json,) = Path("real/runs").glob("*/version_0/run.json")
    record = json.loads(run_json.read_text())
    assert [point["step"] for point in record["history"]] == [1, 2]
    assert 0 < record["history"][0]["wall_s"] < record["history"][1]["wall_s"] <= record["wall_s"]
    with (run_json.parent / "metrics.csv").open() as file:
        logged = [float(line["val/ap50"]) for line in csv.DictReader(file) if line.get("val/ap50")]
    assert [point["ap50"] for point in record["history"]] == pytest.approx(logged, abs=1e-6)

    monkeypatch.delenv("WANDB_MODE")
    benchmark.log_to_wandb(Path("real"), "offline", "zoo", {"bars": Path("real/bars.png")})
    (folder,) = Path("real/wandb").glob("offline-run-*")
    (table,) = folder.rglob("*.table.json")
    content = json.loads(table.read_text())
    assert len(content["data"]) == 1
    seen = dict(zip(content["columns"], content["data"][0], strict=True))
    assert seen["experiment"] == "recipes/quick/spair"
    assert seen["ap50"] == float(row["ap50"])
    assert set(seen) == {name for name, value in row.items() if value}
    assert list(folder.rglob("media/images/comparison/bars*.png"))
    (log,) = folder.glob("*.wandb")
    wait_for(lambda: b"comparison/bars" in log.read_bytes())  # what `wandb sync` sends is written in the background
