"""Draw models.png, the README's first picture: a held-out scene of each trained checkpoint.

python .readme/models.py [NAME ...]: under each image what was found in it, and the reconstruction.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import datamodules
import zoo
from zoo.pictures.draw import to_picture
from zoo.pictures.overlay import draw_objects
from zoo.pictures.sheet import sheet_of

SIDE = 208  # pixels of a picture
NAMES = (
    "air-multimnist-recipe",
    "discrete-air-multisprites-recipe",
    "spair-multimnist-recipe",
    "gmair-multimnist-recipe",
    "gmair-fruit2d-synthetic-recipe",
    "ast-seg-clevrtex-synthetic-recipe",
)


def pictures_of(name: str) -> list[Image.Image]:
    """Input, findings and reconstruction of the test scene with the most objects among the first."""
    model = zoo.load(name)
    assert model.data_record
    settings: dict[str, Any] = {**model.data_record["init_args"], "num_test": 60, "eval_batch_size": 60}
    data = getattr(datamodules, model.data_record["class"])(**settings)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    chosen = batch["valid"].sum(1).argsort(descending=True, stable=True)[:1]
    image = batch["image"][chosen]
    with torch.no_grad():
        scene = model(image)
    mask = None if scene.mask is None else scene.mask[0].numpy()
    found = draw_objects(image[0], scene.objects()[0], mask)
    pictures = [to_picture(image[0], 1), found, to_picture(scene.reconstruction[0], 1)]
    return [picture.resize((SIDE, SIDE), Image.Resampling.NEAREST) for picture in pictures]


def main() -> None:
    """Write models.png beside this file."""
    names = sys.argv[1:] or NAMES
    rows = zip(*map(pictures_of, names), strict=True)
    titles = ("held-out image", "found, without a label in training", "reconstruction")
    sheet = sheet_of({title: list(row) for title, row in zip(titles, rows, strict=True)}, columns=names)
    sheet.save(Path(__file__).with_name("models.png"))


if __name__ == "__main__":
    main()
