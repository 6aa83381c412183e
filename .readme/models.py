"""Draw models.png, the README's first picture: two held-out scenes of each trained checkpoint.

python .readme/models.py [NAME ...]: under each image what was found in it, and the reconstruction.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import datamodules
import zoo
from zoo.pictures.draw import to_picture
from zoo.pictures.overlay import draw_objects

SIDE, GAP, TITLE = 192, 6, 24
NAMES = (
    "air-multimnist-recipe",
    "discrete-air-multisprites-recipe",
    "spair-multimnist-recipe",
    "gmair-multimnist-recipe",
    "gmair-fruit2d-synthetic-recipe",
)
NAMES += ("ast-seg-clevrtex-synthetic-recipe",)


def columns_of(name: str) -> list[list[Image.Image]]:
    """Input, findings and reconstruction of the two test scenes with the most objects among the first."""
    model = zoo.load(name)
    assert model.data_record
    settings: dict[str, Any] = {**model.data_record["init_args"], "num_test": 60, "eval_batch_size": 60}
    data = getattr(datamodules, model.data_record["class"])(**settings)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    chosen = batch["valid"].sum(1).argsort(descending=True, stable=True)[:2]
    image = batch["image"][chosen]
    with torch.no_grad():
        scene = model(image)
    found = scene.objects()
    masks = [None] * 2 if scene.mask is None else list(scene.mask.numpy())
    return [
        [to_picture(image[b], 1), draw_objects(image[b], found[b], masks[b]), to_picture(scene.reconstruction[b], 1)]
        for b in range(2)
    ]


def main() -> None:
    """Write models.png beside this file."""
    names = sys.argv[1:] or NAMES
    groups = [columns_of(name) for name in names]
    width = len(names) * (2 * SIDE + 3 * GAP)
    sheet = Image.new("RGB", (width, TITLE + 3 * (SIDE + GAP)), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    for g, (name, columns) in enumerate(zip(names, groups, strict=True)):
        left = g * (2 * SIDE + 3 * GAP) + GAP
        draw.text((left, 4), name, fill=(235, 235, 235), font_size=16)
        for c, column in enumerate(columns):
            for r, picture in enumerate(column):
                tile = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + c * (SIDE + GAP), TITLE + r * (SIDE + GAP)))
    sheet.save(Path(__file__).with_name("models.png"))


if __name__ == "__main__":
    main()
