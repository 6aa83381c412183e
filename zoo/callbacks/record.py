"""What is to be known of a run beside its metrics: what was run, at which revision, where, for how long."""

import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import zoo
from zoo.callbacks.checkpoints import best_checkpoint
from zoo.evaluation import METRIC_NAMES
from zoo.files import write_json
from zoo.records import read_run
from zoo.results.table import setting

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]


class RunRecord(Callback):
    """Writes `run.json` into the run folder when training ends, and adds the test's metrics when they are known.

    `zoo.results.table` makes a row of a table of it. `steps` is how long it was trained, `max_steps` how long it was to
    be (null: epochs were counted, or nothing said), `best_step` when the
    checkpoint was saved that is its best, `tested_step` of which weights the test's metrics are. `history` has the
    metrics of every validation, and the seconds of training until then. A run that was resumed counts the time of all
    its parts.

    Args:
        experiment: The configurations it was started from, as in `recipes/quick/spair`.
        changes: What the command line changed in them.
        seed: The run's seed.
        init: The checkpoint whose weights it started from, if any: its name, hash, and the model's step.
    """

    def __init__(
        self, experiment: str = "", changes: str = "", seed: int | None = None, init: dict[str, Any] | None = None
    ) -> None:
        self._about: dict[str, Any] = {"experiment": experiment, "changes": changes, "seed": seed, "init": init}
        self._elapsed = 0.0
        self._since: float | None = None
        self._history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """What was run, time spent and validations so far."""
        return {**self._about, "wall_s": self._wall(), "history": [dict(point) for point in self._history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; a run that goes on by its checkpoint alone is what it was."""
        self._elapsed = float(state_dict["wall_s"])
        self._history = list(state_dict.get("history", []))
        if not self._about["experiment"]:
            self._about = {key: state_dict.get(key) for key in self._about}
        self._about["init"] = state_dict.get("init")

    def _wall(self) -> float:
        return self._elapsed + (time.monotonic() - self._since if self._since is not None else 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics of a validation amid training."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        values = {
            name: trainer.callback_metrics.get(f"val/{name}") for name in (*METRIC_NAMES, "negative_elbo", "loss")
        }
        known = {name: round(float(value), 6) for name, value in values.items() if value is not None}
        self._history.append({"step": trainer.global_step, "wall_s": round(self._wall(), 2), **known})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock and write the record."""
        self._elapsed, self._since = self._wall(), None
        log_dir = trainer.log_dir  # asks the other processes, so all of them have to come here
        if not trainer.is_global_zero or log_dir is None or getattr(trainer, "fast_dev_run", False):
            return
        data, best = getattr(trainer, "datamodule", None), best_checkpoint(trainer)
        device = pl_module.device
        _write(
            Path(log_dir, "run.json"),
            {
                **self._about,
                "setting": setting(self._about["experiment"], self._about["changes"]),
                "model": type(pl_module).__name__,
                "data": getattr(data, "name", type(data).__name__),
                "revision": _revision(),
                "steps": trainer.global_step,
                "max_steps": trainer.max_steps if trainer.max_steps >= 0 else None,  # that were asked for
                "best_step": None if best is None else best.best_step,
                "parameters": sum(p.numel() for p in pl_module.parameters()),
                "wall_s": round(self._elapsed, 3),
                "peak_memory_gb": _peak_memory(device),
                "hardware": _hardware(device, trainer.world_size),
                "torch": torch.__version__,
                "history": self._history,
            },
        )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the test's metrics, if it was the test that follows training."""
        log_dir = trainer.log_dir
        if not trainer.is_global_zero or log_dir is None or not Path(log_dir, "run.json").is_file():
            return
        metrics = {
            name.removeprefix("test/"): round(float(value), 6)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("test/")
        }
        path = Path(log_dir, "run.json")
        step = getattr(pl_module, "steps_trained", trainer.global_step)
        _write(path, {**read_run(path), "tested_step": step, "metrics": metrics})


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _revision() -> str:
    """Of the source tree that is running, with + for changes that are not committed; the version, if it is none."""
    root = Path(zoo.__file__).parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return zoo.__version__
    return said.stdout.strip()


def _peak_memory(device: torch.device) -> float | None:
    """GiB: on a GPU, of tensors; else, of the process; null where the system does not say."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    if resource is None:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _hardware(device: torch.device, processes: int) -> str:
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    return f"CPU, {processes} x {torch.get_num_threads()} threads"
