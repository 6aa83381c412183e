"""Found objects drawn over the image that they were found in."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.pictures.draw import PREDICTED_COLOR, category_color, to_picture
from zoo.pictures.sheet import draw_boxes, presence_label
from zoo.scene import FoundObject

_NARROWEST, _WIDEST = 192, 1024  # pixels of a picture: its boxes can be told, and a folder of them looked through


def draw_objects(image: Tensor, objects: Sequence[FoundObject], mask: np.ndarray | None = None) -> Image.Image:
    """An image with the boxes of its objects and, where there is a mask, their pixels tinted.

    Args:
        image: (C, H, W) in [0, 1], C 1 or 3. It is drawn larger or smaller where it is less than 192 or more than 1024
            pixels wide.
        objects: With boxes in the pixels of `image`, the surest first; each has its presence
            beside it, unless that is 1.
            A colour stands for a category; for an object where masks tell them apart; else all are blue.
        mask: (H, W) of whole numbers: pixels of slot k are k + 1.

    Returns:
        An RGB picture.
    """
    H, W = image.shape[-2:]
    scale = max(1, -(-_NARROWEST // W)) if W <= _WIDEST else _WIDEST / W
    size = (round(W * scale), max(1, round(H * scale)))
    if scale >= 1:
        picture = to_picture(image, int(scale))
    else:
        picture = to_picture(image, 1).resize(size, Image.Resampling.BILINEAR)
    if mask is not None:
        tint = np.zeros((*mask.shape, 3), np.uint8)
        for found in objects:
            tint[mask == found["slot"] + 1] = object_color(found, masks=True)
        colors = Image.fromarray(tint).resize(size, Image.Resampling.NEAREST)
        where = Image.fromarray(np.where(tint.any(2), 115, 0).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        picture = Image.composite(colors, picture, where)
    labels = [presence_label(found["score"], found["category"]) for found in objects]
    boxes = torch.tensor([found["box"] for found in objects]).view(-1, 4) * scale
    draw_boxes(
        picture, boxes, [object_color(found, mask is not None) for found in objects], labels, max(1, int(scale) // 3)
    )
    return picture


def object_color(found: FoundObject, masks: bool) -> tuple[int, int, int]:
    """Of a found object: its category's; its own where masks tell objects apart; else that of all."""
    if found["category"] is not None:
        return category_color(found["category"])
    return category_color(found["slot"]) if masks else PREDICTED_COLOR
