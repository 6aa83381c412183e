"""Pictures of textured solids on a ground: materials, lights, shadows and film, on top of `raycast`.

Light is linear until it meets the film. A key light casts soft shadows, by variance shadow maps (Donnelly and
Lauritzen, "Variance Shadow Maps", 2006); two more lights and the sky fill in, of which objects hide a part as balls
would. Glossy surfaces mirror the lights (the lobe is Schlick's, 1994) and, roughly, sky and ground. Pixels are the mean
of SUPER x SUPER samples; the ground's material is looked up at every sample, and lit once a pixel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.base import Float, Int64, UInt8
from datamodules.drawing.solids.materials import LEVELS, SIDE, STARTS, STEEPEST, STRIDE, Bank
from datamodules.drawing.solids.raycast import Hits, Solids, View, cast, dot

SUPER = 2  # samples of a pixel along each side
STRIP = 2**14  # samples at work at once, which stay in the processor's cache
GROUND_TILE, OBJECT_TILE = 6.0, 2.4  # world units that a tile of a material covers

# The camera looks at TARGET from about 10 units away, as CLEVR's does.
TARGET = np.array([0, 0, 0.4], np.float32)
BEHIND = np.array([-0.755, 0.656], np.float32)  # horizontal direction from its mean place to the origin
# The backdrop: behind the scene the ground bends upwards, as a parabola.
BEND = 6.0  # where it begins, in units behind the origin
CURVATURE = 1 / 3  # there

LIGHTS = np.array([[5.6, 0.4, 5.6], [-4.7, -4.0, 3.0], [-2.5, 4.5, 6.0]], np.float32)  # mean places: key, fill, back
POWERS = np.array([1.7, 0.25, 0.3], np.float32) * np.square(LIGHTS).sum(1)  # irradiance at the origin, at distance 1
SKY = 0.25  # irradiance from above
SKY_REACH = 60.0  # squared distance from the origin at which half of it is left
BOUNCE = 0.45  # irradiance from below, by that which the ground reflects
REFLECTANCE = 0.045  # of what is no metal, seen at a right angle

SHADOW_SIDE = 128  # texels of the shadow map
SHADOW_ZOOM = 0.62  # focal length of the key light's view, by its width: all objects are in it
SHADOW_BLUR = 1.2  # standard deviation, in texels
SHADOW_VARIANCE = 0.002  # least of clearances, in squared units: what is less is no shadow's edge
SHADOW_BIAS = 0.03  # units by which something has to be before a surface to shade it
SHADOW_BLEEDING = 0.2  # light below this is none: two shadows that overlap would let as much through

EXPOSURE = 0.85
BRIGHTEST, FILM_STEPS = 4.0, 4096  # light that the film tells apart


@dataclass(frozen=True)
class Stage:
    """A scene but for its objects.

    Attributes:
        camera: (3,), place of the camera.
        lights: (3, 3), places of key, fill and back light.
        material: Number of the ground's material in the bank.
        tint: (3,), factor of its linear colour.
        angle: Of its pattern, in radians.
        offset: (2,), where on its tile it begins, in tiles.
    """

    camera: Float
    lights: Float
    material: int
    tint: Float
    angle: float
    offset: Float

    def view(self, side: int, zoom: float) -> View:
        """What the camera sees, in `side` x `side` samples; `zoom` is its focal length by the image's width."""
        return View.towards(self.camera, TARGET, zoom * side, side)


def draw(stage: Stage, solids: Solids, bank: Bank, side: int, zoom: float) -> tuple[UInt8, UInt8]:
    """Draw a scene.

    Args:
        stage: Camera, lights, ground.
        solids: The objects; none at all give the empty scene.
        bank: Their materials.
        side: Of the image in pixels.
        zoom: Focal length of the camera, by the width of the image.

    Returns:
        The image (side, side, 3), and the mask (side, side): 0 the ground, k + 1 object k. A pixel belongs to what most
        of its samples see, or, if two things share it equally, to the one that the first of them sees.
    """
    view = stage.view(side * SUPER, zoom)
    hits = cast(view, solids)
    light = _Light(stage, solids, bank)
    image = _light_of_ground(stage, bank, light, side, zoom)
    row, column = np.divmod(hits.sample, view.side)
    pixel = row // SUPER * side + column // SUPER
    image *= 1 - np.bincount(pixel, minlength=side * side).astype(np.float32) / SUPER**2
    for start in range(0, len(pixel), STRIP):
        part = slice(start, start + STRIP)
        for channel, value in zip(image, _light_of_objects(view, hits[part], solids, bank, light), strict=True):
            channel += np.bincount(pixel[part], value, side * side) / SUPER**2
    seen = np.zeros(view.side**2, np.uint8)
    seen[hits.sample] = hits.owner + 1
    return develop(image).T.reshape(side, side, 3), _majority(seen.reshape(side, SUPER, side, SUPER))


def develop(light: Float) -> UInt8:
    """Values of pixels from linear light, of which the film saturates softly."""
    return _FILM.take(np.clip(light * ((FILM_STEPS - 1) / BRIGHTEST), 0, FILM_STEPS - 1).astype(np.int32))


def _film() -> UInt8:
    density = 1 - np.exp(-EXPOSURE * np.linspace(0, BRIGHTEST, FILM_STEPS))
    return np.rint(255 * np.where(density > 0.0031308, 1.055 * density ** (1 / 2.4) - 0.055, 12.92 * density)).astype(
        np.uint8
    )  # sRGB


_FILM = _film()


def _majority(seen: UInt8) -> UInt8:
    """(H, W): the most frequent of four samples (H, 2, W, 2), of equally frequent ones the first."""
    a, b, c, d = seen[:, 0, :, 0], seen[:, 0, :, 1], seen[:, 1, :, 0], seen[:, 1, :, 1]
    first = (a == b) | (a == c) | (a == d)
    return np.where(first, a, np.where((b == c) | (b == d), b, np.where(c == d, c, a)))


@dataclass(frozen=True)
class _Surface:
    """n points of surfaces.

    Attributes:
        position: (3, n).
        normal: (3, n), unit.
        to_eye: (3, n), unit.
        colour: (3, n), linear.
        gloss: (n,), 0 matt to 1 mirror.
        metal: (n,), 0 no metal to 1 metal.
        openness: (n,), share of the sky that objects leave.
    """

    position: Float
    normal: Float
    to_eye: Float
    colour: Float
    gloss: Float
    metal: Float
    openness: Float


class _Light:
    """The lights of a scene, and what hides them.

    Args:
        stage: Tells where the lights are.
        solids: What casts shadows.
        bank: Tells the ground's mean colour, which is the colour of what it reflects.
    """

    def __init__(self, stage: Stage, solids: Solids, bank: Bank) -> None:
        self.lights = stage.lights
        self.reflected = bank.mean[stage.material] * stage.tint
        self.centre, self.radius = solids.centre.T, solids.size * np.float32(0.9)
        zoom = SHADOW_ZOOM * SHADOW_SIDE
        self.view = View.towards(stage.lights[0], np.zeros(3, np.float32), zoom, SHADOW_SIDE)
        self.moments = self._shadow_map(solids)

    def _shadow_map(self, solids: Solids) -> npt.NDArray[np.complex64]:
        """((2 SHADOW_SIDE)^2,): blurred means of the clearance (real) and of its square (imaginary).

        Clearance is how much deeper the ground lies than what the light meets. Unlike depth it does not vary along the
        ground, whose variance thus tells edges of shadows alone.
        """
        ray = self.view.rays(*np.divmod(np.arange(SHADOW_SIDE**2), SHADOW_SIDE))
        hits = cast(self.view, solids)
        ground = self.view.position[2] / np.maximum(-ray[2].take(hits.sample), 0.1)
        clearance = np.zeros((SHADOW_SIDE, SHADOW_SIDE), np.float32)
        clearance.ravel()[hits.sample] = ground - hits.depth
        mean, square = (_BLUR @ moment @ _BLUR.T for moment in (clearance, clearance * clearance))
        return (mean + 1j * square).astype(np.complex64).ravel()

    def shadow(self, position: Float) -> Float:
        """How much of the key light reaches points (3, n), from 0 to 1: Chebyshev's bound."""
        column, row, depth = self.view.project(position)
        clearance = depth * position[2] / np.maximum(self.view.position[2] - position[2], 0.1)
        side = 2 * SHADOW_SIDE
        across, down = (np.clip(2 * axis, 0, side - 1).astype(np.int32) for axis in (column, row))
        moments = self.moments.take(down * np.int32(side) + across)
        variance = np.maximum(moments.imag - moments.real * moments.real, SHADOW_VARIANCE)
        before = np.maximum(moments.real - clearance - SHADOW_BIAS, 0)
        lit = variance / (variance + before * before)
        return np.clip((lit - SHADOW_BLEEDING) / (1 - SHADOW_BLEEDING), 0, 1)

    def openness(self, position: Float, normal: Float, owner: Int64 | None = None) -> Float:
        """How much of the sky points (3, n) see past objects other than their own, from 0 to 1."""
        away = self.centre[:, :, None] - position[:, None]  # (3, K, n)
        squared = np.maximum(dot(away, away), 1e-6)
        cosine = np.maximum(dot(normal[:, None], away) / np.sqrt(squared), 0)
        hidden = np.minimum(cosine * (self.radius * self.radius)[:, None] / squared, 0.95)
        if owner is not None:
            hidden[owner, np.arange(len(owner))] = 0
        return (1 - hidden).prod(0)

    def reflect(self, at: _Surface) -> Float:
        """Light (3, n) from points towards the eye."""
        facing = dot(at.normal, at.to_eye)
        mirrored = 2 * facing * at.normal - at.to_eye
        sharpness = np.exp2(1 + 8 * at.gloss)
        upwards = 0.5 + 0.5 * at.normal[2]
        distance = at.position[0] * at.position[0] + at.position[1] * at.position[1]
        diffuse = SKY / (1 + distance / SKY_REACH) * upwards * at.openness
        diffuse += BOUNCE * self.reflected.mean() * (1 - upwards)
        shine = np.zeros_like(diffuse)
        for number, (place, power) in enumerate(zip(self.lights, POWERS, strict=True)):
            towards = place[:, None] - at.position
            squared = dot(towards, towards)
            towards *= 1 / np.sqrt(squared)
            strength = power / squared
            if number == 0:
                strength *= self.shadow(at.position)
            diffuse += strength * np.maximum(dot(at.normal, towards), 0)
            aligned = np.maximum(dot(mirrored, towards), 0)
            lobe = aligned / (sharpness - sharpness * aligned + aligned)
            shine += strength * (0.1 + 0.3 * sharpness) * lobe
        sky = np.clip(0.5 + 1.6 * mirrored[2], 0, 1) * (0.35 + 0.65 * at.openness)
        grazing = np.square(np.square(1 - np.maximum(facing, 0)))
        dielectric = REFLECTANCE + 0.5 * grazing * at.gloss
        out = np.empty_like(at.colour)
        for channel, colour in enumerate(at.colour):
            around = 0.5 * sky + BOUNCE * self.reflected[channel] * (1 - sky)
            reflectance = dielectric + at.metal * (colour - dielectric)
            out[channel] = colour * diffuse * (1 - 0.75 * at.metal) + (shine + around * at.gloss) * reflectance
        return out


def _blur() -> Float:
    """(2 n, n): weights that double the resolution of n texels and blur them."""
    fine = (np.arange(2 * SHADOW_SIDE) + 0.5) / 2
    distance = (fine[:, None] - (np.arange(SHADOW_SIDE) + 0.5)) / SHADOW_BLUR
    weights = np.exp(-0.5 * distance * distance)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


_BLUR = _blur()


def _light_of_ground(stage: Stage, bank: Bank, light: _Light, side: int, zoom: float) -> Float:
    """Light (3, side^2) that reaches the camera from the ground, as if no object were before it."""
    cos, sin = np.float32(np.cos(stage.angle)), np.float32(np.sin(stage.angle))
    view, fine = stage.view(side, zoom), stage.view(side * SUPER, zoom)
    out = np.empty((3, side * side), np.float32)
    step = max(STRIP // (SUPER**2 * side), 1)
    for top in range(0, side, step):
        bottom = min(top + step, side)
        _, depth, (x, y, z), _ = _meet_ground(fine, top * SUPER, bottom * SUPER)
        x, y = x + z * BEHIND[0], y + z * BEHIND[1]  # the pattern goes up the backdrop, about unstretched
        u = (cos * x + sin * y) / GROUND_TILE + stage.offset[0]
        v = (cos * y - sin * x) / GROUND_TILE + stage.offset[1]
        # A sample is depth / focal wide, and by foreshortening two to four times as long: something between.
        covered = depth * np.float32(1.6 / (fine.focal * GROUND_TILE))
        texels = _texels(bank, stage.material * STRIDE, u, v, covered).reshape(-1, SUPER, side, SUPER, 8)
        total = np.zeros((bottom - top, side, 8), np.uint16)
        for down in range(SUPER):
            for across in range(SUPER):
                total += texels[:, down, :, across]
        red_to_blue, slopes, gloss, metal = _properties(total.reshape(-1, 8), 1 / SUPER**2)
        ray, _, position, smooth = _meet_ground(view, top, bottom)
        normal = smooth.copy()
        normal[0] -= cos * slopes[0] - sin * slopes[1]
        normal[1] -= sin * slopes[0] + cos * slopes[1]
        normal *= 1 / np.sqrt(dot(normal, normal))
        to_eye = ray * (-1 / np.sqrt(dot(ray, ray)))
        colour = red_to_blue * stage.tint[:, None]
        surface = _Surface(position, normal, to_eye, colour, gloss, metal, light.openness(position, smooth))
        out[:, top * side : bottom * side] = light.reflect(surface)
    return out


def _meet_ground(view: View, top: int, bottom: int) -> tuple[Float, Float, Float, Float]:
    """Rays (3, n) of rows `top` to `bottom` of a view; depth (n,), position and normal (3, n) of the ground there."""
    across, down = np.arange(view.side), np.arange(top, bottom)
    ray = view.rays(np.repeat(down, view.side), np.tile(across, bottom - top))
    x, y, height = view.position
    start, step = BEHIND[0] * x + BEHIND[1] * y - np.float32(BEND), BEHIND[0] * ray[0] + BEHIND[1] * ray[1]
    level = -height / np.minimum(ray[2], -1e-3)
    # On the backdrop, CURVATURE / 2 (start + t step)^2 = height + t ray_z: the later solution; the earlier one is
    # where the ray would enter the parabola before the camera.
    half = CURVATURE * start * step - ray[2]
    square = CURVATURE * step * step
    discriminant = half * half - square * (CURVATURE * start * start - 2 * height)
    bent = (np.sqrt(np.maximum(discriminant, 0)) - half) / np.maximum(square, 1e-6)
    depth = np.where((start + level * step > 0) | (ray[2] > -1e-3), bent, level)
    slope = CURVATURE * np.maximum(start + depth * step, 0)
    upright = 1 / np.sqrt(1 + slope * slope)
    normal = np.stack([-slope * upright * BEHIND[0], -slope * upright * BEHIND[1], upright])
    return ray, depth, view.position[:, None] + depth * ray, normal


_OTHERS = ((1, 2), (0, 2), (0, 1))  # the axes of the plane across each axis


def _light_of_objects(view: View, hits: Hits, solids: Solids, bank: Bank, light: _Light) -> Float:
    """Light (3, H) that reaches the camera from where its rays meet objects.

    A material is projected onto an object along each of its axes, and the three are mixed by where the surface faces.
    """
    owner = hits.owner
    ray = view.rays(*np.divmod(hits.sample, view.side))
    tile = hits.local * (solids.size / np.float32(OBJECT_TILE)).take(owner)
    offset = solids.offset.T.take(owner, 1)
    start = (solids.material * STRIDE).take(owner).astype(np.int32)
    covered = hits.depth * np.float32(1.3 / (view.focal * OBJECT_TILE))
    weights = np.square(np.square(np.square(hits.normal)))
    weights /= weights[0] + weights[1] + weights[2]
    colour, bump = np.zeros((2, *hits.normal.shape), np.float32)
    gloss, metal = np.zeros((2, len(owner)), np.float32)
    for weight, (first, second) in zip(weights, _OTHERS, strict=True):
        part = np.flatnonzero(weight > 0.02)  # a cube's face has but one projection
        u = tile[first].take(part) + offset[0].take(part)
        v = tile[second].take(part) + offset[1].take(part)
        texels = _texels(bank, start.take(part), u, v, covered.take(part))
        share = weight.take(part)
        red_to_blue, slopes, *more = _properties(texels)
        colour[:, part] += share * red_to_blue
        bump[first, part] += share * slopes[0]
        bump[second, part] += share * slopes[1]
        gloss[part] += share * more[0]
        metal[part] += share * more[1]
    x, y, z = hits.normal - bump
    per_length = 1 / np.sqrt(x * x + y * y + z * z)
    cos, sin = np.cos(solids.angle).take(owner), np.sin(solids.angle).take(owner)
    normal = np.stack([cos * x - sin * y, sin * x + cos * y, z]) * per_length
    position = view.position[:, None] + hits.depth * ray
    to_eye = ray * (-1 / np.sqrt(dot(ray, ray)))
    colour *= solids.tint.T.take(owner, 1)
    openness = light.openness(position, normal, owner)
    return light.reflect(_Surface(position, normal, to_eye, colour, gloss, metal, openness))


def _texels(bank: Bank, start: npt.NDArray[np.int32] | int, u: Float, v: Float, covered: Float) -> UInt8:
    """Texels (n, 8) of materials at (u, v).

    Args:
        bank: The materials.
        start: Where in the bank they begin.
        u: (n,) in tiles.
        v: (n,) in tiles.
        covered: (n,), what a sample covers, in tiles, which chooses the level.
    """
    level = np.clip(np.log2(covered * SIDE) + np.float32(0.5), 0, LEVELS - 1).astype(np.int32)
    # + 64: positive, so that what cuts off decimals rounds downwards
    column, row = (((axis + np.float32(64)) * SIDE).astype(np.int32) & np.int32(SIDE - 1) for axis in (u, v))
    index = start + _STARTS.take(level) + ((row >> level) << (_BITS - level)) + (column >> level)
    return bank.texels.take(index).view(np.uint8).reshape(-1, 8)


_STARTS = STARTS[:-1].astype(np.int32)
_BITS = SIDE.bit_length() - 1


def _properties(texels: npt.NDArray[Any], scale: float = 1.0) -> tuple[Float, Float, Float, Float]:
    """Linear colour (3, n), slopes along u and v (2, n), gloss and metal (n,) of texels (n, 8) times `scale`."""
    values = np.ascontiguousarray(texels.T[:7]).astype(np.float32)
    values *= np.float32(scale / 255)
    return np.square(values[:3]), values[3:5] * np.float32(2 * STEEPEST) - np.float32(STEEPEST), values[5], values[6]
