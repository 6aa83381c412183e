"""ConnComp: an object is a connected cluster of pixels that differ from the background (SPAIR, section 5.1 and S D.3).

It succeeds as far as objects do not touch, and so tells how hard a data set is. Nothing is learned but a threshold.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from datamodules.batch import Batch
from metrics import AveragePrecision
from zoo.scene import Scene

# the paper's program tries sums over three channels from 0.01 to 3; these are a quarter of them, as means
THRESHOLDS = tuple(np.linspace(0.01 / 3, 1, 25).tolist())
_IN_PLANE = np.zeros((3, 3, 3), bool)  # neighbours of a pixel: above, below, left and right, in its own image
_IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


class ConnComp:
    """Connected components of the pixels that are not background.

    Args:
        threshold: A pixel is no background where its absolute difference from the background, a mean over channels, is
            at least this, in (0, 1].
        background_color: The background, which is given: (C,) in [0, 1].

    Raises:
        ValueError: The threshold is out of its range.
    """

    def __init__(self, threshold: float = 0.2, background_color: Sequence[float] = (0.0,)) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {threshold!r}")
        self.threshold = threshold
        self.background_color = torch.tensor(background_color, dtype=torch.float32)

    def __call__(self, image: Tensor) -> Scene:
        """Find the components of (B, C, H, W) images in [0, 1]; slots are in the order of their first pixels.

        Returns:
            A scene whose presence is 0 or 1, whose vectors have no entries, and whose reconstruction is the image's
            pixels on the background.

        Raises:
            ValueError: The background has another number of channels.
        """
        B, C, H, W = image.shape
        if len(self.background_color) not in (1, C):
            raise ValueError(f"background_color has {len(self.background_color)} channels, images have {C}")
        background = self.background_color.to(image).view(1, -1, 1, 1).expand_as(image)
        solid = (image - background).abs().mean(1) >= self.threshold  # (B, H, W)
        found, total = ndimage.label(solid.cpu().numpy(), _IN_PLANE)  # numbered through, image by image
        b, y, x = found.nonzero()
        number = found[b, y, x] - 1
        box = np.tile(np.array([W, H, 0, 0]), (total, 1))
        np.minimum.at(box, (number, 0), x)
        np.minimum.at(box, (number, 1), y)
        np.maximum.at(box, (number, 2), x + 1)  # half-open
        np.maximum.at(box, (number, 3), y + 1)
        of = np.zeros(total, np.int64)
        of[number] = b
        count = np.bincount(of, minlength=B)
        first = count.cumsum() - count  # components of the images before
        slot, K = np.arange(total) - first[of], int(count.max(initial=0))
        boxes, presence = np.zeros((B, K, 4), np.float32), np.zeros((B, K), np.float32)
        boxes[of, slot], presence[of, slot] = box, 1
        mask = np.where(found > 0, found - first[:, None, None], 0)
        return Scene(
            reconstruction=torch.where(solid[:, None], image, background),
            boxes=torch.from_numpy(boxes).to(image.device),
            presence=torch.from_numpy(presence).to(image.device),
            what=image.new_zeros(B, K, 0),
            mask=torch.from_numpy(mask.astype(np.int64)).to(image.device),
            background=background,
        )

    @classmethod
    def tuned(cls, batch: Batch, background_color: Sequence[float] = (0.0,)) -> "ConnComp":
        """The one of `THRESHOLDS` whose boxes are best on training scenes: average precision over IoU 0.1 to 0.9.

        Args:
            batch: Scenes with `boxes` and `valid`.
            background_color: As for the class.
        """
        scores = []
        for threshold in THRESHOLDS:
            scene = cls(threshold, background_color)(batch["image"])
            precision = AveragePrecision(tuple(i / 10 for i in range(1, 10)), interpolation="11_points")
            precision.update(scene.boxes, scene.presence, batch["boxes"], batch["valid"])
            scores.append(float(precision.compute()))
        return cls(THRESHOLDS[int(np.argmax(scores))], background_color)
