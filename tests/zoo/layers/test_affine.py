import math

import pytest
import torch
import torch.nn.functional as F

from zoo.layers.affine import affine_hull, affine_inverse, affine_matrix, largest_patch, read_patches, write_patches
from zoo.layers.boxes import trim_boxes
from zoo.layers.glimpses import extract_glimpses


def places(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random places around 20 px, any angle, shears of either sign."""
    g = torch.Generator().manual_seed(seed)
    low = torch.tensor([10.0, 10.0, 8.0, 8.0, -4.0, -1.0, -1.0])
    high = torch.tensor([30.0, 30.0, 24.0, 24.0, 4.0, 1.0, 1.0])
    return (low + (high - low) * torch.rand(*shape, 7, generator=g)).double()


def test_matrix_is_the_product_of_the_papers_factors() -> None:
    """Equation 6, written out with numbers."""
    x, y, w, h, a, kx, ky = 3.0, 5.0, 8.0, 4.0, 0.7, 0.3, -0.6
    scale_shift = torch.tensor([[w / 2, 0, x], [0, h / 2, y], [0, 0, 1]])
    rotation = torch.tensor([[math.cos(a), math.sin(-a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    skew = torch.tensor([[1 + kx * ky, kx, 0], [ky, 1, 0], [0, 0, 1]])
    matrix = affine_matrix(torch.tensor([x, y, w, h, a, kx, ky]))
    torch.testing.assert_close(matrix, scale_shift @ rotation @ skew)


def test_the_encoders_transform_is_the_exact_inverse_of_the_decoders() -> None:
    place = places(500)
    product = affine_inverse(place) @ affine_matrix(place)
    torch.testing.assert_close(product, torch.eye(3).double().expand(500, 3, 3), rtol=0, atol=1e-13)
    torch.testing.assert_close(affine_inverse(place), torch.linalg.inv(affine_matrix(place)))


def test_upright_patches_are_glimpses_and_boxes() -> None:
    place = F.pad(places(2, 3)[..., :4], (0, 3))
    center, half = place[..., :2], place[..., 2:4] / 2
    boxes = torch.cat([center - half, center + half], -1)
    image = torch.rand(2, 3, 37, 45).double()
    torch.testing.assert_close(
        read_patches(image, affine_matrix(place), (6, 9)), extract_glimpses(image, boxes, (6, 9))
    )
    torch.testing.assert_close(affine_hull(affine_matrix(place)), boxes)
    visible = torch.rand(2, 3, 6, 9).double()
    trimmed = affine_hull(affine_matrix(place), visible, 0.9)
    torch.testing.assert_close(trimmed, trim_boxes(boxes, visible, 0.9))


def test_reading_and_writing_agree_with_a_loop_over_pixels() -> None:
    place = places(1, 2)
    image, patches = torch.rand(1, 1, 20, 28).double(), torch.rand(1, 2, 1, 5, 4).double()

    def sample(source: torch.Tensor, column: float, row: float) -> float:
        """Bilinear, zero outside, centres at half numbers."""
        value = 0.0
        for r in (math.floor(row - 0.5), math.floor(row - 0.5) + 1):
            for c in (math.floor(column - 0.5), math.floor(column - 0.5) + 1):
                if 0 <= r < source.shape[0] and 0 <= c < source.shape[1]:
                    value += (1 - abs(row - 0.5 - r)) * (1 - abs(column - 0.5 - c)) * source[r, c].item()
        return value

    read = read_patches(image, affine_matrix(place), (5, 4))
    for n in range(2):
        for r in range(5):
            for c in range(4):
                u = torch.tensor([2 * (c + 0.5) / 4 - 1, 2 * (r + 0.5) / 5 - 1, 1], dtype=torch.float64)
                x, y, _ = (affine_matrix(place[0, n]) @ u).tolist()
                assert read[0, n, 0, r, c].item() == pytest.approx(sample(image[0, 0], x, y), abs=1e-9)
    drawn = write_patches(patches, affine_inverse(place), (20, 28))
    for r in range(20):
        for c in range(28):
            total = 0.0
            for n in range(2):
                u, v, _ = torch.linalg.solve(
                    affine_matrix(place[0, n]), torch.tensor([c + 0.5, r + 0.5, 1.0]).double()
                ).tolist()
                total += sample(patches[0, n, 0], (u + 1) / 2 * 4, (v + 1) / 2 * 5)
            assert drawn[0, 0, r, c].item() == pytest.approx(total, abs=1e-9)


def test_what_is_written_is_read_again() -> None:
    """A smooth patch survives the way to the canvas and back, wherever it is put, also where images are not square."""
    axis = torch.linspace(-1, 1, 16).double()
    blob = torch.exp(-4 * ((axis - 0.2).square() + (axis[:, None] + 0.1).square() * 2))
    place = places(40, 1, seed=3)
    place[..., :2] += torch.tensor([20.0, 15.0])
    place[..., 2:4] += 14
    place[..., 5:] /= 3
    patches = blob.expand(40, 1, 2, 16, 16)
    canvas = write_patches(patches, affine_inverse(place), (70, 80))
    again = read_patches(canvas, affine_matrix(place), 16)
    assert (again - patches).abs().max() < 0.1
    assert (again - patches).abs().mean() < 0.01


def test_hull_of_a_rotated_patch_and_of_what_shows_of_it() -> None:
    place = torch.tensor([10.0, 20.0, 4.0, 4.0, math.pi / 4, 0.0, 0.0])
    reach = 2 * math.sqrt(2)
    expected = torch.tensor([10 - reach, 20 - reach, 10 + reach, 20 + reach])
    torch.testing.assert_close(affine_hull(affine_matrix(place)), expected)
    corner = torch.zeros(4, 4)
    corner[0, 0] = 1.0  # the patch's top-left texel, which a clockwise eighth of a turn brings to the top
    box = affine_hull(affine_matrix(place), corner, 0.5)
    side = reach / 4
    torch.testing.assert_close(box, torch.tensor([10 - side, 20 - reach, 10 + side, 20 - reach + 2 * side]))
    torch.testing.assert_close(affine_hull(affine_matrix(place), torch.zeros(4, 4), 0.5), expected)


def test_pixels_are_of_the_object_that_adds_most_to_them() -> None:
    """Pixel by pixel, each object written alone."""
    place = places(2, 4, seed=5)
    cover = torch.rand(2, 4, 5, 4, generator=torch.Generator().manual_seed(1)).double()
    presence = torch.tensor([[1.0, 0.2, 0.5, 0.9]] * 2).double()
    inverse, least = affine_inverse(place), 0.3
    alone = [write_patches(cover[:, n : n + 1, None], inverse[:, n : n + 1], (20, 28))[:, 0] for n in range(4)]
    mask = largest_patch(cover, presence, inverse, (20, 28), least)
    for b in range(2):
        for r in range(20):
            for c in range(28):
                most, label = 0.0, 0
                for n in (0, 2, 3):  # 1 is absent, and hides nothing
                    if (here := alone[n][b, r, c].item()) > most:
                        most, label = here, n + 1
                assert mask[b, r, c] == (label if most >= least else 0)
    assert {0, 1, 3, 4} == set(mask.unique().tolist())


def test_gradients_of_reading_and_writing() -> None:
    place = places(1, 2, seed=1).requires_grad_()
    image, patches = torch.rand(1, 1, 9, 8).double(), torch.rand(1, 2, 1, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: read_patches(image, affine_matrix(p), 3), place)
    assert torch.autograd.gradcheck(lambda t, p: write_patches(t, affine_inverse(p), (9, 8)), (patches, place))
