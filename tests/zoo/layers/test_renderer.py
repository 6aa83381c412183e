import math
from collections.abc import Callable

import pytest
import straightforward
import torch
from torch import Tensor

from zoo.layers import renderer
from zoo.layers.renderer import COLOR_EDGES, METHODS, interpolation_weights, render

Scene = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _scene(
    B: int, N: int, C: int, patch: tuple[int, int], image: tuple[int, int], sizes: tuple[float, float], seed: int = 0
) -> Scene:
    """Random objects whose boxes are `sizes` wide and high and lie in, across and beyond the image's border."""
    torch.manual_seed(seed)
    H, W = image
    center = torch.rand(B, N, 2) * torch.tensor([1.3 * W, 1.3 * H]) - 0.15 * torch.tensor([W, H])
    half = (sizes[0] + (sizes[1] - sizes[0]) * torch.rand(B, N, 2)) / 2
    shapes = (B, N, C, *patch), (B, N, *patch), (B, N, *patch), (B, C, H, W)
    color, alpha, importance, background = (torch.rand(shape, dtype=torch.float64) for shape in shapes)
    boxes = torch.cat([center - half, center + half], -1).double()
    return color, alpha, importance * 3, boxes, background


def _hard_scene(image: tuple[int, int] = (40, 56)) -> Scene:
    """Boxes of 4 to 14 pixels, with absent, tiny and far objects, on an image that they do not fill."""
    color, alpha, importance, boxes, background = _scene(3, 9, 3, (5, 6), image, (4, 14))
    alpha[:, 0] = importance[:, 0] = 0  # absent
    alpha[:, 1] = 0  # present, and transparent everywhere
    boxes[:, 2, 2:] = boxes[:, 2, :2] + 0.07  # smaller than a pixel
    boxes[0, 3] = torch.tensor([20.2, 10.4, 20.9, 10.9])  # smaller than a pixel, on one
    boxes[:, 4] += 400  # far outside
    boxes[:, 5] -= 4000
    boxes[1, 6] = torch.tensor([-3.3, -6.2, 8.4, 4.1])  # across a corner
    return color, alpha, importance, boxes, background


def _gradients(function: Callable[..., Tensor], scene: Scene, *args: object, **options: object) -> list[Tensor]:
    """The image and the gradients of a random function of it."""
    leaves = [t.clone().requires_grad_() for t in scene]
    image = function(*leaves, *args, **options)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [image.detach(), *torch.autograd.grad((weights * image.double()).sum(), leaves)]


def _assert_same(ours: list[Tensor], reference: list[Tensor], **tolerance: float) -> None:
    for name, a, b in zip(
        ("image", "color", "alpha", "importance", "boxes", "background"), ours, reference, strict=True
    ):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def _interpolate(patch: list[list[float]], y: float, x: float, edge: str = "zeros") -> float:
    """Bilinear, at a position in texels, texel (r, c) having its value at exactly (r, c); 0 where there is no texel.

    Or, with `repeat`, what is at the nearest position that has texels on all sides.
    """
    if edge == "repeat":
        y, x = min(max(y, 0), len(patch) - 1), min(max(x, 0), len(patch[0]) - 1)
    value = 0.0
    for r in (math.floor(y), math.floor(y) + 1):
        for c in (math.floor(x), math.floor(x) + 1):
            if 0 <= r < len(patch) and 0 <= c < len(patch[0]):
                value += (1 - abs(y - r)) * (1 - abs(x - c)) * patch[r][c]
    return value


def _algorithm_1(
    color: list, alpha: list, importance: list, boxes: list[list[float]], background: list, edge: str
) -> list[list[list[float]]]:
    """DIFFERENTIABLERENDERING for one image, line by line: (H, W, C)."""
    C, H, W = len(background), len(background[0]), len(background[0][0])
    P, Q = len(alpha[0]), len(alpha[0][0])
    out = [[[background[c][row][column] for c in range(C)] for column in range(W)] for row in range(H)]
    for row in range(H):
        for column in range(W):
            writes, weighted_sum, normalizer = 0, [0.0] * C, 0.0
            for o, a, g, (x1, y1, x2, y2) in zip(color, alpha, importance, boxes, strict=True):
                y = (row + 0.5 - y1) / (y2 - y1) * P - 0.5
                x = (column + 0.5 - x1) / (x2 - x1) * Q - 0.5
                if not (-1 < y < P and -1 < x < Q):  # CONTAINS, with the soft texel around the patch
                    continue
                a_, g_ = _interpolate(a, y, x), _interpolate(g, y, x)
                for c in range(C):
                    mixed = a_ * _interpolate(o[c], y, x, edge) + (1 - a_) * background[c][row][column]
                    weighted_sum[c] += g_ * mixed
                writes += 1
                normalizer += g_
            if writes > 0 and normalizer > 0:  # 0 / 0 of absent objects: the background stays
                out[row][column] = [value / normalizer for value in weighted_sum]
    return out


@pytest.mark.parametrize("edge", COLOR_EDGES)
@pytest.mark.parametrize(("image", "sizes"), [((9, 12), (3, 9)), ((26, 19), (2, 7))], ids=["whole images", "windows"])
def test_algorithm_1_pixel_by_pixel(image, sizes, edge):
    scene = _scene(2, 6, 3, (4, 3), image, sizes)
    scene[1][:, 2] = scene[2][:, 2] = 0
    scene[3][:, 3, 2:] = scene[3][:, 3, :2] + 0.8
    windows = renderer._Windows(scene[3], (4, 3), image, None)
    assert (windows.index is None) == (sizes == (3, 9))  # both ways are looked at
    images = [_algorithm_1(*(t[b].tolist() for t in scene), edge) for b in range(2)]
    expected = torch.tensor(images, dtype=torch.float64).movedim(-1, 1)
    assert (expected != scene[-1]).any(1).double().mean() > 0.1
    torch.testing.assert_close(render(*scene, color_edge=edge), expected)
    other = render(*scene, color_edge=COLOR_EDGES[1 - COLOR_EDGES.index(edge)])
    assert (other - expected).abs().max() > 0.05


FORMS = [*(("exact", edge) for edge in COLOR_EDGES), ("premultiplied", "repeat")]


@pytest.mark.parametrize(("method", "edge"), FORMS)
@pytest.mark.parametrize("image", [(40, 56), (14, 11)], ids=["windows", "whole images"])
def test_canvas_of_every_object(method, edge, image):
    scene = _hard_scene(image)
    assert (renderer._Windows(scene[3], (5, 6), image, None).index is None) == (image == (14, 11))
    ours, expected = (_gradients(f, scene, method, color_edge=edge) for f in (render, straightforward.render))
    _assert_same(ours, expected)


@pytest.mark.parametrize(("method", "edge"), FORMS)
def test_gradcheck(method, edge):
    for seed, (image, sizes) in enumerate([((6, 5), (2, 5)), ((16, 13), (1, 4))]):
        scene = [t.requires_grad_() for t in _scene(2, 3, 2, (3, 2), image, sizes, seed)]
        assert torch.autograd.gradcheck(lambda *tensors: render(*tensors, method, color_edge=edge), scene)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 0.7])
def test_a_white_patch_on_white_has_no_ring(shift):
    """Whatever its alpha and however it lies; Algorithm 1 as it is leaves 1 - w (1 - w) where w of it is left."""
    alpha = torch.tensor([1.0, 0.6])[:, None, None, None].expand(2, 1, 4, 4)
    boxes = torch.tensor([8.0 + shift, 8, 20 + shift, 20]).expand(2, 1, 4)
    white = torch.ones(2, 1, 3, 4, 4), alpha, alpha, boxes, torch.ones(2, 3, 32, 32)
    for method in METHODS:
        torch.testing.assert_close(render(*white, method), torch.ones(2, 3, 32, 32))
    darkest = render(*white, color_edge="zeros")[0].min().item()
    assert darkest == pytest.approx(0.75) if shift == 0.5 else 0.7499 < darkest < 0.8
    red = torch.tensor([0.9, 0.2, 0.1])[None, None, :, None, None].expand(2, 1, 3, 4, 4)
    tinted = red[:, 0, :, :1, :1].expand(2, 3, 32, 32)
    torch.testing.assert_close(render(red, *white[1:4], tinted), tinted)


def test_over_a_colour_an_edge_is_a_blend_of_both():
    """Opaque red over blue: from the patch's last texel centre outward nothing but a mix of the two, falling evenly."""
    color = torch.tensor([1.0, 0, 0])[None, None, :, None, None].expand(1, 1, 3, 4, 4)
    opaque, boxes = torch.ones(1, 1, 4, 4), torch.tensor([[[8.0, 8, 24, 24]]])
    background = torch.tensor([0.0, 0, 1])[None, :, None, None].expand(1, 3, 32, 32)
    red, green, blue = render(color, opaque, opaque, boxes, background)[0, :, 16, :16].unbind()
    left = torch.tensor([0.125, 0.375, 0.625, 0.875])  # of the patch, 4 pixels a texel
    torch.testing.assert_close(red, torch.cat([torch.zeros(6), left, torch.ones(6)]))
    torch.testing.assert_close(red + blue, torch.ones(16))
    assert not green.any()


def test_single_precision():
    scene = _hard_scene()
    expected = _gradients(straightforward.render, scene)
    ours = _gradients(render, tuple(t.float() for t in scene))
    torch.testing.assert_close(ours[0].double(), expected[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(ours[1:4], expected[1:4], strict=True):  # gradients of the maps
        assert (a - b).norm() < 1e-3 * b.norm()


def test_chunks_and_max_size_change_nothing(monkeypatch):
    scene = _hard_scene()
    expected = _gradients(render, scene)
    _assert_same(_gradients(render, scene, "exact", (14, 14)), expected, rtol=0, atol=0)
    _assert_same(_gradients(render, scene, "exact", (400, 400)), expected, rtol=0, atol=0)
    image_bytes = 9 * 5 * 40 * 56 * 8
    for budget, sizes in ((1, [1, 1, 1]), (2 * image_bytes, [2, 1]), (2**40, [3])):
        monkeypatch.setitem(renderer._CHUNK_BYTES, "cpu", budget)
        assert [len(range(3)[part]) for part in renderer._chunks(scene[0], (40, 56))] == sizes
        _assert_same(_gradients(render, scene), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_max_size_on_a_gpu():
    scene = tuple(t.cuda() for t in _hard_scene())
    reference = _gradients(lambda *tensors: straightforward.render(*tensors).cpu(), scene)
    for max_size in (None, (14.0, 14.0), (30.0, 20.0)):
        ours = _gradients(lambda *tensors, size=max_size: render(*tensors, max_size=size).cpu(), scene)
        _assert_same(ours, reference)


@pytest.mark.parametrize("method", METHODS)
def test_background_where_nothing_is_drawn(method):
    color, alpha, importance, boxes, background = _scene(1, 3, 3, (4, 4), (30, 30), (6, 6))
    boxes[0] = torch.tensor([[2.0, 2, 10, 10], [6.0, 6, 14, 14], [18.0, 18, 26, 26]])
    alpha[:, 1:] = importance[:, 1:] = 0  # absent
    image, *gradients = _gradients(render, (color, alpha, importance, boxes, background), method)
    assert all(gradient.isfinite().all() for gradient in gradients)
    only_absent = torch.ones(30, 30, dtype=torch.bool)
    only_absent[1:11, 1:11] = False  # half a texel, one pixel, around the first box
    assert torch.equal(image[..., only_absent], background[..., only_absent])
    assert not torch.isclose(image[..., 2:10, 2:10], background[..., 2:10, 2:10]).all(1).any()
    # and there the background alone has a say
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(gradients[-1][..., only_absent], weights[..., only_absent])


@pytest.mark.parametrize("method", METHODS)
def test_no_objects(method):
    color, alpha, importance, boxes, background = _scene(2, 0, 3, (4, 4), (10, 12), (6, 6))
    assert torch.equal(render(color, alpha, importance, boxes, background, method), background)


def test_one_opaque_object_is_its_patch():
    color, _, importance, _, background = _scene(1, 1, 3, (6, 8), (20, 30), (1, 1))
    boxes = torch.tensor([[[5.0, 3.0, 13.0, 9.0]]], dtype=torch.float64)
    expected = background.clone()
    expected[..., 3:9, 5:13] = color[:, 0]
    for method in METHODS:
        image = render(color, torch.ones_like(importance), importance, boxes, background, method)
        torch.testing.assert_close(image, expected)


def test_importance_decides_who_is_in_front():
    color, alpha, importance, boxes, background = _scene(1, 2, 1, (4, 4), (8, 8), (1, 1))
    boxes[:] = torch.tensor([0.0, 0, 8, 8])
    alpha[:], importance[:, 0], importance[:, 1] = 1, 1, 3
    color[:, 0], color[:, 1] = 0.2, 0.6
    for method in METHODS:
        image = render(color, alpha, importance, boxes, background, method)
        torch.testing.assert_close(image[..., 1:7, 1:7], torch.full((1, 1, 6, 6), (0.2 + 3 * 0.6) / 4).double())


def test_premultiplied_is_exact_at_texel_centres():
    """A box of the patch's size on the pixel grid is not interpolated: any maps, any overlap."""
    color, alpha, importance, boxes, background = _scene(2, 7, 3, (6, 5), (24, 31), (1, 1))
    corner = torch.rand(2, 7, 2).mul(20).round().double() - 2
    boxes = torch.cat([corner, corner + torch.tensor([5, 6])], -1)
    scene = color, alpha, importance, boxes, background
    image, *exact = _gradients(render, scene, "exact")
    other, *premultiplied = _gradients(render, scene, "premultiplied")
    torch.testing.assert_close(other, image)
    # a shift of the boxes would interpolate: only that gradient differs
    _assert_same([other, *premultiplied[:3], exact[3], premultiplied[4]], [image, *exact])


def test_premultiplied_is_exact_inside_constant_patches():
    """With constant alpha and importance, wherever no object's soft edge is; colours may vary. At soft edges not."""
    color, alpha, importance, boxes, background = _scene(2, 8, 3, (5, 6), (40, 56), (9, 20))
    alpha[:], importance[:] = alpha[..., :1, :1], importance[..., :1, :1]
    exact, premultiplied = (render(color, alpha, importance, boxes, background, method) for method in METHODS)
    y, x = torch.arange(40) + 0.5, torch.arange(56) + 0.5
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)
    edge_y, edge_x = (y2 - y1) / 10, (x2 - x1) / 12  # half a texel
    outside_y, outside_x = ((c < lo - e) | (c > hi + e) for c, lo, hi, e in ((y, y1, y2, edge_y), (x, x1, x2, edge_x)))
    inside_y, inside_x = ((c > lo + e) & (c < hi - e) for c, lo, hi, e in ((y, y1, y2, edge_y), (x, x1, x2, edge_x)))
    inside = inside_y[..., :, None] & inside_x[..., None, :]
    outside = outside_y[..., :, None] | outside_x[..., None, :]
    soft = ~(inside | outside).all(1)
    covered = ~soft & inside.any(1)
    assert 0.1 < covered.double().mean() < 0.9
    difference = (exact - premultiplied).abs().amax(1)
    assert difference[~soft].max() < 1e-12
    assert difference[soft].max() > 0.01
    # and not inside varying patches
    assert not torch.allclose(render(*_hard_scene()), render(*_hard_scene(), "premultiplied"), atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_nothing(method):
    scene = tuple(t.float() for t in _hard_scene())
    expected = _gradients(render, scene, method)

    def in_autocast(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return render(*tensors, method)

    _assert_same(_gradients(in_autocast, scene), expected, rtol=0, atol=0)
    assert render(*(t.bfloat16() for t in scene), method).dtype == torch.float32


def test_backward_inside_autocast_changes_nothing():
    scene = tuple(t.float() for t in _hard_scene())
    expected = _gradients(render, scene)
    with torch.autocast("cpu", torch.bfloat16):
        ours = _gradients(render, scene)
    _assert_same(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_vanishing_importance(method):
    color, alpha, importance, boxes, background = (t.float() for t in _hard_scene())
    image, *gradients = _gradients(render, (color, alpha, importance * 1e-41, boxes, background), method)
    for tensor in (image, *gradients):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("corner", [0, 1])
def test_not_a_number_is_handed_on(method, corner):
    """A diverged model is to learn of it by its loss."""
    scene = _hard_scene()
    expected = render(*scene, method)
    scene[3][1, 4, corner] = math.nan
    image = render(*scene, method)
    assert image[1].isnan().any()
    torch.testing.assert_close(image[::2], expected[::2])


def test_unknown_method():
    with pytest.raises(ValueError, match="unknown rendering method 'fast'; choose one of"):
        render(*_scene(1, 1, 1, (2, 2), (4, 4), (1, 2)), method="fast")
    with pytest.raises(ValueError, match="unknown color_edge 'reflect'; choose one of"):
        render(*_scene(1, 1, 1, (2, 2), (4, 4), (1, 2)), color_edge="reflect")


def test_interpolation_weights():
    """A pixel takes from the two texels around it; beyond half a texel from the box, from none."""
    low, high = torch.tensor([2.3, -4.0]).double(), torch.tensor([9.5, 30.0]).double()
    weights = interpolation_weights(low, high, 4, 12)
    assert weights.shape == (2, 12, 4)
    for n in range(2):
        for pixel in range(12):
            position = (pixel + 0.5 - low[n].item()) / (high[n] - low[n]).item() * 4 - 0.5
            expected = [max(0.0, 1 - abs(position - texel)) for texel in range(4)]
            assert weights[n, pixel].tolist() == pytest.approx(expected)
            assert sum(value > 0 for value in weights[n, pixel].tolist()) <= 2
