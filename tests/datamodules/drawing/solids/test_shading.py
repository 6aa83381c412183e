from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from test_raycast import inside, some, world_to_local

from datamodules.drawing.solids import shading
from datamodules.drawing.solids.materials import SIDE, STRIDE, Bank, Tile, _pack, bank
from datamodules.drawing.solids.raycast import SHAPES, Solids
from datamodules.drawing.solids.shading import BEHIND, LIGHTS, Stage, _Light, _majority, _meet_ground, develop, draw

BANK = bank(("plain", "polka_dots", "metal"))
ZOOM = 350 / 192


def stage(material: int = 0, lights=LIGHTS) -> Stage:
    camera = np.array([7.48, -6.5, 5.34], np.float32)
    return Stage(camera, lights, material, np.ones(3, np.float32), 0.7, np.array([0.2, 0.4], np.float32))


def scene() -> Solids:
    return some(["cube", "torus", "bear", "cone"], [(-1.5, 1.4), (1.4, 1.2), (-0.8, -1.8), (2, -1.6)], [0.9] * 4)


def test_the_mask_is_what_most_samples_see():
    seen = np.random.default_rng(0).integers(0, 4, (50, 2, 50, 2)).astype(np.uint8)
    mask = _majority(seen)
    for row in range(50):
        for column in range(50):
            samples = seen[row, :, column].ravel().tolist()  # in the order of rows
            counts = Counter(samples)
            best = max(counts.values())
            assert mask[row, column] == next(value for value in samples if counts[value] == best)


def test_pixels_of_an_object_differ_from_the_empty_scene_and_others_only_by_its_shadow():
    empty, none = draw(stage(), some([], np.zeros((0, 2)), []), BANK, 64, ZOOM)
    image, mask = draw(stage(), some(["sphere"], [(0, 0)], [0.6]), BANK, 64, ZOOM)
    assert not none.any()
    assert set(np.unique(mask)) == {0, 1}
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 31.5) < 4  # the camera looks at the middle
    assert abs(columns.mean() - 31.5) < 1
    assert len(rows) == pytest.approx(np.pi * (0.6 * ZOOM * 64 / 11.25) ** 2, rel=0.1)
    change = np.abs(image.astype(int) - empty).max(2)
    assert (change[mask == 1] > 5).mean() > 0.85
    darker = (empty.astype(int) - image).min(2) > 15
    shadow = darker & (mask == 0)
    assert shadow.sum() > 20
    # Away from the key light, which is to the right of the camera, and near the object.
    assert np.nonzero(shadow)[1].mean() < columns.mean() - 3
    far = np.hypot(*np.meshgrid(np.arange(64) - 31.5, np.arange(64) - 31.5)) > 30
    assert change[far].max() <= 3


def test_a_pixel_is_the_mean_of_its_samples():
    """At twice the size, pooled, the picture is about the same: materials are bright and dark patterns here."""
    solids = scene()
    solids.material[:] = 1
    image, mask = draw(stage(1), solids, BANK, 64, ZOOM)
    fine, fine_mask = draw(stage(1), solids, BANK, 128, ZOOM)
    pooled = fine.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(image - pooled).mean() < 8
    inner = (fine_mask.reshape(64, 2, 64, 2) == fine_mask[::2, None, ::2, None]).all((1, 3))
    assert np.array_equal(mask[inner], fine_mask[::2, ::2][inner])


def test_the_ground_is_flat_and_then_a_parabola():
    view = stage().view(60, ZOOM)
    ray, depth, (x, y, z), normal = _meet_ground(view, 0, 60)
    assert view.position[:, None] + depth * ray == pytest.approx(np.stack([x, y, z]))
    behind = BEHIND[0] * x + BEHIND[1] * y
    assert z == pytest.approx(np.maximum(behind - 6, 0) ** 2 / 6, abs=2e-4)
    assert (behind > 6).sum() > 100
    slope = np.maximum(behind - 6, 0) / 3
    up = np.stack([-slope * BEHIND[0], -slope * BEHIND[1], np.ones_like(x)])
    assert normal == pytest.approx(up / np.linalg.norm(up, axis=0), abs=1e-3)
    assert (depth > 0).all()
    parts = [_meet_ground(view, top, top + 20)[1] for top in (0, 20, 40)]
    assert np.array_equal(np.concatenate(parts), depth)


def test_shadows_fall_where_something_is_on_the_way_to_the_light():
    solids = scene()
    light = _Light(stage(), solids, BANK)
    axis = np.linspace(-4, 4, 70, dtype=np.float32)
    points = np.stack([*map(np.ravel, np.meshgrid(axis, axis)), np.zeros(4900, np.float32)])
    lit = light.shadow(points)
    free = np.ones(4900, bool)
    for share in np.linspace(0, 1, 300):
        on_the_way = points.T + share * (LIGHTS[0] - points.T)
        for k, kind in enumerate(solids.kind):
            free &= ~inside(SHAPES[kind], *world_to_local(solids, k, on_the_way))
    assert 0.1 < (~free).mean() < 0.5
    assert ((lit > 0.5) == free).mean() > 0.96
    assert ((lit > 0.02) & (lit < 0.98)).mean() > 0.05  # soft
    tops = np.stack([*solids.place.T, 2 * solids.centre[:, 2]])[:, :1]  # of the cube, which nothing shades
    assert light.shadow(tops) == pytest.approx([1], abs=0.05)


def test_near_objects_hide_the_sky_and_an_object_does_not_hide_its_own():
    ball = some(["sphere"], [(0, 0)], [1.0])
    light = _Light(stage(), ball, BANK)
    up = np.array([[0], [0], [1]], np.float32) * np.ones(4, np.float32)
    points = np.array([[1.2, 2, 4, 40], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    # A ball of radius r at distance d and angle a from the normal hides cos(a) r^2 / d^2.
    away = points[0] ** 2 + 1
    assert light.openness(points, up) == pytest.approx(1 - 0.9**2 / away**1.5, abs=1e-4)
    assert light.openness(points, up, np.zeros(4, np.int64)).tolist() == [1, 1, 1, 1]


def test_light_obeys_its_laws(monkeypatch):
    """A matt point under one light: cosine and square of the distance."""
    monkeypatch.setattr(shading, "SKY", 0.0)
    monkeypatch.setattr(shading, "BOUNCE", 0.0)
    monkeypatch.setattr(shading, "REFLECTANCE", 0.0)
    monkeypatch.setattr(shading, "POWERS", np.array([50, 0, 0], np.float32))
    light = _Light(stage(lights=np.array([[0.01, 0, 5], [9, 9, 9], [9, 9, 9]], np.float32)), some([], np.zeros((0, 2)), []), BANK)  # fmt: skip # noqa: E501
    position = np.array([[0, 3, 0], [0, 0, 4], [0, 0, 0]], np.float32)
    up = np.array([[0], [0], [1]], np.float32) * np.ones(3, np.float32)
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    colour = np.array([[0.5], [0.25], [1]], np.float32) * one
    out = light.reflect(shading._Surface(position, up, up, colour, zero, zero, one))
    expected = [50 / d**2 * 5 / d for d in (5, 34**0.5, 41**0.5)]
    assert out[2] == pytest.approx(expected, rel=0.01)
    assert out[0] == pytest.approx(0.5 * np.array(expected), rel=0.01)


def test_film_is_monotonic_and_saturates():
    values = develop(np.linspace(0, 5, 2000, dtype=np.float32)).astype(int)
    assert (np.diff(values) >= 0).all()
    assert (values[0], values[-1]) == (0, develop(np.float32([9]))[0])
    assert values[-1] > 245
    assert values[np.searchsorted(np.linspace(0, 5, 2000), 0.25)] == pytest.approx(123, abs=4)  # sRGB of 1 - e^-.2125


@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5])
def test_relief_tilts_what_it_is_on(monkeypatch, angle):
    """A material that everywhere rises along its x axis: normals of the ground and a cube's top, turned by `angle`."""
    for name in ("SKY", "BOUNCE", "REFLECTANCE"):
        monkeypatch.setattr(shading, name, 0.0)
    monkeypatch.setattr(shading, "POWERS", np.array([0, 60, 0], np.float32))  # of no shadow
    texel = np.array([128, 128, 128, round((0.6 / 1.5 + 1) * 127.5), 128, 0, 0, 0], np.uint8)
    slanted = Bank(("slanted",), np.repeat(texel.view(np.uint64), STRIDE), np.full((1, 3), 0.25, np.float32))
    lights = np.array([[9, 9, 9], [-3, 2, 4], [9, 9, 9]], np.float32)
    cube = some(["cube"], [(0, 0)], [2.0])
    cube.angle[:] = angle
    scene = replace(stage(lights=lights), angle=angle)
    normal = np.array([-0.6 * np.cos(angle), -0.6 * np.sin(angle), 1]) / np.hypot(1, 0.6)
    for solids, point in ((some([], np.zeros((0, 2)), []), [0, 0, 0]), (cube, [0, 0, 2 * 2**0.5])):
        image, _ = draw(scene, solids, slanted, 64, ZOOM)
        column, row, _ = scene.view(64, ZOOM).project(np.array(point, np.float32)[:, None])
        away = lights[1] - point
        light = 60 * (128 / 255) ** 2 * max(normal @ away, 0) / np.linalg.norm(away) ** 3
        assert int(image[int(row[0]), int(column[0]), 0]) == pytest.approx(int(develop(np.array([light]))[0]), abs=4)


def test_patterns_are_turned_and_moved_as_asked():
    """A tile whose left half is dark: the ground is dark where, in the pattern's frame, so is the tile."""
    colour = np.full((SIDE, SIDE, 3), 0.8, np.float32)
    colour[:, : SIDE // 2] = 0.1
    halves = Bank(("halves",), _pack(Tile(colour, gloss=0.0)), np.full((1, 3), 0.3, np.float32))
    scene = stage()
    image, _ = draw(scene, some([], np.zeros((0, 2)), []), halves, 64, ZOOM)
    rows, columns = np.divmod(np.arange(64 * 64), 64)
    x, y, z = _meet_ground(scene.view(64, ZOOM), 0, 64)[2]
    u = ((np.cos(0.7) * x + np.sin(0.7) * y) / 6 + 0.2) % 1
    clear = (z == 0) & (np.abs(u % 0.5 - 0.25) < 0.2)
    bright = image[rows, columns, 0] > 75
    assert clear.sum() > 2000
    assert (bright == (u > 0.5))[clear].mean() > 0.99
