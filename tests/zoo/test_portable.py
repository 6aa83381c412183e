"""What other systems lack is not needed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys

for name in ("resource", "fcntl", "pwd", "grp", "termios"):  # Windows has none of them
    sys.modules[name] = None

import pkgutil
from importlib import import_module

import datamodules, metrics, zoo

for package in (datamodules, metrics, zoo):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)

import json
from pathlib import Path

from zoo.__main__ import main

small = [f"--data.init_args.{key}=8" for key in ("num_train", "num_val", "num_test", "batch_size")]
small += ["--data.init_args.source=uci", "--trainer.accelerator=cpu", "--wandb=disabled"]
sys.argv = ["zoo", "fit", "--config=recipes/quick/spair", *small]
sys.argv += ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
main()
(run,) = Path("runs").glob("*/version_0/run.json")
record = json.loads(run.read_text())
assert record["peak_memory_gb"] is None, record
assert "ap50" in record["metrics"]
"""


def test_every_module_works_without_what_posix_alone_has(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "ZOO_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
