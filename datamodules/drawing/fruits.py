"""Fruits in a container: how they fall and settle as a pile, and what they look like.

Fruits are discs. They fall one by one onto what lies there already, and the whole pile then settles by position-based
dynamics (Müller, Heidelberger, Hennix & Ratcliff, 2007, without velocities): in each sweep all discs move down a
little, then each pair that overlaps is pushed apart along the line between the centres, the smaller disc farther. As
the steps down shrink to nothing, overlaps do as well, up to some percent of a diameter.

Where discs come to lie takes additions, products, quotients and square roots alone, in a fixed order: the same bits
wherever arithmetic follows IEEE 754.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.base import Bool, Int64, UInt8
from datamodules.drawing.generated import INK_ON_TOP, ink_boxes

Real = npt.NDArray[np.floating]  # float32 as it is used
Float64 = npt.NDArray[np.float64]
Colour = tuple[float, float, float]

SIZE_RATIO, COUNT_RATIO = 6.0, 31.0  # of the largest and the smallest kind, after the paper
TRIES = 4  # places that a fruit may fall to, of which it takes the lowest
SWEEPS, AT_REST = 300, 80  # of settling; in the last ones nothing falls
RELAXATION = 1.8  # above 1: pairs are pushed too far, which leaves far less overlap after as many sweeps
CHUNK = 64  # images that settle at once: what is at work stays in the processor's cache


def _geometric(ratio: float) -> Float64:
    """Nine numbers from 1 to `ratio`, without powers, whose last bit may differ between machines."""
    factor = np.sqrt(np.sqrt(np.sqrt(ratio)))
    return np.cumprod(np.concatenate([[1.0], np.full(8, factor)]))


# From the smallest to the largest kind: each covers about the same area in all.
RELATIVE_RADII = _geometric(SIZE_RATIO) / SIZE_RATIO
FREQUENCIES = _geometric(COUNT_RATIO)[::-1] / _geometric(COUNT_RATIO).sum()


def drop(radii: Float64, canvas: tuple[int, int], rng: np.random.Generator) -> Float64:
    """Let discs fall one by one, straight down, until they touch the floor or a disc before them, and stick.

    Args:
        radii: (n, slots), in pixels, in the order in which they fall.
        canvas: (H, W) of the container in pixels.
        rng: Random stream.

    Returns:
        Centres (n, slots, 2), as (x, y); y may be negative, above the container.
    """
    (H, W), (n, slots) = canvas, radii.shape
    x, y, r = np.zeros((slots, n)), np.zeros((slots, n)), np.ascontiguousarray(radii.T)
    for slot in range(slots):
        tries = r[slot] + rng.random((TRIES, n)) * (W - 2 * r[slot])
        room = np.square(r[slot] + r[:slot, None]) - np.square(tries - x[:slot, None])  # (slot, TRIES, n)
        landing = np.where(room > 0, y[:slot, None] - np.sqrt(np.maximum(room, 0)), H)
        lowest = np.minimum(landing.min(axis=0, initial=H), H - r[slot])
        best = lowest.argmax(axis=0)[None]
        x[slot], y[slot] = (np.take_along_axis(each, best, axis=0)[0] for each in (tries, lowest))
    return np.stack([x.T, y.T], axis=2)


def settle(centres: Float64, radii: Float64, present: Bool, canvas: tuple[int, int], step: float) -> Float64:
    """Let piles of discs come to rest between the walls and on the floor of their containers.

    Args:
        centres: (n, slots, 2), as (x, y), where they are at first.
        radii: (n, slots), in pixels.
        present: (n, slots), which discs there are.
        canvas: (H, W) of the container in pixels; it is open at the top.
        step: Of a sweep downwards at first, in pixels.

    Returns:
        Centres (n, slots, 2), as (x, y).
    """
    parts = (slice(start, start + CHUNK) for start in range(0, len(centres), CHUNK))
    return np.concatenate([_settle(centres[part], radii[part], present[part], canvas, step) for part in parts])


def _settle(centres: Float64, radii: Float64, present: Bool, canvas: tuple[int, int], step: float) -> Float64:
    H, W = canvas
    # Images come last: in every array the innermost loop is over them.
    x, y, r = (np.ascontiguousarray(each.T, dtype=np.float32) for each in (centres[..., 0], centres[..., 1], radii))
    pairs = present.T[:, None] & present.T[None] & ~np.eye(len(r), dtype=bool)[..., None]
    touching = (r[:, None] + r) * pairs  # (slots, slots, n)
    share = RELAXATION * r / (r[:, None] + r)  # what disc i moves when it overlaps disc j
    # The floor is a hair higher for later discs, so that two that are squeezed into the same corner part again.
    floor = H - r - np.float32(1e-4) * np.arange(len(r), dtype=np.float32)[:, None]
    for sweep in range(SWEEPS):
        falling = max(1 - sweep / (SWEEPS - AT_REST), 0.0)
        y = y + step * falling * falling * falling
        dx, dy = x[:, None] - x, y[:, None] - y
        distance = np.sqrt(dx * dx + dy * dy)
        push = np.maximum(touching - distance, 0) * share / np.maximum(distance, 1e-6)
        x = np.clip(x + (dx * push).sum(axis=1), r, W - r)
        y = np.minimum(y + (dy * push).sum(axis=1), floor)
    return np.stack([x.T, y.T], axis=2).astype(np.float64)


def paint(
    centres: Float64,
    labels: Int64,
    present: Bool,
    angles: Float64,
    largest: float,
    canvas: tuple[int, int],
    background: Colour,
) -> tuple[UInt8, UInt8, Int64]:
    """Paint fruits, larger ones first, each as `alpha * colour + (1 - alpha) * what is there`, in 8 bits.

    Args:
        centres: (n, slots, 2), as (x, y), in pixels; fruits lie within the canvas.
        labels: (n, slots), index into `FRUITS`.
        present: (n, slots), which fruits to paint.
        angles: (n, slots), by which fruits are turned, in radians.
        largest: Diameter of the largest kind in pixels.
        canvas: (H, W).
        background: Colour behind the fruits, in [0, 1].

    Returns:
        Images (n, 3, H, W) uint8; masks (n, H, W) uint8, slot + 1 of the last fruit with alpha above one half; and
        boxes (n, slots, 4), (x1, y1, x2, y2) of the pixels where alpha is above 0 of 255.
    """
    (H, W), (n, slots) = canvas, labels.shape
    images = np.empty((3, n * H * W), np.uint8)
    images[:] = np.rint(np.array(background) * 255).astype(np.uint8)[:, None]
    masks = np.zeros(n * H * W, np.uint8)
    boxes = np.zeros((n, slots, 4), np.int64)
    for label in reversed(range(len(FRUITS))):
        image, slot = np.nonzero(present & (labels == label))
        if not len(image):
            continue
        radius = largest / 2 * float(RELATIVE_RADII[label])
        side = min(int(np.ceil(2 * radius)) + 1, H, W)  # of a tile that holds the fruit, wherever its centre
        corners = np.clip(np.floor(centres[image, slot] - radius).astype(np.int64), 0, [W - side, H - side])
        colour, alpha = _tiles(FRUITS[label], radius, centres[image, slot] - corners, angles[image, slot], side)
        boxes[image, slot] = np.tile(corners, 2) + ink_boxes(alpha)
        pixels = (image * H + corners[:, 1]) * W + corners[:, 0]
        pixels = pixels[:, None] + (np.arange(side)[:, None] * W + np.arange(side)).ravel()
        colour, alpha = colour.reshape(3, len(image), -1), alpha.reshape(len(image), -1)
        # One fruit of each image at a time, as they may share pixels.
        turn = np.arange(len(image)) - np.searchsorted(image, image)
        for rows in (np.flatnonzero(turn == k) for k in range(turn.max() + 1)):
            where, over = pixels[rows], alpha[rows].astype(np.uint16)
            for channel in range(3):
                mixed = over * colour[channel, rows] + (255 - over) * images[channel, where]
                images[channel, where] = mixed // np.uint16(255)
            masks[where] = np.where(over > INK_ON_TOP, slot[rows, None] + 1, masks[where])
    return images.reshape(3, n, H, W).swapaxes(0, 1), masks.reshape(n, H, W), boxes


def _tiles(fruit: "Fruit", radius: float, centres: Float64, angles: Float64, side: int) -> tuple[UInt8, UInt8]:
    """Colour (3, M, side, side) and alpha (M, side, side) of M fruits of a kind, at `centres` (M, 2) of their tiles."""
    pixel = np.arange(side) + 0.5
    x = ((pixel - centres[:, :1]) / radius).astype(np.float32)[:, None, :]
    y = ((pixel - centres[:, 1:]) / radius).astype(np.float32)[:, :, None]
    coat = Coat(x, y, angles, radius, fruit.colour)
    fruit.decorate(coat)
    coat.light()
    alpha = coat.cover(1 - coat.distance)
    return np.rint(np.clip(coat.rgb, 0, 1) * 255).astype(np.uint8), np.rint(alpha * 255).astype(np.uint8)


class Coat:
    """The colours of M equal discs, painted layer by layer; lengths are in radii.

    Args:
        x: (M, 1, side), from the centre to each column of pixels.
        y: (M, side, 1), from the centre downwards to each row.
        angles: (M,), by which fruits are turned clockwise, in radians.
        radius: Of the discs, in pixels.
        colour: Of the body.

    Attributes:
        rgb: (3, M, side, side) in [0, 1].
        distance: (M, side, side), from the centre.
        u: (M, side, side), from the centre to the fruit's own right.
        v: The same downwards; stems are at v = -1.
    """

    def __init__(self, x: Real, y: Real, angles: Float64, radius: float, colour: Colour) -> None:
        self.x, self.y, self.radius = x, y, radius
        self.distance = _length(x, y)
        cosine, sine = (turn(angles).astype(np.float32)[:, None, None] for turn in (np.cos, np.sin))
        self.u, self.v = x * cosine + y * sine, y * cosine - x * sine
        self.rgb = np.empty((3, *self.u.shape), np.float32)
        self.rgb[:] = np.array(colour, np.float32)[:, None, None, None]

    def cover(self, inside: Real) -> Real:
        """Share of each pixel that a shape covers, from the distance to its outline, positive inside."""
        return np.clip(inside * self.radius + 0.5, 0, 1)

    def layer(self, cover: Real, colour: Colour, opacity: float = 1.0) -> None:
        """Paint what `cover` (M, side, side) tells."""
        cover = cover * opacity
        for channel, value in zip(self.rgb, colour, strict=True):
            channel += cover * (value - channel)

    def dot(self, u: float, v: float, radius: float, colour: Colour, opacity: float = 1.0, aspect: float = 1.0) -> None:
        """Paint an ellipse around (u, v), `radius` high and `aspect` times as wide."""
        self.layer(self.cover(radius - _length((self.u - u) / aspect, self.v - v)), colour, opacity)

    def lattice(self, step: float, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """Paint dots on a lattice of diagonals, `step` apart."""
        a, b = ((self.u + sign * self.v) / step for sign in (1, -1))
        away = _length(a - np.rint(a), b - np.rint(b)) * (step * 0.5**0.5)
        self.layer(self.cover(radius - away), colour, opacity)

    def light(self) -> None:
        """Darken the rim, more so away from the light at the upper left, and put a highlight there."""
        falloff = np.square(np.square(self.distance)) * (0.30 + 0.12 * (self.x + self.y))
        self.rgb *= 1 - np.clip(falloff, 0, 0.6)
        away = _length(self.x + 0.38, self.y + 0.42)
        self.layer(np.clip(1 - away / 0.34, 0, 1), (1.0, 1.0, 1.0), 0.75)


def _length(x: Real, y: Real) -> Real:
    return np.sqrt(x * x + y * y)


def _wave(t: Real) -> Real:
    """Triangle wave with period 1, from 0 at whole numbers to 1 halfway."""
    return 2 * np.abs(t - np.rint(t))


def _blueberry(coat: Coat) -> None:
    coat.dot(0.0, 0.1, 0.45, (0.13, 0.15, 0.50))
    coat.dot(0.0, 0.1, 0.22, (0.07, 0.07, 0.28))


def _cherry(coat: Coat) -> None:
    coat.dot(0.0, -0.62, 0.30, (0.45, 0.0, 0.08), aspect=1.3)
    coat.dot(0.0, -0.80, 0.26, (0.40, 0.65, 0.20), aspect=0.4)


def _strawberry(coat: Coat) -> None:
    coat.lattice(0.52, 0.08, (1.0, 0.86, 0.45), 0.8)
    coat.layer(coat.cover(-coat.v - 0.78 + 0.32 * _wave(1.6 * coat.u + 0.5)), (0.25, 0.68, 0.20))


def _lemon(coat: Coat) -> None:
    coat.lattice(0.30, 0.05, (0.80, 0.66, 0.05), 0.7)
    coat.dot(0.0, 0.86, 0.20, (0.72, 0.66, 0.10), aspect=1.2)
    coat.dot(0.0, -0.86, 0.16, (0.45, 0.60, 0.15), aspect=1.2)


def _orange(coat: Coat) -> None:
    coat.lattice(0.26, 0.055, (0.80, 0.36, 0.0), 0.8)
    coat.dot(0.0, -0.50, 0.26, (0.78, 0.40, 0.02))
    coat.dot(0.0, -0.50, 0.17, (0.25, 0.50, 0.15))


def _kiwi(coat: Coat) -> None:
    turns = np.arctan2(coat.v, coat.u) * (0.5 / np.pi)
    coat.layer(coat.cover(0.86 - coat.distance), (0.55, 0.78, 0.20))
    coat.layer(coat.cover(0.78 - coat.distance) * _wave(12 * turns), (0.72, 0.88, 0.38), 0.7)
    seed = _length((coat.distance - 0.50) / 2, _wave(12 * turns) * coat.distance * (np.pi / 12))
    coat.layer(coat.cover(0.055 - seed), (0.10, 0.08, 0.05))
    coat.layer(coat.cover(0.30 - coat.distance), (0.93, 0.95, 0.74))


def _peach(coat: Coat) -> None:
    coat.layer(np.clip(0.45 + 0.75 * coat.u + 0.25 * coat.v, 0, 1), (0.93, 0.30, 0.38))
    cleft = np.abs(coat.u - 0.30 * (1 - coat.v * coat.v))
    coat.layer(coat.cover(0.035 - cleft), (0.66, 0.16, 0.24), 0.8)
    coat.dot(-0.30, -0.74, 0.17, (0.36, 0.66, 0.20), aspect=1.9)


def _pineapple(coat: Coat) -> None:
    for sign in (1, -1):
        crossing = (coat.u + sign * coat.v) / 0.44
        coat.layer(coat.cover(0.045 - np.abs(crossing - np.rint(crossing)) * 0.31), (0.58, 0.32, 0.05))
    coat.layer(coat.cover(-coat.v - 0.86 + 0.42 * _wave(2.2 * coat.u)), (0.22, 0.56, 0.20))


def _watermelon(coat: Coat) -> None:
    longitude = coat.u / np.sqrt(np.maximum(1 - coat.v * coat.v, 0.05))
    zigzag = longitude * 1.75 + 0.13 * _wave(3 * coat.v)
    coat.layer(coat.cover((_wave(zigzag) - 0.55) * 0.28), (0.05, 0.30, 0.12))
    coat.dot(0.0, -0.90, 0.11, (0.55, 0.45, 0.20))


@dataclass(frozen=True)
class Fruit:
    """One kind of fruit.

    Attributes:
        name: In English.
        colour: Of the body.
        decorate: Paints what is on the body.
    """

    name: str
    colour: Colour
    decorate: Callable[[Coat], None]


# The classes, in the order of their labels, from the smallest to the largest.
FRUITS = (
    Fruit("blueberry", (0.30, 0.36, 0.88), _blueberry),
    Fruit("cherry", (0.80, 0.04, 0.16), _cherry),
    Fruit("strawberry", (0.96, 0.22, 0.24), _strawberry),
    Fruit("lemon", (0.98, 0.88, 0.18), _lemon),
    Fruit("orange", (1.00, 0.56, 0.06), _orange),
    Fruit("kiwi", (0.46, 0.30, 0.14), _kiwi),
    Fruit("peach", (1.00, 0.72, 0.50), _peach),
    Fruit("pineapple", (0.94, 0.70, 0.16), _pineapple),
    Fruit("watermelon", (0.36, 0.72, 0.28), _watermelon),
)
