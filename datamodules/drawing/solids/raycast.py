"""Where a view's rays meet textured solids first, in numpy.

All objects and rays of one scene are cast at once, as pairs of an object and a ray that passes through the window
around it on the image; the nearest object of each ray is then kept. One scene's arrays stay in the processor's cache,
which those of a batch of scenes would not.

World units, right-handed axes, z upwards, the ground at z = 0. A view's rays go one unit along its forward axis for
each unit of their parameter, which is the depth.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.base import Float, Int64

Face = npt.NDArray[np.int8]

SHAPES = ("cube", "sphere", "cylinder", "bear", "cone", "icosahedron", "torus")
HALF_CUBE = np.float32(1 / np.sqrt(2))  # the circle around a cube's ground plan has its size for a radius
TUBE = np.float32(0.34)  # radius of the torus's tube; the outer radius is 1
TORUS_STEPS = 28  # along a ray; all rays but those that graze it have met it by then
# Balls (x, y, z, radius) of the bear: head, two ears, snout.
BEAR = np.array(
    [[0, 0, -0.15, 0.8], [-0.58, 0, 0.52, 0.36], [0.58, 0, 0.52, 0.36], [0, -0.68, -0.32, 0.36]], np.float32
)


def _icosahedron() -> Float:
    """(10, 3): unit normals of the pairs of opposite faces, one of them upright: it lies on a face."""
    golden = (1 + 5**0.5) / 2
    pairs: list[tuple[float, float, float]] = [(1, y, z) for y in (1, -1) for z in (1, -1)]
    for sign in (1, -1):
        pairs += [(0, sign / golden, golden), (sign / golden, golden, 0), (golden, 0, sign / golden)]
    normals = np.array(pairs) / 3**0.5
    upright = normals[0]
    level = np.cross(upright, [1, 0, 0]) / np.linalg.norm(np.cross(upright, [1, 0, 0]))
    return (normals @ np.stack([level, np.cross(upright, level), upright]).T).astype(np.float32)


# Solids between pairs of parallel planes: unit normals, and distance of the planes from the centre.
SLABS = {
    "cube": (np.eye(3, dtype=np.float32), HALF_CUBE),
    "icosahedron": (_icosahedron(), np.float32(0.79465447)),  # the corners are at distance 1
}
# Half extents (x, y, z) of a box around each shape of size 1 and about its centre; the last is how high the centre is.
EXTENTS = np.array(
    [
        [HALF_CUBE] * 3,
        [1, 1, 1],
        [1, 1, 1],
        [0.94, 1.04, 0.95],
        [1, 1, 1],
        [1, 1, SLABS["icosahedron"][1]],
        [1, 1, TUBE],
    ],
    np.float32,
)


@dataclass(frozen=True)
class View:
    """A pinhole camera, or a light that sees, with a square image.

    Attributes:
        position: (3,).
        axes: (3, 3), unit vectors to the right, downwards and forwards, as rows.
        focal: Focal length in samples.
        side: Of the image, in samples.
    """

    position: Float
    axes: Float
    focal: float
    side: int

    @classmethod
    def towards(cls, position: Float, target: Float, focal: float, side: int) -> "View":
        """The upright view from a point (3,) to another."""
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(forward, right), forward])
        return cls(position.astype(np.float32), axes.astype(np.float32), focal, side)

    def project(self, points: Float) -> tuple[Float, Float, Float]:
        """Column and row, in samples from the left top corner, and depth of points (3, ...)."""
        away = [points[axis] - self.position[axis] for axis in range(3)]
        x, y, depth = (dot(axis, away) for axis in self.axes)
        scale = self.focal / depth
        return x * scale + self.side / 2, y * scale + self.side / 2, depth

    def slopes(self) -> Float:
        """(side,): how far to the right the rays of each column go, or down those of each row, by depth."""
        return ((np.arange(self.side) + 0.5 - self.side / 2) / self.focal).astype(np.float32)

    def rays(self, rows: Int64, columns: Int64) -> Float:
        """(3, n): directions through the centres of samples."""
        slopes = self.slopes()
        right, down, forward = self.axes[..., None]
        return forward + slopes.take(columns) * right + slopes.take(rows) * down


@dataclass(frozen=True)
class Solids:
    """K objects that stand on the ground.

    Attributes:
        kind: (K,) index into `SHAPES`.
        size: (K,), radius in world units.
        place: (K, 2), (x, y) of the centre.
        angle: (K,), counterclockwise rotation about the vertical axis, in radians.
        material: (K,), number in the bank.
        tint: (K, 3), factor of the material's linear colour.
        offset: (K, 2), where on its tile the material begins, in tiles.
    """

    kind: Int64
    size: Float
    place: Float
    angle: Float
    material: Int64
    tint: Float
    offset: Float

    @property
    def centre(self) -> Float:
        """(K, 3)."""
        return np.concatenate([self.place, (EXTENTS[self.kind, 2] * self.size)[:, None]], 1)


@dataclass(frozen=True)
class Hits:
    """Where rays meet objects first: H samples.

    Attributes:
        sample: (H,) row * side + column, all different.
        owner: (H,) which object.
        depth: (H,).
        local: (3, H), the point in the frame of the object, as if it had size 1.
        normal: (3, H), unit, in that frame.
    """

    sample: Int64
    owner: Int64
    depth: Float
    local: Float
    normal: Float

    def __getitem__(self, part: slice) -> "Hits":
        """Some of them."""
        return Hits(self.sample[part], self.owner[part], self.depth[part], self.local[:, part], self.normal[:, part])


def cast(view: View, solids: Solids) -> Hits:
    """Cast the rays of a view at objects, all of which lie before it."""
    order = np.argsort(solids.kind, kind="stable")
    kind, size, centre = solids.kind[order], solids.size[order], solids.centre[order]
    cos, sin = np.cos(solids.angle[order]), np.sin(solids.angle[order])
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    turn = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, one], -1).reshape(-1, 3, 3)  # world to object
    # The window of an object: around the projected corners of the box around it.
    signs = np.array([[(corner >> axis & 1) * 2 - 1 for corner in range(8)] for axis in range(3)], np.float32)
    corners = np.einsum("kji,kj,jc,k->ikc", turn, EXTENTS[kind], signs, size) + centre.T[..., None]
    column, row, _ = view.project(corners)
    left, top = (np.clip(np.floor(axis.min(1) - 0.5), 0, view.side).astype(np.int32) for axis in (column, row))
    right, bottom = (np.clip(np.ceil(axis.max(1) + 0.5), 0, view.side).astype(np.int32) for axis in (column, row))
    width, height = right - left, bottom - top
    # Pairs of an object and a sample in its window.
    area = width * height
    end = np.cumsum(area, dtype=np.int32)
    owner = np.repeat(np.arange(len(kind), dtype=np.int32), area)
    within = np.arange(len(owner), dtype=np.int32) - np.repeat(end - area, area)
    # Division by way of floats: several times faster, and exact for windows of less than 2^22 samples.
    per_width = (1 / np.maximum(width, 1)).astype(np.float32)
    down = ((within + np.float32(0.5)) * per_width.take(owner)).astype(np.int32)
    across = within - down * width.take(owner) + left.take(owner)
    down += top.take(owner)
    slopes = view.slopes()
    towards_right, downwards, forward = np.einsum("kij,aj->aik", turn, view.axes) / size
    origin = (np.einsum("kij,kj->ik", turn, view.position - centre) / size).take(owner, 1)
    ray = slopes.take(across) * towards_right.take(owner, 1)
    ray += slopes.take(down) * downwards.take(owner, 1)
    ray += forward.take(owner, 1)
    depth, face = np.empty(len(owner), np.float32), np.zeros(len(owner), np.int8)
    bounds = np.concatenate([[0], end])[np.searchsorted(kind, np.arange(len(SHAPES) + 1))]
    for shape, part in zip(SHAPES, map(slice, bounds, bounds[1:]), strict=True):
        if part.start < part.stop:
            depth[part], face[part] = _meet(shape, origin[:, part], ray[:, part])
    # The nearest of each sample.
    met = np.flatnonzero(depth < np.inf)
    sample, depth = (down * np.int32(view.side) + across).take(met).astype(np.int64), depth.take(met)
    nearest = np.full(view.side**2, np.inf, np.float32)
    np.minimum.at(nearest, sample, depth)
    won = np.flatnonzero(depth == nearest.take(sample))
    last = np.empty(view.side**2, np.int64)
    last[sample.take(won)] = won
    won = won[last.take(sample.take(won)) == won]  # one of those that are equally near
    met, sample, depth = met.take(won), sample.take(won), depth.take(won)
    local = origin.take(met, 1) + depth * ray.take(met, 1)
    normal = np.empty_like(local)
    bounds = np.searchsorted(met, bounds)
    for shape, part in zip(SHAPES, map(slice, bounds, bounds[1:]), strict=True):
        if part.start < part.stop:
            normal[:, part] = _normal(shape, local[:, part], face.take(met[part]))
    return Hits(sample, order[owner.take(met)], depth, local, normal)


def dot(a: Float, b: Float | list[Float]) -> Float:
    """Scalar products along the first axis, of three; several times faster than a sum over so short an axis."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _meet(shape: str, o: Float, d: Float) -> tuple[Float, Face]:
    """Where rays o + t d (3, n) first meet a shape of size 1: t (n,), infinite for a miss, and number of the face."""
    if shape in SLABS:
        return _meet_slabs(*SLABS[shape], o, d)
    if shape == "bear":
        each = np.stack([_meet_ball(o - ball[:3, None], d, ball[3]) for ball in BEAR])
        return each.min(0), each.argmin(0).astype(np.int8)
    if shape == "sphere":
        return _meet_ball(o, d, np.float32(1)), np.zeros(o.shape[1], np.int8)
    if shape == "torus":
        return _meet_torus(o, d)
    enter, _, face = _meet_column(o, d, np.float32(1), taper=shape == "cone")
    return enter, face


def _meet_slabs(normals: Float, inner: np.float32, o: Float, d: Float) -> tuple[Float, Face]:
    """The same for the solid |normal . x| <= inner for all `normals`."""
    enter, leave = np.full(o.shape[1], -np.inf, np.float32), np.full(o.shape[1], np.inf, np.float32)
    face = np.zeros(o.shape[1], np.int8)
    for number, normal in enumerate(normals):
        step = _nonzero(dot(normal, d))
        middle, half = -dot(normal, o) / step, np.abs(inner / step)
        face[middle - half > enter] = number
        np.maximum(enter, middle - half, out=enter)
        np.minimum(leave, middle + half, out=leave)
    return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf)), face


def _meet_ball(o: Float, d: Float, radius: np.float32) -> Float:
    a, b, c = dot(d, d), dot(o, d), dot(o, o) - radius * radius
    discriminant = b * b - a * c
    t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    return np.where((discriminant > 0) & (t > 0), t, np.float32(np.inf))


def _meet_column(o: Float, d: Float, half: np.float32, *, taper: bool) -> tuple[Float, Float, Face]:
    """Entry, exit and face (0 side, 1 end) for a cylinder of radius 1 and |z| <= half, or a cone with its tip above.

    Rays go downwards: they meet the mirror image of a cone, above its tip, before the cone.
    """
    # Radius at the height of o, and how it changes along the ray: |(o + t d)_xy|^2 = (radius + t growth)^2
    radius, growth = (0.5 * (1 - o[2]), -0.5 * d[2]) if taper else (1.0, 0.0)
    a = _nonzero(d[0] * d[0] + d[1] * d[1] - growth * growth)
    b = o[0] * d[0] + o[1] * d[1] - radius * growth
    discriminant = b * b - a * (o[0] * o[0] + o[1] * o[1] - radius * radius)
    root = np.sqrt(np.maximum(discriminant, 0))
    fall = _nonzero(d[2])
    middle, reach = -o[2] / fall, np.abs(half / fall)
    side = (-b - root) / a
    enter = np.maximum(side, middle - reach)
    # A ray steeper than the cone's side (a < 0), once in, leaves through the base.
    leave = np.minimum(np.where(a > 0, (root - b) / a, np.float32(np.inf)), middle + reach)
    hit = (discriminant > 0) & (enter < leave) & (enter > 0)
    return np.where(hit, enter, np.float32(np.inf)), leave, (enter > side).astype(np.int8)


def _meet_torus(o: Float, d: Float) -> tuple[Float, Face]:
    """By steps as long as the distance to the torus, from where the ray enters the cylinder around it."""
    enter, leave, face = _meet_column(o, d, TUBE, taper=False)
    part = np.flatnonzero(enter < np.inf)
    o, d, t = o.take(part, 1), d.take(part, 1), enter.take(part)
    per_unit = 1 / np.sqrt(dot(d, d))
    distance = np.zeros_like(t)
    for _ in range(TORUS_STEPS):
        x, y, z = o + t * d
        distance = np.hypot(np.sqrt(x * x + y * y) - (1 - TUBE), z) - TUBE
        t += distance * per_unit
    enter[part] = np.where((distance < 0.005) & (t < leave.take(part)), t, np.float32(np.inf))
    return enter, face


def _nonzero(value: Float) -> Float:
    """The same, with what is almost 0 pushed away from it."""
    return np.where(np.abs(value) < 1e-7, np.float32(1e-7), value)


def _normal(shape: str, p: Float, face: Face) -> Float:
    """Unit normals (3, n) of a shape of size 1 at points p (3, n) of its faces."""
    if shape in SLABS:
        normal = SLABS[shape][0][face].T
        return normal * np.sign(dot(normal, p))
    if shape == "bear":
        return (p - BEAR[face, :3].T) / BEAR[face, 3]
    if shape == "sphere":
        return p
    ring = np.maximum(np.hypot(p[0], p[1]), 1e-6)
    if shape == "torus":
        out = ring - (1 - TUBE)
        per_tube = 1 / np.hypot(out, p[2])
        return np.stack([p[0] * (out / ring), p[1] * (out / ring), p[2]]) * per_tube
    rise = np.float32(0.5 if shape == "cone" else 0)
    length = np.sqrt(1 + rise * rise)
    normal = np.stack([p[0] / (ring * length), p[1] / (ring * length), np.full_like(ring, rise / length)])
    end = face == 1
    normal[:2, end], normal[2, end] = 0, np.sign(p[2, end])
    return normal
