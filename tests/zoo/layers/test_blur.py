import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from zoo.layers.blur import blur


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_scipys(sigma: float) -> None:
    image = torch.rand(2, 3, 16, 20)
    expected = gaussian_filter(image.numpy(), sigma, axes=(2, 3), mode="mirror", truncate=np.ceil(3 * sigma) / sigma)
    torch.testing.assert_close(blur(image, sigma).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_no_blur_is_no_work() -> None:
    image = torch.rand(1, 1, 4, 4)
    assert blur(image, 0.0) is image
