import torch

from zoo.layers.heat_map import HeatMap


def test_looks_at_what_is_bright_before_it_has_learned_anything() -> None:
    torch.manual_seed(0)
    net = HeatMap(1, 8, 5, gain=100.0)
    image = torch.zeros(2, 1, 50, 36)
    image[0, 0, 8:16, 24:32] = 1  # centre (28, 12)
    image[1, 0, 40:48, 4:12] = 1  # centre (8, 44)
    place, local = net(image, net.read(image), torch.zeros(2, 5))
    pixels = (place + 1) / 2 * torch.tensor([36.0, 50.0])
    torch.testing.assert_close(pixels, torch.tensor([[28.0, 12.0], [8.0, 44.0]]), rtol=0, atol=1.0)
    assert local.shape == (2, 8)


def test_mean_over_the_heat_is_a_sum_over_cells() -> None:
    torch.manual_seed(0)
    net = HeatMap(3, 4, 5, gain=0.0)
    image, state = torch.rand(1, 3, 16, 24), torch.randn(1, 5)
    features = net.read(image)
    assert features.shape == (1, 4, 6, 4)
    place, local = net(image, features, state)
    logits, x, y = [], [], []
    for i in range(4):
        for j in range(6):
            logits.append(net.score((features[0, i, j] + net.state(state)[0]).relu()))
            x.append((4 * j + 2) / 24 * 2 - 1)
            y.append((4 * i + 2) / 16 * 2 - 1)
    weights = torch.cat(logits).softmax(0)
    expected = torch.stack([weights @ torch.tensor(x), weights @ torch.tensor(y)])
    torch.testing.assert_close(place[0], expected)
    torch.testing.assert_close(local[0], weights @ features[0].flatten(0, 1))
    torch.testing.assert_close(net.summary(features)[0, 4:], features[0].amax((0, 1)))
