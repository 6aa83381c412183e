"""What is left out of the console, and what is not."""

import subprocess
import sys
from pathlib import Path

ARGUMENTS = "fit --model=SPAIR --model.channels=1 --model.backbone_channels=4 --data=MultiMNISTDataModule"
SMALL = {"channels": 1, "num_train": 64, "num_val": 8, "num_test": 8, "batch_size": 8, "source": "uci"}


def test_a_run_says_what_it_does_where_and_nothing_of_others(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    small = [f"--data.init_args.{key}={value}" for key, value in SMALL.items()]
    few = ["--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu", "--wandb=offline"]
    command = [sys.executable, "-m", "zoo", *ARGUMENTS.split(), *small, *few]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    lines = done.stdout.splitlines()
    (folder,) = (tmp_path / "runs").glob("*/version_0")
    assert lines[0].startswith("fit: SPAIR (")
    assert lines[0].endswith(f"on {folder.parent.name.removeprefix('spair_')}, cpu")
    assert lines[1] == lines[-1] == f"run folder: {folder.relative_to(tmp_path)}"
    assert sum(line.startswith("step ") for line in lines) == 2
    for noise in ("litlogger", "anonymous", "weights_only", "sync_dist", "Warning", "WARNING", "GPU", "v_num", "wandb"):
        assert noise not in done.stdout, noise
