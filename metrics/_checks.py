"""What every metric asks of its inputs before it reads them."""

import torch
from torch import Tensor


def check_shape(name: str, value: Tensor, *expected: int | str) -> None:
    """Compare a tensor's shape with the expected one; looks at no value, so a GPU is not waited for.

    Args:
        name: The argument's name, for the message.
        value: The argument.
        expected: Every dimension's size, or a letter where any size is right.

    Raises:
        ValueError: The shape is off; the message names the argument, its shape and the expected one.
    """
    sizes = tuple(value.shape)
    if len(sizes) != len(expected) or any(isinstance(e, int) and s != e for s, e in zip(sizes, expected, strict=True)):
        raise ValueError(f"{name} has shape {sizes}, expected ({', '.join(map(str, expected))})")


def check_ids(name: str, value: Tensor, *expected: int | str) -> None:
    """Same as `check_shape`, for ids: probabilities and masks are refused.

    Raises:
        ValueError: The type is none of integers, or the shape is off.
    """
    check_shape(name, value, *expected)
    if value.is_floating_point() or value.dtype == torch.bool:
        raise ValueError(f"{name} has type {value.dtype}, expected integer ids: probabilities.argmax(dim=-1)")


def check_numbers(**numbers: int) -> None:
    """Refuse numbers of things that are below 1.

    Raises:
        ValueError: One is; the message names it.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")


def check_mask(name: str, value: Tensor, *expected: int | str) -> None:
    """Same as `check_shape`, for a mask: a float or integer mask is refused rather than guessed at.

    Raises:
        ValueError: The type is not bool, or the shape is off.
    """
    check_shape(name, value, *expected)
    if value.dtype != torch.bool:
        raise ValueError(f"{name} has type {value.dtype}, expected torch.bool: True where a row is an object")
