"""What a model found, as arrays for what comes after it: what `ObjectModel.object_features` does."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoo.files import write_whole
from zoo.prediction import Prediction

Order = Literal["presence", "slots"]


def first_objects(presence: Tensor, threshold: float, order: Order) -> tuple[Tensor, Tensor]:
    """Slots in the order in which a head reads them: all objects, then the rest.

    Args:
        presence: (B, K) in [0, 1].
        threshold: Slots with at least this presence are objects.
        order: `presence`, the likeliest first; or `slots`, as the model has them, the order of detection.

    Returns:
        (B, K) int64 slots, and (B, K) bool, which of these are objects.

    Raises:
        ValueError: There is no such order.
    """
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {list(get_args(Order))}, got {order!r}")
    there = presence >= threshold
    rank = -presence if order == "presence" else torch.zeros_like(presence)
    index = rank.masked_fill(~there, torch.inf).argsort(dim=1, stable=True)
    return index, there.gather(1, index)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) of (B, K, D) values, by (B, N) slots."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


@dataclass(frozen=True, kw_only=True)
class Features:
    """Objects of B images, N of them at most, on the CPU; rows that are no object are zero.

    Attributes:
        what: (B, N, A) float32, appearance vectors.
        presence: (B, N) float32 in [0, 1].
        boxes: (B, N, 4) float32, xyxy, half-open, in the pixels of the images as they were given.
        valid: (B, N) bool, which rows are objects; the rest is padding. `~valid` is the mask that attention takes.
    """

    what: Tensor
    presence: Tensor
    boxes: Tensor
    valid: Tensor

    def table(self) -> dict[str, npt.NDArray[Any]]:
        """One row for each of D objects: `image` (D,), their image's number, `presence`, `boxes`, `what`, as arrays."""
        rows = {name: getattr(self, name)[self.valid].numpy() for name in ("presence", "boxes", "what")}
        return {"image": self.valid.nonzero()[:, 0].numpy(), **rows}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a file whose suffix says what it holds.

        Args:
            path: `.npz`: the padded arrays, by their names. `.parquet`: one row for each object, with the columns
                image, presence, x1, y1, x2, y2, what_0, what_1, ...; it needs pyarrow.

        Returns:
            The path.

        Raises:
            ValueError: Another suffix.
            ModuleNotFoundError: pyarrow is not installed.
        """
        path, buffer = Path(path), io.BytesIO()
        if path.suffix == ".npz":
            np.savez_compressed(buffer, **{name: value.numpy() for name, value in vars(self).items()})
        elif path.suffix == ".parquet":
            try:
                import pyarrow as pa  # type: ignore[import-untyped]
                import pyarrow.parquet as pq  # type: ignore[import-untyped]
            except ModuleNotFoundError:
                raise ModuleNotFoundError(
                    f"{path} needs pyarrow: pip install 'object-centric-zoo[parquet]', or save as .npz"
                ) from None
            table = self.table()
            columns = {"image": table["image"], "presence": table["presence"]}
            columns |= dict(zip(("x1", "y1", "x2", "y2"), table["boxes"].T, strict=True))
            columns |= {f"what_{i}": column for i, column in enumerate(table["what"].T)}
            pq.write_table(pa.table(columns), buffer)
        else:
            raise ValueError(f"{path}: features are saved as .npz or .parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())
        return path


def features(scene: Prediction, threshold: float = 0.5, order: Order = "presence") -> Features:
    """Objects of a prediction; see `ObjectModel.object_features`."""
    index, valid = first_objects(scene.presence, threshold, order)
    most = int(valid.sum(1).max()) if len(valid) else 0
    index, valid = index[:, :most], valid[:, :most]

    def padded(values: Tensor) -> Tensor:
        return pick(values.float(), index).masked_fill(~valid[..., None], 0)

    return Features(
        what=padded(scene.what),
        presence=padded(scene.presence[..., None])[..., 0],
        boxes=padded(scene.boxes_in_images()),
        valid=valid,
    )
