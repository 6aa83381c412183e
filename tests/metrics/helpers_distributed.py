"""Run a function in several gloo processes, as a metric meets them under DDP."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(worker: Callable[..., Any], directory: Path, *args: Any, world_size: int = 2) -> list[Any]:
    """Return `worker(rank, *args)` of every rank. The worker sits at the top level of its module, to be found there.

    Args:
        worker: What each process runs; returns what `torch.load(weights_only=True)` can read.
        directory: An empty folder, for the rendezvous and the results.
        args: Passed on to the worker.
        world_size: Number of processes.
    """
    mp.spawn(_process, args=(worker, world_size, directory, args), nprocs=world_size)
    return [torch.load(directory / f"{rank}.pt") for rank in range(world_size)]


def _process(rank: int, worker: Callable[..., Any], world_size: int, directory: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    rendezvous = (directory / "rendezvous").as_uri()
    dist.init_process_group("gloo", rendezvous, timedelta(seconds=60), rank=rank, world_size=world_size)
    try:
        torch.save(worker(rank, *args), directory / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
