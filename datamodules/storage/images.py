"""Images of any origin as tensors: files, arrays and Pillow's images, in a model's channels and size."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from datamodules.base import check
from datamodules.errors import ImageError
from datamodules.storage.converted import resize_nearest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of these, and none that runs another program
MOST_PIXELS = 89_478_485  # of an image, from which on Pillow warns; the environment variable ZOO_MAX_PIXELS says more
BITS = 258  # TIFF's tag of the bits of a sample
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, which Pillow's and OpenCV's grey have too
Fit = Literal["stretch", "pad"]


class Placement(NamedTuple):
    """Where an image came to lie when it was resized: in new pixels, and its own size before.

    Attributes:
        left: Columns of padding before it.
        top: Rows of padding above it.
        height: Rows it fills.
        width: Columns it fills.
        size: (H, W) as it was given.
    """

    left: int
    top: int
    height: int
    width: int
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image as it was given for one of the resized image's, in x and in y."""
        return self.size[1] / self.width, self.size[0] / self.height


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Files under a folder that are images by their suffix, at any depth, sorted; hidden ones are left out.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not found:
        raise FileNotFoundError(f"no images in {root}: looked for {', '.join(SUFFIXES)} at any depth")
    return found


def open_image(
    source: str | os.PathLike[str] | IO[bytes], *, most: int | None = None, formats: Sequence[str] = FORMATS
) -> Image.Image:
    """Open an image file, whose pixels are not read yet, if it is of a known format and not too large to be read.

    Args:
        source: Path, or a file that is open.
        most: Pixels that it may have; null: the environment variable ZOO_MAX_PIXELS, else 89 millions.
        formats: Pillow's names of those that are taken.

    Returns:
        To be closed by the caller.

    Raises:
        ImageError: It has more pixels.
        Exception: What Pillow raises, a dozen kinds, for what is no image or damaged.
    """
    given = os.environ.get("ZOO_MAX_PIXELS", "")
    check("ZOO_MAX_PIXELS", given, given == "" or (given.isdecimal() and int(given) > 0), "a number of pixels")
    limit = int(given or MOST_PIXELS)
    if given:
        Image.MAX_IMAGE_PIXELS = limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of fewer pixels than the limit
        picture = Image.open(source, formats=list(formats))
    width, height = picture.size
    if width * height > (most or limit):
        picture.close()
        fix = "" if most else "; the environment variable ZOO_MAX_PIXELS admits more"
        raise ImageError(f"it has {width} x {height} pixels, more than {most or limit} in all{fix}")
    return picture


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read an image file, turned upright where its metadata (EXIF) say how; of an animation, the first frame.

    Returns:
        (C, H, W) float32 in [0, 1]: C is 1 for grey images, 3 for all others. What is transparent is on black.

    Raises:
        ImageError: It is not there, damaged, too large (see `open_image`), or none of `FORMATS`.
    """
    try:
        with open_image(path) as file:
            file.load()
            return from_pillow(file)
    except FileNotFoundError:
        raise ImageError(f"there is no file {os.fspath(path)}") from None
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise ImageError(f"{os.fspath(path)} cannot be read as an image: {error}") from error


def from_pillow(picture: Image.Image) -> Tensor:
    """A Pillow image as `read_image` returns it, (C, H, W)."""
    scaled = picture.format == "PPM"  # where Pillow has scaled what the file says is white, be it 10 bits or 16
    deep = picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(BITS) == (12,)  # and where it has not
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "I" and scaled:
        return torch.from_numpy(np.asarray(picture).astype(np.float32) / 65535)[None]
    if picture.mode.startswith("I;16"):  # Pillow's conversions to 8 bits would cut off what is above 255
        return torch.from_numpy(np.asarray(picture).astype(np.float32) / (4095 if deep else 65535))[None]
    if picture.mode in ("I", "F"):
        raise ImageError(f"images of 32-bit {picture.mode} pixels have no fixed range: scale them to 8 or 16 bits")
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    pixels = torch.from_numpy(np.array(picture.convert("L" if grey else "RGB")))
    return (pixels[None] if grey else pixels.permute(2, 0, 1)).float().div_(255)


def orientation(picture: Image.Image) -> int:
    """How its metadata (EXIF) say that a picture is to be turned: 1 (not at all) to 8."""
    value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def turn_mask(mask: np.ndarray[Any, Any], how: int) -> np.ndarray[Any, Any]:
    """An (H, W) mask as `read_image` turns an image of that orientation."""
    mask = mask.T if how > 4 else mask
    return mask[:: -1 if how in (3, 4, 7, 8) else 1, :: -1 if how in (2, 3, 6, 7) else 1]


def turn_boxes(boxes: Tensor, size: tuple[int, int], how: int) -> Tensor:
    """Boxes (..., 4) in an image of `size` (H, W) before `read_image` turns it, as it turns the image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    H, W = size
    if how > 4:
        x1, y1, x2, y2, H, W = y1, x1, y2, x2, W, H
    if how in (2, 3, 6, 7):
        x1, x2 = W - x2, W - x1
    if how in (3, 4, 7, 8):
        y1, y2 = H - y2, H - y1
    return torch.stack([x1, y1, x2, y2], -1)


def to_channels(image: Tensor, channels: int) -> Tensor:
    """An image in so many channels: grey is repeated, colours become their luma.

    Args:
        image: (..., C, H, W), C 1 or 3.
        channels: 1 or 3.

    Raises:
        ImageError: C is something else.
    """
    C = image.shape[-3]
    if C not in (1, 3):
        raise ImageError(f"images of {C} channels: expected 1 (grey) or 3 (red, green, blue)")
    if channels == C:
        return image
    if C == 1:
        return image.expand(*image.shape[:-3], channels, -1, -1)
    return (image * image.new_tensor(LUMA)[:, None, None]).sum(-3, keepdim=True)


def place_image(old: tuple[int, int], size: tuple[int, int] | None, fit: Fit = "stretch") -> Placement:
    """Where an image of `old` (H, W) comes to lie in one of `size`; see `fit_image`.

    Raises:
        ValueError: `fit` is not known.
    """
    check("fit", fit, fit in get_args(Fit), f"one of {', '.join(get_args(Fit))}")
    if size is None:
        return Placement(0, 0, *old, old)
    height, width = size
    if fit == "pad":
        share = min(size[0] / old[0], size[1] / old[1])
        height, width = max(1, round(old[0] * share)), max(1, round(old[1] * share))
    return Placement((size[1] - width) // 2, (size[0] - height) // 2, height, width, old)


def fit_image(image: Tensor, size: tuple[int, int] | None, fit: Fit = "stretch") -> tuple[Tensor, Placement]:
    """Resize an image by bilinear interpolation with antialiasing.

    Args:
        image: (C, H, W) float in [0, 1].
        size: (H, W) of the result; null: as it is.
        fit: `stretch` fills the result, whatever happens to proportions; `pad` keeps them, with black at two sides.

    Returns:
        (C, *size) in [0, 1], and where the image lies in it.

    Raises:
        ValueError: `fit` is not known.
    """
    place = place_image((image.shape[-2], image.shape[-1]), size, fit)
    if size is None or size == place.size:
        return image, place
    new = (place.height, place.width)
    resized = F.interpolate(image[None], new, mode="bilinear", antialias=True)[0].clamp(0, 1)
    right, bottom = size[1] - place.width - place.left, size[0] - place.height - place.top
    return F.pad(resized, (place.left, right, place.top, bottom)), place


def fit_mask(mask: np.ndarray[Any, Any], size: tuple[int, int] | None, fit: Fit = "stretch") -> np.ndarray[Any, Any]:
    """Resize an (H, W) mask of ids as `fit_image` does an image, each pixel taking the one under its centre."""
    place = place_image((mask.shape[0], mask.shape[1]), size, fit)
    whole = np.zeros(size or mask.shape, mask.dtype)
    inside = whole[place.top : place.top + place.height, place.left : place.left + place.width]
    inside[:] = resize_nearest(mask, (place.height, place.width))
    return whole


def unfit_mask(mask: np.ndarray[Any, Any], place: Placement) -> np.ndarray[Any, Any]:
    """An (H, W) mask of ids in the pixels of the image as it was given: the inverse of `fit_mask`."""
    inside = mask[place.top : place.top + place.height, place.left : place.left + place.width]
    return resize_nearest(inside, place.size)


def fit_boxes(boxes: Tensor, place: Placement) -> Tensor:
    """Boxes (..., 4) in the pixels of the resized image."""
    scale, shift = boxes.new_tensor(place.scale * 2), boxes.new_tensor([place.left, place.top] * 2)
    return boxes / scale + shift


def unfit_boxes(boxes: Tensor, place: Placement) -> Tensor:
    """Boxes (..., 4) in the pixels of the image as it was given: the inverse of `fit_boxes`."""
    scale, shift = boxes.new_tensor(place.scale * 2), boxes.new_tensor([place.left, place.top] * 2)
    return (boxes - shift) * scale


def to_images(images: Any) -> list[Tensor | Path]:
    """Any images as a list of tensors and of files that are still to be read.

    Args:
        images: A file or a folder; a Pillow image; a tensor (C, H, W) or (B, C, H, W); an array (H, W), (H, W, C) or
            (B, H, W, C); or a sequence of any of these. Whole numbers are from 0 to 255, others from 0 to 1; C is 1 or
            3. Tensors have channels first and arrays have them last, as torchvision has it.

    Returns:
        (C, H, W) float32 in [0, 1] each, or the path of a file.

    Raises:
        ImageError: Something is none of these; the message says what it is.
        FileNotFoundError: A folder is empty.
    """
    if isinstance(images, str | os.PathLike):
        path = Path(images)
        return [*image_files(path)] if path.is_dir() else [path]
    if isinstance(images, Image.Image):
        return [from_pillow(images)]
    if isinstance(images, Tensor):
        if images.ndim not in (3, 4):
            raise ImageError(f"a tensor of shape {tuple(images.shape)}: expected (C, H, W) or (B, C, H, W)")
        return [*_in_unit_range(images[None] if images.ndim == 3 else images)]
    if isinstance(images, np.ndarray):
        array = images[..., None] if images.ndim == 2 else images
        if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3):
            raise ImageError(
                f"an array of shape {images.shape}: expected (H, W), (H, W, C) or (B, H, W, C) with C 1 or 3; "
                "torch.from_numpy makes a tensor of one that has channels first"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, -3)
        return [*_in_unit_range(tensor[None] if tensor.ndim == 3 else tensor)]
    if isinstance(images, Sequence):
        return [image for part in images for image in to_images(part)]
    raise ImageError(
        f"a {type(images).__name__} is no image: expected a path, a Pillow image, a tensor, an array, or a list of them"
    )


def _in_unit_range(images: Tensor) -> Tensor:
    if images.shape[-3] not in (1, 3):
        raise ImageError(f"a tensor of shape {tuple(images.shape)}: expected 1 or 3 channels, before height and width")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ImageError(f"images of {images.dtype}: expected uint8 from 0 to 255, or floats from 0 to 1")
    images = images.detach().float()
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise ImageError(
            f"float images are expected in [0, 1], got {images.min().item():.4g} to {images.max().item():.4g}; divide "
            "8-bit images by 255, or hand them over as uint8"
        )
    return images
