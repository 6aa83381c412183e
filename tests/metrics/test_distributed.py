"""One process and two give the same figures, however the data are shared out."""

import warnings
from typing import Any

import pytest
import torch
from helpers_distributed import run_processes
from torch import Tensor
from torchmetrics import MetricCollection

from metrics import (
    AveragePrecision,
    ClusterPurity,
    CountAccuracy,
    CountError,
    ForegroundARI,
    GMAIRAveragePrecision,
    HungarianAccuracy,
    MeanIoU,
    NormalizedMutualInformation,
    SegmentationCovering,
    SPAIRAveragePrecision,
    cluster_label_pairs,
)

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
COUNTS = ("accuracy", "error")
CLUSTERS = ("hungarian", "purity", "nmi")


def make_metrics() -> MetricCollection:
    return MetricCollection(
        {
            "ap": AveragePrecision(),
            "ap11": AveragePrecision([0.1, 0.5], "11_points"),
            "spair": SPAIRAveragePrecision(4),
            "gmair": GMAIRAveragePrecision(),
            "hungarian": HungarianAccuracy(4, 3),
            "purity": ClusterPurity(4, 3),
            "nmi": NormalizedMutualInformation(4, 3),
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
        clusters, labels = scores.mul(3).round().long(), target_boxes[..., 0].div(7).long()
        for name, metric in metrics.items():
            if name in CLUSTERS:
                arguments = cluster_label_pairs(clusters, scores, boxes, labels, target_boxes, valid)
            else:
                arguments = (scores, valid) if name in COUNTS else (boxes, scores, target_boxes, valid)
            metric.update(*arguments) if i % 2 else metric(*arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method")
        return metrics.compute()


def evaluate_share(rank: int) -> dict[str, dict[str, Tensor]]:
    metrics = make_metrics()  # the same objects for all cases, as for all epochs of a training
    return {name: evaluate(shares[rank], metrics) for name, shares in CASES.items()}


def evaluate_all_shares(rank: int) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Tensor]]]:
    return evaluate_share(rank), evaluate_mask_shares(rank)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Of every rank; one start of the processes for all tests."""
    return run_processes(evaluate_all_shares, tmp_path_factory.mktemp("processes"))


def test_processes_do_not_matter(results: list[Any]):
    by_rank = [values for values, _ in results]
    metrics = make_metrics()
    for name, (first, second) in CASES.items():
        dealt = [share[i] for i in range(max(len(first), len(second))) for share in (first, second) if i < len(share)]
        expected = evaluate(dealt, metrics)
        if name == "uneven":
            gathered = evaluate(first + second, metrics)
            del gathered["spair"]  # of batches, which are others then
            assert all(value.item() == pytest.approx(expected[key].item()) for key, value in gathered.items())
        assert name == "all empty" or all(0 < value < 3 for value in expected.values())
        for values in by_rank:
            for key, value in values[name].items():
                assert value.item() == pytest.approx(expected[key].item(), abs=1e-6, nan_ok=True), (name, key)


def evaluate_masks(images: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    metrics = MetricCollection(
        {
            "ari_fg": ForegroundARI(),
            "ari_fg_1": ForegroundARI(empty_score=1.0),
            "miou": MeanIoU(include_background=True),
            "miou_fg": MeanIoU(include_background=False),
            "miou_fg_strict": MeanIoU(include_background=False, strict=True),
            "msc_fg": SegmentationCovering(),
        }
    )
    for i, maps in enumerate(images):
        metrics.update(*maps) if i % 2 else metrics(*maps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method")
        return metrics.compute()


def make_masks() -> list[tuple[Tensor, Tensor]]:
    """Batches of various sizes, images without objects among them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1 + i % 3, 6 + i, 9) for i in range(9)]
    pairs = [tuple(torch.randint(ids, shape, generator=generator) for ids in (4, 3)) for shape in shapes]
    return [(mask, target * (i % 4 > 0)) for i, (mask, target) in enumerate(pairs)]


def evaluate_mask_shares(rank: int) -> list[dict[str, Tensor]]:
    masks = make_masks()
    return [evaluate_masks(shares[rank]) for shares in ((masks[:7], masks[7:]), ([], masks), (masks, []), ([], []))]


def test_processes_do_not_matter_for_masks(results: list[Any]):
    expected = evaluate_masks(make_masks())
    assert all(-1 < value < 1 for value in expected.values())
    assert expected["ari_fg"] < expected["ari_fg_1"]
    for _, (*values, nothing) in results:
        assert values == [expected] * 3  # to the last bit
        assert all(value.isnan() for value in nothing.values())
