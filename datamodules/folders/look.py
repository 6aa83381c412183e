"""What image files are like, from their headers alone: how large, and whether there is colour in them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from datamodules.storage.images import open_image

_GREY = ("1", "L", "LA", "La", "I", "F")  # Pillow's modes without colour, beside those that begin with I;16
_MOST = 1000  # files whose sizes are looked at
_ORIENTATION, _ON_ITS_SIDE = 274, (5, 6, 7, 8)  # EXIF: images that are stored on their side


@dataclass(frozen=True)
class Look:
    """What images are like.

    Attributes:
        count: How many there are.
        looked_at: How many sizes are known of: all, but of very many some.
        smallest: (W, H) of the one of fewest pixels, upright.
        largest: The same of most pixels.
        colour: Whether any is in colour.
    """

    count: int
    looked_at: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    colour: bool

    def __str__(self) -> str:
        """Such as `30 images of 640x480, colour`."""
        sizes = [f"{width}x{height}" for width, height in dict.fromkeys((self.smallest, self.largest))]
        some = f" (the first {self.looked_at})" if self.looked_at < self.count else ""
        return f"{self.count} images of {' to '.join(sizes)}{some}, {'colour' if self.colour else 'grey'}"


def look(files: Sequence[Path]) -> Look | None:
    """What images are like; null: none of the files is an image that can be opened."""
    first = files[:_MOST]
    sizes = sorted((_upright(picture) for picture in _opened(first)), key=lambda size: size[0] * size[1])
    return Look(len(files), len(first), sizes[0], sizes[-1], has_colour(files)) if sizes else None


def has_colour(files: Iterable[Path]) -> bool:
    """Whether any image is in colour by its file's own account: grey photographs saved in colour are."""
    return any(not (picture.mode in _GREY or picture.mode.startswith("I;16")) for picture in _opened(files))


def _opened(files: Iterable[Path]) -> Iterator[Image.Image]:
    """Those that can be opened; their pixels are not read."""
    for file in files:
        try:
            with open_image(file) as picture:
                yield picture
        except Exception:  # Pillow raises a dozen kinds for damaged files, of which whoever reads them tells
            continue


def _upright(picture: Image.Image) -> tuple[int, int]:
    width, height = picture.size
    return (height, width) if picture.getexif().get(_ORIENTATION) in _ON_ITS_SIDE else (width, height)
