"""Pictures of what a model sees: input, reconstruction, boxes; and of what it imagines."""

import inspect
import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import Batch
from zoo.pictures.sheet import draw_boxes, presence_label, sheet_of
from zoo.scene import Scene

TRUE_COLOR, PREDICTED_COLOR = (255, 200, 0), (60, 140, 255)  # as in the SPAIR paper's figure 2
CATEGORY_COLORS = (  # far apart from each other and from the yellow of truth, bright on black and visible on white
    (60, 140, 255), (255, 70, 70), (50, 205, 80), (210, 90, 255), (0, 205, 215),
    (255, 160, 200), (170, 115, 70), (150, 155, 165), (150, 160, 0), (255, 140, 30),
)  # fmt: skip
_NARROWEST, _SINGLE = 128, 52  # pixels of a picture in a sheet, and of that of a single object


def draw_scenes(
    batch: Batch, scene: Scene, threshold: float = 0.5, scale: int | None = None, about: str = ""
) -> Image.Image:
    """A sheet with one column an image, and rows for input, reconstruction and predictions.

    Args:
        batch: B images; true boxes are drawn in yellow where it has them.
        scene: What a model sees in them; boxes of presence at least `threshold` are drawn: in blue, or, where objects
            have categories, each category in its colour and with its number before the presence. True boxes have the
            number of their class then.
        threshold: In [0, 1].
        scale: Enlargement of each pixel; by default images become at least 128 pixels wide, or some 512 where there
            are one or two.
        about: What the caption begins with, such as the model and its step. Colours and threshold follow.

    Returns:
        An RGB picture, with the number of objects found (and there) above each column. Where there are masks, attention
        maps or a background of more than a colour, there are rows for them, each object or slot in its colour; the
        brightest cell of each attention map has the full one.
    """
    B, _, H, W = batch["image"].shape
    scale = scale or (_enlargement(W) if B > 2 else max(_enlargement(W), 512 // W))
    inputs = [to_picture(image, scale) for image in batch["image"]]
    reconstructions = [to_picture(image, scale) for image in scene.reconstruction]
    predictions = [picture.copy() for picture in inputs]
    categories = None if scene.category is None else scene.category.argmax(-1).tolist()
    counts, width = [], max(1, scale // 3)
    for b in range(B):
        order = scene.presence[b].argsort(descending=True).tolist()  # the surest have their labels first
        found = [k for k in order if scene.presence[b, k] >= threshold]
        own = [None if categories is None else categories[b][k] for k in found]
        colors = [PREDICTED_COLOR if category is None else category_color(category) for category in own]
        presence = scene.presence[b, found].tolist()
        labels = [presence_label(*each) for each in zip(presence, own, strict=True)]
        draw_boxes(predictions[b], scene.boxes[b, found] * scale, colors, labels, width)
        counts.append(f"{len(found)} found")
        if "boxes" in batch:
            valid = batch["valid"][b]
            named = categories is not None and "labels" in batch
            classes = [str(label) for label in batch["labels"][b][valid].tolist()] if named else []
            draw_boxes(inputs[b], batch["boxes"][b][valid] * scale, [TRUE_COLOR] * int(valid.sum()), classes, width)
            counts[b] += f", {int(valid.sum())} there"
    known, kinds = "boxes" in batch, "a colour for each category" if categories is not None else "blue"
    legend = [about, f"yellow: true{' (class)' * (categories is not None)}" if known else ""]
    legend.append(f"{kinds}: found, with presence of {threshold:g} or more, written where below 1")
    titles = ["input and true boxes" if "boxes" in batch else "input", "reconstruction", "predicted boxes"]
    rows = dict(zip(titles, [inputs, reconstructions, predictions], strict=True))
    more = {
        "true masks": batch.get("mask"),
        "predicted masks": scene.mask,
        "attention": scene.attention,
        "background": scene.background if _varies(scene.background) else None,
    }
    for title, maps in more.items():
        if maps is not None:
            if title.endswith("masks"):
                maps = _palette(int(maps.max())).to(maps.device)[maps].permute(0, 3, 1, 2)
            elif title == "attention":
                share = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12)
                palette = _palette(maps.shape[1]).to(maps.device)[1:]
                maps = torch.einsum("bkhw,kc->bchw", share.float(), palette)
                maps = torch.nn.functional.interpolate(maps, (H, W))
            rows[title] = [to_picture(image, scale) for image in maps]
    return sheet_of(rows, caption="; ".join(filter(None, legend)), columns=counts)


def _varies(image: Tensor | None) -> bool:
    """Whether there is more to see in (B, C, H, W) than one colour."""
    return image is not None and bool((image - image[..., :1, :1]).abs().max() > 1e-3)


def _palette(count: int) -> Tensor:
    """(count + 1, 3) colours in [0, 1]: black, then those of objects or slots."""
    return torch.tensor([(0, 0, 0), *map(category_color, range(count))]) / 255


def draw_generated(model: Any, num_images: int, image_size: tuple[int, int]) -> Image.Image:
    """A sheet of scenes from a model's prior, always the same for the same weights.

    Priors that outweigh many pixels favour empty scenes. So there are from 1 to 4 objects in each, where the model's
    `generate` takes a `count`.

    Args:
        model: Has `generate(num_images, image_size, generator)`, which yields a `Scene`.
        num_images: How many.
        image_size: (H, W) in pixels.

    Returns:
        An RGB picture.
    """
    title, generator = "drawn from the prior", torch.Generator().manual_seed(0)
    if "count" in inspect.signature(model.generate).parameters:
        counts = [1 + 4 * b // num_images for b in range(num_images)]
        title += f", objects given: {', '.join(map(str, counts))}"
        scenes = [model.generate(1, image_size, generator=generator, count=count) for count in counts]
        drawn = torch.cat([scene.reconstruction for scene in scenes])
    else:
        drawn = model.generate(num_images, image_size, generator=generator).reconstruction
    return sheet_of({title: [to_picture(image, _enlargement(image_size[1])) for image in drawn]})


def draw_composed(model: Any, num_images: int, image_size: tuple[int, int]) -> Image.Image:
    """A sheet of scenes as asked for, objects in the places of a grid (Discrete-AIR, figures 6 and 9).

    Rows: each category alone; sequences of categories, of more objects than the model has steps; all categories, turned
    by angles; and, for each of the first three attributes there are, all categories as it goes from -2 to 2.

    Args:
        model: Has `compose(categories, attributes, where, image_size)`, which yields a `Scene`, and hyperparameters
            `num_categories`, `attribute_dim` and `num_steps`.
        num_images: In each row.
        image_size: (H, W) in pixels.

    Returns:
        An RGB picture.
    """
    hp, n = model.hp, num_images
    scale, every = _enlargement(image_size[1]), torch.arange(hp.num_categories)

    def row(categories: Tensor, attributes: Tensor | None = None, angles: Tensor | None = None) -> list[Image.Image]:
        B, N = categories.shape
        angles = torch.zeros(B) if angles is None else angles
        where = torch.cat([_grid(N, image_size).expand(B, N, 4), angles[:, None, None].expand(B, N, 1)], -1)
        scene = model.compose(categories, attributes, where, image_size)
        return [to_picture(image, scale) for image in scene.reconstruction]

    rows = {f"categories {part[0]} to {part[-1]}": row(part[:, None]) for part in every.split(n)}
    many = (math.isqrt(hp.num_steps) + 2) ** 2
    sequences = torch.randint(len(every), (n, many), generator=torch.Generator().manual_seed(0))
    rows[f"{many} objects of given categories (the model has {hp.num_steps} steps)"] = row(sequences)
    rows["given angles: from -90 to 90 degrees"] = row(
        every.expand(n, -1), angles=torch.linspace(-math.pi / 2, math.pi / 2, n)
    )
    for a in range(min(hp.attribute_dim, 3)):
        attributes = torch.zeros(n, len(every), hp.attribute_dim)
        attributes[..., a] = torch.linspace(-2, 2, n)[:, None]
        rows[f"attribute {a}: from -2 to 2"] = row(every.expand(n, -1), attributes)
    return sheet_of(rows)


def draw_styles(model: Any, num_styles: int) -> Image.Image:
    """A sheet of single objects: a row for each category, a column for each style (GMAIR, figure 3).

    Args:
        model: Has `assemble(categories, styles, boxes, image_size)`, which yields a `Scene`; `where_prior`, means and
            stds of z_y, z_x, z_h and z_w; and hyperparameters `num_categories`, `what_dim` and `anchor`.
        num_styles: Columns; the first has the categories' averages, the others a random style each.

    Returns:
        An RGB picture.
    """
    hp, n = model.hp, num_styles
    side = hp.anchor / (1 + math.exp(-model.where_prior[2][0]))  # of an object of the usual size
    categories = torch.arange(hp.num_categories)[:, None].expand(-1, n).reshape(-1, 1)
    styles = torch.randn(n, hp.what_dim, generator=torch.Generator().manual_seed(0))
    styles[0] = 0
    boxes = torch.tensor([1, 1, 1 + side, 1 + side]).expand(len(categories), 1, 4)
    pixels = math.ceil(side) + 2
    drawn = model.assemble(categories, styles.repeat(hp.num_categories, 1)[:, None], boxes, (pixels, pixels))
    pictures = [to_picture(image, max(1, _SINGLE // pixels)) for image in drawn.reconstruction]
    names = (f"category {c}{': average, then styles' * (c == 0)}" for c in range(hp.num_categories))
    return sheet_of({name: pictures[c * n : (c + 1) * n] for c, name in enumerate(names)})


def draw_varied(model: Any, image: Tensor) -> Image.Image:
    """A sheet of images drawn otherwise than they are (GMAIR, figure 4).

    Args:
        model: Has `vary(image, category, restyle, shuffle, generator)`, which yields a `Scene`.
        image: (B, C, H, W) in [0, 1].

    Returns:
        An RGB picture.
    """
    scale = _enlargement(image.shape[-1])
    changes: dict[str, dict[str, Any]] = {
        "reconstruction": {},
        "all of category 0, each in its own style": {"category": 0},
        "in other styles": {"restyle": True},
        "places exchanged": {"shuffle": True},
    }
    rows = {"input": [to_picture(each, scale) for each in image]}
    for title, change in changes.items():
        drawn = model.vary(image, **change, generator=torch.Generator().manual_seed(0)).reconstruction
        rows[title] = [to_picture(each, scale) for each in drawn]
    return sheet_of(rows)


def category_color(category: int) -> tuple[int, int, int]:
    """RGB in 0 to 255; colours come round again after the last."""
    return CATEGORY_COLORS[category % len(CATEGORY_COLORS)]


def _grid(count: int, image_size: tuple[int, int]) -> Tensor:
    """(count, 4) centre x and y, width and height in pixels: squares, in raster order, about as many a row as rows."""
    columns = math.isqrt(count - 1) + 1
    width, height = image_size[1] / columns, image_size[0] / -(-count // columns)  # of a cell
    place = torch.arange(count)
    x, y = (place % columns + 0.5) * width, (place // columns + 0.5) * height
    return torch.stack([x, y, *torch.full((2, count), 0.9 * min(width, height))], -1)


def _enlargement(width: int) -> int:
    """By how much pixels grow so that pictures are at least 128 wide."""
    return max(1, -(-_NARROWEST // width))


def to_picture(image: Tensor, scale: int) -> Image.Image:
    """A (C, H, W) image in [0, 1], C 1 or 3, as an enlarged RGB picture with sharp pixels."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().expand(3, -1, -1)
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
