"""Square tiles that objects come in: where they may go."""

from dataclasses import dataclass

import numpy as np

from datamodules.base import Array, Bool, Int64, range_name
from datamodules.drawing.generated import Layout, integers


@dataclass(frozen=True)
class Tiles(Layout):
    """Square tiles at whole pixels, of which each shares at most `max_overlap` pixels with all earlier ones together.

    Attributes:
        canvas: (H, W).
        sizes: (n, slots), sides of the tiles.
        max_overlap: In pixels.
        what: What comes in them, in the plural.
    """

    canvas: tuple[int, int]
    sizes: Int64
    max_overlap: float
    what: str
    dtype = np.int64

    def propose(self, rng: np.random.Generator, images: Int64, slot: int, tries: int) -> Int64:
        """Left top corners."""
        room = np.array(self.canvas[::-1]) - self.sizes[images, slot][:, None, None] + 1
        return integers(rng, room, (len(images), tries, 2))

    def fits(self, candidates: Array, earlier: Array, images: Int64, slot: int) -> Bool:
        """Whether the tile shares few enough pixels with the earlier ones."""
        size = self.sizes[images, slot][:, None, None]
        shared = np.zeros(candidates.shape[:2], np.int64)
        for other in range(slot):
            # The overlap of [0, size) and [shift, shift + width), in both directions.
            shift, width = earlier[:, other, None] - candidates, self.sizes[images, other][:, None, None]
            extent = np.minimum(size - shift, width + shift)
            np.clip(extent, 0, np.minimum(size, width), out=extent)
            shared += extent[..., 0] * extent[..., 1]
        return shared <= self.max_overlap

    def __str__(self) -> str:
        side = range_name((self.sizes.min(), self.sizes.max()))
        return (
            f"{self.what} of {side} px fit on {self.canvas[0]} x {self.canvas[1]} px with "
            f"max_overlap={self.max_overlap:g}"
        )
