import numpy as np
import pytest

from datamodules.drawing.solids import materials
from datamodules.drawing.solids.materials import FULL, LEVELS, OUTD, PLAIN, SIDE, STARTS, STRIDE, Canvas, bank

NAMES = (*FULL, *OUTD, *PLAIN)


@pytest.fixture(scope="module")
def painted():
    return bank(NAMES)


def level(painted, name: str, number: int):
    """(side, side, 7): linear colour, slopes, gloss, metal of one level of a material."""
    start = NAMES.index(name) * STRIDE
    side = SIDE >> number
    texels = painted.texels[start + STARTS[number] : start + STARTS[number + 1]]
    values = texels.view(np.uint8).reshape(side, side, 8)[..., :7] / 255
    return np.concatenate([values[..., :3] ** 2, values[..., 3:5] * 3 - 1.5, values[..., 5:]], -1)


def test_families_share_no_material_and_all_look_different(painted):
    assert len(set(NAMES)) == len(FULL) + len(OUTD) + len(PLAIN)
    assert len(FULL) >= 30
    small = np.stack([level(painted, name, 2) for name in (*FULL, *OUTD)])
    distance = np.abs(small[:, None, ..., :3].mean((2, 3)) - small[None, ..., :3].mean((2, 3))).sum(-1)
    spread = small[..., :3].std((1, 2)).sum(-1)
    alike = (distance < 0.02) & (np.abs(spread[:, None] - spread) < 0.005)
    assert alike.sum() == len(small)  # but for each with itself


@pytest.mark.parametrize("name", NAMES)
def test_tiles_have_no_seams_and_their_levels_the_same_mean(painted, name):
    tile = level(painted, name, 0)
    for axis in (0, 1):
        steps = np.abs(np.diff(tile, axis=axis, append=np.take(tile, [0], axis))).mean((1 - axis, 2))
        assert steps[-1] <= steps[:-1].max() * 1.3 + 0.01
    for number in range(1, LEVELS):
        coarse, fine = level(painted, name, number), level(painted, name, number - 1)
        halved = fine.reshape(SIDE >> number, 2, SIDE >> number, 2, 7).mean((1, 3))
        assert np.abs(coarse - halved).max() < 0.02
    index = NAMES.index(name)
    assert painted.mean[index] == pytest.approx(tile[..., :3].mean((0, 1)), abs=0.01)


def test_a_material_is_the_same_in_every_bank(painted):
    few = bank(("zebra", "moss"))
    for number, name in enumerate(few.names):
        start = NAMES.index(name) * STRIDE
        assert np.array_equal(few.texels[number * STRIDE :][:STRIDE], painted.texels[start : start + STRIDE])


def test_slopes_are_those_of_the_height(painted):
    height = FULL["sand_ripples"](Canvas(materials.zlib.crc32(b"sand_ripples"))).height
    for row, column in ((0, 0), (17, 255), (255, 3), (100, 100)):
        right, below = height[row, (column + 1) % SIDE], height[(row + 1) % SIDE, column]
        slopes = [(right - height[row, column - 1]) * SIDE / 2, (below - height[row - 1, column]) * SIDE / 2]
        assert level(painted, "sand_ripples", 0)[row, column, 3:5] == pytest.approx(
            np.clip(slopes, -1.5, 1.5), abs=0.01
        )


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_cells_are_those_of_the_nearest_point(jitter):
    canvas = Canvas(3)
    near, second, index = canvas.cells(6, jitter)
    # Points found again as the texels at distance 0, and the wrapped distance to all of them by a loop.
    points = {cell: np.unravel_index(np.where(index == cell, near, np.inf).argmin(), near.shape) for cell in range(36)}
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, SIDE, (60, 2)):
        distances = []
        for cell in range(36):
            away = [abs(a - b) for a, b in zip((row, column), points[cell], strict=True)]
            distances.append(np.hypot(*[min(d, SIDE - d) for d in away]) * 6 / SIDE)
        first, other = np.sort(distances)[:2]
        assert near[row, column] == pytest.approx(first, abs=0.03)
        assert second[row, column] == pytest.approx(other, abs=0.03)
        assert distances[index[row, column]] == pytest.approx(first, abs=0.03)


def test_noise_is_about_uniform_and_has_only_the_waves_asked_for():
    noise = Canvas(0).noise(5, 20)
    assert 0.2 < np.quantile(noise, 0.25) < 0.3 < 0.7 < np.quantile(noise, 0.75) < 0.8
    logit = np.log(noise / (1 - noise))
    power = np.abs(np.fft.fft2(logit)) ** 2
    f = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE, 1 / SIDE)] * 2))
    assert power[(f >= 5) & (f <= 20)].sum() > 0.999 * power.sum()


def test_bricks_fill_rows_that_are_shifted():
    canvas = Canvas(0)
    inside, brick, along = canvas.bricks(4, 3, shift=0.5, joint=0.1)
    assert np.bincount(brick.ravel()).tolist() == pytest.approx([SIDE**2 / 12] * 12, rel=0.03)
    assert inside.mean() == pytest.approx((1 - 0.16) * (1 - 0.16 * 3 / 4), abs=0.01)
    row = [int(np.flatnonzero(np.diff(brick[int((r + 0.5) * SIDE / 4)]) != 0)[0]) for r in range(2)]
    assert abs(row[0] - row[1]) == pytest.approx(SIDE / 6, abs=1)
    assert 0 <= along.min() <= along.max() < 1
