import torch
from torch import Tensor

from zoo.layers.nvil import Baseline, score_function


def test_the_estimator_s_mean_is_the_gradient_of_the_expected_cost() -> None:
    """Two samples, all four outcomes; whatever the baseline and the unit."""
    logits = torch.tensor([[0.3, -0.8]], dtype=torch.float64, requires_grad=True)
    baseline = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    exact = estimate = torch.zeros((), dtype=torch.float64)
    for outcome in ((0, 0), (0, 1), (1, 0), (1, 1)):
        sample = torch.tensor([outcome], dtype=torch.float64)
        chance = torch.where(sample == 1, logits.sigmoid(), 1 - logits.sigmoid()).prod()
        cost = (3 * sample[:, :1] - 2 * sample[:, :1] * sample[:, 1:] + 1).expand(1, 2)
        surrogate, error = score_function(cost, baseline, logits, sample, torch.ones_like(sample), unit=5.0)
        assert surrogate.item() == 0
        torch.testing.assert_close(error, (cost / 5 - baseline).square().sum())
        exact = exact + chance * cost[0, 0]
        estimate = estimate + chance.detach() * surrogate
    (expected,), (found,) = torch.autograd.grad(exact, logits), torch.autograd.grad(estimate, logits)
    torch.testing.assert_close(found, expected)


def test_the_baseline_reads_an_image_that_stays_once_and_passes_no_gradient_on() -> None:
    torch.manual_seed(0)
    net, image = Baseline(12, 3, 5), torch.rand(2, 1, 3, 4, requires_grad=True)
    features: list[Tensor] = [torch.rand(2, 3, requires_grad=True) for _ in range(2)]
    told = net([(image, features[0]), (image, features[1])])
    copied = net([(image, features[0]), (image.clone(), features[1])])
    assert told.shape == (2, 2, 1)
    torch.testing.assert_close(told, copied)
    told.sum().backward()
    assert image.grad is None
    assert all(one.grad is None for one in features)
