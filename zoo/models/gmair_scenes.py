"""What a trained GMAIR sees and draws: scenes, trimmed boxes (section 4), objects varied at will (figures 3 and 4).

These are methods of `zoo.models.gmair.GMAIR`. Section, equation and figure numbers are those of Zhu et al. 2021.
"""

import math
from typing import TYPE_CHECKING, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers import boxes as box_ops
from zoo.layers.count_prior import sample_presence
from zoo.layers.overlap import instance_mask
from zoo.models.base import in_working_precision
from zoo.scene import Scene

if TYPE_CHECKING:
    from zoo.models.gmair import GMAIR

PRESENT = 0.5  # objects of at least this presence are there


class Appearances(TypedDict):
    """What a scene of K objects is drawn from."""

    boxes: Tensor  # (B, K, 4) in pixels, of z_where
    z_depth: Tensor  # (B, K, 1), lower is in front
    presence: Tensor  # (B, K, 1) in [0, 1]: z_pres, or its probability
    category: Tensor  # (B, K, C), sum 1: z_cat, or its probabilities
    z_what: Tensor  # (B, K, A)


def draw_scene(model: "GMAIR", objects: Appearances, background: Tensor) -> Scene:
    """Decode objects and draw them onto a (B, C, H, W) background; boxes are trimmed."""
    color, alpha = model.decode(objects["z_what"])
    opacity = alpha * objects["presence"][..., None]
    trims = model.hp.trim_threshold is not None
    return Scene(
        reconstruction=model.render(objects, color, alpha, background),
        mask=instance_mask(
            model.importance(objects, opacity),
            visible(color, alpha) if trims else opacity,
            objects["presence"][..., 0],
            objects["boxes"],
            (background.shape[-2], background.shape[-1]),
            model.hp.trim_threshold if trims else 0.5,
            (model.hp.anchor,) * 2,
        ),
        background=background,
        **_findings(objects, visible(color, alpha) if trims else None, model.hp.trim_threshold),
    )


@in_working_precision
def detect(model: "GMAIR", image: Tensor, min_presence: float = 0.0) -> dict[str, Tensor]:
    """Find and group objects, drawing nothing, which takes a fraction of the time.

    Args:
        model: Itself.
        image: (B, C, H, W) in [0, 1].
        min_presence: Leaves out what no image has: of K slots an image has all its cells that are above this, and,
            where it has fewer than another, others. 0 keeps all cells, in raster order.

    Returns:
        `boxes`, `presence`, `what`, `category`, `depth` and `attention_boxes` as in `Scene`.
    """
    objects = model.infer(image, None, min_presence)[1]
    trims = model.hp.trim_threshold is not None
    return _findings(objects, visible(*model.decode(objects["z_what"])) if trims else None, model.hp.trim_threshold)


def visible(color: Tensor, alpha: Tensor) -> Tensor:
    """What each texel changes in a black picture, (B, K, P, P): of (B, K, C, P, P) colours the mean, times alpha."""
    return (alpha[:, :, None] * color).mean(2)


def _findings(objects: Appearances, shows: Tensor | None, threshold: float | None) -> dict[str, Tensor]:
    """Fields of a scene; boxes are trimmed to what shows, where that is given."""
    boxes = objects["boxes"]
    return {
        "boxes": boxes if shows is None or threshold is None else box_ops.trim_boxes(boxes, shows, threshold),
        "presence": objects["presence"][..., 0],
        "what": objects["z_what"],
        "category": objects["category"],
        "depth": objects["z_depth"][..., 0],
        "attention_boxes": boxes,
    }


@torch.no_grad()
@in_working_precision
def assemble(
    model: "GMAIR",
    categories: Tensor,
    styles: Tensor | None,
    boxes: Tensor,
    image_size: tuple[int, int] = (128, 128),
    presence: Tensor | None = None,
    depth: Tensor | None = None,
) -> Scene:
    """Draw the scenes that one asks for (figure 3: each category in many styles, each style in all categories).

    Args:
        model: Itself.
        categories: (B, K) integers from 0 to C - 1: z_avg is the mean of that component (equation 12).
        styles: (B, K, A), z_local in stds of the component, distributed as N(0, 1); None: zeros, the average object.
        boxes: (B, K, 4) in pixels, as `Scene.attention_boxes`: of the patch, whose border may be empty.
        image_size: (H, W) in pixels.
        presence: (B, K) in [0, 1]; None: all are there.
        depth: (B, K), lower is in front; None: all at the same.

    Returns:
        A `Scene` with these objects.

    Raises:
        ValueError: A shape, type or category is off.
    """
    hp = model.hp
    if categories.ndim != 2 or categories.is_floating_point():
        raise ValueError(f"categories must be integers (B, K), got {categories.dtype} {tuple(categories.shape)}")
    if categories.numel() and not 0 <= categories.min() <= categories.max() < hp.num_categories:
        raise ValueError(
            f"categories must be from 0 to {hp.num_categories - 1}, got {categories.min()} to {categories.max()}"
        )
    shape = tuple(categories.shape)
    wanted = {"styles": (*shape, hp.what_dim), "boxes": (*shape, 4), "presence": shape, "depth": shape}
    given = {"styles": styles, "boxes": boxes, "presence": presence, "depth": depth}
    for name, value in given.items():
        if value is not None and tuple(value.shape) != wanted[name]:
            raise ValueError(f"{name} must be {wanted[name]}, got {tuple(value.shape)}")
    category = F.one_hot(categories.long(), hp.num_categories).to(model.device, model.working_dtype)
    mean, std = model.what_prior(category)
    objects: Appearances = {
        "boxes": boxes.to(mean),
        "z_depth": (torch.zeros(shape) if depth is None else depth).to(mean)[..., None],
        "presence": (torch.ones(shape) if presence is None else presence).to(mean)[..., None],
        "category": category,
        "z_what": mean if styles is None else mean + std * styles.to(mean),
    }
    return model.draw_scene(objects, model.background(mean.new_zeros(shape[0], hp.channels, *image_size)))


@torch.no_grad()
def generate(
    model: "GMAIR",
    num_images: int,
    image_size: tuple[int, int] = (128, 128),
    generator: torch.Generator | None = None,
    count: int | None = None,
    categories: Tensor | None = None,
    styles: Tensor | None = None,
) -> Scene:
    """Draw scenes from the prior: presence of each cell, then where, depth, category and what (section 2.1).

    Args:
        model: Itself.
        num_images: How many.
        image_size: (H, W) in pixels.
        generator: A CPU generator, for repeatable scenes.
        count: Objects in each image, at most one a cell; None: drawn from the prior as the schedule has it, which ends
            by favouring empty images.
        categories: (num_images, HW) integers, of the cells in raster order; None: drawn.
        styles: (num_images, HW, A), as for `assemble`; None: drawn.

    Returns:
        A `Scene` whose presence is 0 or 1.
    """
    hp, B, (H, W) = model.hp, num_images, image_size
    rows, columns = -(-H // model.cell_size), -(-W // model.cell_size)
    N = rows * columns
    if count is None:
        p = math.exp(model.scheduled("presence_log_prior"))
        presence = (torch.rand(B, N, generator=generator) < p).float()
    else:
        presence = sample_presence(B, N, 1.0, generator, count)
    mean, std = torch.tensor(model.where_prior).unbind(-1)
    z_where = mean + std * torch.randn(B, N, 4, generator=generator)
    depth = model.depth_prior[0] + model.depth_prior[1] * torch.randn(B, N, generator=generator)
    if categories is None:
        categories = torch.randint(hp.num_categories, (B, N), generator=generator)
    if styles is None:
        styles = torch.randn(B, N, hp.what_dim, generator=generator)
    return model.assemble(categories, styles, model.place(z_where, (rows, columns)), image_size, presence, depth)


@torch.no_grad()
@in_working_precision
def vary(
    model: "GMAIR",
    image: Tensor,
    category: int | None = None,
    restyle: bool = False,
    shuffle: bool = False,
    generator: torch.Generator | None = None,
) -> Scene:
    """Draw the objects of images otherwise than they are (figure 4, columns 2 to 5).

    Args:
        model: Itself.
        image: (B, C, H, W) in [0, 1].
        category: All objects get this category's average, with the local part that they have (column 3).
        restyle: Local parts are drawn anew (column 4).
        shuffle: Appearances change places among the objects present in an image (column 5).
        generator: A CPU generator, for repeatable scenes.

    Returns:
        A `Scene`; with none of these asked for, that of `forward`.

    Raises:
        ValueError: There is no such category.
    """
    C = model.hp.num_categories
    if category is not None and not 0 <= category < C:
        raise ValueError(f"category must be from 0 to {C - 1}, got {category}")
    seen = model.infer(image, None)[1]
    weights, z_what = seen["category"], seen["z_what"]
    nearest = weights.argmax(-1)
    average, std = model.what_prior(F.one_hot(nearest, C).to(image.dtype))
    local = z_what - average
    if category is not None:
        weights = F.one_hot(torch.full_like(nearest, category), C).to(image.dtype)
        average, std = model.what_prior(weights)
    if restyle:
        local = std * torch.randn(local.shape, generator=generator).to(local)
    if restyle or category is not None:
        z_what = average + local
    if shuffle:
        present = seen["presence"][..., 0] >= PRESENT
        # present objects first, in random order and in raster order: what is at one rank goes to the other
        key = torch.rand(present.shape, generator=generator).to(present.device)
        taken = (key + (~present).float()).argsort(-1)
        placed = (~present).long().argsort(stable=True)
        source = torch.empty_like(taken).scatter_(1, placed, taken)[..., None]
        weights, z_what = weights.take_along_dim(source, 1), z_what.take_along_dim(source, 1)
    seen["category"], seen["z_what"] = weights, z_what
    return model.draw_scene(seen, model.background(image))
