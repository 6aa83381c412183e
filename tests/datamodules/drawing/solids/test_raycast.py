import numpy as np
import pytest
from scipy.spatial import Delaunay, HalfspaceIntersection

from datamodules.drawing.solids import raycast
from datamodules.drawing.solids.raycast import EXTENTS, SHAPES, SLABS, Solids, View, cast

NORMALS, INNER = SLABS["icosahedron"]
CORNERS = np.unique(
    HalfspaceIntersection(np.block([[NORMALS, -INNER * np.ones((10, 1))], [-NORMALS, -INNER * np.ones((10, 1))]]),
                          np.zeros(3)).intersections.round(4), axis=0)  # fmt: skip
ICOSAHEDRON = Delaunay(CORNERS)


def inside(shape: str, x, y, z):
    """Whether points are in a shape of size 1, by its definition."""
    ring = np.hypot(x, y)
    if shape == "cube":
        return np.maximum(np.maximum(abs(x), abs(y)), abs(z)) <= 0.5**0.5
    if shape == "sphere":
        return ring**2 + z**2 <= 1
    if shape == "cylinder":
        return (ring <= 1) & (abs(z) <= 1)
    if shape == "cone":
        return (ring <= (1 - z) / 2) & (z >= -1)
    if shape == "torus":
        return (ring - 0.66) ** 2 + z**2 <= 0.34**2
    if shape == "bear":
        return np.any([np.hypot(np.hypot(x - a, y - b), z - c) <= r for a, b, c, r in raycast.BEAR], axis=0)
    return ICOSAHEDRON.find_simplex(np.stack([x, y, z], -1)) >= 0


def world_to_local(solids: Solids, k: int, points):
    """Points (..., 3) in the frame of object k, of size 1."""
    x, y, z = np.moveaxis((points - solids.centre[k]) / solids.size[k], -1, 0)
    cos, sin = np.cos(solids.angle[k]), np.sin(solids.angle[k])
    return cos * x + sin * y, -sin * x + cos * y, z


def some(kinds, places, sizes, seed=0) -> Solids:
    rng, n = np.random.default_rng(seed), len(kinds)
    return Solids(
        kind=np.array([SHAPES.index(kind) for kind in kinds], np.int64),
        size=np.array(sizes, np.float32),
        place=np.array(places, np.float32),
        angle=rng.uniform(0, 7, n).astype(np.float32),
        material=np.zeros(n, np.int64),
        tint=np.ones((n, 3), np.float32),
        offset=np.zeros((n, 2), np.float32),
    )


def march(view: View, solids: Solids, step: float):
    """The first point in any object on each ray, in steps along its depth: depth and owner, -1 for none."""
    rows, columns = np.divmod(np.arange(view.side**2), view.side)
    right, down, forward = view.axes.astype(float)
    away = [(axis + 0.5 - view.side / 2) / view.focal for axis in (columns, rows)]
    rays = forward + away[0][:, None] * right + away[1][:, None] * down
    depth, owner = np.full(len(rays), np.inf), np.full(len(rays), -1)
    for t in np.arange(3, 14, step):
        left = np.flatnonzero(owner < 0)
        points = view.position + t * rays[left]
        for k, kind in enumerate(solids.kind):
            new = inside(SHAPES[kind], *world_to_local(solids, k, points)) & (owner[left] < 0)
            depth[left[new]], owner[left[new]] = t, k
    return depth, owner


@pytest.mark.parametrize(
    ("camera", "kinds"),
    [((7.5, -6.5, 5.3), SHAPES[:4]), ((7.5, -6.5, 5.3), SHAPES[4:] + SHAPES[:1]), ((1.0, -0.5, 8.0), SHAPES[3:])],
)
def test_rays_meet_what_small_steps_along_them_meet(camera, kinds):
    solids = some(kinds, [(-1.4, 1.2), (1.3, 1.0), (-0.6, -1.2), (1.6, -1.6)][: len(kinds)], [0.9, 1.0, 0.8, 0.6])
    view = View.towards(np.array(camera, np.float32), np.array([0, 0, 0.4], np.float32), 140, 80)
    hits = cast(view, solids)
    depth, owner = march(view, solids, 0.01)
    found = np.full(len(owner), -1)
    found[hits.sample] = hits.owner
    assert len(np.unique(hits.sample)) == len(hits.sample) > 1000
    assert set(hits.owner.tolist()) == set(range(len(kinds)))
    agree = found[hits.sample] == owner[hits.sample]
    assert (found == owner).mean() > 0.99  # rays that graze an object slip between two steps
    early = depth[hits.sample][agree] - hits.depth[agree]
    assert np.quantile(np.abs(early - 0.005), 0.98) < 0.0052
    for k, kind in enumerate(solids.kind):
        own = hits.owner == k
        point, normal = hits.local[:, own], hits.normal[:, own]
        assert np.linalg.norm(normal, axis=0) == pytest.approx(np.ones(own.sum()), abs=2e-3)
        # A little along the normal is outside, and a little against it inside, but near edges.
        assert inside(SHAPES[kind], *(point + 0.02 * normal)).mean() < 0.04
        assert inside(SHAPES[kind], *(point - 0.02 * normal)).mean() > 0.96


def test_the_icosahedron_is_one_and_lies_on_a_face():
    assert len(CORNERS) == 12
    assert np.linalg.norm(CORNERS, axis=1) == pytest.approx(np.ones(12), abs=1e-3)
    distances = np.linalg.norm(CORNERS[:, None] - CORNERS, axis=2)
    assert (np.abs(distances - 4 / np.sqrt(10 + 2 * 5**0.5)) < 1e-3).sum() == 60  # 30 edges
    assert (CORNERS[:, 2] < -INNER + 1e-3).sum() == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_boxes_and_stand_on_the_ground(shape):
    extent = EXTENTS[SHAPES.index(shape)]
    axes = [np.linspace(-1.1, 1.1, 111)] * 3
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    x, y, z = (axis[inside(shape, *points)] for axis in points)
    for axis, half in zip((x, y, z), extent, strict=True):
        assert abs(axis).max() <= half + 1e-5
    lowest = -0.03 if shape != "bear" else -0.05
    assert lowest < -extent[2] - z.min() <= 1e-5
    assert abs(x).max() > extent[0] - (0.12 if shape == "icosahedron" else 0.03)


def test_objects_beyond_the_image_are_not_met_and_none_is_none():
    view = View.towards(np.array([7.5, -6.5, 5.3], np.float32), np.zeros(3, np.float32), 200, 40)
    assert len(cast(view, some(["cube", "torus"], [(-3, -9), (3, 9)], [0.5, 0.5])).sample) == 0
    assert len(cast(view, some([], np.zeros((0, 2)), [])).sample) == 0
    half = cast(view, some(["sphere"], [(0, 0)], [9.0])).sample  # larger than the image
    assert len(half) == 1600


def test_projection_and_rays_are_inverse():
    view = View.towards(np.array([5, -4, 3], np.float32), np.array([0, 1, 0.5], np.float32), 60, 30)
    rows, columns = np.array([0, 7, 29]), np.array([29, 3, 0])
    column, row, depth = view.project(view.position[:, None] + 2.5 * view.rays(rows, columns))
    assert column == pytest.approx(columns + 0.5, abs=1e-3)
    assert row == pytest.approx(rows + 0.5, abs=1e-3)
    assert depth == pytest.approx(2.5 * np.ones(3), abs=1e-5)
    assert view.axes @ view.axes.T == pytest.approx(np.eye(3), abs=1e-6)
    assert view.axes[0, 2] == 0 > view.axes[1, 2]  # right is level, down is down
