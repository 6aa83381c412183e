import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torchmetrics import MetricCollection

from metrics import ForegroundARI, MeanIoU, ReconstructionError, SegmentationCovering


def random_map(rng: np.random.Generator, ids: list[int], size: tuple[int, int], block: int = 8) -> np.ndarray:
    """Blobs of some ids: coarse cells, each of one id, with single pixels of other ids strewn in."""
    coarse = rng.choice(ids, (-(-size[0] // block), -(-size[1] // block)))
    fine = np.kron(coarse, np.ones((block, block), int))[: size[0], : size[1]]
    return np.where(rng.random(size) < 0.1, rng.choice(ids, size), fine)


def make_maps(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Ten images: various numbers of masks, ids with gaps, and every degenerate case."""
    rng = np.random.default_rng(0)
    choices = [
        ([0, 1, 2, 3], [0, 1, 2]),
        ([0, 2, 900, 4000], [0, 7, 3000]),
        ([5], [0, 1, 2]),
        ([0, 1, 2, 3, 4], [3]),
        ([0, 1], [0]),  # no object, something predicted
        ([0], [0]),  # no object, nothing predicted
        ([0], [0, 1, 2, 3]),  # nothing predicted
        ([1, 2], [1, 2]),
        ([0, 1], [0, 6]),
    ]
    predicted = [random_map(rng, ids, size) for ids, _ in choices]
    true = [random_map(rng, ids, size) for _, ids in choices]
    perfect = random_map(rng, [0, 1, 2, 3], size)
    return torch.tensor(np.stack([*predicted, (9 - perfect) * 100])), torch.tensor(np.stack([*true, perfect]))


def literal_iou(mask: np.ndarray, true: np.ndarray, i: int, j: int) -> float:
    return ((true == i) & (mask == j)).sum() / ((true == i) | (mask == j)).sum()


def literal_miou(mask: np.ndarray, true: np.ndarray, background: bool) -> float:
    """Every one-to-one matching is tried; pairs that share nothing are not made."""
    rows, columns = np.unique(true), np.unique(mask)
    best: tuple[float, list[tuple[int, float]]] = (-1.0, [])
    for order in itertools.permutations([*columns, *[None] * len(rows)], len(rows)):
        pairs = [(i, literal_iou(mask, true, i, j)) for i, j in zip(rows, order, strict=True) if j is not None]
        pairs = [(i, iou) for i, iou in pairs if iou > 0]
        best = max(best, (sum(iou for _, iou in pairs), pairs), key=lambda entry: entry[0])
    total, pairs = best
    masks = len(rows) + len(columns) - len(pairs)
    if background:
        return total / masks
    return sum(iou for i, iou in pairs if i != 0) / (masks - (0 in rows)) if rows.any() else math.nan


def literal_covering(mask: np.ndarray, true: np.ndarray, foreground: bool) -> float:
    rows = [i for i in np.unique(true) if i or not foreground]
    best = [max(literal_iou(mask, true, i, j) for j in np.unique(mask)) for i in rows]
    return sum(best) / len(best) if best else math.nan


def literal_ari(mask: np.ndarray, true: np.ndarray) -> float:
    return adjusted_rand_score(true[true > 0], mask[true > 0]) if true.any() else math.nan


CASES = {
    "ari": (ForegroundARI(), literal_ari),
    "miou": (MeanIoU(include_background=True), lambda mask, true: literal_miou(mask, true, True)),
    "miou_fg": (MeanIoU(include_background=False), lambda mask, true: literal_miou(mask, true, False)),
    "msc": (SegmentationCovering(foreground=False), lambda mask, true: literal_covering(mask, true, False)),
    "msc_fg": (SegmentationCovering(foreground=True), lambda mask, true: literal_covering(mask, true, True)),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(64, 64), (240, 320)])
@pytest.mark.parametrize("name", CASES)
def test_every_image_agrees_with_a_literal_loop(name, size, device):
    metric, literal = CASES[name]
    metric = metric.to(device)
    metric.reset()
    maps = [value.to(device) for value in make_maps(size)]
    expected = [literal(mask.cpu().numpy(), true.cpu().numpy()) for mask, true in zip(*maps, strict=True)]
    alone = [metric(mask[None], true[None]).item() for mask, true in zip(*maps, strict=True)]
    assert alone == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert sum(map(math.isnan, expected)) == (0 if name in ("miou", "msc") else 2)
    assert expected[-1] == 1
    together = type(metric)(metric.include_background) if isinstance(metric, MeanIoU) else metric
    together = together.to(device)
    together.reset()
    together.update(*maps)
    assert together.compute().item() == pytest.approx(np.nanmean(expected), abs=1e-6)
    assert together.compute().device.type == device


def published_miou(mask: np.ndarray, true: np.ndarray, background: bool) -> tuple[float, bool]:
    """The benchmark's formula: both sides padded to K masks, a pair visible if either of its masks is.

    Also tells whether two visible masks were paired that share no pixel.
    """
    K = max(mask.max(), true.max()) + 1
    iou = np.array([[literal_iou(mask, true, i, j) if i in true else 0 for j in range(K)] for i in range(K)])
    rows, columns = linear_sum_assignment(iou, maximize=True)
    matched, pairs = iou[rows, columns], list(zip(rows, columns, strict=True))
    visible = sum(i in true or j in mask for i, j in pairs)
    strangers = any(i in true and j in mask and iou[i, j] == 0 for i, j in pairs)
    return (matched.sum() / visible if background else matched[1:].sum() / (visible - 1)), strangers


def test_mean_iou_differs_from_the_published_programs_only_in_pairs_that_share_nothing():
    rng = np.random.default_rng(3)
    compared = 0
    for _ in range(60):
        ids = int(rng.integers(2, 6))
        true, mask = (random_map(rng, list(range(ids)), (24, 24), block=8) for _ in range(2))
        true[0, 0] = 0
        for background in (True, False):
            ours = MeanIoU(background)(torch.tensor(mask)[None], torch.tensor(true)[None]).item()
            theirs, strangers = published_miou(mask, true, background)
            assert ours <= theirs + 1e-6
            assert strangers or ours == pytest.approx(theirs, abs=1e-6)
            compared += not strangers
    assert compared >= 30


def test_degenerate_images():
    empty, one, other = torch.zeros(3, 8, 8, dtype=torch.long).unbind()
    one[2:4, 2:6] = 1
    other[2:4, 2:4] = 1
    other[2:4, 4:6] = 2

    def scores(mask: Tensor, true: Tensor) -> list[float]:
        return [metric(mask[None], true[None]).item() for metric, _ in CASES.values()]

    # ARI-FG, mIoU, mIoU-FG, MSC, MSC-FG
    assert scores(one, one) == [1] * 5
    assert scores(one * 50 + 3, one) == [1] * 5
    assert scores(empty, one) == pytest.approx([1, 0.875 / 2, 0, 1 / 2, 8 / 64])  # one object, one cluster
    assert scores(other, one) == pytest.approx([0, 1.5 / 3, 0.5 / 2, 1.5 / 2, 0.5])  # one object in two halves
    assert scores(one, other) == pytest.approx([0, 1.5 / 3, 0.5 / 2, 2 / 3, 0.5])
    assert scores(one, empty) == pytest.approx([math.nan, 0.875 / 2, math.nan, 0.875, math.nan], nan_ok=True)
    assert scores(empty, empty) == pytest.approx([math.nan, 1, math.nan, 1, math.nan], nan_ok=True)
    assert scores(one, one + 1) == pytest.approx([1] * 5)  # no background: both are objects
    pixel = empty.clone()
    pixel[0, 0] = 1
    assert scores(empty, pixel)[0] == 1


def test_images_without_objects_count_as_the_published_programs_have_it_if_asked():
    target = torch.zeros(4, 6, 6, dtype=torch.long)
    target[0, :3], target[0, 3:] = 1, 2
    mask = torch.zeros_like(target)
    assert ForegroundARI()(mask, target) == 0
    assert ForegroundARI(empty_score=1.0)(mask, target) == 0.75
    assert SegmentationCovering()(mask, target) == 0.5
    assert SegmentationCovering(empty_score=0.0)(mask, target) == 0.125
    with pytest.raises(ValueError, match=r"empty_score is 7, expected a score in \[-1, 1\] or None"):
        ForegroundARI(empty_score=7)


def test_names_of_ids_do_not_matter_and_may_be_huge():
    mask, target = make_maps((32, 32))
    generator = torch.Generator().manual_seed(0)
    for metric, _ in CASES.values():
        expected = metric(mask, target)
        new = torch.randint(1, 2**62, (2, 4001), generator=generator)
        new[1, 0] = 0  # of true ids the background's stays
        assert torch.equal(metric(new[0][mask], new[1][target]), expected)
        swapped = torch.where(target > 0, 4001 - target, 0)
        assert torch.equal(metric(mask.int(), swapped.int()), expected)
        assert torch.equal(metric(mask[7:8].byte(), target[7:8].to(torch.int16)), metric(mask[7:8], target[7:8]))


def test_sums_over_thousands_of_images_are_exact_in_any_order():
    rng = np.random.default_rng(1)
    true = np.stack([random_map(rng, [0, 1, 2], (12, 12), block=4) for _ in range(4000)])
    mask = np.where(rng.random(true.shape) < 0.2, rng.integers(0, 4, true.shape), true)
    maps = torch.tensor(mask), torch.tensor(true)
    metrics = MetricCollection({name: metric for name, (metric, _) in CASES.items()}, compute_groups=False)
    metrics.reset()
    for part in torch.arange(4000).split(256):
        metrics.update(maps[0][part], maps[1][part])
    values = metrics.compute()
    metrics.reset()
    for part in torch.randperm(4000, generator=torch.Generator().manual_seed(0)).split(97):
        metrics.update(maps[0][part], maps[1][part])
    assert metrics.compute() == values
    each = [literal_ari(*pair) for pair in zip(mask, true, strict=True)]
    assert values["ari"].item() == pytest.approx(np.nanmean(each), abs=6e-8)
    each = [literal_covering(*pair, True) for pair in zip(mask[:500], true[:500], strict=True)]
    metric = SegmentationCovering()
    assert metric(maps[0][:500], maps[1][:500]).item() == pytest.approx(np.nanmean(each), abs=6e-8)


def test_a_collection_shares_updates_among_options_and_never_among_scores():
    """Perfect first batches make all sums equal, by which `MetricCollection` tells which metrics are alike."""
    metrics = MetricCollection(
        {
            "ari": ForegroundARI(),
            "ari_1": ForegroundARI(empty_score=1.0),
            **{f"miou_{b}": MeanIoU(b) for b in (True, False)},
            **{f"msc_{b}": SegmentationCovering(b) for b in (True, False)},
        }
    )
    mask, target = make_maps((16, 16))
    metrics.update(target[7:], target[7:])
    assert sorted(map(len, metrics.compute_groups.values())) == [2, 2, 2]
    metrics.update(mask, target)
    values = metrics.compute()
    for name, metric in (("ari", ForegroundARI()), ("miou_True", MeanIoU(True)), ("miou_False", MeanIoU(False))):
        metric.update(target[7:], target[7:])
        metric.update(mask, target)
        assert torch.equal(metric.compute(), values[name])
    assert values["ari_1"] != values["ari"]


def test_summed_squared_error_is_the_benchmarks_mse():
    image, reconstruction = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    expected = sum(((a - b) ** 2).sum().item() for a, b in zip(image, reconstruction, strict=True)) / 3
    assert ReconstructionError("sum")(reconstruction, image).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", [ForegroundARI(), MeanIoU(True), SegmentationCovering()])
def test_wrong_input_is_named(metric):
    metric.reset()
    good = torch.zeros(2, 4, 4, dtype=torch.long)
    for mask, target, message in (
        (good, good[0], r"target_mask has shape \(4, 4\), expected \(B, H, W\)"),
        (good[:1], good, r"mask has shape \(1, 4, 4\), expected \(2, 4, 4\)"),
        (good[:, None], good, r"mask has shape \(2, 1, 4, 4\), expected \(2, 4, 4\)"),
        (good.float(), good, r"mask has type torch.float32, expected integer ids"),
        (good, good.bool(), r"target_mask has type torch.bool, expected integer ids"),
        (good - 1, good, r"holds the id -1, expected non-negative ids"),
        (good, good - 3, r"holds the id -3, expected non-negative ids"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(mask, target)
    metric.update(good[:0], good[:0])
    assert metric.compute().isnan()
