"""Checks of hyperparameters that models share; each raises a ValueError that names the cause and the fix."""

from collections.abc import Mapping
from typing import Any


def check_choices(settings: Mapping[str, Any], **choices: tuple[Any, ...]) -> None:
    """Each of these must be one of its choices."""
    for name, allowed in choices.items():
        if settings[name] not in allowed:
            raise ValueError(f"{name} must be one of {list(allowed)}, got {settings[name]!r}")


def check_above_zero(settings: Mapping[str, Any], *names: str) -> None:
    """Each of these must be a number above 0."""
    for name in names:
        if not settings[name] > 0:
            raise ValueError(f"{name} must be above 0, got {settings[name]!r}")


def check_normals(settings: Mapping[str, Any], *names: str) -> None:
    """Each of these must be the mean and the std of a normal distribution."""
    for name in names:
        if len(settings[name]) != 2 or not settings[name][1] > 0:
            raise ValueError(f"{name} must be [mean, std] with std above 0, got {settings[name]!r}")


def check_shares(settings: Mapping[str, Any], *names: str) -> None:
    """Each of these must be null or strictly between 0 and 1."""
    for name in names:
        if settings[name] is not None and not 0 < settings[name] < 1:
            raise ValueError(f"{name} must be null or in (0, 1), got {settings[name]!r}")


def height_width(image_size: Any, least: int = 1) -> tuple[int, int]:
    """Height and width of an `image_size` that is a number of pixels or [height, width], at least `least` each."""
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2 or not all(side >= least for side in sides):
        raise ValueError(f"image_size must be {least} or more pixels, or [height, width], got {image_size!r}")
    return sides[0], sides[1]
