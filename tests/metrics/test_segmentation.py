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


def draw_boxes(corners: np.ndarray, sides: np.ndarray, size: int) -> np.ndarray:
    """A square map of boxes (N, 2), the later over the earlier, numbered from 1."""
    labels = np.zeros((size, size), int)
    for i, ((y, x), (h, w)) in enumerate(zip(corners, sides, strict=True)):
        labels[y : y + h, x : x + w] = i + 1
    return labels


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


def literal_strict_miou(mask: np.ndarray, true: np.ndarray, background: bool) -> float:
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


def literal_miou(mask: np.ndarray, true: np.ndarray, background: bool) -> float:
    """The published programs', in the best case: every matching of true masks with predicted ones or none is tried.

    Each side is filled up with invisible masks, so that each is in some pair; a pair counts if either is visible.
    """
    visible, columns = set(np.unique(true)), list(np.unique(mask))
    if not background and not true.any():
        return math.nan
    rows = sorted(visible | {0})
    size = max(len(rows), len(columns)) + 1
    slots = [*rows, *[None] * (size - len(rows))]
    iou = {(i, j): literal_iou(mask, true, i, j) for i in visible for j in columns}
    best = (-1.0, -1.0)
    for order in set(itertools.permutations([*columns, *[None] * (size - len(columns))])):
        pairs = [(i, j) for i, j in zip(slots, order, strict=True) if i in visible or j is not None]
        counted = pairs if background else [(i, j) for i, j in pairs if i != 0]
        value = sum(iou.get(pair, 0.0) for pair in counted) / len(counted)
        best = max(best, (round(sum(iou.get(pair, 0.0) for pair in pairs), 9), value))
    return best[1]


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
    "miou_strict": (MeanIoU(True, strict=True), lambda mask, true: literal_strict_miou(mask, true, True)),
    "miou_fg_strict": (MeanIoU(False, strict=True), lambda mask, true: literal_strict_miou(mask, true, False)),
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
    assert sum(map(math.isnan, expected)) == (0 if name in ("miou", "miou_strict", "msc") else 2)
    assert expected[-1] == 1
    together = MeanIoU(metric.include_background, metric.strict) if isinstance(metric, MeanIoU) else metric
    together = together.to(device)
    together.reset()
    together.update(*maps)
    assert together.compute().item() == pytest.approx(np.nanmean(expected), abs=1e-6)
    assert together.compute().device.type == device


def published_miou(mask: np.ndarray, true: np.ndarray, K: int, joined: bool) -> tuple[float, float]:
    """The evaluators of ClevrTex and AST-Seg: one-hot tables of K + 1 masks, empty ones of IoU 0, and SciPy's solver.

    With and without the true background's pair. A pair is visible if either of its masks is. With `joined` the solver's
    ties, among pairs that share no pixel, are broken in favour of two visible masks, and of the true background even if
    it is not; else by their order alone.
    """
    a, b = (np.eye(K + 1, dtype=bool)[labels.ravel()].T for labels in (true, mask))  # (K + 1, pixels)
    intersection = (a[:, None] & b[None]).sum(-1)
    iou = np.nan_to_num(intersection / np.maximum((a[:, None] | b[None]).sum(-1), 1))
    favour = np.where(a.any(1), 1, np.where(np.arange(K + 1) == 0, 0.5, 0))[:, None] * b.any(1)[None]
    rows, columns = linear_sum_assignment(iou + 1e-9 * (favour if joined else 0), maximize=True)
    matched, visible = iou[rows, columns], a.any(1)[rows] | b.any(1)[columns]
    return matched.sum() / visible.sum(), matched[1:].sum() / visible[1:].sum()


@pytest.mark.parametrize(("size", "K"), [(24, 5), (64, 6), (128, 10)])
def test_mean_iou_is_the_published_evaluators_where_masks_are_left_over(size: int, K: int):
    """Some objects found, some missed, some imagined, in any order of the slots; at times there is no background."""
    rng = np.random.default_rng(size)
    metrics = {(b, s): MeanIoU(b, strict=s) for b in (True, False) for s in (True, False)}
    apart = hit = left = 0
    for i in range(40):
        corners, sides = rng.integers(0, size - size // 6, (K, 2)), rng.integers(size // 10, size // 4, (K, 2))
        true = draw_boxes(corners, sides, size)
        found = rng.random((K, 1)) < 0.5
        elsewhere = rng.integers(0, size - size // 6, (K, 2))
        mask = draw_boxes(np.where(found, corners + rng.integers(0, 3, (K, 2)), elsewhere), sides, size)
        true, mask = (np.where(labels > rng.integers(K // 2, K + 1), 0, labels) for labels in (true, mask))
        mask = np.concatenate([[0], rng.permutation(K) + 1])[mask]
        if i % 5 == 0:  # the first slot has what is no other's, on one side or on both
            true, mask = (np.maximum(true, 1), mask) if i % 2 else (np.maximum(true, 1), np.maximum(mask, 1))
        maps = torch.tensor(mask)[None], torch.tensor(true)[None]
        for fg, (theirs, plain) in enumerate(
            zip(published_miou(mask, true, K, True), published_miou(mask, true, K, False), strict=True)
        ):
            ours, strict = (metrics[not fg, s](*maps).item() for s in (False, True))
            assert ours == pytest.approx(theirs, abs=1e-6)
            assert strict <= ours + 1e-6
            assert plain <= ours + 1e-6  # as the slots' order has it
            apart, hit, left = apart + (strict < ours - 1e-3), hit + (plain > ours - 1e-6), left + 1
    assert apart > left / 4  # masks are left over
    assert hit > left / 4
    order = rng.permutation(K) + 1  # and the slots' order has no say here
    renamed = np.concatenate([[0], order])[mask]
    for metric in metrics.values():
        assert torch.equal(metric(torch.tensor(renamed)[None], maps[1]), metric(*maps))


def test_an_invisible_true_background_takes_a_superfluous_mask_along():
    """Its row of the table is empty, but there: two of three predictions are then in pairs that count."""
    true = torch.ones(1, 6, 6, dtype=torch.long)
    true[0, 3:] = 2
    mask = true.clone()
    mask[0, 0] = 3
    ious = 2 / 3 + 1
    assert MeanIoU(False)(mask, true).item() == pytest.approx(ious / 2)
    assert MeanIoU(True)(mask, true).item() == pytest.approx(ious / 3)
    assert MeanIoU(False, strict=True)(mask, true).item() == pytest.approx(ious / 3)


def test_degenerate_images():
    empty, one, other = torch.zeros(3, 8, 8, dtype=torch.long).unbind()
    one[2:4, 2:6] = 1
    other[2:4, 2:4] = 1
    other[2:4, 4:6] = 2

    def scores(mask: Tensor, true: Tensor) -> list[float]:
        return [metric(mask[None], true[None]).item() for metric, _ in CASES.values()]

    # ARI-FG, mIoU and mIoU-FG, the same strictly, MSC, MSC-FG
    nan = math.nan
    assert scores(one, one) == [1] * 7
    assert scores(one * 50 + 3, one) == [1] * 7
    assert scores(empty, one) == pytest.approx([1, *[0.875 / 2, 0] * 2, 1 / 2, 8 / 64])  # one object, one cluster
    assert scores(other, one) == pytest.approx([0, *[1.5 / 3, 0.5 / 2] * 2, 1.5 / 2, 0.5])  # one object in two halves
    assert scores(one, other) == pytest.approx([0, *[1.5 / 3, 0.5 / 2] * 2, 2 / 3, 0.5])
    assert scores(one, empty) == pytest.approx([nan, *[0.875 / 2, nan] * 2, 0.875, nan], nan_ok=True)
    assert scores(empty, empty) == pytest.approx([nan, *[1, nan] * 2, 1, nan], nan_ok=True)
    assert scores(one, one + 1) == pytest.approx([1] * 7)  # no background: both are objects
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
            **{f"miou_{b}_{s}": MeanIoU(b, strict=s) for b in (True, False) for s in (True, False)},
            **{f"msc_{b}": SegmentationCovering(b) for b in (True, False)},
        }
    )
    mask, target = make_maps((16, 16))
    metrics.update(target[7:], target[7:])
    assert sorted(map(len, metrics.compute_groups.values())) == [2, 2, 4]
    metrics.update(mask, target)
    values = metrics.compute()
    for name, metric in (
        ("ari", ForegroundARI()),
        ("miou_True_False", MeanIoU(True)),
        ("miou_False_True", MeanIoU(False, strict=True)),
    ):
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
