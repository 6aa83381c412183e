"""Draw coins.png, the README's second picture: a real one, and the coins that were found in it.

python .readme/coins.py: what training saw is above the line, what it never saw below.
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

import zoo
from datamodules import PictureDataModule
from datamodules.picture import picture_file
from zoo.pictures.draw import PREDICTED_COLOR
from zoo.pictures.sheet import draw_boxes

SCALE = 2  # pixels of the picture for one of the photo


def main() -> None:
    """Write coins.png beside this file, and say how many there are."""
    data = PictureDataModule(picture="coins", shrink=3.0, level=25, gamma=1.5)
    found = zoo.load("spair-coins-recipe").predict(data.everything).objects(max_overlap=0.2, clip=True)[0]
    photo = Image.open(picture_file("coins")).convert("RGB")
    photo = photo.resize((photo.width * SCALE, photo.height * SCALE), Image.Resampling.LANCZOS)
    ratio = photo.width / data.everything.shape[-1]
    boxes = torch.tensor([one["box"] for one in found]) * ratio
    boxes = boxes.minimum(torch.tensor([*photo.size] * 2) - 2.0)
    draw_boxes(photo, boxes, [PREDICTED_COLOR] * len(found), width=2)
    pen = ImageDraw.Draw(photo)
    y = photo.height // 2
    for x in range(0, photo.width, 16):
        pen.line((x, y, x + 8, y), fill=(255, 255, 255), width=1)
    photo.save(Path(__file__).with_name("coins.png"))
    print(len(found), "coins")


if __name__ == "__main__":
    main()
