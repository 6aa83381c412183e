"""A trained model as a program that runs without this package.

Both formats map images (B, C, H, W) in [0, 1], of the one size that they were exported for and in any number, to the
tensors of a `Scene`, by their names.

- `torch`: `torch.export.load("NAME.pt2").module()(image)` returns a dict; neither Lightning nor this package is needed.
- `onnx`: `onnxruntime.InferenceSession("NAME.onnx").run(None, {"image": array})` returns arrays, in the order of the
  session's outputs. Exporting needs the packages onnx and onnxscript.

What a program does is compared with the model on random images before it is written.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.base import check
from zoo.files import to_json, write_whole
from zoo.layers import overlap, renderer
from zoo.prediction import photo_size

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel

Format = Literal["torch", "onnx"]
SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
_TRACED = 3  # images, where any number will do; of 1 or 2 tracers conclude too much
_TOLERANCE = 1e-3  # of outputs, which are presences, pixels of colour, and places in pixels


class ExportError(RuntimeError):
    """A model that cannot be exported."""


class _Seer(nn.Module):
    """Images to the tensors of a scene."""

    def __init__(self, model: "ObjectModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self.model(image)).items() if value is not None}


def export(
    model: "ObjectModel",
    out: str | Path,
    format: Format = "torch",  # noqa: A002 - as every exporter has it
    *,
    image_size: int | Sequence[int] | None = None,
    batch_size: int | None = None,
) -> Path:
    """Write a model as a program; see the module.

    Args:
        model: With its weights.
        out: File to write, with the format's suffix or without any.
        format: `torch` or `onnx`.
        image_size: Side in pixels, or [height, width]; null: the model's, or what it was trained on.
        batch_size: Images that the program takes at once; null: any number.

    Returns:
        The file's path.

    Raises:
        ValueError: An argument is out of range, or the image size is not known.
        ExportError: The model does something that the format has no operation for, or a package is missing.
    """
    check("format", format, format in get_args(Format), f"one of {', '.join(get_args(Format))}")
    check("batch_size", batch_size, batch_size is None or batch_size >= 1, "null or at least 1")
    path = Path(out)
    path = path if path.suffix == SUFFIXES[format] else path.with_name(path.name + SUFFIXES[format])
    size = photo_size(model, image_size)
    if size is None:
        raise ValueError(f"{type(model).__name__} takes images of any size: say for which it is exported, image_size")
    generator = torch.Generator().manual_seed(0)
    counts = [batch_size] * 2 if batch_size else [_TRACED, _TRACED + 2]
    image, other = (torch.rand(count, model.hp.channels, *size, generator=generator) for count in counts)
    dynamic = None if batch_size else ({0: torch.export.Dim("batch")},)
    model = model.cpu().eval()
    with torch.no_grad():
        expected = _Seer(model)(other)  # before tracing, too, as what layers keep for later is to be real tensors
    about = {**model.record(), "image_shape": [batch_size, model.hp.channels, *size]}
    try:
        with torch.no_grad(), _quiet(), _whole_windows():
            program = torch.export.export(_Seer(model), (image,), dynamic_shapes=dynamic, strict=False)
            payload = (_to_torch if format == "torch" else _to_onnx)(program, about)
    except ModuleNotFoundError as error:
        raise ExportError(f"exporting to {format} needs the package {error.name}: pip install {error.name}") from error
    except Exception as error:  # the exporters raise a dozen kinds
        reason = next(line for line in f"{error}\n{type(error).__name__}".splitlines() if line.strip())
        raise ExportError(f"{type(model).__name__} cannot be exported to {format}: {reason}") from error
    with torch.no_grad():
        _compare(expected, program.module()(other))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, payload)
    return path


def _to_torch(program: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"zoo.json": to_json(about)})
    return buffer.getvalue()


def _to_onnx(program: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    import onnx
    import onnxscript  # noqa: F401

    names = [*program.call_spec.out_spec.context]
    converted = torch.onnx.export(program, input_names=["image"], output_names=names, dynamo=True, verbose=False)
    assert converted is not None
    converted.model.metadata_props["zoo"] = to_json(about)
    with tempfile.TemporaryDirectory() as folder:
        converted.save(Path(folder, "model.onnx"))
        model = onnx.load(Path(folder, "model.onnx"))
    (image,) = model.graph.input
    number = image.type.tensor_type.shape.dim[0].dim_param  # what the tracer called it
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if number and dim.dim_param == number:
                dim.dim_param = "batch"
    return model.SerializeToString()


def _compare(expected: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        error = (value.float() - values[name].float()).abs().max().item() if value.numel() else 0.0
        if not error <= _TOLERANCE:
            raise ExportError(f"the exported program's {name} differs from the model's by {error:.3g}")


@contextlib.contextmanager
def _whole_windows() -> Iterator[None]:
    """Draw all images at once in windows that are the whole image: the same function, but none that follows boxes."""
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (renderer._Windows, "__init__", _of_whole_image),
            *((module, "_chunks", _one_chunk) for module in (renderer, overlap)),
            *((module, "_groups", _one_group) for module in (renderer, overlap)),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _one_chunk(color: Tensor, image_size: tuple[int, int]) -> Iterator[slice]:
    yield slice(None)


def _one_group(boxes: Tensor, part: slice) -> Iterator[slice]:
    yield part


def _of_whole_image(
    self: renderer._Windows,
    boxes: Tensor,
    patch_size: tuple[int, int] | torch.Size,
    image_size: tuple[int, int],
    max_size: tuple[float, float] | None,
) -> None:
    self.boxes, (self.P, self.Q), (self.S, self.T), self.index = boxes, patch_size, image_size, None
    self.top = self.left = boxes.new_zeros(())
    x1, y1, x2, y2 = boxes.unbind(-1)
    self.A_y = renderer.interpolation_weights(y1, y2, self.P, self.S)
    self.A_x = renderer.interpolation_weights(x1, x2, self.Q, self.T)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
