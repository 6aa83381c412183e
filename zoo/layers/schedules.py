"""Schedules as pure functions of the training step, so that a resumed run is the same run."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

# In YAML: a number, [start, end, steps, shape], or several such pieces, [[start, end, steps, shape], ...].
Schedule = float | list[float | str | list[float | str]]

POSITIVE = (sys.float_info.min, math.inf)  # bounds of what divides, or has a logarithm

# Each maps progress u = step / steps, u >= 0, to the fraction of the way from start to end.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: min(u, 1.0),
    "quadratic": lambda u: min(u, 1.0) ** 2,
    "cosine": lambda u: 0.5 - 0.5 * math.cos(math.pi * min(u, 1.0)),
    "exponential": lambda u: 1.0 - 0.1**u,  # `steps` for each factor of ten of the distance to `end`
    "step": lambda u: float(u >= 1.0),
}


def check_schedule(name: str, schedule: Schedule, bounds: tuple[float, float] | None = None) -> None:
    """Raise if a schedule is not a number, [start, end, steps, shape], or several of these.

    Args:
        name: What the schedule is called, for the message.
        schedule: The value to check.
        bounds: Smallest and largest value that it may have; null: any.

    Raises:
        ValueError: The schedule is malformed or leaves its bounds; the message says how.
    """
    form = f"{name} must be a number or [start, end, steps, shape] or a list of these, shape one of {sorted(_SHAPES)}"
    if isinstance(schedule, bool) or not isinstance(schedule, int | float | list | tuple):
        raise ValueError(f"{form}; got {schedule!r}")
    if isinstance(schedule, int | float):
        _check_bounds(name, [schedule], bounds)
        return
    for piece in _pieces(schedule):
        if (
            not isinstance(piece, list | tuple)
            or len(piece) != 4
            or any(isinstance(v, bool) or not isinstance(v, int | float) for v in piece[:3])
        ):
            raise ValueError(f"{form}; got {schedule!r}")
        if not isinstance(piece[3], str) or piece[3] not in _SHAPES:
            raise ValueError(f"{form}; got the shape {piece[3]!r}")
        if not float(piece[2]) > 0:
            raise ValueError(f"{form}, with steps above 0; got {piece[2]!r} steps")
        _check_bounds(name, piece[:2], bounds)


def _check_bounds(name: str, values: Sequence[Any], bounds: tuple[float, float] | None) -> None:
    for value in values:
        if bounds is not None and not bounds[0] <= value <= bounds[1]:
            if bounds == POSITIVE:
                raise ValueError(f"{name} must be above 0 from start to end, got {value!r}")
            raise ValueError(f"{name} must be from {bounds[0]:g} to {bounds[1]:g}, got {value!r}")


def schedule_value(schedule: Schedule, step: int) -> float:
    """Value of a schedule at a training step.

    Args:
        schedule: A number, or [start, end, steps, shape]. With u = step / steps, the value goes from start at u = 0
            to end: `linear`, `quadratic` and `cosine` arrive at u = 1, `step` jumps there, `exponential` shrinks the
            distance to end tenfold whenever u grows by 1 (the schedule of the AIR and SPAIR programs). Or a list of
            such pieces, each beginning where the steps of the one before are over; the last goes on for ever.
        step: Number of optimiser steps taken, at least 0.

    Returns:
        The value, a float.
    """
    if isinstance(schedule, int | float):
        return float(schedule)
    *pieces, piece = _pieces(schedule)
    since = float(step)
    for earlier in pieces:
        if since < earlier[2]:
            piece = earlier
            break
        since -= earlier[2]
    start, end, steps = (float(v) for v in piece[:3])
    return start + (end - start) * _SHAPES[str(piece[3])](since / steps)


def _pieces(schedule: list[Any] | tuple[Any, ...]) -> list[Any]:
    """The pieces of a schedule that is not a number."""
    return list(schedule) if schedule and isinstance(schedule[0], list | tuple) else [schedule]
