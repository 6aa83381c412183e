"""Noise that is a function of named numbers, drawn without a trace in the generators that others draw from."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


def mixed_seed(*parts: int, step: int = 0) -> int:
    """A seed of 32 bits, all that a CPU's generator looks at, of some numbers.

    Args:
        *parts: Whole numbers, at least 0, of any size; whichever differs, seeds differ at random.
        step: Added at the end, so that for given parts no two of 2^32 steps have the same seed.
    """
    return (int(np.random.SeedSequence(parts).generate_state(1)[0]) + step) % 2**32


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of the CPU and of a device for what is drawn within; afterwards they are as they were.

    Args:
        seed: At least 0.
        device: Where noise is drawn, beside the CPU.
    """
    cuda = device.type == "cuda"
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # torch.manual_seed would seed all devices, and their states are not kept here
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif mps is not None:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)
