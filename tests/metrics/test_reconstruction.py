import math
from pathlib import Path

import pytest
import torch
from helpers_distributed import run_processes
from sklearn.metrics import mean_squared_error
from torch import Tensor
from torchmetrics import MetricCollection

from metrics import ReconstructionError

REDUCTIONS = ("mean", "root_mean", "sum", "normalized")


def make_batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shape = [(5, 3, 8, 6), (1, 3, 8, 6), (0, 3, 8, 6), (4, 3, 8, 6)]
    return [(torch.rand(size, generator=generator), torch.rand(size, generator=generator)) for size in shape]


def evaluate(batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    metrics = MetricCollection({reduction: ReconstructionError(reduction) for reduction in REDUCTIONS})
    for batch in batches:
        metrics.update(*batch)
    assert len(metrics.compute_groups) == 1  # one update serves them all
    return metrics.compute()


def test_equal_loops_and_scikit_learn():
    values = evaluate(make_batches())
    reconstructions, images = (torch.cat(parts).double() for parts in zip(*make_batches(), strict=True))
    mean = mean_squared_error(images.flatten(), reconstructions.flatten())
    assert values["mean"].item() == pytest.approx(mean)
    assert values["root_mean"].item() == pytest.approx(math.sqrt(mean))
    summed = [((a - b) ** 2).sum().item() for a, b in zip(reconstructions, images, strict=True)]
    assert values["sum"].item() == pytest.approx(sum(summed) / 10)
    energy = sum(value**2 for value in images.flatten().tolist())
    assert values["normalized"].item() == pytest.approx(sum(summed) / energy)


def test_a_black_reconstruction_has_a_normalized_error_of_one():
    image = torch.rand(3, 1, 4, 4)
    metric = ReconstructionError("normalized")
    assert metric(torch.zeros_like(image), image) == 1
    assert ReconstructionError("normalized")(image, image) == 0


def test_precision_of_the_model_does_not_matter():
    image, reconstruction = torch.rand(200, 1, 16, 16), torch.rand(200, 1, 16, 16).bfloat16()
    metric, exact = ReconstructionError("sum").to(torch.bfloat16), ReconstructionError("sum")
    for i in range(0, 200, 2):
        metric.update(reconstruction[i : i + 2], image[i : i + 2])
    exact.update(reconstruction.float(), image)
    assert metric.compute().item() == pytest.approx(exact.compute().item(), rel=1e-5)


def test_rounding_does_not_add_up_over_many_batches():
    """Plain float32 sums would be off by 1e-4 here."""
    image = torch.zeros(1, 3, 24, 32)
    metric = ReconstructionError("sum")
    for _ in range(20_000):
        metric.update(image + 0.3, image)
    assert metric.compute().item() == pytest.approx((image + 0.3).square().sum().item(), rel=1e-7)


def evaluate_share(rank: int) -> dict[str, Tensor]:
    return evaluate(make_batches()[:1] if rank else make_batches()[1:])


def test_processes_do_not_matter(tmp_path: Path):
    expected = evaluate(make_batches())
    for values in run_processes(evaluate_share, tmp_path):
        for reduction in REDUCTIONS:
            assert values[reduction].item() == pytest.approx(expected[reduction].item())


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"reduction is 'median', expected one of .*root_mean"):
        ReconstructionError("median")
    image = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"image has shape \(2, 4, 4\), expected \(B, C, H, W\)"):
        ReconstructionError().update(image[:, 0], image[:, 0])
    with pytest.raises(ValueError, match=r"reconstruction has shape \(2, 3, 4, 4\), expected \(2, 1, 4, 4\)"):
        ReconstructionError().update(image.expand(-1, 3, -1, -1), image)
    with pytest.raises(ValueError, match=r"image has type torch.uint8"):
        ReconstructionError().update(image, image.byte())
    metric = ReconstructionError()
    metric.update(image[:0], image[:0])
    assert metric.compute().isnan()


def test_update_reads_no_value():
    image = torch.zeros(2, 1, 4, 4, device="meta")
    ReconstructionError().to("meta").update(image, image)
