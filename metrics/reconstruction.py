"""Reconstruction error, in the several senses that papers give to it."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics._checks import check_shape

Reduction = Literal["mean", "root_mean", "sum", "normalized"]


class ReconstructionError(Metric):
    """Squared error of reconstructed images, over the whole data set.

    - `mean`: mean over pixels and channels of all images (MSE).
    - `root_mean`: the root of that (RMSE): of the mean over the data set, not a mean of roots.
    - `sum`: summed over C, H and W, mean over images: "MSE" in the tables of CLEVRTEX and its kin.
    - `normalized`: squared errors of all images by squared values of all images: 0 perfect, 1 as good as a black image.
      Discrete-AIR's figures, whose definition the paper does not give, are of this size or of `root_mean`'s; a blank
      image would beat them as `mean`.

    NaN without any image; `normalized` is NaN or infinite where all images are black. Images may differ in size from
    one batch to the next. `update` does not wait for a GPU, and the states do not depend on `reduction`, so that a
    `MetricCollection` of several updates only one. Sums carry what float32 rounds off, so that it does not add up over
    many batches.

    Args:
        reduction: One of the four.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: An unknown reduction.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    squared_error: Tensor  # (2,) the sum, and what was rounded off it
    squared_image: Tensor
    values: Tensor
    images: Tensor

    def __init__(self, reduction: Reduction = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction is {reduction!r}, expected one of {get_args(Reduction)}")
        self.reduction = reduction
        for state in ("squared_error", "squared_image"):
            self.add_state(state, torch.zeros(2), dist_reduce_fx="sum")
        for state in ("values", "images"):
            self.add_state(state, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, C, H, W) in [0, 1].
            image: (B, C, H, W) in [0, 1].

        Raises:
            ValueError: Shapes differ, or a type is not a floating-point one.
        """
        check_shape("image", image, "B", "C", "H", "W")
        check_shape("reconstruction", reconstruction, *image.shape)
        for name, value in (("reconstruction", reconstruction), ("image", image)):
            if not value.is_floating_point():
                raise ValueError(f"{name} has type {value.dtype}, expected floating-point values in [0, 1]")
        target = image.detach().float()
        error = (reconstruction.detach().float() - target).square().sum()
        self.squared_error = _add(self.squared_error, error)  # never in place: processes may share a state's memory
        self.squared_image = _add(self.squared_image, target.square().sum())
        self.values = self.values + image.numel()
        self.images = self.images + len(image)

    def compute(self) -> Tensor:
        """Return the error, a scalar of at least 0 or NaN."""
        squared_error, squared_image = (
            total.cpu().double().sum() for total in (self.squared_error, self.squared_image)
        )
        divisors = {"sum": self.images, "normalized": squared_image}
        value = squared_error / divisors.get(self.reduction, self.values).cpu()
        return (value.sqrt() if self.reduction == "root_mean" else value).float().to(self.device)


def _add(total: Tensor, value: Tensor) -> Tensor:
    """A float32 sum and what was rounded off it, (2,), with a scalar added: Knuth's exact sum of two numbers."""
    old, rest = total.unbind()
    new = old + value
    added = new - old
    return torch.stack([new, rest + (old - (new - added)) + (value - added)])
