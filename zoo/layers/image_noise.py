"""Random numbers that belong to an image, whatever batch or process it comes in."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as int64, as are the next two: splitmix64's constants
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


class ImageNoise(TorchFunctionMode):
    """Within it, what is drawn for row b comes from a stream of image b's own.

    That is by `torch.randn`, `torch.rand`, their `_like`, and `Tensor.normal_`, `uniform_` and `exponential_`. The
    numbers are a hash of seed, image, call and place in the row, so what is drawn for an image does not depend on which
    others it is looked at with. Only draws of as many rows as there are images are concerned; any other, and those with
    a generator of their own, are as ever.

    Args:
        images: (B,) int64, which image of the data set each row is.
        seed: Of all streams.
    """

    def __init__(self, images: Tensor, seed: int = 0) -> None:
        super().__init__()
        self._keys = _mix(_mix(images + seed * 1_000_003) ^ _GOLDEN)
        self._calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if options.get("generator") is None and options.get("out") is None:
            if func in _FILLS and len(args[0].shape) and len(args[0]) == len(self._keys):
                fill, tensor = _FILLS[func], args[0]
                with torch._C.DisableTorchFunction():
                    options.pop("generator", None)
                    return tensor.copy_(fill(self._uniform(tuple(tensor.shape), tensor.device), *args[1:], **options))
            if func in _DRAWS:
                like = args[0] if args and isinstance(args[0], Tensor) else options.get("input")
                size = options.get("size", args[0] if args and not isinstance(args[0], int) else args)
                size = tuple(size if like is None else like.shape)
                if size and size[0] == len(self._keys):
                    like = torch.empty(0) if like is None else like
                    device, dtype = options.get("device") or like.device, options.get("dtype") or like.dtype
                    with torch._C.DisableTorchFunction():
                        return _DRAWS[func](self._uniform(size, torch.device(device))).to(dtype)
        return func(*args, **(kwargs or {}))

    def _uniform(self, size: tuple[int, ...], device: torch.device) -> Tensor:
        """Float32 in (0, 1), of that size."""
        self._calls += 1
        places = torch.arange(math.prod(size[1:]), device=device) * _GOLDEN
        keys = _mix(self._keys.to(device) + self._calls)
        bits = _mix(keys[:, None] + places)
        # 23 of them and a half: as fine as float32 is below 1, and never 0 or 1
        return ((bits >> 41 & 0x7FFFFF).float() + 0.5).mul_(2**-23).view(size)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64, on int64, which wraps around: every bit of `x` concerns every bit of the result."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def _normal(uniform: Tensor) -> Tensor:
    """The normal distribution's quantiles."""
    return (2 * uniform - 1).erfinv().mul_(math.sqrt(2))


def _between(uniform: Tensor, *bounds: float, **named: float) -> Tensor:
    """As far from the lower bound to the upper; `from`, a word of Python's, cannot name an argument."""
    low, high = ({"from": 0.0, "to": 1.0} | dict(zip(("from", "to"), bounds, strict=False)) | named).values()
    return low + (high - low) * uniform


_FILLS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    Tensor.uniform_: _between,
    Tensor.normal_: lambda uniform, mean=0.0, std=1.0: mean + std * _normal(uniform),
    Tensor.exponential_: lambda uniform, lambd=1.0: -uniform.log() / lambd,
}
_DRAWS: dict[Callable[..., Any], Callable[[Tensor], Tensor]] = {
    torch.rand: lambda uniform: uniform,
    torch.rand_like: lambda uniform: uniform,
    torch.randn: _normal,
    torch.randn_like: _normal,
}
