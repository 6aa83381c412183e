"""One process and two give the same figures, however the data are shared out."""

import warnings
from pathlib import Path

import pytest
import torch
from helpers_distributed import run_processes
from torch import Tensor
from torchmetrics import MetricCollection

from metrics import AveragePrecision, CountAccuracy, CountError, SPAIRAveragePrecision

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def make_metrics() -> MetricCollection:
    return MetricCollection(
        {
            "ap": AveragePrecision(),
            "ap11": AveragePrecision([0.1, 0.5], "11_points"),
            "spair": SPAIRAveragePrecision(),
            "accuracy": CountAccuracy(),
            "error": CountError(),
        },
        compute_groups=False,
    )


def make_images(count: int, *, ties: bool) -> list[Batch]:
    """`count` batches of one image, of different numbers of slots and rows."""
    generator = torch.Generator().manual_seed(count)
    images = []
    for i in range(count):
        K, N = 3 + i % 3, 1 + i % 4
        corner = torch.rand(1, N, 2, generator=generator) * 20
        targets = torch.cat([corner, corner + 6], dim=2)
        source = torch.randint(N, (K,), generator=generator)
        boxes = targets[:, source] + torch.randn(1, K, 4, generator=generator) * 1.5
        scores = torch.rand(1, K, generator=generator)
        if ties:
            scores = scores.mul(3).ceil() / 3
        images.append((boxes, scores, targets, torch.rand(1, N, generator=generator) < 0.7))
    return images


CASES: dict[str, list[list[Batch]]] = {
    # Distinct scores: any share will do. With ties, images are dealt in turn, as by `DistributedSampler`.
    "uneven": [make_images(9, ties=False)[:7], make_images(9, ties=False)[7:]],
    "ties": [make_images(11, ties=True)[0::2], make_images(11, ties=True)[1::2]],
    "one empty": [[], make_images(12, ties=True)],
    "other empty": [make_images(12, ties=True), []],
    "all empty": [[], []],
}


def evaluate(batches: list[Batch], metrics: MetricCollection) -> dict[str, Tensor]:
    metrics.reset()
    for i, (boxes, scores, target_boxes, valid) in enumerate(batches):
        for name, metric in metrics.items():
            arguments = (scores, valid) if name in ("accuracy", "error") else (boxes, scores, target_boxes, valid)
            metric.update(*arguments) if i % 2 else metric(*arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method")
        return metrics.compute()


def evaluate_share(rank: int) -> dict[str, dict[str, Tensor]]:
    metrics = make_metrics()  # the same objects for all cases, as for all epochs of a training
    return {name: evaluate(shares[rank], metrics) for name, shares in CASES.items()}


def test_processes_do_not_matter(tmp_path: Path):
    by_rank = run_processes(evaluate_share, tmp_path)
    metrics = make_metrics()
    for name, (first, second) in CASES.items():
        dealt = [share[i] for i in range(max(len(first), len(second))) for share in (first, second) if i < len(share)]
        expected = evaluate(first + second if name == "uneven" else dealt, metrics)
        assert name == "all empty" or all(0 < value < 3 for value in expected.values())
        for values in by_rank:
            for key, value in values[name].items():
                assert value.item() == pytest.approx(expected[key].item(), abs=1e-6, nan_ok=True), (name, key)
