"""Metrics are chosen by the fields that scene and batch have."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from datamodules import Batch
from metrics import SPAIRAveragePrecision
from zoo.evaluation import METRIC_NAMES, SceneMetrics
from zoo.scene import Scene

CLUSTERING = ("hungarian_accuracy", "cluster_purity", "nmi")


def two_views(B: int, seed: int, categories: bool = True) -> tuple[Scene, Batch]:
    """Objects in the corners of 40x40 px; slots on them, one in four too far off or too faint, some of them twice."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10], [0, 30, 10, 40]]).expand(B, -1, -1)
    labels = torch.randint(4, (B, 3), generator=generator)
    off = torch.rand(B, 6, 1, generator=generator) < 0.25
    faint = torch.rand(B, 6, generator=generator) < 0.25
    boxes = torch.cat([corner, corner], 1) + 7 * off
    follows = torch.rand(B, 6, generator=generator) < 0.7
    category = (labels.repeat(1, 2) + 1).where(follows, torch.randint(5, (B, 6), generator=generator))
    image = torch.rand(B, 1, 40, 40, generator=generator)
    scene = Scene(
        reconstruction=image / 2,
        boxes=boxes,
        presence=0.9 - 0.5 * faint,
        what=boxes,
        category=torch.nn.functional.one_hot(category, 5).float() if categories else None,
    )
    valid = torch.rand(B, 3, generator=generator) < 0.8
    return scene, {"image": image, "boxes": corner, "labels": labels, "valid": valid}


def test_clustering_of_own_categories_equals_scikit_learn_epoch_after_epoch() -> None:
    metrics = SceneMetrics()
    for epoch in range(2):
        clusters, classes = [], []
        for seed in range(3):
            scene, batch = two_views(20, 10 * epoch + seed)
            metrics.update(scene, batch, num_classes=4)
            assert scene.category is not None
            correct = (scene.presence > 0.5) & ((scene.boxes - batch["boxes"].repeat(1, 2, 1)).abs().sum(-1) == 0)
            correct &= batch["valid"].repeat(1, 2)
            clusters += scene.category.argmax(-1)[correct].tolist()
            classes += batch["labels"].repeat(1, 2)[correct].tolist()
        values = metrics.compute()
        assert list(values) == [name for name in METRIC_NAMES if name in values]
        table = contingency_matrix(clusters, classes)
        assert values["hungarian_accuracy"].item() == pytest.approx(
            table[linear_sum_assignment(table, maximize=True)].sum() / len(classes)
        )
        assert values["cluster_purity"].item() == pytest.approx(table.max(1).sum() / len(classes))
        assert values["nmi"].item() == pytest.approx(normalized_mutual_info_score(classes, clusters))
        assert 0.3 < values["nmi"] < 0.9
        metrics.reset()


@pytest.mark.parametrize("without", ["category", "num_classes", "labels"])
def test_without_categories_or_labels_there_is_no_clustering(without: str) -> None:
    scene, batch = two_views(4, 0, categories=without != "category")
    known: Any = {key: value for key, value in batch.items() if key != without}
    metrics = SceneMetrics()
    metrics.update(scene, known, num_classes=None if without == "num_classes" else 4)
    values = metrics.compute()
    assert not set(CLUSTERING) & values.keys()
    assert {"ap50", "count_accuracy", "mse"} <= values.keys()


def test_segmentation_is_scored_where_both_have_masks() -> None:
    scene, batch = two_views(2, 0)
    true = torch.zeros(2, 40, 40, dtype=torch.long)
    true[0, :10, :10], true[0, 20:, 20:] = 1, 2
    predicted = true * 3
    predicted[0, 20:, 20:30] = 1  # the larger object in two halves
    metrics = SceneMetrics()
    metrics.update(scene, batch)
    assert not {"ari_fg", "miou", "miou_fg", "msc_fg"} & metrics.compute().keys()
    difference = scene.reconstruction - batch["image"]
    assert metrics.compute()["mse_sum"].item() == pytest.approx(difference.square().sum().item() / 2, rel=1e-5)
    metrics.reset()
    metrics.update(replace(scene, mask=predicted), {**batch, "mask": true})
    values = metrics.compute()
    ari = adjusted_rand_score(true[0][true[0] > 0], predicted[0][true[0] > 0])
    assert values["ari_fg"].item() == pytest.approx(ari)  # the second image has no object
    assert values["miou"].item() == pytest.approx(((1 + 1 + 0.5) / 4 + 1) / 2)
    assert values["miou_fg"].item() == pytest.approx((1 + 0.5) / 3)
    assert values["msc_fg"].item() == pytest.approx((1 + 0.5) / 2)


def test_raw_boxes_are_scored_beside_derived_ones_and_tiles_beside_ink_each_under_its_name() -> None:
    """Attention boxes are the tiles that digits come in; boxes are these trimmed to the digits' ink."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(50, 4, 2, generator=generator) * 30
    tiles = torch.cat([corner, corner + 14], -1)
    ink = tiles + torch.tensor([3.0, 2, -3, -2])  # an IoU of 0.41
    image = torch.zeros(50, 1, 48, 48)
    scene = Scene(
        reconstruction=image,
        boxes=ink,
        presence=torch.full((50, 4), 0.75),
        what=ink,
        attention_boxes=tiles,
    )
    valid = torch.rand(50, 4, generator=generator) < 0.8
    batch: Batch = {"image": image, "boxes": ink, "tile_boxes": tiles, "valid": valid}
    metrics = SceneMetrics()
    metrics.update(scene, batch)
    values = metrics.compute()
    assert list(values) == [name for name in METRIC_NAMES if name in values]
    found = values["ap50"].item()
    assert found > 0.5
    assert values["raw_tile_ap50"].item() == pytest.approx(found)
    assert values["raw_ap50"] == values["tile_ap50"] == values["raw_ap50_gmair"] < 0.1
    assert values["raw_ap_spair"] < values["ap_spair"]
    metrics.reset()
    metrics.update(replace(scene, attention_boxes=None), {key: batch[key] for key in ("image", "boxes", "valid")})  # type: ignore[literal-required]
    values = metrics.compute()
    assert not [name for name in values if name.startswith(("raw_", "tile_"))]
    assert values["ap50"].item() == found


def test_average_precision_as_in_spairs_program_is_of_32_images_whatever_the_loader_has_at_once() -> None:
    scene, batch = two_views(80, 3)
    values = []
    for size in (80, 32, 7):
        metrics = SceneMetrics()
        for start in range(0, 80, size):
            part = slice(start, start + size)
            rows: Any = {key: value[part] for key, value in batch.items()}  # type: ignore[index]
            fields = {key: value[part] for key, value in vars(scene).items() if value is not None}
            metrics.update(Scene(**fields), rows)
        values.append(metrics.compute()["ap_spair"].item())
    expected = SPAIRAveragePrecision(32)
    expected.update(scene.boxes, (scene.presence > 0.5).float(), batch["boxes"], batch["valid"])
    assert values == pytest.approx([expected.compute().item()] * 3)
