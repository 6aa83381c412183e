"""Time and memory of two ways to do the same, measured fairly on a machine that has other work too."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

# The straightforward forms live beside the tests that trust them. (`tests` itself must stay off the path: `tests/zoo`
# would then stand for the package `zoo`.)
sys.path.append(str(Path(__file__).parents[1] / "zoo" / "layers"))


def interleaved_seconds(
    functions: dict[str, Callable[[], object]], repeats: int, device: str = "cpu", warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each function; they take turns, so that what else the machine does hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(warm_up + repeats):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_extra_mib(function: Callable[[], object], device: str = "cpu") -> float:
    """MiB that a call adds to what the process holds, at its worst moment.

    A CPU's peak cannot be reset: make the call before any that takes more.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _peak_resident_mib()
    function()
    return _peak_resident_mib() - before


def in_own_process(script: str, arguments: Sequence[str]) -> float:
    """The number that `script` prints last when run with `arguments`."""
    command = [sys.executable, script, *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _peak_resident_mib() -> float:
    """Largest resident set so far. `ru_maxrss` starts with the parent's: where there is a /proc, that knows better."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells), flush=True)
