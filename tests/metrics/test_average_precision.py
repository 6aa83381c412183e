import time

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from metrics import AveragePrecision, GMAIRAveragePrecision, SPAIRAveragePrecision

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def random_batch(generator: torch.Generator, B: int, K: int, N: int, *, continuous: bool = False) -> Batch:
    """Scenes with everything that may go wrong: ties, duplicates, empty images, boxes without area, padded rows."""

    def boxes(count: int) -> Tensor:
        corner = torch.rand(B, count, 2, generator=generator) * 12
        size = torch.rand(B, count, 2, generator=generator) * 8 + 1
        result = torch.cat([corner, corner + size], dim=2)
        return result if continuous else result.floor()

    target_boxes, predicted = boxes(N), boxes(K)
    # Most predictions are near a ground truth (padding included), some exactly on it.
    near = torch.rand(B, K, generator=generator) < 0.7
    source = torch.randint(N, (B, K, 1), generator=generator).expand(-1, -1, 4)
    jitter = torch.randint(-2, 3, (B, K, 4), generator=generator)
    predicted = torch.where(near.unsqueeze(2), target_boxes.gather(1, source) + jitter * jitter.abs().gt(1), predicted)
    scores = torch.rand(B, K, generator=generator)
    if not continuous:
        scores = (scores * 5).floor() / 4 * (scores < 0.9)
    valid = torch.rand(B, N, generator=generator) < 0.6
    valid[torch.rand(B, generator=generator) < 0.15] = False
    scores[torch.rand(B, generator=generator) < 0.15] = 0
    return predicted, scores, target_boxes, valid


def literal_iou(a: list[float], b: list[float], extra: int = 0) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0] + extra) * (x[3] - x[1] + extra) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def scenes(batches: list[Batch]) -> list[tuple[list[tuple[float, list[float]]], list[list[float]]]]:
    """Each image as ([(score, box), ...] of its predictions, [box, ...] of its ground truth)."""
    images = []
    for batch in batches:
        for boxes, scores, target_boxes, valid in zip(*(x.tolist() for x in batch), strict=True):
            predictions = [(s, b) for s, b in zip(scores, boxes, strict=True) if s > 0]
            images.append((predictions, [b for b, v in zip(target_boxes, valid, strict=True) if v]))
    return images


def literal_curve(hits: list[bool], n: int, interpolation: str) -> float:
    points = [(sum(hits[: i + 1]), i + 1) for i in range(len(hits))]  # (true positives, predictions)
    if interpolation == "11_points":
        return sum(max([tp / m for tp, m in points if 10 * tp >= j * n], default=0) for j in range(11)) / 11
    return sum(max([tp / m for tp, m in points if tp >= k], default=0) for k in range(1, n + 1)) / n


def literal_voc(batches: list[Batch], threshold: float, interpolation: str) -> float:
    images = scenes(batches)
    pooled = [(score, i, box) for i, (predictions, _) in enumerate(images) for score, box in predictions]
    used: set[tuple[int, int]] = set()
    hits = []
    for _, i, box in sorted(pooled, key=lambda prediction: -prediction[0]):
        overlaps = [literal_iou(box, target) for target in images[i][1]]
        best = overlaps.index(max(overlaps)) if overlaps else -1
        hits.append(bool(overlaps) and overlaps[best] > threshold and (i, best) not in used)
        if hits[-1]:
            used.add((i, best))
    return literal_curve(hits, sum(len(targets) for _, targets in images), interpolation)


def literal_spair(batches: list[Batch]) -> float:
    """`mAP` of the SPAIR code as facts tell it: weighted mean over batches of the mean over nine IoUs."""
    total = 0.0
    for batch in batches:
        for threshold in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]:
            pooled = []
            for predictions, targets in scenes([batch]):
                left = list(targets)
                for score, box in sorted(predictions, key=lambda prediction: -prediction[0]):
                    overlaps = [literal_iou(box, target) for target in left]
                    hit = max(overlaps, default=0) > threshold
                    pooled.append((score, hit))
                    if hit:
                        del left[overlaps.index(max(overlaps))]
                    if targets and not left:
                        break
            hits = [hit for _, hit in sorted(pooled, key=lambda prediction: -prediction[0])]
            total += len(batch[0]) * literal_curve(hits, int(batch[3].sum()), "11_points") / 9
    return total / sum(len(batch[0]) for batch in batches)


def literal_gmair(batches: list[Batch]) -> float:
    """`mAP` of the GMAIR code as facts tell it, threshold by threshold and image by image."""
    images = [(sorted((p for p in found if p[0] >= 0.5), reverse=True), targets) for found, targets in scenes(batches)]
    images = [(found, targets) for found, targets in images if found and targets]
    points = []
    for threshold in np.float32([1 - (k + 1) / 1000 for k in range(1000)]):
        predicted = hits = 0
        for found, targets in images:
            # A pointer to the last box so far starts before the first, which for a list is the last of all.
            last, used = -1, set()
            while last + 1 < len(found) and found[last][0] >= threshold:
                last += 1
            for _, box in found[: last + 1]:
                overlaps = [literal_iou(box, target, extra=1) for target in targets]
                if max(overlaps) >= 0.5:
                    used.add(overlaps.index(max(overlaps)))
            predicted, hits = predicted + last + 1, hits + len(used)
        points.append((hits, predicted))
    n = sum(len(targets) for _, targets in scenes(batches))
    rises = [(points[k][0] - (points[k - 1][0] if k else 0), k) for k in range(1000)]
    return sum(rise / n * max(tp / m for tp, m in points[k:]) for rise, k in rises if rise)


def batch_of(*images: tuple[list[tuple[float, list[float]]], list[list[float]]]) -> Batch:
    """The inverse of `scenes`."""
    B = len(images)
    K, N = (max(len(image[side]) for image in images) for side in (0, 1))
    boxes, scores = torch.zeros(B, K, 4), torch.zeros(B, K)
    target_boxes, valid = torch.zeros(B, N, 4), torch.zeros(B, N, dtype=torch.bool)
    for i, (predictions, targets) in enumerate(images):
        for k, (score, box) in enumerate(predictions):
            boxes[i, k], scores[i, k] = torch.tensor(box), score
        for n, target in enumerate(targets):
            target_boxes[i, n], valid[i, n] = torch.tensor(target), True
    return boxes, scores, target_boxes, valid


UNIT = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]
HALF = [0.0, 0.0, 10.0, 5.0]  # IoU with UNIT is exactly .5


@pytest.mark.parametrize("interpolation", ["all_points", "11_points"])
@pytest.mark.parametrize("continuous", [False, True])
def test_equals_literal_voc(interpolation: str, continuous: bool):
    generator = torch.Generator().manual_seed(0)
    thresholds = (0.0, 0.25, 0.5, 0.75, 0.9)
    for _ in range(15):
        sizes = [(7, 9, 5), (1, 3, 1), (12, 4, 8)]  # (B, K, N): 300 images in all
        batches = [random_batch(generator, *size, continuous=continuous) for size in sizes]
        for threshold in thresholds:
            metric = AveragePrecision([threshold], interpolation)
            for batch in batches:
                metric.update(*batch)
            assert metric.compute().item() == pytest.approx(literal_voc(batches, threshold, interpolation), abs=1e-6)
    several = AveragePrecision(thresholds, interpolation)
    for batch in batches:
        several.update(*batch)
    mean = np.mean([literal_voc(batches, threshold, interpolation) for threshold in thresholds])
    assert several.compute().item() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("continuous", [False, True])
def test_spair_equals_literal(continuous: bool):
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        sizes = [(8, 9, 4), (8, 6, 2), (5, 3, 6)]
        batches = [random_batch(generator, *size, continuous=continuous) for size in sizes]
        metric = SPAIRAveragePrecision(8)
        for batch in batches:
            metric.update(*batch)
        assert metric.compute().item() == pytest.approx(literal_spair(batches), abs=1e-6)


@pytest.mark.parametrize("loaded", [1, 7, 32, 50, 100])
def test_spair_is_scored_by_32_images_whatever_is_loaded_at_once(loaded: int):
    images = random_batch(torch.Generator().manual_seed(6), 100, 8, 4)
    metric = SPAIRAveragePrecision()
    for epoch in range(2):
        parts = list(zip(*(x.split(loaded) for x in images), strict=True))
        for part in parts[:-1]:
            metric.update(*part)
        alone = metric(*parts[-1])  # the value of the last part, which leaves the count of images as it was
        expected = literal_spair(list(zip(*(x.split(32) for x in images), strict=True)))
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6), epoch
        chunks = list(zip(*(x.split(32) for x in parts[-1]), strict=True))
        if all((x[1] > 0).any() for x in chunks):
            assert alone.item() == pytest.approx(literal_spair(chunks), abs=1e-6)
        metric.reset()
    assert abs(expected - literal_spair([images])) > 1e-3  # which is to say something
    with pytest.raises(ValueError, match="images_per_batch is 0, expected at least 1"):
        SPAIRAveragePrecision(0)


@pytest.mark.parametrize("continuous", [False, True])
def test_gmair_equals_literal(continuous: bool):
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        batches = [random_batch(generator, *size, continuous=continuous) for size in [(8, 9, 4), (5, 6, 2), (6, 3, 6)]]
        metric = GMAIRAveragePrecision()
        for batch in batches:
            metric.update(*batch)
        assert metric.compute().item() == pytest.approx(literal_gmair(batches), abs=1e-6)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([([(0.9, UNIT)], [UNIT])], 1.0),
        ([([(0.9, HALF)], [UNIT])], 1.0),  # (11 x 6) / (11 x 11) with a pixel more
        ([([(0.9, [0, 0, 10, 4.5])], [UNIT])], 1.0),  # 11 x 5.5: exactly .5 is enough
        ([([(0.9, [0, 0, 10, 4.4])], [UNIT])], 0.0),
        ([([(0.5, UNIT)], [UNIT]), ([(0.49, UNIT)], [UNIT])], 0.5),  # only scores of at least .5 predict
        ([([(0.9, UNIT)], [UNIT]), ([(0.95, FAR)], [])], 1.0),  # an image without objects does not count
        # The image whose two scores enclose the other's comes in last, as a whole, though it has the best prediction.
        ([([(0.99, UNIT), (0.6, FAR)], [UNIT]), ([(0.8, UNIT)], [UNIT])], 0.5 + 0.5 * 2 / 3),
        ([([(0.8, FAR)], [UNIT]), ([(0.8001, UNIT)], [UNIT])], 0.25),  # within a thousandth they come in together
        ([([(0.7, FAR)], [UNIT]), ([(0.8001, UNIT)], [UNIT])], 0.5),
        ([([(0.9, UNIT), (0.8, UNIT)], [UNIT])], 0.5),  # a duplicate costs
        ([([(0.4, UNIT)], [UNIT])], 0.0),
        ([([(0.9, UNIT)], [])], float("nan")),
        ([([(float("nan"), UNIT)], [UNIT])], float("nan")),
    ],
)
def test_gmair_by_hand(images: list, expected: float):
    metric = GMAIRAveragePrecision()
    metric.update(*batch_of(*images))
    assert metric.compute().item() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([([(0.9, UNIT)], [UNIT])], 1.0),
        ([([(0.9, HALF)], [UNIT])], 0.0),  # IoU is strictly above the threshold
        ([([(0.9, UNIT), (0.8, UNIT)], [UNIT])], 1.0),  # a duplicate after full recall costs nothing
        ([([(0.9, UNIT), (0.8, UNIT), (0.7, FAR)], [UNIT, FAR])], 0.5 + 0.5 * 2 / 3),  # before it, it does
        ([([(0.9, FAR)], []), ([(0.8, UNIT)], [UNIT])], 0.5),  # an image without objects
        ([([(0.5, FAR)], [UNIT]), ([(0.5, UNIT)], [UNIT])], 0.25),  # ties: image order ...
        ([([(0.5, UNIT)], [UNIT]), ([(0.5, FAR)], [UNIT])], 0.5),
        ([([(0.5, FAR), (0.5, UNIT)], [UNIT])], 0.5),  # ... then slot order
        ([([(0.9, [3, 3, 3, 3])], [[3, 3, 3, 3]])], 0.0),  # boxes without area
        ([([(0.0, UNIT)], [UNIT])], 0.0),  # presence 0 predicts nothing
        ([([], [UNIT])], 0.0),
        ([([(0.9, UNIT)], [])], float("nan")),
        ([([], [])], float("nan")),
    ],
)
def test_by_hand(images: list, expected: float):
    metric = AveragePrecision()
    metric.update(*batch_of(*images))
    assert metric.compute().item() == pytest.approx(expected, nan_ok=True)


def test_best_box_counts_even_if_used():
    # The second prediction overlaps both objects above .5 but is nearest to the one that is used up.
    near = [0.0, 0.0, 10.0, 12.0]
    batch = batch_of(([(0.9, UNIT), (0.8, [0.0, 0.0, 10.0, 10.5])], [UNIT, near]))
    voc, spair = AveragePrecision(), SPAIRAveragePrecision()
    voc.update(*batch)
    spair.update(*batch)
    assert voc.compute().item() == pytest.approx(0.5)
    # SPAIR's code gives it the other one, IoU 10.5 / 12 = .875, at eight of nine thresholds.
    assert spair.compute().item() == pytest.approx((8 * 1 + 6 / 11) / 9)


@pytest.mark.parametrize(("found", "points"), [(3, 4), (6, 7), (7, 8), (10, 11)])
def test_recall_is_compared_exactly(found: int, points: int):
    # 10 objects, `found` of them predicted: recalls 0, .1, ..., found / 10 are reached. As floats,
    # np.linspace(0, 1, 11) holds .30000000000000004 and would miss the last point at .3, .6 and .7.
    targets = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(10)]
    metric = AveragePrecision(interpolation="11_points")
    metric.update(*batch_of(([(0.9, target) for target in targets[:found]], targets)))
    assert metric.compute().item() == pytest.approx(points / 11)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_iou_at_the_threshold_is_no_hit(tenths: int):
    batch = batch_of(([(0.9, [0.0, 0.0, 10.0, float(tenths)])], [UNIT]))
    for threshold, expected in [(tenths / 10, 0.0), (tenths / 10 - 1e-6, 1.0)]:
        metric = AveragePrecision([threshold])
        metric.update(*batch)
        assert metric.compute().item() == expected


def test_min_score_drops_predictions():
    batch = batch_of(([(0.9, FAR), (0.05, FAR), (0.04, UNIT)], [UNIT]))
    for min_score, expected in [(0.0, 1 / 3), (0.04, 0.0), (0.03, 1 / 3)]:
        metric = AveragePrecision(min_score=min_score)
        metric.update(*batch)
        assert metric.compute().item() == pytest.approx(expected)


def test_degenerate_sizes():
    metric = AveragePrecision()
    metric.update(torch.zeros(2, 0, 4), torch.zeros(2, 0), *batch_of(([], [UNIT]), ([], []))[2:])
    metric.update(torch.zeros(0, 5, 4), torch.zeros(0, 5), torch.zeros(0, 3, 4), torch.zeros(0, 3, dtype=torch.bool))
    metric.update(torch.zeros(0, 0, 4), torch.zeros(0, 0), torch.zeros(0, 0, 4), torch.zeros(0, 0, dtype=torch.bool))
    assert metric.compute() == 0
    metric.update(*batch_of(([(0.9, FAR)], [])))  # no rows of ground truth at all
    metric.update(*batch_of(([(0.8, UNIT)], [UNIT])))
    assert metric.compute().item() == pytest.approx(0.5 / 2)

    gmair = GMAIRAveragePrecision()
    gmair.update(torch.zeros(2, 0, 4), torch.zeros(2, 0), *batch_of(([], [UNIT]), ([], []))[2:])
    gmair.update(torch.zeros(0, 5, 4), torch.zeros(0, 5), torch.zeros(0, 3, 4), torch.zeros(0, 3, dtype=torch.bool))
    assert gmair.compute() == 0

    with pytest.warns(UserWarning, match="before the ``update``"):
        assert AveragePrecision().compute().isnan()


def test_spair_without_predictions():
    found = batch_of(([(1.0, UNIT)], [UNIT]))
    metric = SPAIRAveragePrecision(1)
    metric.update(*found)
    metric.update(torch.zeros(0, 5, 4), torch.zeros(0, 5), torch.zeros(0, 3, 4), torch.zeros(0, 3, dtype=torch.bool))
    assert metric.compute() == 1
    metric.update(*batch_of(([(1.0, UNIT)], [])))  # predictions, no ground truth: 0
    assert metric.compute() == 0.5
    for nothing in [batch_of(([(0.0, UNIT)], [UNIT])), batch_of(([], [UNIT]))]:
        metric.reset()
        metric.update(*found)
        metric.update(*nothing)
        assert metric.compute().isnan()


def test_nan_is_not_swallowed():
    for value, expected in [(float("nan"), float("nan")), (float("inf"), 0.0)]:
        for side in (0, 1):
            metric = AveragePrecision()
            batch = batch_of(([(0.9, FAR)], [UNIT]))
            batch[side][0, 0] = value
            metric.update(*batch)
            assert metric.compute().item() == pytest.approx(expected, nan_ok=True)


def test_forward_and_reset_keep_input_order():
    generator = torch.Generator().manual_seed(2)
    batches = [random_batch(generator, 6, 8, 4) for _ in range(5)]
    metric = AveragePrecision()
    for _ in range(2):
        values = [metric(*batch) for batch in batches[:3]]
        metric.update(*batches[3])
        values.append(metric(*batches[4]))
        for value, batch in zip(values, [*batches[:3], batches[4]], strict=True):
            assert value.item() == pytest.approx(literal_voc([batch], 0.5, "all_points"))
        assert metric.compute().item() == pytest.approx(literal_voc(batches, 0.5, "all_points"))
        metric.reset()


def test_collection_shares_states_and_keeps_values():
    generator = torch.Generator().manual_seed(3)
    batches = [random_batch(generator, 6, 8, 4) for _ in range(3)]
    options = {
        "low": {"iou_thresholds": [0.25]},
        "high": {"iou_thresholds": [0.75]},
        "sure": {"min_score": 0.5},
        "eleven": {"interpolation": "11_points"},
    }
    collection = MetricCollection({name: AveragePrecision(**option) for name, option in options.items()})
    for batch in batches:
        collection.update(*batch)
    assert len(collection.compute_groups) == 1
    for name, value in collection.compute().items():
        metric = AveragePrecision(**options[name])
        for batch in batches:
            metric.update(*batch)
        assert value == metric.compute()


@pytest.mark.parametrize("kind", [AveragePrecision, SPAIRAveragePrecision, GMAIRAveragePrecision])
def test_update_reads_no_value(kind: type):
    # Meta tensors have shapes and no values: `.item()`, `nonzero` and boolean indexing, which wait for a GPU, fail.
    metric = kind().to("meta")
    metric.update(*(x.to("meta") for x in random_batch(torch.Generator(), 3, 5, 2)))


def test_state_holds_no_graph_and_half_precision_stays_exact():
    boxes, scores, target_boxes, valid = random_batch(torch.Generator().manual_seed(4), 8, 9, 5)
    metric = AveragePrecision().to(torch.bfloat16)
    expected = literal_voc([(boxes, scores, target_boxes, valid)], 0.5, "all_points")
    value = metric(boxes.requires_grad_(), scores.requires_grad_(), target_boxes, valid)
    assert value.item() == pytest.approx(expected)
    for state in (metric.scores, metric.overlaps, metric.rivals, metric.images):
        assert all(x.dtype == torch.float32 and x.ndim == 1 and not x.requires_grad for x in state)


@pytest.mark.parametrize("kind", [AveragePrecision, SPAIRAveragePrecision, GMAIRAveragePrecision])
@pytest.mark.parametrize(
    ("position", "replacement", "message"),
    [
        (0, torch.zeros(3, 5), r"boxes has shape \(3, 5\), expected \(B, K, 4\)"),
        (1, torch.zeros(3, 4), r"scores has shape \(3, 4\), expected \(3, 5\)"),
        (2, torch.zeros(2, 2, 4), r"target_boxes has shape \(2, 2, 4\), expected \(3, N, 4\)"),
        (3, torch.zeros(3, 3, dtype=torch.bool), r"target_valid has shape \(3, 3\), expected \(3, 2\)"),
        (3, torch.zeros(3, 2), r"target_valid has type torch.float32, expected torch.bool"),
    ],
)
def test_wrong_input_is_named(kind: type, position: int, replacement: Tensor, message: str):
    arguments = list(random_batch(torch.Generator(), 3, 5, 2))
    arguments[position] = replacement
    with pytest.raises(ValueError, match=message):
        kind().update(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_thresholds": []}, "at least one IoU"),
        ({"iou_thresholds": [0.5, 1.0]}, r"each in \[0, 1\)"),
        ({"interpolation": "101_points"}, "interpolation is '101_points', expected one of"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        AveragePrecision(**options)


def test_real_size_is_right_and_fast():
    # 2,000 images of up to 10 objects in 49 slots; the budgets leave room for a loaded machine.
    generator = torch.Generator().manual_seed(5)
    metric = AveragePrecision([0.1, 0.5, 0.9])
    batches = [random_batch(generator, 40, 49, 10, continuous=True) for _ in range(50)]
    start = time.perf_counter()
    for batch in batches:
        metric.update(*batch)
    value = metric.compute()
    assert time.perf_counter() - start < 5
    assert value.item() == pytest.approx(np.mean([fast_voc(batches, threshold) for threshold in (0.1, 0.5, 0.9)]))


def fast_voc(batches: list[Batch], threshold: float) -> float:
    """`literal_voc` over all points with the curve by NumPy: the literal one is quadratic."""
    claims: list[tuple[float, int, int]] = []
    n = 0
    for i, (predictions, targets) in enumerate(scenes(batches)):
        n += len(targets)
        for score, box in predictions:
            overlaps = [literal_iou(box, target) for target in targets]
            best = max(overlaps, default=0)
            claims.append((score, i, overlaps.index(best) if best > threshold else -1))
    used: set[tuple[int, int]] = set()
    hits = []
    for _, i, target in sorted(claims, key=lambda claim: -claim[0]):
        hits.append(target >= 0 and (i, target) not in used)
        used.add((i, target))
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(np.maximum.accumulate(precision[::-1])[::-1][np.array(hits)].sum() / n)
