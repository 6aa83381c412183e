"""Shifts: test scenes made unlike those that a model was trained on, one way at a time, with what is true of them.

After the shifts by which Dittadi et al. (ICML 2022) test object-centric models, with sizes of our own: crops, occlusion
and colours are theirs in kind; blur and noise are what cameras do.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur  # type: ignore[import-untyped]

from datamodules.batch import Batch

Shift = Callable[[Batch, torch.Generator], Batch]

CROP = 2 / 3  # side of what is left, of the image's
OCCLUDER, GREY = 1 / 3, 0.5  # its side, of the image's shorter one, and its value
DIM = 0.6
SIGMA = 1.0  # pixels
NOISE = 0.1
_PER_OBJECT = ("boxes", "tile_boxes", "labels")


def crop(batch: Batch, generator: torch.Generator) -> Batch:
    """The middle of the image, two thirds of each side, enlarged to the whole: objects are 1.5 times as large.

    Boxes end at the image's edges, and objects that lie beyond them are none.
    """
    image = batch["image"]
    H, W = image.shape[-2:]
    height, width = round(CROP * H), round(CROP * W)
    y, x = (H - height) // 2, (W - width) // 2
    window = (..., slice(y, y + height), slice(x, x + width))
    shifted: dict[str, Tensor] = {
        **cast(dict[str, Tensor], batch),
        "image": F.interpolate(image[window], (H, W), mode="bilinear", align_corners=False),
    }
    if "background" in shifted:
        shifted["background"] = F.interpolate(
            shifted["background"][window], (H, W), mode="bilinear", align_corners=False
        )
    if "mask" in shifted:
        seen = shifted["mask"][window][:, None].double()  # whole numbers up to 2**53 as they are
        shifted["mask"] = F.interpolate(seen, (H, W), mode="nearest-exact")[:, 0].long()
    scale = image.new_tensor([W / width, H / height] * 2)
    for key in ("boxes", "tile_boxes"):
        if key in shifted:
            boxes = (shifted[key] - image.new_tensor([x, y] * 2)) * scale
            shifted[key] = boxes.clamp(min=0).minimum(image.new_tensor([W, H] * 2))
    if "boxes" in shifted:
        extent = shifted["boxes"][..., 2:] - shifted["boxes"][..., :2]
        _keep(shifted, (extent > 0).all(-1))
    return cast(Batch, shifted)


def occlusion(batch: Batch, generator: torch.Generator) -> Batch:
    """A grey square, a third of the image's shorter side, anywhere: it is no object, and hides what is under it.

    Boxes stay whole, those that lie under the square go.
    """
    image = batch["image"].clone()
    H, W = image.shape[-2:]
    side = round(OCCLUDER * min(H, W))
    room = torch.tensor([W - side + 1, H - side + 1])
    corner = (torch.rand(len(image), 2, generator=generator) * room).long().to(image.device)
    columns, rows = (torch.arange(size, device=image.device) for size in (W, H))
    across = (columns >= corner[:, :1]) & (columns < corner[:, :1] + side)
    down = (rows >= corner[:, 1:]) & (rows < corner[:, 1:] + side)
    under = down[:, :, None] & across[:, None]
    shifted: dict[str, Tensor] = {**cast(dict[str, Tensor], batch)}
    shifted["image"] = image.masked_fill(under[:, None], GREY)
    if "mask" in shifted:
        shifted["mask"] = shifted["mask"].masked_fill(under, 0)
    if "boxes" in shifted:
        first, last = shifted["boxes"].split(2, -1)
        _keep(shifted, ~((first >= corner[:, None]) & (last <= corner[:, None] + side)).all(-1))
    return cast(Batch, shifted)


def color(batch: Batch, generator: torch.Generator) -> Batch:
    """Green for red, blue for green, red for blue.

    Raises:
        ValueError: Images are grey.
    """
    if batch["image"].shape[1] != 3:
        raise ValueError("color is a shift of colour images: these have 1 channel")
    return _with_image(batch, batch["image"].roll(1, dims=1))


def brightness(batch: Batch, generator: torch.Generator) -> Batch:
    """All values times 0.6."""
    return _with_image(batch, DIM * batch["image"])


def blur(batch: Batch, generator: torch.Generator) -> Batch:
    """A Gaussian of one pixel."""
    side = 2 * round(3 * SIGMA) + 1
    return _with_image(batch, gaussian_blur(batch["image"], [side, side], [SIGMA, SIGMA]))


def noise(batch: Batch, generator: torch.Generator) -> Batch:
    """Normal noise of a standard deviation of 0.1 on every value, which stays in [0, 1]."""
    image = batch["image"]
    drawn = torch.randn(image.shape, generator=generator).to(image)
    return _with_image(batch, (image + NOISE * drawn).clamp(0, 1))


SHIFTS: dict[str, Shift] = {
    "crop": crop,
    "occlusion": occlusion,
    "color": color,
    "brightness": brightness,
    "blur": blur,
    "noise": noise,
}
# of data that can: other scenes, with what training never saw
OTHER_SCENES: dict[str, dict[str, dict[str, Any]]] = {"unseen": {"CLEVRTEXDataModule": {"variant": "outd"}}}
NAMES = (*SHIFTS, *OTHER_SCENES)


def applies(shift: str, channels: int, data: str) -> bool:
    """Whether a shift is one of images of so many channels, of a datamodule of that class."""
    return data in OTHER_SCENES[shift] if shift in OTHER_SCENES else shift != "color" or channels == 3


def _with_image(batch: Batch, image: Tensor) -> Batch:
    return cast(Batch, {**cast(dict[str, Tensor], batch), "image": image})


def _keep(batch: dict[str, Tensor], seen: Tensor) -> None:
    """Make rows of objects that are not seen padding."""
    batch["valid"] = batch["valid"] & seen
    for key in _PER_OBJECT:
        if key in batch:
            batch[key] = batch[key] * batch["valid"].view(*seen.shape, *[1] * (batch[key].dim() - 2))
