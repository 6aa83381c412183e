import pytest
import torch

from zoo.layers.soft_argmax import attend, soft_argmax, spatial_softmax


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, 3), (-2, 5)])
def test_soft_argmax_moves_with_the_map(dy: int, dx: int) -> None:
    """Equation 3: a shift of the map by whole cells shifts the coordinates by as many."""
    logits = torch.full((2, 3, 16, 24), -1e4)
    torch.manual_seed(0)
    logits[:, :, 5:10, 6:12] = torch.randn(2, 3, 5, 6)  # far enough from the border
    moved = torch.roll(logits, (dy, dx), (2, 3))
    cell = torch.tensor([2 / 15, 2 / 23])
    there, here = soft_argmax(spatial_softmax(moved)), soft_argmax(spatial_softmax(logits))
    torch.testing.assert_close(there - here, (torch.tensor([dy, dx]) * cell).expand(2, 3, 2), rtol=0, atol=1e-5)


def test_attention_against_loops_over_the_papers_sums() -> None:
    torch.manual_seed(1)
    (B, K, D, h, w) = (2, 3, 4, 5, 7)
    logits, features = torch.randn(B, K, h, w, dtype=torch.float64), torch.randn(B, D, h, w, dtype=torch.float64)
    attention = spatial_softmax(logits)
    place, query = soft_argmax(attention), attend(attention, features)
    for b in range(B):
        for k in range(K):
            total = sum(logits[b, k, j, i].exp() for j in range(h) for i in range(w))  # equation 11
            x = y = 0.0
            phi = torch.zeros(D, dtype=torch.float64)
            for j in range(h):
                for i in range(w):
                    a = logits[b, k, j, i].exp() / total
                    x += a * (2 * i / (w - 1) - 1)  # equations 12 to 15; the paper counts from 1
                    y += a * (2 * j / (h - 1) - 1)
                    phi += a * features[b, :, j, i]  # equation 16
            torch.testing.assert_close(place[b, k], torch.stack([y, x]))
            torch.testing.assert_close(query[b, k], phi)


def test_a_sharp_map_points_at_its_maximum() -> None:
    logits = torch.zeros(1, 1, 9, 9)
    logits[0, 0, 2, 8] = 100
    torch.testing.assert_close(soft_argmax(spatial_softmax(logits)), torch.tensor([[[-0.5, 1.0]]]))
