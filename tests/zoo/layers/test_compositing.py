import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers import compositing
from zoo.layers.compositing import composite, composite_losses

B, K, C, P, Q, H, W = 3, 4, 3, 8, 6, 12, 16
NAMES = ("color", "mask", "log_activation", "boxes", "background", "background_log_activation")


def scene(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(0)
    center, size = torch.rand(B, K, 2) * torch.tensor([W, H]), 2 + 8 * torch.rand(B, K, 2)
    tensors = {
        "color": torch.rand(B, K, C, P, Q),
        "mask": torch.rand(B, K, P, Q),
        "log_activation": torch.randn(B, K),
        "boxes": torch.cat([center - size / 2, center + size / 2], -1),
        "background": torch.rand(B, C, H, W),
        "background_log_activation": torch.tensor(0.5),
    }
    return {name: value.to(dtype) for name, value in tensors.items()}


def literally(
    color: Tensor, mask: Tensor, log_activation: Tensor, boxes: Tensor, background: Tensor, background_log_activation
) -> tuple[Tensor, Tensor]:
    """Algorithm 2, layer by layer and pixel by pixel, with the paper's spatial transformer."""
    images, weights = torch.zeros(B, C, H, W), torch.zeros(B, K + 1, H, W)
    for b in range(B):
        L, M = [background[b]], [torch.ones(H, W)]
        for k in range(K):
            x1, y1, x2, y2 = boxes[b, k]
            s_x, s_y = W / (x2 - x1), H / (y2 - y1)
            x, y = (x1 + x2) / W - 1, (y1 + y2) / H - 1
            theta = torch.tensor([[s_x, 0, -x * s_x], [0, s_y, -y * s_y]])
            grid = F.affine_grid(theta[None], [1, C + 1, H, W], align_corners=False)
            pasted = F.grid_sample(torch.cat([color[b, k], mask[b, k][None]])[None], grid, align_corners=False)[0]
            L.append(pasted[:C])
            M.append(pasted[C])
        alpha = [background_log_activation.exp(), *log_activation[b].exp()]
        for j in range(H):
            for i in range(W):
                total = sum(alpha[k] * M[k][j, i] for k in range(K + 1))
                for k in range(K + 1):
                    weights[b, k, j, i] = alpha[k] * M[k][j, i] / total  # equation 17
                    images[b, :, j, i] += weights[b, k, j, i] * L[k][:, j, i]  # equation 18
    return images, weights


def literal_losses(image: Tensor, drawn: Tensor, weights: Tensor) -> tuple[float, float, float]:
    reconstruction = entropy = count = 0.0
    for b in range(B):
        for j in range(H):
            for i in range(W):
                reconstruction += sum(abs(float(drawn[b, c, j, i] - image[b, c, j, i])) for c in range(C)) ** 2
                w = weights[b, :, j, i].double().tolist()
                entropy += sum(v * math.log(v + 1e-20) for v in w) ** 2
        shares = [float(weights[b, k].double().mean()) for k in range(K + 1)]
        count += sum(math.log(1 + 400 * v) for v in shares[1:])
    return reconstruction / (B * H * W), entropy / (B * H * W), count / B


def test_composite_against_a_loop_over_layers_and_pixels() -> None:
    inputs = scene()
    drawn, weights = composite(**inputs)
    by_hand = literally(**inputs)
    torch.testing.assert_close(drawn, by_hand[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights, by_hand[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.sum(1), torch.ones(B, H, W))


@pytest.mark.parametrize("chunk", [1, 2 * K * (C + 1) * H * W * 4, 2**30])
def test_losses_against_loops_whatever_the_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compositing._CHUNK_BYTES, "cpu", chunk)
    inputs, image = scene(), torch.rand(B, C, H, W, generator=torch.Generator().manual_seed(3))
    losses = composite_losses(image, **inputs)
    by_hand = literal_losses(image, *literally(**inputs))
    assert [loss.item() for loss in losses] == pytest.approx(by_hand, rel=1e-4)


def test_the_error_of_layers_exceeds_that_of_their_mix_by_their_variance() -> None:
    """For grey images, whose squared L1 error is the squared error: E |L - x|^2 = |E L - x|^2 + Var L."""
    inputs, image = scene(torch.float64), torch.rand(B, 1, H, W, dtype=torch.float64)
    inputs["color"], inputs["background"] = inputs["color"][:, :, :1], inputs["background"][:, :1]
    drawn, weights = composite(**inputs)
    squares = torch.zeros_like(image)
    for k in range(K):  # a layer alone, as a composite of which nothing else has a colour
        only = inputs["color"] * F.one_hot(torch.tensor(k), K)[:, None, None, None]
        part = composite(**{**inputs, "color": only, "background": torch.zeros_like(image)})[0]
        squares += torch.where(weights[:, k + 1, None] > 0, part.square() / weights[:, k + 1, None], 0)
    squares += weights[:, :1] * inputs["background"].square()
    variance = (squares - drawn.square()).mean()
    of_mix, of_layers, half = (composite_losses(image, **inputs, layer_error=share)[0] for share in (0, 1, 0.5))
    torch.testing.assert_close(of_layers, of_mix + variance)
    torch.testing.assert_close(half, (of_mix + of_layers) / 2)
    colored, image = scene(), torch.rand(B, C, H, W)
    bare = {**colored, "mask": torch.zeros_like(colored["mask"])}
    expected = C * (colored["background"] - image).square().sum(1).mean()
    torch.testing.assert_close(composite_losses(image, **bare, layer_error=1)[0], expected)


def test_one_slot_on_an_object_counts_less_than_two() -> None:
    """The same pixels in the same colour, by one slot, by two halves, and by two slots that share each pixel."""
    white, whole = torch.ones(1, 2, 1, 8, 8), torch.ones(1, 2, 8, 8)
    left = whole * (torch.arange(8) < 4)
    boxes = torch.tensor([4.0, 4.0, 12.0, 12.0]).expand(1, 2, 4)
    image, behind, faint = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), torch.tensor(-20.0)
    alike, alone = torch.zeros(1, 2), torch.tensor([[0.0, -40.0]])
    ways = [(whole, alone), (torch.stack([left[:, 0], whole[:, 1] - left[:, 1]], 1), alike), (whole, alike)]
    one, halves, both = (composite_losses(image, white, mask, log, boxes, behind, faint) for mask, log in ways)
    torch.testing.assert_close(halves[0], one[0])
    torch.testing.assert_close(both[0], one[0])
    assert one.objects < 0.7 * halves.objects
    assert one.objects < 0.7 * both.objects


@pytest.mark.parametrize(("chunk", "layer_error"), [(1, 0.0), (2**30, 0.3), (1, 1.0)])
def test_gradients_are_those_of_finite_differences(
    chunk: int, layer_error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compositing._CHUNK_BYTES, "cpu", chunk)
    inputs = {name: value[:2] if value.ndim else value for name, value in scene(torch.float64).items()}
    # few pixels and texels, and centres off the kinks of bilinear interpolation
    inputs["color"], inputs["mask"] = inputs["color"][..., :3, :2], inputs["mask"][..., :3, :2]
    inputs["background"] = inputs["background"][..., :5, :6]
    inputs["boxes"] = inputs["boxes"] / 2.7
    image = torch.rand(2, C, 5, 6, dtype=torch.float64)
    leaves = [inputs[name].requires_grad_() for name in NAMES]
    torch.autograd.gradcheck(lambda *x: composite_losses(image, *x, layer_error), leaves, atol=1e-5)


def test_weights_of_nothing_are_finite_and_so_are_their_gradients() -> None:
    """Masks of 0, activations beyond what single precision can exponentiate, in either direction."""
    inputs = scene()
    inputs["mask"][:, 0] = 0
    inputs["log_activation"] = torch.tensor([0.0, 200.0, -200.0, 11.0]).expand(B, K).clone()
    leaves = [value.requires_grad_() for value in inputs.values()]
    losses = composite_losses(torch.rand(B, C, H, W), **inputs)
    sum(losses).backward()
    assert all(torch.isfinite(loss) for loss in losses)
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_gradients_hold_up_to_the_largest_ratio_of_activations() -> None:
    """The weights' gradients need the square of what the ratio divides by: 1e-35 here, 1e-48 at 55."""
    inputs = scene()
    inputs["log_activation"] = torch.full((B, K), 39.0)
    inputs["log_activation"][:, 0] = 38.0
    inputs["background_log_activation"] = torch.tensor(0.0)
    image, gradients = torch.rand(B, C, H, W), []
    for dtype in (torch.float32, torch.float64):
        leaves = {name: value.to(dtype).detach().requires_grad_() for name, value in inputs.items()}
        composite_losses(image.to(dtype), **leaves)[0].backward()
        gradients.append([leaf.grad for leaf in leaves.values()])
    for single, double in zip(*gradients, strict=True):
        torch.testing.assert_close(single, double.float(), rtol=2e-3, atol=1e-6)


def test_half_precision_surroundings_change_nothing() -> None:
    inputs, image = scene(), torch.rand(B, C, H, W)
    exact = composite_losses(image, **inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert composite_losses(image, **inputs) == exact
