"""Blurred images, as what a model should draw before it can draw texture."""

import math

from torch import Tensor
from torchvision.transforms.functional import gaussian_blur


def blur(image: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian, cut off at three standard deviations, the image mirrored at its border.

    Args:
        image: (B, C, H, W), sides larger than 3 `sigma`.
        sigma: Standard deviation in pixels; 0 or less leaves the image as it is.

    Returns:
        (B, C, H, W).
    """
    if sigma <= 0:
        return image
    return gaussian_blur(image, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma, sigma])
