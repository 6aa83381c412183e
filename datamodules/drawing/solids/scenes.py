"""Synthetic scenes in the manner of CLEVRTEX: textured solids on a textured ground, from an own renderer.

After Karazija, Laina and Rupprecht, "ClevrTex: A Texture-Rich Benchmark for Unsupervised Multi-Object Segmentation",
2021, from whose program are the numbers of objects, their sizes, the rules of where they may stand, the camera, how far
it and the lights are shifted, the least that is to be seen of each object, and the idea of each variant. Ours are the
materials, the lights and the renderer. The shapes are theirs but for two: a bear's head stands in for their monkey's,
and there is no teapot. Results on these scenes cannot be compared with those on the published images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.base import SPLITS, Array, Bool, Float, Int64, Split
from datamodules.drawing.generated import BLOCK, RESTARTS, Layout, attempt, integers
from datamodules.drawing.solids import materials, raycast
from datamodules.drawing.solids.materials import FULL, OUTD, Bank
from datamodules.drawing.solids.raycast import Solids
from datamodules.drawing.solids.shading import BEHIND, LIGHTS, Stage, draw
from datamodules.storage.converted import pack_scene, resize_bilinear, resize_nearest

VERSION = 1  # raise it whenever the same parameters give other scenes

SHAPES = {"full": ("cube", "cylinder", "bear", "sphere"), "outd": ("cone", "icosahedron", "torus")}
SIZES = ("small", "medium", "large")
RADII = {"full": (0.4, 0.6, 0.9), "outd": (0.6, 0.8, 1.0)}  # of these sizes, in world units

HALF = 3.0  # centres are in [-HALF, HALF] along both axes
GAP = 0.25  # least distance between the circles around two objects
MARGIN = 0.4  # least distance of two centres, along the view and across it
CAMERA = np.array([7.48, -6.5, 5.34], np.float32)
CAMERA_SHIFT, LIGHT_SHIFT = 0.5, 1.0  # most, along each axis
FRAME, CROP = (240, 320), 192  # (H, W) of the published images, and the square in their middle that is looked at
FOCAL = 350  # pixels of the published images
VISIBLE = 200  # least pixels of an object in the whole frame
PROBE = 80  # samples along the longer side of the frame, by which that is estimated

# Of CLEVR, for the objects of `vbg`: sRGB.
COLOURS = np.array(
    [(87, 87, 87), (173, 35, 35), (42, 75, 215), (29, 105, 20), (129, 74, 25), (129, 38, 192), (41, 208, 208),
     (255, 238, 51)]
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What a variant's scenes are made of.

    Attributes:
        family: "full" or "outd", of the shapes and sizes.
        objects: Materials of the objects.
        grounds: Materials of the ground.
        one_material: Whether all objects are of the ground's material.
        coloured: Whether objects have a colour of CLEVR.
    """

    family: str = "full"
    objects: tuple[str, ...] = tuple(FULL)
    grounds: tuple[str, ...] = tuple(FULL)
    one_material: bool = False
    coloured: bool = False

    @property
    def bank(self) -> Bank:
        """All materials, those of the objects first."""
        return materials.bank(tuple(dict.fromkeys(self.objects + self.grounds)))


VARIANTS = {
    "full": Variant(),
    "outd": Variant("outd", tuple(OUTD), tuple(OUTD)),
    "camo": Variant(one_material=True),
    "pbg": Variant(grounds=("plain",)),
    "vbg": Variant(objects=("rubber", "metal"), coloured=True),
    "grassbg": Variant(grounds=("grass",)),
}


def scenes(
    variant: str, split: Split, size: tuple[int, int], num_objects: tuple[int, int], seed: int, start: int = 0
) -> Iterator[dict[str, Array]]:
    """Draw scenes without end, each block of them from a random stream of its own that depends on its number.

    Args:
        variant: Key of `VARIANTS`.
        split: "train", "val" or "test"; all are different.
        size: (H, W) of the images.
        num_objects: Fewest and most objects in a scene.
        seed: Of the scenes.
        start: Number of the first scene.

    Yields:
        Fields of a scene as of `converted.pack_scene`, with `shape`, `material` and `size`: numbers in `SHAPES` of the
        family, in the variant's bank, and in `SIZES`. Objects of which nothing is to be seen in the image are none.

    Raises:
        ValueError: So many objects never fitted.
    """
    look = VARIANTS[variant]
    side, zoom = max(size), FOCAL / CROP
    for block in range(start // BLOCK, 2**31):
        rng = np.random.default_rng([seed, SPLITS.index(split), block])
        layouts = arrange(look, num_objects, rng)
        for stage, solids, labels in layouts[start - block * BLOCK if block == start // BLOCK else 0 :]:
            image, mask = draw(stage, solids, look.bank, side, zoom)
            image, mask = resize_bilinear(image, size), resize_nearest(mask, size)
            yield pack_scene(image, mask, num_objects[1], **labels)


def arrange(
    look: Variant, num_objects: tuple[int, int], rng: np.random.Generator
) -> list[tuple[Stage, Solids, dict[str, Int64]]]:
    """Arrange a block of scenes.

    A scene that gets stuck, or hides an object too much, is arranged anew with as many objects.

    Args:
        look: The variant.
        num_objects: Fewest and most objects in a scene.
        rng: Random stream.

    Returns:
        For each of BLOCK scenes its stage, its objects, and their `shape`, `material` and `size`.

    Raises:
        ValueError: So many objects never fitted.
    """
    low, high = num_objects
    counts = low + integers(rng, high - low + 1, (BLOCK,))
    found: dict[int, tuple[Stage, Solids, dict[str, Int64]]] = {}
    pending = np.arange(BLOCK)
    for _ in range(RESTARTS):
        sizes = integers(rng, len(SIZES), (len(pending), high))
        radii = np.array(RADII[look.family])[sizes]
        places, placed = attempt(_Floor(radii), np.arange(len(pending)), counts[pending], high, rng)
        shapes = integers(rng, len(SHAPES[look.family]), (len(pending), high))
        own = integers(rng, len(look.objects), (len(pending), high))
        grounds = integers(rng, len(look.grounds), (len(pending),))
        colours = integers(rng, len(COLOURS), (len(pending), high))
        uniform = rng.random((len(pending), high + 5, 4)).astype(np.float32)  # all that is uniform, by scene
        for row in np.flatnonzero(placed == counts[pending]):
            n = counts[pending[row]]
            scene = _scene(
                look, places[row, :n], sizes[row, :n], shapes[row, :n], own[row, :n], int(grounds[row]),
                colours[row, :n], uniform[row],
            )  # fmt: skip
            if _visible(*scene[:2]):
                found[int(pending[row])] = scene
        pending = np.array([index for index in pending if index not in found])
        if not len(pending):
            return [found[index] for index in range(BLOCK)]
    raise ValueError(
        f"num_objects={list(num_objects)}: {counts[pending].max()} objects fit so rarely that a scene failed "
        f"{RESTARTS} times; ask for fewer"
    )


def _scene(
    look: Variant,
    places: Array,
    sizes: Int64,
    shapes: Int64,
    own: Int64,
    ground: int,
    colours: Int64,
    uniform: Float,
) -> tuple[Stage, Solids, dict[str, Int64]]:
    """One scene from the places of its K objects, its choices, and (at least K + 5, 4) uniform numbers."""
    names = look.bank.names
    material = names.index(look.grounds[ground])
    objects = np.full(len(places), material) if look.one_material else own
    shift = 2 * uniform[:4, :3] - 1
    scale = 0.85 + 0.25 * uniform  # of brightness: no two pieces of a material are the same
    stage = Stage(
        camera=CAMERA + CAMERA_SHIFT * shift[0],
        lights=LIGHTS + LIGHT_SHIFT * shift[1:4],
        material=material,
        tint=scale[4, :1].repeat(3),
        angle=float(2 * np.pi * uniform[4, 1]),
        offset=uniform[4, 2:],
    )
    more = uniform[5 : 5 + len(places)]
    tint = scale[5 : 5 + len(places), :1].repeat(3, 1)
    if look.coloured:
        tint = tint * (COLOURS[colours] / 255).astype(np.float32) ** np.float32(2.2)
    solids = Solids(
        kind=np.array([raycast.SHAPES.index(SHAPES[look.family][shape]) for shape in shapes], np.int64),
        size=np.array(RADII[look.family], np.float32)[sizes],
        place=places.astype(np.float32),
        angle=2 * np.float32(np.pi) * more[:, 1],
        material=objects,
        tint=tint,
        offset=more[:, 2:],
    )
    return stage, solids, {"shape": shapes, "material": objects, "size": sizes}


def _visible(stage: Stage, solids: Solids) -> bool:
    """Whether enough of each object is to be seen in the whole frame."""
    height, width = FRAME
    hits = raycast.cast(stage.view(PROBE, FOCAL / width), solids)
    outside = (PROBE - PROBE * height // width) // 2  # rows of the square above the frame, and below it
    inside = np.abs(hits.sample // PROBE - (PROBE - 1) / 2) < PROBE / 2 - outside
    seen = np.bincount(hits.owner[inside], minlength=len(solids.kind))
    return bool((seen * (width / PROBE) ** 2 >= VISIBLE).all())


@dataclass(frozen=True)
class _Floor(Layout):
    """Circles on the floor, which keep their distance, and whose centres do so along the view and across it.

    Attributes:
        radii: (n, slots) in world units.
    """

    radii: Array
    dtype = np.float64

    def propose(self, rng: np.random.Generator, images: Int64, slot: int, tries: int) -> Array:
        """Centres."""
        return HALF * (2 * rng.random((len(images), tries, 2)) - 1)

    def fits(self, candidates: Array, earlier: Array, images: Int64, slot: int) -> Bool:
        """Whether the circle is far enough from each of the earlier ones."""
        away = candidates[:, :, None] - earlier[:, None]  # (m, tries, slot, 2)
        least = self.radii[images, slot, None] + self.radii[images, :slot] + GAP
        apart = np.square(away).sum(3) >= np.square(least)[:, None]
        view = np.stack([BEHIND, [-BEHIND[1], BEHIND[0]]]) / np.linalg.norm(BEHIND)
        clear = (np.abs(away @ view.T) >= MARGIN).all(3)
        return (apart & clear).all(axis=2)

    def __str__(self) -> str:
        return f"circles of radius {self.radii.min():g} to {self.radii.max():g} fit on the floor"
