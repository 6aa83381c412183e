"""configs/trainer: what they make of a run's record, and two processes started as torchrun and SLURM start them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo.commands import cli
from zoo.results.table import setting

ROOT = Path(__file__).resolve().parents[2]
ON_CPU = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.precision=32-true"]
SMALL = [
    *("--config=recipes/quick/spair", "--data.init_args.source=uci", "--data.init_args.num_train=64"),
    *("--data.init_args.num_val=8", "--data.init_args.num_test=9", "--data.init_args.batch_size=4", "--wandb=disabled"),
    "--trainer.enable_progress_bar=false",
]


def test_one_gpu_is_the_same_setting_and_several_are_not() -> None:
    """On several, a step sees more images."""
    assert cli._experiment(["--config", "spair", "--config", "trainer/gpu"]) == ("spair", "")
    name, changes = cli._experiment(["--config", "spair", "--config", "trainer/ddp"])
    assert (name, changes) == ("spair+trainer/ddp", "")
    assert setting("spair") == "paper"
    assert setting(name) == "recipe"


def test_the_overlay_for_slurm_says_what_is_missing_outside_of_it(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit, match="no SLURM_NODEID in the environment: start trainer/slurm by srun"):
        cli.main(["fit", *SMALL, "--config=trainer/slurm", *ON_CPU[:1], "--trainer.devices=1"])
    assert not Path("runs").exists()


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ZOO_DATA": "data", **more}


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "zoo", "fit"]
    few = ["--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    done = subprocess.run(
        [*command, *SMALL, "--config=trainer/ddp", *ON_CPU, *few],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (record,) = tmp_path.glob("runs/*/version_*/run.json")
    said = json.loads(record.read_text())
    assert said["experiment"] == "recipes/quick/spair+trainer/ddp"
    assert said["steps"] == 4
    assert "ap50" in said["metrics"]


@pytest.mark.slow
def test_a_job_of_slurm_is_ended_in_time_and_goes_on(tmp_path: Path) -> None:
    """As configs/trainer/slurm.yaml has it: two tasks get SIGTERM, end with 143, and the next start ends the run."""
    few = ["--trainer.max_steps=200", "--trainer.val_check_interval=5", "--run_name=job-1"]

    def start(*more: str) -> list[subprocess.Popen]:
        job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "zoo", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
        job |= {"SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        command = [sys.executable, "-m", "zoo", "fit", *SMALL, "--config=trainer/slurm", *ON_CPU, *few, *more]
        ranks = [environment(**job, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in "01"]
        return [subprocess.Popen(command, cwd=tmp_path, env=each, stderr=subprocess.PIPE, text=True) for each in ranks]

    tasks = start()
    checkpoint = tmp_path / "runs/job-1/version_0/checkpoints/last.ckpt"
    for _ in range(600):
        if checkpoint.is_file() or any(task.poll() is not None for task in tasks):
            break
        time.sleep(0.2)
    for task in tasks:
        task.send_signal(signal.SIGTERM)
    errors = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [143, 143], errors
    few[0] = "--trainer.max_steps=20"
    tasks = start("--ckpt_path=last")
    errors = [task.communicate(timeout=240)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], errors
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/job-1/version_*/run.json")]
    assert max(record["steps"] for record in records) >= 20
