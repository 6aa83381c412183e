import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers_distributed import run_processes
from torch import Tensor
from torchmetrics import Metric

from metrics import CategoryCorrespondence, LocationMatchedAccuracy

Batch = dict[str, Tensor]
KINDS = [CategoryCorrespondence, LocationMatchedAccuracy]


def make_batch(B: int, K: int, N: int, clusters: int, classes: int, seed: int) -> Batch:
    """Categories that mostly follow the classes, and boxes that mostly lie on the objects, crowded in 20 x 20 px."""
    generator = torch.Generator().manual_seed(seed)

    def corners(*shape: int) -> Tensor:
        return torch.rand(*shape, 2, generator=generator) * 20

    start, labels = corners(B, N), torch.randint(classes, (B, N), generator=generator)
    own = torch.arange(K) % max(N, 1)
    boxes, category = torch.cat([corners(B, K)] * 2, 2), torch.randint(clusters, (B, K), generator=generator)
    if N:
        noise = torch.randn(B, K, 4, generator=generator) * 2
        follows = torch.rand(B, K, generator=generator) < 0.7
        boxes = torch.where(follows.unsqueeze(2), torch.cat([start, start + 6], 2)[:, own] + noise, boxes)
        category = torch.where(follows, (labels[:, own] + 1) % clusters, category)
    return {
        "category": category,
        "presence": torch.rand(B, K, generator=generator).mul(4).round() / 4,  # of exactly .5, too
        "boxes": boxes,
        "labels": labels,
        "target_boxes": torch.cat([start, start + 6], 2),
        "valid": torch.rand(B, N, generator=generator) < 0.6,
    }


def update(metric: Metric, batch: Batch) -> None:
    unused = ("boxes", "target_boxes") if isinstance(metric, CategoryCorrespondence) else ()
    metric.update(**{key: value for key, value in batch.items() if key not in unused})


def renamings(clusters: int, classes: int) -> list[dict[int, int | None]]:
    """Every way to give categories classes, no class twice."""
    names = [*range(classes), *[None] * clusters]
    return [dict(enumerate(chosen)) for chosen in set(itertools.permutations(names, clusters))]


def images(batches: list[Batch]):
    """(category, centre) of each prediction and (class, centre) of each object, image by image."""
    for batch in batches:
        for i in range(len(batch["labels"])):
            sides = []
            for ids, boxes, counted in (
                (batch["category"], batch["boxes"], batch["presence"] >= 0.5),
                (batch["labels"], batch["target_boxes"], batch["valid"]),
            ):
                centres = ((x1 + x2) / 2 + 1j * (y1 + y2) / 2 for x1, y1, x2, y2 in boxes[i].tolist())
                rows = zip(ids[i].tolist(), centres, counted[i].tolist(), strict=True)
                sides.append([(name, centre) for name, centre, there in rows if there])
            yield sides


def brute_force_correspondence(batches: list[Batch], clusters: int, classes: int) -> float:
    scenes = list(images(batches))
    total = sum(len(objects) for _, objects in scenes)
    best = 0
    for renamed in renamings(clusters, classes):
        hits = 0
        for predictions, objects in scenes:
            names = Counter(renamed[category] for category, _ in predictions)
            hits += (names & Counter(label for label, _ in objects)).total()
        best = max(best, hits)
    return best / total


def brute_force_matched(batches: list[Batch], clusters: int, classes: int, reach: float) -> float:
    scenes, pairs = list(images(batches)), []
    for predictions, objects in scenes:
        padded = [*range(len(predictions)), *[None] * len(objects)]

        def cost(choice, predictions=predictions, objects=objects):
            gaps = [abs(predictions[p][1] - o[1]) for p, o in zip(choice, objects, strict=True) if p is not None]
            return (-len(gaps), sum(gaps)) if all(gap <= reach for gap in gaps) else (1, 0.0)

        choice = min(set(itertools.permutations(padded, len(objects))), key=cost)
        pairs += [(predictions[p][0], o[0]) for p, o in zip(choice, objects, strict=True) if p is not None]
    best = max(sum(named[category] == label for category, label in pairs) for named in renamings(clusters, classes))
    return best / sum(len(objects) for _, objects in scenes)


SIZES = [(12, 3, 3), (9, 4, 2), (5, 2, 4), (2, 0, 2), (2, 3, 0), (0, 3, 3)]


@pytest.mark.parametrize(("clusters", "classes"), [(3, 3), (4, 3), (2, 4), (5, 5)])
def test_equal_the_best_of_all_permutations(clusters: int, classes: int):
    batches = [make_batch(*size, clusters, classes, seed) for seed, size in enumerate(SIZES)]
    correspondence = CategoryCorrespondence(clusters, classes)
    matched = LocationMatchedAccuracy(clusters, classes, max_distance=4)
    for batch in batches:
        update(correspondence, batch)
        update(matched, batch)
    expected = brute_force_correspondence(batches, clusters, classes)
    assert correspondence.compute().item() == pytest.approx(expected)
    expected_matched = brute_force_matched(batches, clusters, classes, 4)
    assert matched.compute().item() == pytest.approx(expected_matched)
    assert 0.1 < expected_matched <= expected < 1


def test_missed_objects_cost_and_extra_ones_do_not():
    metric = CategoryCorrespondence(2, 2)
    labels, valid = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[True, True, True, False]])
    metric.update(torch.tensor([[1, 1, 0, 0]]), torch.ones(1, 4), labels, valid)
    assert metric.compute() == 1
    metric.update(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0.5, 0.49, 1, 0]]), labels, valid)
    assert metric.compute().item() == pytest.approx(5 / 6)


def test_pairs_are_as_many_as_can_be_and_then_the_nearest():
    def value(*centres: float, targets: tuple[float, ...]) -> list[list[int]]:
        metric = LocationMatchedAccuracy(2, 2, max_distance=5)
        boxes, target_boxes = (torch.tensor([[[x - 3, 0, x + 3, 2] for x in xs]]) for xs in (centres, targets))
        category, labels = torch.tensor([[0, 1][: len(centres)]]), torch.tensor([[0, 1][: len(targets)]])
        valid = torch.ones(labels.shape, dtype=torch.bool)
        metric.update(category, torch.ones(category.shape), boxes, labels, target_boxes, valid)
        return metric.paired.tolist()

    assert value(0.0, targets=(5.0,)) == [[1, 0], [0, 0]]  # within reach, edge included
    assert value(0.0, targets=(5.01,)) == [[0, 0], [0, 0]]
    assert value(0.0, 4.0, targets=(4.0, 8.5)) == [[1, 0], [0, 1]]  # two pairs of 4 and 4.5, not one of 0
    assert value(0.0, 4.0, targets=(4.0, 0.0)) == [[0, 1], [1, 0]]  # two pairs in either case: the nearer ones


def test_a_whole_image_with_room_agrees_with_pairing_one_by_one():
    """Objects far apart take the batched way; the same ones moved together take the other."""
    batch = make_batch(40, 3, 3, 3, 3, 0)
    apart = torch.arange(3).mul(100).view(1, 3, 1).float()
    alone, one_by_one = LocationMatchedAccuracy(3, 3), LocationMatchedAccuracy(3, 3)
    update(alone, {**batch, "boxes": batch["boxes"] + apart, "target_boxes": batch["target_boxes"] + apart})
    for i, k in itertools.product(range(40), range(3)):
        centre, target = ((batch[key][i, k, :2] + batch[key][i, k, 2:]) / 2 for key in ("boxes", "target_boxes"))
        near = math.dist(centre.tolist(), target.tolist()) <= 5
        if batch["valid"][i, k] and batch["presence"][i, k] >= 0.5 and near:
            one_by_one.paired[batch["category"][i, k], batch["labels"][i, k]] += 1
    assert torch.equal(alone.paired, one_by_one.paired)
    assert alone.paired.sum() > 10


def evaluate(shares: list[Batch]) -> dict[str, Tensor]:
    metrics = {kind.__name__: kind(4, 3) for kind in KINDS}
    for metric in metrics.values():
        for batch in shares:
            update(metric, batch)
    return {name: metric.compute() for name, metric in metrics.items()}


def evaluate_share(rank: int) -> dict[str, Tensor]:
    return evaluate([make_batch(5 + i, 4, 3, 4, 3, i) for i in range(3)][rank * 2 :][: 2 - rank])


def test_processes_do_not_matter(tmp_path: Path):
    expected = evaluate([make_batch(5 + i, 4, 3, 4, 3, i) for i in range(3)])
    for values in run_processes(evaluate_share, tmp_path):
        assert values == expected
    assert all(0.2 < value < 1 for value in expected.values())


@pytest.mark.parametrize("kind", KINDS)
def test_nan_where_undefined(kind: type):
    batch = make_batch(4, 3, 3, 3, 3, 0)
    metric = kind(3, 3)
    update(metric, {**batch, "valid": torch.zeros(4, 3, dtype=torch.bool)})
    assert metric.compute().isnan()
    update(metric, batch)
    assert not metric.compute().isnan()
    update(metric, {**batch, "presence": torch.full((4, 3), torch.nan)})
    assert metric.compute().isnan()


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_input_is_named(kind: type):
    for arguments, message in (((0, 3), "num_clusters is 0"), ((3, 0), "num_classes is 0")):
        with pytest.raises(ValueError, match=message):
            kind(*arguments)
    batch = make_batch(2, 3, 4, 3, 3, 0)
    bad = {
        r"category has shape \(2, 3, 3\), expected \(B, K\)": {"category": torch.zeros(2, 3, 3)},
        r"presence has shape \(2, 2\), expected \(2, 3\)": {"presence": torch.ones(2, 2)},
        r"labels has shape \(3, 4\), expected \(2, N\)": {"labels": torch.zeros(3, 4, dtype=torch.long)},
        r"valid has type torch.int64": {"valid": torch.ones(2, 4, dtype=torch.long)},
        r"category has type torch.float32, expected integer ids": {"category": torch.zeros(2, 3)},
    }
    if kind is LocationMatchedAccuracy:
        bad[r"target_boxes has shape \(2, 3, 4\), expected \(2, 4, 4\)"] = {"target_boxes": torch.zeros(2, 3, 4)}
        with pytest.raises(ValueError, match="max_distance is -1"):
            kind(3, 3, max_distance=-1)
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            update(kind(3, 3), {**batch, **change})
    for key, value in (("category", 3), ("category", -1), ("labels", 7)):
        metric = kind(3, 3)
        update(metric, {**batch, key: torch.full_like(batch[key], value)})
        with pytest.raises(ValueError, match=r"ids are out of range, expected categories of present slots in \[0, 3\)"):
            metric.compute()
    padded = {**batch, "labels": batch["labels"].masked_fill(~batch["valid"], -1)}
    ignored = {**padded, "category": batch["category"].masked_fill(batch["presence"] < 0.5, 99)}
    update(metric := kind(3, 3), ignored)
    update(plain := kind(3, 3), batch)
    assert metric.compute() == plain.compute()


def test_update_of_the_correspondence_reads_no_value():
    batch = {key: value.to("meta") for key, value in make_batch(2, 3, 4, 3, 3, 0).items()}
    update(CategoryCorrespondence(3, 3).to("meta"), batch)
