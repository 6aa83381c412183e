import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor
from torchmetrics import MetricCollection

from metrics import ClusterPurity, HungarianAccuracy, NormalizedMutualInformation, cluster_label_pairs
from metrics.clustering import match_clusters, matched_labels

KINDS = [HungarianAccuracy, ClusterPurity, NormalizedMutualInformation]
UNIT, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]


def collection(num_clusters: int, num_classes: int) -> MetricCollection:
    return MetricCollection([kind(num_clusters, num_classes) for kind in KINDS])


def random_pairs(
    count: int, num_clusters: int, num_classes: int, seed: int, faithful: float = 0.6
) -> tuple[Tensor, ...]:
    """Clusters that mostly follow the classes, some classes sharing a cluster."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=count)
    follows = rng.random(count) < faithful
    clusters = np.where(follows, (labels * 7 + 2) % num_clusters, rng.integers(num_clusters, size=count))
    return torch.from_numpy(clusters), torch.from_numpy(labels)


def literal_accuracy(clusters: list[int], labels: list[int], num_clusters: int, num_classes: int) -> float:
    """The best of all ways to give clusters names, none twice."""
    names = [*range(num_classes), *[None] * num_clusters]
    namings = set(itertools.permutations(names, num_clusters))
    return max(sum(n[c] == y for c, y in zip(clusters, labels, strict=True)) for n in namings) / len(labels)


def literal_purity(clusters: list[int], labels: list[int]) -> float:
    members = {c: [y for d, y in zip(clusters, labels, strict=True) if d == c] for c in set(clusters)}
    return sum(max(ys.count(y) for y in ys) for ys in members.values()) / len(labels)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(3, 3), (4, 3), (2, 4), (5, 5), (1, 3), (3, 1)])
def test_equal_brute_force_and_scikit_learn(num_clusters: int, num_classes: int):
    for seed in range(10):
        pairs = random_pairs(40, num_clusters, num_classes, seed)
        metrics = collection(num_clusters, num_classes)
        for start, stop in [(0, 25), (25, 25), (25, 40)]:  # one batch without a pair
            metrics.update(*(ids[start:stop] for ids in pairs))
        values = {name: value.item() for name, value in metrics.compute().items()}
        clusters, labels = (ids.tolist() for ids in pairs)
        accuracy = literal_accuracy(clusters, labels, num_clusters, num_classes)
        assert values["HungarianAccuracy"] == pytest.approx(accuracy)
        assert values["ClusterPurity"] == pytest.approx(literal_purity(clusters, labels))
        expected = normalized_mutual_info_score(labels, clusters)
        assert values["NormalizedMutualInformation"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_thousands_of_pairs_share_one_table(dtype: torch.dtype):
    clusters, labels = random_pairs(100_000, 12, 10, seed=0)
    labels = labels.where(clusters != 5, 3)
    clusters = clusters.where(clusters != 7, 8)  # cluster 7 is never used
    metrics = collection(12, 10)
    for part in zip(clusters.to(dtype).split(999), labels.to(dtype).split(999), strict=True):
        metrics.update(*part)
    assert len(metrics.compute_groups) == 1
    values = metrics.compute()
    table = contingency_matrix(labels.numpy(), clusters.numpy())
    assert table.shape == (10, 11)
    rows, columns = linear_sum_assignment(table, maximize=True)
    assert values["HungarianAccuracy"].item() == pytest.approx(table[rows, columns].sum() / 100_000)
    assert values["ClusterPurity"].item() == pytest.approx(table.max(axis=0).sum() / 100_000)
    expected = normalized_mutual_info_score(labels.numpy(), clusters.numpy(), average_method="arithmetic")
    assert values["NormalizedMutualInformation"].item() == pytest.approx(expected)
    assert values["HungarianAccuracy"] < values["ClusterPurity"] < 1
    assert metrics["HungarianAccuracy"].contingency.sum() == 100_000


def test_counts_are_exact_where_single_precision_is_not():
    metric = HungarianAccuracy(2, 2)
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    metric.contingency = metric.contingency * 2**25 + torch.tensor([[1, 0], [0, 0]])
    assert metric.bfloat16().contingency.tolist() == [[2**25 + 1, 0], [2**25, 0]]


@pytest.mark.parametrize(
    ("clusters", "labels", "accuracy", "purity", "nmi"),
    [
        ([1, 1, 1], [2, 2, 2], 1.0, 1.0, 1.0),  # one cluster, one class
        ([1, 1, 1, 1], [2, 2, 2, 0], 0.75, 0.75, 0.0),  # one cluster, several classes
        ([0, 1, 2, 2], [1, 1, 1, 1], 0.5, 1.0, 0.0),  # several clusters, one class
        ([2, 0, 1, 2], [0, 1, 2, 0], 1.0, 1.0, 1.0),  # renamed
        ([0], [0], 1.0, 1.0, 1.0),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.5, 0.5, 0.0),  # independent
        ([], [], math.nan, math.nan, math.nan),
    ],
)
def test_degenerate_cases(clusters: list[int], labels: list[int], accuracy: float, purity: float, nmi: float):
    metrics = collection(3, 3)
    metrics.update(torch.tensor(clusters, dtype=torch.long), torch.tensor(labels, dtype=torch.long))
    computed = metrics.compute()
    values = [computed[kind.__name__].item() for kind in KINDS]
    assert values == pytest.approx([accuracy, purity, nmi], nan_ok=True)
    if labels:
        assert values[2] == pytest.approx(normalized_mutual_info_score(labels, clusters))


def test_two_collections_of_other_sizes_keep_apart():
    metrics = MetricCollection(
        {"few": ClusterPurity(2, 3), "many": ClusterPurity(3, 3), "same": HungarianAccuracy(3, 3)}
    )
    metrics.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
    assert sorted(map(sorted, metrics.compute_groups.values())) == [["few"], ["many", "same"]]


def test_matching_names_the_clusters():
    # Cluster 0 has most of class 1, but gives it to cluster 2, for which there is nothing else.
    assert match_clusters(torch.tensor([[7, 8, 0], [0, 0, 3], [0, 8, 0], [1, 1, 1]])).tolist() == [0, 2, 1, -1]
    assert match_clusters(torch.tensor([[0, 9], [0, 8]])).tolist() in ([1, 0], [0, 1])


def random_scenes(B: int, K: int, N: int, seed: int) -> dict[str, Tensor]:
    """Boxes of whole pixels, so that IoUs of exactly .5 and ties occur, many on an object, some of them duplicates."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> Tensor:
        corner = torch.randint(0, 12, (B, count, 2), generator=generator)
        return torch.cat([corner, corner + torch.randint(2, 7, (B, count, 2), generator=generator)], 2).float()

    target_boxes, predicted = boxes(N), boxes(K)
    near = torch.rand(B, K, 1, generator=generator) < 0.8
    if N:
        source = torch.randint(N, (B, K, 1), generator=generator).expand(-1, -1, 4)
        shift = torch.randint(-1, 2, (B, K, 4), generator=generator)
        predicted = torch.where(near, target_boxes.gather(1, source) + shift, predicted)
    valid = torch.rand(B, N, generator=generator) < 0.7
    return {
        "clusters": torch.randint(5, (B, K), generator=generator),
        "presence": torch.rand(B, K, generator=generator).mul(4).round() / 4,  # of exactly .5, too
        "boxes": predicted,
        "labels": torch.randint(3, (B, N), generator=generator).where(valid, -7),
        "target_boxes": target_boxes,
        "valid": valid,
    }


def literal_pairs(scenes: dict[str, Tensor]) -> list[tuple[int, int]]:
    pairs = []
    for i in range(len(scenes["presence"])):
        for k, presence in enumerate(scenes["presence"][i].tolist()):
            best, label = 0.0, None
            for n in range(scenes["labels"].shape[1]):
                if not scenes["valid"][i, n]:
                    continue
                a, b = scenes["boxes"][i, k].tolist(), scenes["target_boxes"][i, n].tolist()
                shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
                iou = shared / (sum(areas) - shared)
                if iou > best:
                    best, label = iou, int(scenes["labels"][i, n])
            if presence >= 0.5 and best >= 0.5 and label is not None:
                pairs.append((int(scenes["clusters"][i, k]), label))
    return pairs


@pytest.mark.parametrize("sizes", [(60, 9, 4), (5, 1, 1), (4, 3, 0), (0, 3, 2), (3, 0, 2)])
def test_pairs_equal_a_literal_loop(sizes: tuple[int, int, int]):
    scenes = random_scenes(*sizes, seed=0)
    clusters, labels = cluster_label_pairs(**scenes)
    assert clusters.ndim == labels.ndim == 1
    expected = literal_pairs(scenes)
    assert list(zip(clusters.tolist(), labels.tolist(), strict=True)) == expected
    assert len(expected) > 50 or sizes[0] < 60


def test_rule_of_the_pairs():
    half = [0.0, 0.0, 10.0, 5.0]  # IoU with UNIT is exactly .5
    target_boxes, valid = torch.tensor([[UNIT, FAR, UNIT]]), torch.tensor([[True, True, False]])
    boxes = torch.tensor([[UNIT, UNIT, half, UNIT, FAR, UNIT, FAR]])
    boxes[0, 6, 0] = torch.nan
    presence = torch.tensor([[0.9, 0.8, 0.5, 0.49, 1.0, torch.nan, 1.0]])
    found = matched_labels(presence, boxes, torch.tensor([[4, 2, 9]]), target_boxes, valid)
    assert found.tolist() == [[4, 4, 4, -1, 2, -1, -1]]  # duplicates have it too
    boxes[0, 2, 3] = 4.99
    assert matched_labels(presence, boxes, torch.tensor([[4, 2, 9]]), target_boxes, valid)[0, 2] == -1


def test_nothing_waits_for_a_device():
    """Meta tensors have no values to look at."""
    scenes = {key: value.to("meta") for key, value in random_scenes(2, 3, 4, seed=0).items()}
    del scenes["clusters"]
    assert matched_labels(**scenes).shape == (2, 3)
    for kind in KINDS:
        kind(3, 2).to("meta").update(
            torch.zeros(5, dtype=torch.long, device="meta"), torch.zeros(5, device="meta").int()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_input_is_named(kind: type):
    for arguments, message in (((0, 3), "num_clusters is 0"), ((3, 0), "num_classes is 0")):
        with pytest.raises(ValueError, match=message):
            kind(*arguments)
    ids = torch.zeros(4, dtype=torch.long)
    for clusters, labels, message in (
        (ids.view(2, 2), ids, r"clusters has shape \(2, 2\), expected \(P\)"),
        (ids, ids[:3], r"labels has shape \(3,\), expected \(4\)"),
        (ids.float(), ids, r"clusters has type torch.float32, expected integer ids"),
        (ids, ids.bool(), r"labels has type torch.bool, expected integer ids"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(3, 3).update(clusters, labels)
    for clusters, labels in ((ids + 3, ids), (ids - 1, ids), (ids, ids + 7)):
        metric = kind(3, 3)
        metric.update(clusters, labels)
        with pytest.raises(ValueError, match=r"4 pairs have ids out of range, expected clusters in \[0, 3\)"):
            metric.compute()
    scenes = random_scenes(2, 3, 4, seed=0)
    for key, value, message in (
        ("clusters", torch.zeros(2, 4), r"clusters has shape \(2, 4\), expected \(2, 3\)"),
        ("labels", torch.zeros(3, 4), r"labels has shape \(3, 4\), expected \(2, N\)"),
        ("target_boxes", torch.zeros(2, 5, 4), r"target_boxes has shape \(2, 5, 4\), expected \(2, 4, 4\)"),
        ("valid", torch.ones(2, 4), r"valid has type torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            cluster_label_pairs(**{**scenes, key: value})
