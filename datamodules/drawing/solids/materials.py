# ruff: noqa: D103 - a material's name says what it is
"""Procedural materials: seamless tiles of colour, relief and gloss, made from noise, cells, bricks and waves.

Each material is a function that paints one tile. All of a tile's patterns are periodic, so that tiles repeat without
seams. `bank` paints those asked for and packs them, with their reduced versions, into one array for fast look-ups.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datamodules.base import Float

Int = npt.NDArray[np.int64]

SIDE = 256  # texels of a tile
LEVELS = 5  # a tile and its reduced versions, each half as wide as the one before
STEEPEST = 1.5  # slope that a texel can hold


@dataclass(frozen=True)
class Tile:
    """One tile, of (SIDE, SIDE) texels that cover the unit square.

    Attributes:
        colour: (SIDE, SIDE, 3) in [0, 1], sRGB.
        height: (SIDE, SIDE), in sides of the tile.
        gloss: (SIDE, SIDE) or a number: 0 matt, 1 mirror.
        metal: (SIDE, SIDE) or a number: 0 dielectric, 1 metal, which reflects in its own colour.
    """

    colour: Float
    height: Float | float = 0.0
    gloss: Float | float = 0.2
    metal: Float | float = 0.0


Painter = Callable[["Canvas"], Tile]


class Canvas:
    """The unit square with coordinates `x` and `y` (SIDE, SIDE), and patterns on it that are periodic in both.

    Args:
        seed: Of all that is random in the patterns.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
        self.y, self.x = np.meshgrid(axis, axis, indexing="ij")

    def noise(self, low: float, high: float = SIDE / 2, falloff: float = 1.5, stretch: float = 1.0) -> Float:
        """Random waves, about uniform on [0, 1].

        Args:
            low: Fewest waves in a tile.
            high: Most waves in a tile.
            falloff: Amplitudes go with the frequency to the minus this; 1.5 is cloudy, 0 is grain.
            stretch: How many times longer features are along x than along y.
        """
        fy, fx = np.meshgrid(np.fft.fftfreq(SIDE, 1 / SIDE), np.arange(SIDE // 2 + 1), indexing="ij")
        frequency = np.hypot(fx * stretch, fy)
        inside = (frequency >= low) & (frequency <= high)
        amplitude = np.where(inside, np.maximum(frequency, 1) ** -(falloff + 0.5), 0)
        waves = np.fft.irfft2(amplitude * np.exp(2j * np.pi * self.rng.random(amplitude.shape)), s=(SIDE, SIDE))
        waves /= waves.std() + 1e-12
        return (1 / (1 + np.exp(-1.7 * waves))).astype(np.float32)  # the logistic curve is close to the normal one's

    def cells(self, count: int, jitter: float = 1.0, warp: float = 0.0) -> tuple[Float, Float, Int]:
        """Voronoi cells: distances (in mean spacings) to the nearest and the second point, and the nearest's number.

        Args:
            count: Points along a side; the cells are `count` squared.
            jitter: 0 puts them on a hexagonal grid, 1 anywhere within their place on it.
            warp: How far noise moves the borders, in spacings.
        """
        row, column = (axis.ravel() for axis in np.meshgrid(np.arange(count), np.arange(count), indexing="ij"))
        offset = jitter * (self.rng.random((2, count * count)) - 0.5)
        points = np.stack([(row + 0.5 + offset[0]) % count, (column + 0.5 * (row % 2) + offset[1]) % count], -1) / count
        shift = [warp * (self.noise(count / 2, 4 * count) - 0.5) / count if warp else 0.0 for _ in range(2)]
        texels = np.stack([(self.y + shift[0]) % 1, (self.x + shift[1]) % 1], -1)
        distance, index = cKDTree(points % 1, boxsize=1).query(texels, k=2)
        return (
            (distance[..., 0] * count).astype(np.float32),
            (distance[..., 1] * count).astype(np.float32),
            index[..., 0],
        )

    def bricks(self, rows: int, columns: int, shift: float = 0.5, joint: float = 0.08) -> tuple[Float, Int, Float]:
        """Rows of bricks, each row shifted against the one before.

        Args:
            rows: Bricks along y.
            columns: Bricks along x.
            shift: Of every second row, in bricks.
            joint: Width of the joints, in rows.

        Returns:
            How far inside a brick a texel is, 0 in the joint to 1; the brick's number; and x within the brick, 0 to 1.
        """
        row = np.floor(self.y * rows).astype(np.int64)
        along = (self.x * columns + shift * (row % 2)) % columns
        column = np.floor(along).astype(np.int64)
        u, v = along - column, self.y * rows - row
        aspect = rows / columns
        edge = np.minimum(np.minimum(u, 1 - u) * aspect, np.minimum(v, 1 - v))
        return smooth(edge, joint / 2, joint / 2 + 0.06), row * columns + column, u

    def each(self, index: Int) -> Float:
        """A random number from [0, 1] for each cell or brick."""
        return self.rng.random(int(index.max()) + 1).astype(np.float32)[index]

    def waves(self, across: int, along: int, warp: Float | float = 0.0) -> Float:
        """Sine waves in [0, 1]: `across` along x and `along` along y, displaced by `warp` waves."""
        return 0.5 + 0.5 * np.sin(2 * np.pi * (across * self.x + along * self.y + warp))


def smooth(value: Float, low: float, high: float) -> Float:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def ramp(value: Float, *colours: str) -> Float:
    """Colours (..., 3) from a scale of hexadecimal ones, evenly spaced over [0, 1]."""
    table = np.array([[int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)] for colour in colours])
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(value, stops, table[:, channel]) for channel in range(3)], -1).astype(np.float32)


def mix(first: Float, second: Float, share: Float | float) -> Float:
    """`first` where `share` is 0, `second` where it is 1."""
    weight = np.asarray(share, np.float32)[..., None]
    return first + (second - first) * weight


FULL: dict[str, Painter] = {}
OUTD: dict[str, Painter] = {}
PLAIN: dict[str, Painter] = {}


def _material(family: dict[str, Painter]) -> Callable[[Painter], Painter]:
    def register(painter: Painter) -> Painter:
        family[painter.__name__] = painter
        return painter

    return register


_full, _outd, _plain = _material(FULL), _material(OUTD), _material(PLAIN)


@_full
def bricks_red(c: Canvas) -> Tile:
    inside, brick, _ = c.bricks(16, 6)
    grain = c.noise(8, falloff=0.5)
    clay = ramp(0.6 * c.each(brick) + 0.4 * grain, "7d2f22", "a2442f", "b8654a")
    return Tile(mix(ramp(grain, "9a8f85", "c2b8ad"), clay, inside), 0.006 * inside + 0.002 * grain, 0.1)


@_full
def bricks_painted(c: Canvas) -> Tile:
    inside, brick, _ = c.bricks(18, 7)
    grain = c.noise(10, falloff=0.8)
    paint = ramp(0.4 * c.each(brick) + 0.6 * grain, "cfcdc6", "e9e7e1", "f4f2ee")
    return Tile(mix(ramp(grain, "8e8b84", "b0ada5"), paint, inside), 0.006 * inside + 0.002 * grain, 0.25)


@_full
def tiles_terracotta(c: Canvas) -> Tile:
    inside, tile, _ = c.bricks(10, 10, shift=0, joint=0.07)
    grain = c.noise(6, falloff=1)
    clay = ramp(0.5 * c.each(tile) + 0.5 * grain, "b4602f", "cd7a42", "de9357")
    return Tile(mix(ramp(grain, "5c3a26", "75503a"), clay, inside), 0.006 * inside + 0.001 * grain, 0.35)


@_full
def slate_checker(c: Canvas) -> Tile:
    inside, _, _ = c.bricks(8, 8, shift=0, joint=0.03)
    odd = (np.floor(c.x * 8) + np.floor(c.y * 8)) % 2
    grain = c.noise(3, falloff=1.2)
    stone = mix(ramp(grain, "26323f", "3f5161"), ramp(grain, "8c9aa0", "b9c3c4"), odd)
    return Tile(stone * (0.5 + 0.5 * inside[..., None]), 0.003 * inside + 0.002 * grain, 0.45)


@_full
def cobblestone(c: Canvas) -> Tile:
    near, second, stone = c.cells(10, 0.75, 0.2)
    inside = smooth(second - near, 0.04, 0.22)
    grain = c.noise(10, falloff=0.6)
    rock = ramp(0.65 * c.each(stone) + 0.35 * grain, "5f5c5b", "8c8885", "aaa39b", "8f8677")
    return Tile(mix(ramp(grain, "1d1a18", "35312d"), rock, inside), 0.022 * inside + 0.003 * grain, 0.2)


@_full
def gravel(c: Canvas) -> Tile:
    near, second, stone = c.cells(30, 0.9, 0.2)
    inside = smooth(second - near, 0.02, 0.3)
    rock = ramp(c.each(stone), "4a4038", "8a7a68", "b7ab9a", "6f6a68", "d6cec0")
    return Tile(rock * (0.35 + 0.65 * inside[..., None]), 0.008 * inside, 0.15)


@_full
def asphalt(c: Canvas) -> Tile:
    near, _, stone = c.cells(60, 1.0)
    chip = smooth(0.5 - near, 0.0, 0.25) * (c.each(stone) > 0.6)
    grain = c.noise(20, falloff=0.2)
    return Tile(mix(ramp(grain, "1f2021", "3a3b3d"), ramp(c.each(stone), "77787a", "c4c2bd"), chip), 0.004 * grain, 0.2)


@_full
def granite(c: Canvas) -> Tile:
    grain, patch = c.noise(24, 90, 0.3), c.noise(5, falloff=1)
    speckle = smooth(c.noise(30, 100, 0.2), 0.72, 0.8)
    rock = ramp(0.7 * grain + 0.3 * patch, "6e5650", "b08d80", "d9bcae", "efe2d8")
    return Tile(mix(rock, ramp(grain, "151314", "2b2727"), speckle), 0.0, 0.6)


@_full
def terrazzo(c: Canvas) -> Tile:
    near, second, chip = c.cells(22, 1.0, 0.1)
    keep = c.each(chip)
    inside = smooth(second - near, 0.1, 0.2) * (keep > 0.45)
    chips = ramp(c.each(chip), "c8553d", "e0a458", "1f7a6d", "f2d0c9", "2d3e50", "d9c7a7")
    return Tile(mix(ramp(c.noise(20, falloff=0.3), "e6e1d8", "f4f1ea"), chips, inside), 0.0, 0.6)


@_full
def clay_cracked(c: Canvas) -> Tile:
    near, second, plate = c.cells(9, 0.9, 0.35)
    inside = smooth(second - near, 0.03, 0.12)
    grain = c.noise(6, falloff=1)
    clay = ramp(0.6 * grain + 0.4 * c.each(plate), "b0935f", "cfb37c", "dcc898")
    return Tile(mix(ramp(grain, "3f2f1b", "5a4629"), clay, inside), 0.01 * inside + 0.003 * grain, 0.1)


@_full
def lava(c: Canvas) -> Tile:
    near, second, plate = c.cells(7, 0.9, 0.3)
    inside = smooth(second - near, 0.06, 0.2)
    grain = c.noise(8, falloff=0.8)
    rock = ramp(0.7 * grain + 0.3 * c.each(plate), "191615", "2f2a28", "443d3a")
    return Tile(mix(ramp(grain, "e0370c", "ff7a1c"), rock, inside), 0.015 * inside + 0.004 * grain, 0.2)


@_full
def planks_oak(c: Canvas) -> Tile:
    inside, plank, _ = c.bricks(12, 2, shift=0.37, joint=0.05)
    grain = c.noise(4, falloff=0.9, stretch=14)
    wood = ramp(0.45 * c.each(plank) + 0.55 * grain, "a9783c", "c99a58", "dcb578")
    return Tile(wood * (0.3 + 0.7 * inside[..., None]), 0.004 * inside + 0.002 * grain, 0.4)


@_full
def parquet_mahogany(c: Canvas) -> Tile:
    inside, block, _ = c.bricks(14, 5, shift=0.5, joint=0.05)
    grain = c.noise(5, falloff=0.7, stretch=10)
    wood = ramp(0.6 * c.each(block) + 0.4 * grain, "4a1d12", "74311c", "9b4c2a")
    return Tile(wood * (0.35 + 0.65 * inside[..., None]), 0.003 * inside + 0.001 * grain, 0.55)


@_full
def walnut_rings(c: Canvas) -> Tile:
    rings = c.waves(0, 14, 3 * c.noise(1, 5, 2, stretch=3) + 0.3 * c.noise(10, 60, stretch=8))
    fibre = c.noise(20, falloff=0.3, stretch=12)
    return Tile(ramp(0.75 * rings + 0.25 * fibre, "2e1a10", "6b4023", "a8713f"), 0.002 * rings, 0.4)


@_full
def bamboo(c: Canvas) -> Tile:
    cane = (c.x * 18) % 1
    round_ = np.sqrt(np.maximum(1 - (2 * cane - 1) ** 2, 0))
    ring = smooth(np.abs((c.y * 3 + c.each(np.floor(c.x * 18).astype(np.int64))) % 1 - 0.5), 0.47, 0.49)
    tone = 0.7 * c.each(np.floor(c.x * 18).astype(np.int64)) + 0.3 * c.noise(6, stretch=0.1)
    cane_colour = ramp(tone, "b59a3c", "d1bd63", "a8a84e") * (0.35 + 0.65 * round_[..., None])
    return Tile(cane_colour * (1 - 0.5 * ring[..., None]), 0.02 * round_ - 0.004 * ring, 0.4)


@_full
def marble_white(c: Canvas) -> Tile:
    vein = np.abs(2 * c.waves(2, 1, 1.6 * c.noise(1, 40, 1.6)) - 1)
    thin = np.abs(2 * c.waves(3, -2, 1.4 * c.noise(2, 60, 1.4)) - 1)
    dark = np.maximum(1 - smooth(vein, 0.0, 0.3), 0.6 - 0.6 * smooth(thin, 0.0, 0.15))
    return Tile(mix(ramp(c.noise(2, 20), "e2e2e4", "f7f7f6"), ramp(vein, "4f5663", "8a8f9c"), dark), 0.0, 0.75)


@_full
def marble_green(c: Canvas) -> Tile:
    swirl = c.waves(2, 3, 3.2 * c.noise(1, 60, 1.5))
    return Tile(ramp(0.8 * swirl + 0.2 * c.noise(20, falloff=0.5), "0d3d2a", "1f7a53", "7fc29b", "d3ecd9"), 0.0, 0.7)


@_full
def lapis(c: Canvas) -> Tile:
    cloud = c.noise(3, 60, 1.1)
    gold = smooth(c.noise(25, 80, 0.2) * 0.75 + 0.25 * cloud, 0.83, 0.87)
    return Tile(mix(ramp(cloud, "0c1c66", "1836b5", "3f66e0"), ramp(cloud, "c9a43a", "f0d98a"), gold), 0.0, 0.65)


@_full
def denim(c: Canvas) -> Tile:
    twill = c.waves(64, 64) * 0.6 + 0.4 * c.noise(30, falloff=0)
    worn = c.noise(2, 24, 1.3)
    return Tile(ramp(0.6 * worn + 0.4 * twill, "1f3154", "3c5b90", "7c9ac4"), 0.002 * twill, 0.05)


@_full
def fleece(c: Canvas) -> Tile:
    curl = c.noise(18, 70, 0.4)
    return Tile(ramp(curl, "c77a9b", "e9a5c1", "f8cadb"), 0.012 * curl, 0.02)


@_full
def camouflage(c: Canvas) -> Tile:
    first, second, third = (c.noise(3, 14, 1.2) for _ in range(3))
    colour = ramp(c.noise(40, falloff=0), "8a8455", "989263")
    for mask, shade in ((first, "47572c"), (second, "5d4428"), (third, "23241c")):
        colour = mix(colour, ramp(mask, shade), smooth(mask, 0.6, 0.63))
    return Tile(colour, 0.002 * c.noise(40, falloff=0), 0.05)


@_full
def tartan(c: Canvas) -> Tile:
    def band(t: Float) -> Float:
        t = (6 * t) % 1
        return 0.45 * (np.abs(t - 0.5) < 0.2) + 0.3 * (np.abs(t - 0.5) < 0.03) + 0.35 * (np.abs(t - 0.08) < 0.03)

    thread = c.waves(60, 60)
    tone = np.clip((band(c.x) + band(c.y)) / 1.6, 0, 1).astype(np.float32)
    return Tile(ramp(tone, "8e1b2b", "5a1730", "1d3a2c", "e0c35a"), 0.002 * thread, 0.05)


@_full
def rope(c: Canvas) -> Tile:
    strand = c.waves(0, 16)
    twist = c.waves(24, 16)
    height = strand**0.5 * (0.5 + 0.5 * twist**0.5)
    return Tile(ramp(0.8 * height + 0.2 * c.noise(30, falloff=0), "5a3c1c", "a37c46", "d9bd86"), 0.02 * height, 0.1)


@_full
def leather(c: Canvas) -> Tile:
    near, second, _ = c.cells(34, 1.0, 0.3)
    pore = smooth(second - near, 0.0, 0.3)
    tone = c.noise(2, 30, 1.2)
    return Tile(ramp(0.6 * tone + 0.4 * pore, "3d1a0e", "6d3219", "99522b"), 0.004 * pore, 0.45)


@_full
def moss(c: Canvas) -> Tile:
    tuft, blade = c.noise(4, 30, 0.7), c.noise(30, falloff=0)
    return Tile(
        ramp(0.55 * tuft + 0.45 * blade, "22390c", "4b7317", "7fa82c", "b3cf58"), 0.008 * tuft + 0.006 * blade, 0.05
    )


@_full
def mulch(c: Canvas) -> Tile:
    chips = np.maximum(c.noise(10, 50, 0.4, stretch=5), c.noise(10, 50, 0.4, stretch=0.2))
    return Tile(ramp(smooth(chips, 0.25, 0.98), "1d120b", "4e3320", "8a623f", "b98f62"), 0.012 * chips, 0.05)


@_full
def snow(c: Canvas) -> Tile:
    drift, grain = c.noise(2, 16, 1.3), c.noise(30, falloff=0)
    return Tile(ramp(0.7 * drift + 0.3 * grain, "d5dfec", "eef3f9", "ffffff"), 0.02 * drift + 0.002 * grain, 0.3)


@_full
def sand_ripples(c: Canvas) -> Tile:
    ripple = c.waves(1, 18, 1.4 * c.noise(1, 8, 1.6))
    grain = c.noise(40, falloff=0)
    return Tile(ramp(0.6 * ripple + 0.4 * grain, "b58a56", "d6b07a", "efd3a2"), 0.012 * ripple, 0.05)


@_full
def plaster_ochre(c: Canvas) -> Tile:
    stroke, stain = c.noise(5, 60, 0.9, stretch=2), c.noise(1, 8, 1.4)
    return Tile(ramp(0.5 * stroke + 0.5 * stain, "c98f2f", "dfae4f", "efca7d"), 0.01 * stroke, 0.1)


@_full
def iron_rusty(c: Canvas) -> Tile:
    patch = c.noise(2, 50, 1.1)
    rust = smooth(patch, 0.35, 0.5)
    iron = ramp(c.noise(20, falloff=0.5), "43474c", "6c7176")
    scale = ramp(c.noise(10, falloff=0.6), "6b2a10", "a44a1a", "c8702e")
    return Tile(mix(iron, scale, rust), 0.004 * rust * c.noise(20, falloff=0.4), 0.6 - 0.5 * rust, 0.8 - 0.8 * rust)


@_full
def steel_brushed(c: Canvas) -> Tile:
    brush = c.noise(20, falloff=0.2, stretch=30)
    return Tile(ramp(brush, "a7abb0", "c9cdd1"), 0.001 * brush, 0.8, 1.0)


@_full
def steel_corrugated(c: Canvas) -> Tile:
    wave = c.waves(0, 16)
    dirt = c.noise(3, 40, 1.0)
    return Tile(ramp(0.5 * wave + 0.5 * dirt, "64737a", "8e9ea4", "b6c2c5"), 0.012 * wave, 0.5, 0.6)


@_full
def copper_hammered(c: Canvas) -> Tile:
    near, _, _ = c.cells(14, 0.9)
    dent = np.minimum(near, 1) ** 2
    return Tile(ramp(c.noise(3, 40), "a8492a", "d37a4c", "e59a6a"), 0.02 * dent, 0.75, 1.0)


@_full
def fish_scales(c: Canvas) -> Tile:
    v = c.y * 16
    best = np.zeros_like(c.x)
    index = np.zeros(c.x.shape, np.int64)
    for step in (0, 1):  # scales of the row above lie under those of this row
        row = np.floor(v).astype(np.int64) + step
        u = c.x * 10 + 0.5 * (row % 2)
        distance = np.hypot((u % 1 - 0.5) * 1.6, row - v)
        inside = (distance < 1.05) & (best == 0)
        best = np.where(inside, 1.1 - distance, best)
        index = np.where(inside, row % 16 * 10 + np.floor(u).astype(np.int64) % 10, index)
    return Tile(ramp(0.7 * best + 0.3 * c.each(index), "06353b", "0f7d84", "4fc4bd"), 0.015 * best, 0.65, 0.3)


@_plain
def plain(c: Canvas) -> Tile:
    return Tile(ramp(c.x * 0, "9a9a9a"), 0.0, 0.1)


@_plain
def grass(c: Canvas) -> Tile:
    blade = np.maximum(c.noise(14, 90, 0.2, stretch=0.25), c.noise(14, 90, 0.2, stretch=0.5))
    return Tile(ramp(0.75 * blade + 0.25 * c.noise(2, 10), "16280a", "3f6a1a", "7ea53a", "a9c565"), 0.02 * blade, 0.1)


@_plain
def rubber(c: Canvas) -> Tile:
    return Tile(ramp(c.x * 0, "ffffff"), 0.0, 0.1)


@_plain
def metal(c: Canvas) -> Tile:
    return Tile(ramp(c.x * 0, "ffffff"), 0.0, 0.8, 0.9)


@_outd
def polka_dots(c: Canvas) -> Tile:
    near, _, _ = c.cells(10, 0.0)
    return Tile(mix(ramp(c.x * 0, "d81e66"), ramp(c.x * 0, "fbf5f2"), 1 - smooth(near, 0.27, 0.31)), 0.0, 0.7)


@_outd
def zebra(c: Canvas) -> Tile:
    return Tile(ramp(smooth(c.waves(0, 11, 1.3 * c.noise(1, 6, 1.4)), 0.4, 0.55), "121212", "efeeea"), 0.0, 0.3)


@_outd
def swirl(c: Canvas) -> Tile:
    phase = c.waves(3, 5, 0.4 * np.sin(2 * np.pi * 6 * c.x) + 0.4 * np.sin(2 * np.pi * 5 * c.y))
    return Tile(ramp(phase, "6a3df0", "35d6d0", "f3f9ff", "f64fb8"), 0.0, 0.5)


@_outd
def honeycomb(c: Canvas) -> Tile:
    near, second, cell = c.cells(14, 0.0)
    inside = smooth(second - near, 0.12, 0.3)
    return Tile(mix(ramp(near, "5e3208"), ramp(c.each(cell), "d98f10", "f3b62a"), inside), 0.015 * (1 - inside), 0.6)


@_outd
def checker_tiles(c: Canvas) -> Tile:
    odd = (np.floor(c.x * 12) + np.floor(c.y * 12)) % 2
    return Tile(mix(ramp(c.noise(4), "12151f", "23283a"), ramp(c.noise(4), "e6e7ea", "ffffff"), odd), 0.0, 0.7)


@_outd
def gold_leaf(c: Canvas) -> Tile:
    _, _, sheet = c.cells(8, 1.0, 0.5)
    crinkle = c.noise(6, 60, 0.8)
    return Tile(ramp(0.5 * crinkle + 0.5 * c.each(sheet), "b8871c", "dcb33c", "f0d373"), 0.012 * crinkle, 0.85, 1.0)


@_outd
def glacier(c: Canvas) -> Tile:
    near, second, plate = c.cells(8, 1.0, 0.5)
    crack = 1 - smooth(second - near, 0.02, 0.12)
    ice = ramp(0.6 * c.noise(3, 40) + 0.4 * c.each(plate), "8fc6e3", "bfe3f3", "e3f5fb")
    return Tile(mix(ice, ramp(crack, "f4fcff"), crack), -0.004 * crack + 0.004 * c.noise(4, 30), 0.75)


@_outd
def turf_purple(c: Canvas) -> Tile:
    blade = c.noise(25, falloff=0)
    return Tile(ramp(blade, "3b1272", "7a2fc2", "b277ee"), 0.015 * blade, 0.05)


@_outd
def sandstone(c: Canvas) -> Tile:
    layer = c.waves(0, 9, 1.2 * c.noise(1, 12, 1.6, stretch=2) + 0.2 * c.noise(20, stretch=6))
    return Tile(ramp(layer, "b06a3c", "d69a68", "f0cfa6", "e3b284"), 0.006 * layer, 0.05)


@_outd
def obsidian(c: Canvas) -> Tile:
    ridge = np.abs(2 * c.noise(3, 30, 1.2) - 1)
    return Tile(ramp(ridge, "07060d", "15132b", "2a2350"), 0.03 * ridge, 0.9)


@_outd
def stained_glass(c: Canvas) -> Tile:
    near, second, pane = c.cells(11, 0.8)
    inside = smooth(second - near, 0.06, 0.1)
    glass = ramp(c.each(pane), "b8141f", "f2a900", "0f8a3c", "0a4fb5", "6a1fa0", "f5e9c8")
    return Tile(mix(ramp(near, "0b0b0c"), glass, inside), 0.01 * (1 - inside), 0.8)


@_outd
def circuit(c: Canvas) -> Tile:
    near, _, pad = c.cells(16, 0.0)
    track = smooth(np.minimum(np.abs((c.x * 16) % 1 - 0.5), np.abs((c.y * 8) % 1 - 0.5)), 0.06, 0.1)
    gold = np.maximum((1 - track) * (c.each(pad) > 0.4), (near < 0.22) * (c.each(pad) > 0.5))
    return Tile(
        mix(ramp(c.noise(3, 30), "06452e", "0b6b44"), ramp(near, "e3c25c"), gold), 0.004 * gold, 0.5, 0.8 * gold
    )


@dataclass(frozen=True)
class Bank:
    """Materials ready for look-ups.

    Attributes:
        names: Of the materials, in the order of their numbers.
        texels: (materials * STRIDE,) uint64, for each material its levels one after the other, row by row; the bytes
            of a texel, from the lowest, are red, green, blue (square roots of linear light), slope along x, along y
            (both from -STEEPEST to STEEPEST), gloss, metal, and one that is unused.
        mean: (materials, 3), mean linear colour.
    """

    names: tuple[str, ...]
    texels: npt.NDArray[np.uint64]
    mean: Float


STARTS = np.cumsum([0] + [(SIDE >> level) ** 2 for level in range(LEVELS)])
STRIDE = int(STARTS[-1])  # texels of a material


@functools.lru_cache(maxsize=4)
def bank(names: Sequence[str]) -> Bank:
    """Paint materials, always the same ones for the same names.

    Args:
        names: Keys of `FULL`, `OUTD` and `PLAIN`, as a tuple.

    Returns:
        The materials.
    """
    painters = {**FULL, **OUTD, **PLAIN}
    texels = [_pack(painters[name](Canvas(zlib.crc32(name.encode())))) for name in names]
    smallest = np.stack([texel[STARTS[-2] :] for texel in texels])
    mean = np.square(smallest.view(np.uint8).reshape(len(names), -1, 8)[..., :3] / 255).mean(1)
    return Bank(tuple(names), np.concatenate(texels), mean.astype(np.float32))


def _pack(tile: Tile) -> npt.NDArray[np.uint64]:
    """The texels of one tile, (STRIDE,)."""
    height = np.broadcast_to(np.asarray(tile.height, np.float32), (SIDE, SIDE))
    slopes = [(np.roll(height, -1, axis) - np.roll(height, 1, axis)) * (SIDE / 2) for axis in (1, 0)]
    slopes = [np.clip(slope, -STEEPEST, STEEPEST) for slope in slopes]
    flat = [np.broadcast_to(np.asarray(value, np.float32), (SIDE, SIDE)) for value in (tile.gloss, tile.metal)]
    linear = np.clip(tile.colour, 0, 1) ** 2.2
    layers = np.stack([*np.moveaxis(linear, -1, 0), *slopes, *flat], -1)
    packed = []
    for _ in range(LEVELS):
        part = layers.copy()
        part[..., :3] = np.sqrt(part[..., :3])
        part[..., 3:5] = 0.5 + part[..., 3:5] / (2 * STEEPEST)
        bytes_ = np.zeros((*part.shape[:2], 8), np.uint8)
        bytes_[..., :7] = np.rint(np.clip(part, 0, 1) * 255)
        packed.append(bytes_.reshape(-1, 8).view(np.uint64)[:, 0])
        layers = layers.reshape(layers.shape[0] // 2, 2, layers.shape[1] // 2, 2, -1).mean((1, 3))
    return np.concatenate(packed)
