"""Backgrounds by a robust autoencoder, for short training and small networks. What the zoo adds to `BackgroundAE`.

- `target_blur`: texture, which a small network cannot draw, is not given up like an object.
- `robust_rate` that rises from 0, and `width` below 1, need nothing but `BackgroundAE`: while nothing is learned,
  nearly all pixels would be given up; a quarter of the width learns on one CPU core.
"""

import math
from typing import Any

from torch import Tensor

from zoo.layers.blur import blur
from zoo.layers.schedules import Schedule
from zoo.models.background_ae import BackgroundAE


class BackgroundAERecipe(BackgroundAE):
    """`BackgroundAE` that may learn from blurred images.

    Args:
        target_blur: What is to be drawn is the image blurred by a Gaussian of so many pixels; 0: as it is.
        **paper: As for `BackgroundAE`.

    Raises:
        ValueError: A hyperparameter is out of its range.
    """

    schedules = (*BackgroundAE.schedules, "target_blur")

    def __init__(self, *, target_blur: Schedule = 0.0, **paper: Any) -> None:
        super().__init__(**paper)
        self.check_schedules(target_blur=(0.0, math.inf))

    def target(self, image: Tensor) -> Tensor:
        """(B, C, H, W) images to what is to be drawn: them, blurred."""
        return blur(image, self.scheduled("target_blur"))
