import math

import pytest
import straightforward_overlap
import torch
from torch import Tensor

from zoo.layers import renderer
from zoo.layers.overlap import instance_mask, overlap

Maps = tuple[Tensor, Tensor, Tensor]


def scene(B: int, N: int, C: int, image: tuple[int, int], sizes: tuple[float, float], seed: int = 0) -> Maps:
    """Colours, alpha and boxes that lie in, across and beyond the image's border."""
    torch.manual_seed(seed)
    H, W = image
    center = torch.rand(B, N, 2) * torch.tensor([1.2 * W, 1.2 * H]) - 0.1 * torch.tensor([W, H])
    half = (sizes[0] + (sizes[1] - sizes[0]) * torch.rand(B, N, 2)) / 2
    boxes = torch.cat([center - half, center + half], -1).double()
    return torch.rand(B, N, C, 5, 4).double(), torch.rand(B, N, 5, 4).double(), boxes


@pytest.mark.parametrize("edge", renderer.COLOR_EDGES)
@pytest.mark.parametrize("image", [(30, 41), (9, 11)], ids=["windows", "whole images"])
def test_overlap_and_its_gradients_are_those_of_full_canvases(image, edge, monkeypatch) -> None:
    color, alpha, boxes = scene(3, 7, 3, image, (4, 12))
    alpha[:, 2] = 0  # absent
    boxes[0, 3] += 500  # far outside
    assert (renderer._Windows(boxes, (5, 4), image, None).index is None) == (image == (9, 11))
    weights = torch.tensor([1.0, -0.5, 2.0]).double()  # each image has its own share in the loss
    results = []
    for function in (overlap, straightforward_overlap.overlap):
        leaves = [t.clone().requires_grad_() for t in (color, alpha, boxes)]
        value = function(*leaves, image, color_edge=edge)
        results.append([value.detach(), *torch.autograd.grad(value @ weights, leaves)])
    monkeypatch.setitem(renderer._CHUNK_BYTES, "cpu", 1)  # image by image
    results.append([overlap(color, alpha, boxes, image, color_edge=edge)])
    ours, expected, chunked = results
    assert (expected[0] > 0.5).all()
    present = torch.arange(7) != 2  # where nothing is drawn all are largest, and amax divides the gradient among them
    for name, a, b in zip(("value", "color", "alpha", "boxes"), ours, expected, strict=True):
        if name == "alpha":
            a, b = a[:, present], b[:, present]
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(chunked[0], expected[0])


def test_overlap_gradcheck() -> None:
    color, alpha, boxes = (t.requires_grad_() for t in scene(2, 3, 2, (12, 10), (3, 6)))
    assert torch.autograd.gradcheck(lambda *leaves: overlap(*leaves, (12, 10)), (color, alpha, boxes))


def test_overlap_by_hand() -> None:
    """Two patches of 4 x 4 pixels that share a quarter; where they do, the fainter one counts."""
    color = torch.ones(1, 2, 1, 4, 4)
    alpha = torch.tensor([0.9, 0.4])[None, :, None, None].expand(1, 2, 4, 4)
    boxes = torch.tensor([[[2.0, 2, 6, 6], [4.0, 4, 8, 8]]])
    assert overlap(color, alpha, boxes, (16, 16)).item() == pytest.approx(4 * 0.4, abs=1e-5)
    apart = boxes + torch.tensor([0.0, 8.0])[None, :, None]
    assert overlap(color, alpha, apart, (16, 16)).item() == 0
    nobody = overlap(color[:, :0], alpha[:, :0], boxes[:, :0], (16, 16))
    assert nobody.tolist() == [0]


def _mask_by_loops(
    g: Tensor | None, v: Tensor, presence: Tensor, boxes: Tensor, image: tuple[int, int], least: float
) -> list:
    """Pixel by pixel and object by object, interpolating by hand."""

    def interpolate(patch: Tensor, y: float, x: float) -> float:
        P, Q = patch.shape
        around = [(r, c) for r in range(P) for c in range(Q) if abs(y - r) < 1 and abs(x - c) < 1]
        return sum((1 - abs(y - r)) * (1 - abs(x - c)) * patch[r, c].item() for r, c in around)

    (H, W), (P, Q) = image, v.shape[-2:]
    rows = []
    for row in range(H):
        for column in range(W):
            best, label = 0.0, 0
            for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                y = (row + 0.5 - y1) / (y2 - y1) * P - 0.5
                x = (column + 0.5 - x1) / (x2 - x1) * Q - 0.5
                cover = interpolate(v[n], y, x)
                share = cover if g is None else interpolate(g[n], y, x) * cover
                if share > best:
                    best, label = share, n + 1 if presence[n] >= 0.5 and cover >= least else 0
            rows.append(label)
    return torch.tensor(rows).view(H, W).tolist()


@pytest.mark.parametrize("image", [(17, 21), (8, 9)], ids=["windows", "whole images"])
def test_masks_pixel_by_pixel(image) -> None:
    _, cover, boxes = scene(2, 6, 1, image, (3, 8))
    importance, presence = torch.rand(2, 6, 5, 4), torch.tensor([[1.0, 0.2, 0.9, 0.6, 0.5, 0.4]] * 2)
    cover = cover.float()
    mask = instance_mask(importance, cover, presence, boxes, image, 0.3)
    assert mask.dtype == torch.long
    for b in range(2):
        assert mask[b].tolist() == _mask_by_loops(importance[b], cover[b], presence[b], boxes[b].float(), image, 0.3)
    assert {0, 1, 3, 4} <= set(mask.unique().tolist()) <= {0, 1, 3, 4, 5}  # 2 and 6 are absent
    added_up = instance_mask(None, cover, presence, boxes, image)
    for b in range(2):
        own = cover[b] * (presence[b] >= 0.5)[:, None, None]  # others hide nothing
        assert added_up[b].tolist() == _mask_by_loops(None, own, presence[b], boxes[b].float(), image, 0.5)
    assert added_up.any()


def test_masks_of_nothing() -> None:
    none = torch.zeros(2, 3, 4, 4)
    boxes = torch.tensor([2.0, 2, 7, 7]).expand(2, 3, 4)
    assert not instance_mask(none, none, torch.ones(2, 3), boxes, (20, 20), 0.1).any()
    assert not instance_mask(none[:, :0], none[:, :0], torch.ones(2, 0), boxes[:, :0], (20, 20)).any()


def test_autocast_changes_nothing() -> None:
    color, alpha, boxes = (t.float() for t in scene(2, 4, 3, (30, 30), (4, 12)))
    expected = overlap(color, alpha, boxes, (30, 30))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(overlap(color, alpha, boxes, (30, 30)), expected)
    boxes[1, 2, 0] = math.nan  # a diverged model is to learn of it by its loss
    value = overlap(color, alpha, boxes, (30, 30))
    assert value[1].isnan()
    torch.testing.assert_close(value[0], expected[0])


def test_objects_of_like_size_are_drawn_together_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """In windows of their own, and everything stays the same: images, overlap, masks, gradients."""
    color, alpha, boxes = scene(3, 20, 3, (60, 50), (4, 24))
    importance, background = torch.rand_like(alpha), torch.rand(3, 3, 60, 50).double()
    presence = torch.linspace(0.2, 1, 20).expand(3, -1)
    sizes = []

    def results() -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (color, alpha, importance, boxes, background)]
        image = renderer.render(*leaves)
        loss = (image * torch.linspace(0, 1, 50)).sum() + overlap(*leaves[:2], leaves[3], (60, 50)).sum()
        mask = instance_mask(importance, alpha, presence, boxes, (60, 50), 0.2)
        return [image.detach(), loss.detach(), mask, *torch.autograd.grad(loss, leaves)]

    expected = results()
    windows = renderer._Windows.draw_maps
    monkeypatch.setattr(renderer, "_MANY", 20)
    monkeypatch.setattr(renderer, "_GROUP", 7)
    monkeypatch.setattr(
        renderer._Windows, "draw_maps", lambda self, *maps: sizes.append((self.S, self.T)) or windows(self, *maps)
    )
    for ours, before in zip(results(), expected, strict=True):
        torch.testing.assert_close(ours, before)
    assert len(set(sizes)) > 2
