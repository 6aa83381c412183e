"""Schedules as pure functions of the training step, so that a resumed run is the same run."""

import math
from collections.abc import Callable

# In YAML: a number, or [start, end, steps, shape].
Schedule = float | list[float | str]

# Each maps progress u = step / steps, u >= 0, to the fraction of the way from start to end.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: min(u, 1.0),
    "cosine": lambda u: 0.5 - 0.5 * math.cos(math.pi * min(u, 1.0)),
    "exponential": lambda u: 1.0 - 0.1**u,  # `steps` for each factor of ten of the distance to `end`
    "step": lambda u: float(u >= 1.0),
}


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise if a schedule is not a number or [start, end, steps, shape].

    Args:
        name: What the schedule is called, for the message.
        schedule: The value to check.

    Raises:
        ValueError: The schedule is malformed; the message says how.
    """
    form = f"{name} must be a number or [start, end, steps, shape], shape one of {sorted(_SHAPES)}"
    if isinstance(schedule, bool) or not isinstance(schedule, int | float | list | tuple):
        raise ValueError(f"{form}; got {schedule!r}")
    if isinstance(schedule, int | float):
        return
    if len(schedule) != 4 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in schedule[:3]):
        raise ValueError(f"{form}; got {schedule!r}")
    if not isinstance(schedule[3], str) or schedule[3] not in _SHAPES:
        raise ValueError(f"{form}; got the shape {schedule[3]!r}")
    if not float(schedule[2]) > 0:
        raise ValueError(f"{form}, with steps above 0; got {schedule[2]!r} steps")


def schedule_value(schedule: Schedule, step: int) -> float:
    """Value of a schedule at a training step.

    Args:
        schedule: A number, or [start, end, steps, shape]. With u = step / steps, the value goes from start at u = 0
            to end: `linear` and `cosine` arrive at u = 1, `step` jumps there, `exponential` shrinks the distance to
            end tenfold whenever u grows by 1 (the schedule of the AIR and SPAIR programs).
        step: Number of optimiser steps taken, at least 0.

    Returns:
        The value, a float.
    """
    if isinstance(schedule, int | float):
        return float(schedule)
    start, end, steps = (float(v) for v in schedule[:3])
    return start + (end - start) * _SHAPES[str(schedule[3])](step / steps)
