"""What mixed precision may round and what it may not: networks compute in halves, places and sums do not."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

HALVES = (torch.bfloat16, torch.float16)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def raised(value: Any) -> Any:
    """A tensor in at least single precision; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALVES else value


def never_in_halves(function: _Function) -> _Function:
    """Run a function of tensors outside of autocast, its arguments in at least single precision."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return run  # type: ignore[return-value]


class Sequential(nn.Sequential):
    """Layers in a row, which yield the precision that they were given, whatever autocast has them compute in."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Of floating point to the same."""
        return super().forward(input).to(input.dtype)


@contextlib.contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Compute with weights in single precision that are kept in less, which they are again afterwards.

    For inference: gradients do not reach the weights.
    """
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (values, name, value)
        for part in module.modules()
        for values in cast(list[dict[str, Any]], [part._parameters, part._buffers])
        for name, value in values.items()
        if value is not None and value.dtype in HALVES
    ]
    try:
        for values, name, value in places:
            single = value.detach().float()
            values[name] = nn.Parameter(single, requires_grad=False) if isinstance(value, nn.Parameter) else single
        yield
    finally:
        for values, name, value in places:
            values[name] = value


def working_dtype(module: nn.Module) -> torch.dtype:
    """What a module computes in: its weights' precision, but no less than single."""
    weights = next(module.parameters(), None)
    return torch.float64 if weights is not None and weights.dtype == torch.float64 else torch.float32


def in_halves(module: nn.Module) -> bool:
    """Whether any of a module's weights are kept in halves."""
    return any(weights.dtype in HALVES for weights in module.parameters())


def in_working_precision(method: _Function) -> _Function:
    """Give a module's method tensors of the precision that the module computes in (see `working_dtype`)."""

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        dtype = working_dtype(self)

        def fit(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        with unpacked(self) if in_halves(self) else contextlib.nullcontext():
            return method(self, *map(fit, args), **{name: fit(value) for name, value in kwargs.items()})

    return run  # type: ignore[return-value]
