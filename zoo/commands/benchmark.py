"""Train and test a grid of configurations and seeds: `python -m zoo benchmark --configs A.yaml B.yaml --seeds 0 1 2`.

Each job is a process of its own: `python -m zoo fit` with one configuration and one seed, on the CPU or on one of the
GPUs. What `benchmark` does not know is handed to every job, as in `--trainer.max_steps=1000`. OUT holds

- `runs/`: the run folder of each job, whose `run.json` says that it has ended; `logs/`: what each job printed;
- `results.csv`: all jobs; `results.md`, `results.tex`, `means.csv`: models by metrics, means and standard deviations
  over seeds, the best bold, and (in Markdown) the same beside the papers' figures;
- `bars.png`, `progress.png`: the same with error bars, and metrics against time.

Run again, it does only what is missing: jobs that have ended are not repeated, unless their configuration has changed.
Several benchmarks may work on one folder at once.
"""

import argparse
import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm  # type: ignore[import-untyped]

from zoo import configurations
from zoo.commands.arguments import VerbParser
from zoo.files import write_whole
from zoo.records import RecordError, read_run
from zoo.results import table as results
from zoo.results.pivot import pivot

try:
    import fcntl
except ImportError:  # not a POSIX system: two benchmarks of one folder would do the same jobs
    fcntl = None  # type: ignore[assignment]

_POLL = 0.2  # seconds between two looks at the jobs
_TAIL = 5  # lines of a failed job's log that are shown


@dataclass(frozen=True)
class Job:
    """One configuration with one seed.

    Attributes:
        config: Its file.
        seed: At least 0.
        options: Further arguments of `python -m zoo fit`.
        out: Folder of the benchmark.
        quiet: Arguments that make no difference to results.
    """

    config: Path
    seed: int
    options: tuple[str, ...]
    out: Path
    quiet: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `quick-spair-1a2b3c4d-seed0`: another content of the configuration is another job."""
        parts = self.config.with_suffix("").parts
        parts = parts[len(parts) - parts[::-1].index("configs") :] if "configs" in parts else parts[-1:]
        content = self.config.read_bytes() + "\0".join(self.options).encode()
        slug = re.sub(r"[^\w-]", "_", "-".join(parts))
        return f"{slug}-{hashlib.sha256(content).hexdigest()[:8]}-seed{self.seed}"

    @property
    def run(self) -> Path | None:
        """The run folder, once the job has ended: training and test."""
        return next((path.parent for path in ended(self.out, self.name)), None)

    @property
    def log(self) -> Path:
        """What the job prints."""
        return self.out / "logs" / f"{self.name}.txt"

    def command(self) -> list[str]:
        """What runs it."""
        own = ["--seed_everything", str(self.seed), "--runs", str(self.out / "runs"), "--run_name", self.name]
        return [sys.executable, "-m", "zoo", "fit", "--config", str(self.config), *own, *self.quiet, *self.options]


@dataclass
class Running:
    """A job that is at work.

    Attributes:
        job: The job.
        process: Its process.
        since: When it began.
        held: Files that are open for it; its lock among them, which the process has inherited.
    """

    job: Job
    process: subprocess.Popen[bytes]
    since: float
    held: list[IO[Any]] = field(default_factory=list)


def ended(out: Path, name: str = "*") -> list[Path]:
    """The `run.json` of all jobs that have ended, oldest first; one that is damaged is left out, and named."""
    whole = []
    for path in out.glob(f"runs/{name}/version_*/run.json"):
        try:
            whole += [path] if read_run(path).get("metrics") else []
        except RecordError as error:
            print(f"benchmark: {error}; this run is left out", file=sys.stderr, flush=True)
    return sorted(whole, key=lambda path: path.stat().st_mtime)


def run_jobs(jobs: Sequence[Job], slots: int, gpus: Sequence[str]) -> list[Job]:
    """Run jobs, `slots` at a time, each on one of the GPUs, if there are any.

    A job that fails leaves the others alone. If this process is stopped, so are the jobs; if it is killed, they go on,
    and are not begun again as long as they do.

    Returns:
        The jobs that failed.
    """
    waiting, running, failed = deque(jobs), dict[int, Running](), list[Job]()
    bar = tqdm(total=len(jobs), unit="job")
    try:
        while waiting or running:
            for slot in [slot for slot in range(slots) if slot not in running]:
                while waiting and slot not in running:
                    job = waiting.popleft()
                    with _termination_put_off():
                        started = _start(job, slots, gpus[slot % len(gpus)] if gpus else None)
                        if started is not None:
                            running[slot] = started
                    if started is None:
                        bar.write(f"{job.name}: another benchmark is at it")
                        bar.update()
            at_work = ", ".join(own.job.name for own in running.values())
            if at_work != bar.postfix:
                bar.set_postfix_str(at_work)
            time.sleep(_POLL)
            for slot, own in [*running.items()]:
                if own.process.poll() is not None:
                    del running[slot]
                    _close(own)
                    bar.write(_outcome(own))
                    bar.update()
                    if own.job.run is None:
                        failed.append(own.job)
                    else:
                        tabulate(own.job.out)
    finally:
        for own in running.values():
            own.process.terminate()
        for own in running.values():
            own.process.wait()
            _close(own)
        bar.close()
    return failed


@contextlib.contextmanager
def _termination_put_off() -> Iterator[None]:
    """Let a SIGTERM wait: a job that is begun but not yet known would not be stopped."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)


def _start(job: Job, slots: int, gpu: str | None) -> Running | None:
    """Start a job; none, if another process has."""
    locks = job.out / "runs" / f".{job.name}.lock"
    for folder in (locks.parent, job.log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    lock = locks.open("a")
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        except OSError:  # some network file systems have no locks
            pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // slots)), **os.environ}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    log = job.log.open("wb")
    process = subprocess.Popen(
        job.command(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=[lock.fileno()] if os.name == "posix" else (),
    )
    return Running(job, process, time.monotonic(), [lock, log])


def _close(running: Running) -> None:
    for file in running.held:
        file.close()


def _outcome(running: Running) -> str:
    job, minutes = running.job, (time.monotonic() - running.since) / 60
    if job.run is not None:
        metrics = read_run(job.run / "run.json")["metrics"]
        shown = [f"{name} {metrics[name]:.3f}" for name in results.HEADLINES if metrics.get(name) is not None]
        return f"{job.name}: {', '.join(shown)}, {minutes:.1f} minutes"
    said = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    code = running.process.returncode
    why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}" if code else "it was not tested"
    return "\n  ".join([f"{job.name}: failed ({why}), see {job.log}", *said])


def tabulate(out: Path) -> None:
    """Write results.csv, results.md, results.tex and means.csv from all jobs that have ended."""
    table = out / "results.csv"
    results.add([path.parent for path in ended(out)], table)
    rows = results.read(table)
    contents = {
        "results.md": f"{pivot(rows)}\n\n{results.table(table)}",
        "results.tex": pivot(rows, "latex"),
        "means.csv": pivot(rows, "csv"),
    }
    for name, content in contents.items():
        write_whole(out / name, f"{content}\n".encode())


def draw(out: Path) -> dict[str, Path]:
    """Draw bars.png and progress.png; returns their paths by their names."""
    from zoo.downstream.comparison import draw_bars, draw_progress
    from zoo.downstream.embedding import to_png

    rows = results.read(out / "results.csv")
    records = [read_run(path) for path in ended(out)]
    figures = {"bars": draw_bars(rows), "progress": draw_progress(records)}
    paths = {}
    for name, figure in figures.items():
        if figure is not None:
            paths[name] = out / f"{name}.png"
            write_whole(paths[name], to_png(figure))
    return paths


def log_to_wandb(out: Path, mode: str, project: str, pictures: dict[str, Path]) -> None:
    """Put the rows of results.csv into a W&B run as the table `results`, with the pictures."""
    import wandb

    rows = results.read(out / "results.csv")
    columns = [name for name in results.COLUMNS if any(row[name] for row in rows)]
    table = wandb.Table(columns=[*columns], data=[[_number(row[name]) for name in columns] for row in rows])
    about: dict[str, Any] = {"project": project, "name": f"benchmark {out.name}", "job_type": "benchmark"}
    run = wandb.init(**about, dir=str(out.absolute()), mode=mode)  # type: ignore[arg-type]
    images = {f"comparison/{name}": wandb.Image(str(path)) for name, path in pictures.items()}
    run.log({"results": table, **images})
    run.finish()


def _number(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible and count else [str(i) for i in range(count)]


def main(args: list[str] | None = None) -> None:
    """Parse the command line; exits with 1 if a job failed."""
    parser = VerbParser(
        prog="python -m zoo benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--configs", nargs="+", required=True, metavar="NAME", help="configurations: names or files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of each configuration (0)")
    parser.add_argument("--jobs", type=int, help="processes at a time (one for each GPU, or 1)")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder to write to (benchmark)")
    modes = ("auto", "online", "offline", "disabled")
    parser.add_argument("--wandb", choices=modes, default="auto", help="as for fit: of the jobs, and of the table")
    parser.add_argument("--wandb_project", help="project on W&B (WANDB_PROJECT, else object-centric-zoo)")
    options, rest = parser.parse_known_args(sys.argv[2:] if args is None else args)
    gpus = _gpus()
    slots = options.jobs or max(1, len(gpus))
    if slots < 1:
        sys.exit(f"zoo: --jobs {options.jobs} must be at least 1")
    if min(options.seeds) < 0:
        sys.exit(f"zoo: --seeds {min(options.seeds)} must be at least 0")
    out = options.out.absolute()
    quiet = (
        f"--wandb={options.wandb}",
        *([f"--wandb_project={options.wandb_project}"] if options.wandb_project else []),
        "--trainer.enable_progress_bar=false",  # logs are to be read
    )
    try:
        configs = [configurations.find(name) for name in options.configs]
    except configurations.ConfigurationError as error:
        sys.exit(f"zoo: {error}")
    grid = [Job(config, seed, tuple(rest), out, quiet) for seed in options.seeds for config in configs]
    missing = [job for job in grid if job.run is None]
    print(f"{len(grid)} jobs, {len(grid) - len(missing)} of them done: {out}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the jobs are stopped, too
    try:
        failed = run_jobs(missing, slots, gpus)
    except KeyboardInterrupt:
        sys.exit("zoo: stopped; the same command goes on with the jobs that have not ended")
    if ended(out):
        tabulate(out)
        pictures = draw(out)
        if options.wandb != "disabled":
            from zoo.commands.cli import wandb_mode, wandb_project

            log_to_wandb(out, wandb_mode(options.wandb), wandb_project(options.wandb_project), pictures)
        print((out / "results.md").read_text(encoding="utf-8"))
    if failed:
        sys.exit(f"zoo: {len(failed)} of {len(missing)} jobs failed: {', '.join(job.name for job in failed)}")
