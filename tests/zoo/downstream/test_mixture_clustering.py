"""Clusters of what a model finds, on a model that finds what is planted."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from zoo.downstream.clustering import Clusters, assign, cluster, detect, fit_mixture
from zoo.layers.mixture_prior import MixturePrior
from zoo.models import ObjectModel
from zoo.scene import Scene

MEANS = torch.randn(10, 6, generator=torch.Generator().manual_seed(0)) * 6


class Oracle(ObjectModel):
    """Sees the true boxes, with vectors around a mean for each class; and a box too many, far from all others."""

    def __init__(self, categories: bool = False, spread: float = 0.3) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.categories, self.spread, self.seen = categories, spread, 0

    def see(self, batch: Any) -> Scene:
        assert not self.training
        assert not torch.is_grad_enabled()
        B, N = batch["valid"].shape
        self.seen += B
        image, boxes = (
            batch["image"],
            torch.cat([batch["boxes"], batch["boxes"].new_tensor([-9, -9, -1, -1]).expand(B, 1, 4)], 1),
        )
        presence = torch.cat([batch["valid"] * 0.9, batch["boxes"].new_full((B, 1), 0.6)], 1)
        classes = torch.cat([batch["labels"], torch.zeros(B, 1, dtype=torch.long)], 1)
        noise = torch.randn(B, N + 1, 6, generator=torch.Generator().manual_seed(self.seen))
        # a model that takes 7 for 1, and has a category that it never uses
        category = torch.nn.functional.one_hot(classes.where(classes != 7, 1), 11).float()
        return Scene(
            reconstruction=image,
            boxes=boxes,
            presence=presence,
            what=MEANS[classes] + self.spread * noise,
            category=category if self.categories else None,
        )


def test_detections_are_those_of_a_literal_loop(uci_data: Any) -> None:
    batches = list(uci_data(num_test=30, eval_batch_size=8).test_dataloader())
    model = Oracle().train()
    found = detect(model, batches, num_scenes=19)
    assert model.training
    assert (found.num_scenes, model.seen) == (19, 19)  # the third batch is cut
    labels, means = [], []
    for i in range(19):
        batch, b = batches[i // 8], i % 8
        for n in range(batch["valid"].shape[1]):
            if batch["valid"][b, n]:
                labels.append(int(batch["labels"][b, n]))
                means.append(MEANS[labels[-1]])
        labels.append(-1)  # present, but no object
        means.append(MEANS[0])
    # two digits with the same box would take the class of the first
    assert np.mean(np.array(labels) == found.labels.numpy()) > 0.98
    torch.testing.assert_close(found.what, torch.stack(means), atol=1.5, rtol=0)
    assert found.categories is None
    # the wrong box is surest of none: it costs only precision beyond full recall
    assert found.ap50 == pytest.approx(1.0, abs=0.02)


def test_data_without_labels_and_without_boxes(uci_data: Any) -> None:
    (batch,) = uci_data(num_test=6).test_dataloader()
    oracle = Oracle()

    class Unlabelled(Oracle):
        def see(self, other: Any) -> Scene:
            return oracle.eval().see({**batch, "image": other["image"]})

    bare = {"image": batch["image"]}
    for kept, ap50 in ((bare, math.nan), ({**bare, "boxes": batch["boxes"], "valid": batch["valid"]}, 1.0)):
        found = detect(Unlabelled(), [kept])
        assert (found.labels == -1).all()
        assert len(found.labels) == batch["valid"].sum() + 6
        assert found.ap50 == pytest.approx(ap50, nan_ok=True, abs=0.02)
        scores = Clusters.around_averages(found.labels + 1, found.what, 2).scores(found.labels)
        assert all(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_a_planted_mixture_is_found(covariance: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (900,), generator=generator)
    what = MEANS[labels] + 0.3 * torch.randn(900, 6, generator=generator)
    found = assign(fit_mixture(what[:600], 10, covariance, num_fits=5), what[600:])
    assert found.scores(labels[600:])["hungarian_accuracy"] == 1
    # each centre is the mean of one class, and of another than the others
    distance, nearest = torch.cdist(found.centers, MEANS).min(dim=1)
    assert sorted(nearest.tolist()) == list(range(10))
    assert distance.max() < 0.3


def test_the_seed_settles_the_mixture() -> None:
    what = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))  # of which there is no one best division
    means = [torch.from_numpy(fit_mixture(what, 6, seed=seed).means_) for seed in (1, 1, 2)]
    assert torch.equal(means[0], means[1])
    assert not torch.allclose(means[0], means[2], atol=0.01)


def test_mixture_is_fitted_to_training_scenes_and_scored_on_test_scenes(uci_data: Any) -> None:
    data = uci_data(num_train=96, num_test=40, batch_size=16)
    result = cluster(Oracle(categories=True, spread=1.0), data, 10, num_fits=3, num_scenes=50, seed=2)
    labels, scores = result.detections.labels, result.scores
    known = (labels >= 0).numpy()
    for name, ids in (("gmm", result.clusters["gmm"].ids), ("categories", result.clusters["categories"].ids)):
        expected = normalized_mutual_info_score(labels.numpy()[known], ids.numpy()[known])
        assert scores[name]["nmi"] == pytest.approx(expected)
    sevens = (labels[labels >= 0] == 7).float().mean().item()
    ones = (labels[labels >= 0] == 1).float().mean().item()
    assert scores["categories"]["hungarian_accuracy"] == pytest.approx(1 - min(sevens, ones))
    assert scores["gmm"]["hungarian_accuracy"] > 0.9
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    counts = {key: record[key] for key in ("train_scenes", "test_scenes", "test_detections", "test_pairs")}
    truth = torch.cat([batch["valid"] for batch in data.test_dataloader()]).sum().item()
    assert counts == {"train_scenes": 50, "test_scenes": 40, "test_detections": truth + 40, "test_pairs": truth}
    assert record["gmm"] == scores["gmm"]
    assert (record["model"], record["data"], record["seed"]) == ("Oracle", data.name, 2)
    again = cluster(Oracle(categories=True, spread=1.0), data, 10, num_fits=3, num_scenes=50, seed=2)
    assert again.record() == result.record()


def test_undefined_figures_are_null(uci_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.downstream.clustering.matched_labels", lambda presence, *_: torch.full(presence.shape, -1))
    record = cluster(Oracle(), uci_data(), 2).record()
    assert record["gmm"] == {"hungarian_accuracy": None, "cluster_purity": None, "nmi": None}
    assert record["test_pairs"] == 0


def test_own_clusters_are_around_averages_or_the_prior(uci_data: Any) -> None:
    (batch,) = uci_data(num_test=8).test_dataloader()
    model = Oracle(categories=True)
    found = detect(model, [batch])
    assert found.categories is not None
    for number, center in enumerate(found.categories.centers):
        members: list[Tensor] = [w for w, c in zip(found.what, found.categories.ids, strict=True) if c == number]
        expected = torch.stack(members).mean(0) if members else torch.full((6,), torch.nan)
        torch.testing.assert_close(center, expected, equal_nan=True)
    assert found.categories.centers[7].isnan().all()
    model.what_prior = MixturePrior(11, 6)
    found = detect(model, [batch])
    assert found.categories is not None
    torch.testing.assert_close(found.categories.centers, model.what_prior(torch.eye(11))[0].detach())


def test_what_cannot_be_clustered_is_explained(uci_data: Any) -> None:
    with pytest.raises(ValueError, match=r"3 objects were found, of which 4 clusters.*num_scenes.*num_clusters"):
        fit_mixture(torch.randn(3, 2), 4)
    with pytest.raises(ValueError, match="not finite"):
        fit_mixture(torch.full((9, 2), torch.nan), 4)
    with pytest.raises(ValueError, match="no scene"):
        detect(Oracle(), [])
    for option in ("num_scenes", "num_fits", "num_clusters"):
        with pytest.raises(ValueError, match=f"{option} is 0, expected at least 1"):
            cluster(Oracle(), uci_data(), **{option: 0})
