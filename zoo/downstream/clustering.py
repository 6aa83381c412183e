"""Clusters of what a model finds: Gaussian mixtures of its appearance vectors.

GMAIR's paper compares itself with models that do not cluster in this way (section 4, "SPAIR + GMM"; its table 2 has
them). Works for every model, as every `Scene` has `what`; a model's own categories are scored by the same rule.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from datamodules import Batch, SceneDataModule
from metrics import AveragePrecision
from metrics.category_correspondence import PRESENT
from metrics.clustering import NO_LABEL, matched_labels
from zoo.evaluation import clustering_metrics
from zoo.layers.mixture_prior import MixturePrior
from zoo.models.base import ObjectModel

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

Covariance = Literal["full", "tied", "diag", "spherical"]


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """A division of D detections into G clusters.

    Attributes:
        ids: (D,) int64 in [0, G).
        centers: (G, A), one for each cluster: the means of a mixture, or averages, which are NaN for empty clusters.
    """

    ids: Tensor
    centers: Tensor

    @classmethod
    def around_averages(cls, ids: Tensor, what: Tensor, num_clusters: int) -> "Clusters":
        """Clusters with the average of their members' (D, A) vectors in the middle."""
        sums = what.new_zeros(num_clusters, what.shape[1]).index_add_(0, ids, what)
        return cls(ids=ids, centers=sums / ids.bincount(minlength=num_clusters)[:, None])

    def scores(self, labels: Tensor) -> dict[str, float]:
        """Agreement with (D,) classes, of which -1 is none: `hungarian_accuracy`, `cluster_purity`, `nmi`, in [0, 1].

        NaN where no detection has a class.
        """
        known = labels != NO_LABEL
        metrics = clustering_metrics(len(self.centers), 1 + max([0, *labels.tolist()]))
        metrics.update(self.ids[known], labels[known])
        return {name: value.item() for name, value in metrics.compute().items()}


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What a model finds in a set of scenes: its D slots with presence of at least .5.

    Attributes:
        what: (D, A) float32, appearance vectors.
        labels: (D,) int64, classes by the rule of `metrics.cluster_label_pairs`; -1 for what is no correct detection,
            and everywhere in data without labels.
        categories: By the most probable of the model's own categories; None if it has none.
        ap50: Average precision of all slots at an IoU of 0.5; NaN in data without boxes.
        num_scenes: Scenes that were looked at.
    """

    what: Tensor
    labels: Tensor
    categories: Clusters | None
    ap50: float
    num_scenes: int


@torch.no_grad()
def detect(model: ObjectModel, batches: Iterable[Batch], num_scenes: int | None = None) -> Detections:
    """Collect what a model finds.

    Args:
        model: On any device; its mode is restored.
        batches: Such as a datamodule's loader.
        num_scenes: Stop after so many; null: all there are.

    Returns:
        The detections, in main memory, in the order of scenes and slots.

    Raises:
        ValueError: There is no scene.
    """
    left = math.inf if num_scenes is None else num_scenes
    found: list[tuple[Tensor, ...]] = []
    precision, seen, num_categories = AveragePrecision().to(model.device), 0, 0
    training = model.training
    model.eval()
    try:
        for whole in batches:
            if left <= seen:
                break
            tensors = cast(dict[str, Tensor], whole).items()
            batch = cast(Batch, {k: v[: int(min(left - seen, len(v)))].to(model.device) for k, v in tensors})
            seen += len(batch["image"])
            scene = model.see(batch)
            present = scene.presence >= PRESENT
            labels = torch.full_like(present, NO_LABEL, dtype=torch.long)
            if "boxes" in batch:
                precision.update(scene.boxes, scene.presence, batch["boxes"], batch["valid"])
                if "labels" in batch:
                    labels = matched_labels(
                        scene.presence, scene.boxes, batch["labels"], batch["boxes"], batch["valid"]
                    )
            categories = labels
            if scene.category is not None:
                categories, num_categories = scene.category.argmax(-1), scene.category.shape[-1]
            found.append(tuple(value[present].cpu() for value in (scene.what.float(), labels, categories)))
    finally:
        model.train(training)
    if not found:
        raise ValueError(f"no scene to look at (num_scenes={num_scenes}): the loader is empty, or none was asked for")
    what, labels, categories = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Detections(
        what=what,
        labels=labels,
        categories=_own_clusters(model, categories, what, num_categories) if num_categories else None,
        ap50=precision.compute().item() if precision.update_called else math.nan,
        num_scenes=seen,
    )


def _own_clusters(model: ObjectModel, ids: Tensor, what: Tensor, num_categories: int) -> Clusters:
    """A model's own categories: around the means of its mixture prior, if it has one, else around averages."""
    prior = getattr(model, "what_prior", None)
    if isinstance(prior, MixturePrior):
        return Clusters(ids=ids, centers=prior.components()[0].float().cpu())
    return Clusters.around_averages(ids, what, num_categories)


def fit_mixture(
    what: Tensor, num_clusters: int, covariance: Covariance = "full", num_fits: int = 1, seed: int = 0
) -> "GaussianMixture":
    """Fit a Gaussian mixture by expectation maximisation from k-means (scikit-learn's, in double precision).

    Args:
        what: (D, A) appearance vectors.
        num_clusters: Components.
        covariance: Of a component: `full`; `tied`, the same for all; `diag`; or `spherical`.
        num_fits: From so many initialisations, of which the likeliest is kept.
        seed: Of the initialisations.

    Raises:
        ValueError: There are fewer vectors than clusters, or values that are not finite.
    """
    from sklearn.mixture import GaussianMixture  # takes its time to import

    if len(what) < num_clusters:
        raise ValueError(
            f"{len(what)} objects were found, of which {num_clusters} clusters cannot be made: train the model for "
            "longer, give it more scenes (num_scenes), or ask for fewer clusters (num_clusters)"
        )
    if not what.isfinite().all():
        raise ValueError(
            "appearance vectors are not finite: the model's training has diverged; take another checkpoint"
        )
    mixture = GaussianMixture(
        num_clusters, covariance_type=covariance, n_init=num_fits, max_iter=500, random_state=seed
    )
    return mixture.fit(what.double().numpy())


def assign(mixture: "GaussianMixture", what: Tensor) -> Clusters:
    """Give each of (D, A) appearance vectors the component of a mixture that most probably made it."""
    ids = mixture.predict(what.double().numpy()) if len(what) else []
    return Clusters(ids=torch.as_tensor(ids, dtype=torch.long), centers=torch.from_numpy(mixture.means_).float())


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """A mixture, and how it divides what a model finds in scenes that it was not fitted to.

    Attributes:
        mixture: scikit-learn's `GaussianMixture`.
        settings: Of the fit.
        detections: In the test scenes.
        clusters: Of these: "gmm", the mixture's; and "categories", the model's own if it has any.
    """

    mixture: "GaussianMixture"
    settings: dict[str, Any]
    detections: Detections
    clusters: dict[str, Clusters]

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Agreement of each division with the classes of the test scenes, as in `Clusters.scores`."""
        return {name: clusters.scores(self.detections.labels) for name, clusters in self.clusters.items()}

    def record(self) -> dict[str, Any]:
        """Settings, counts and scores, as JSON: what is undefined is null."""
        found = self.detections
        return _without_nan(
            {
                **self.settings,
                "converged": bool(self.mixture.converged_),
                "log_likelihood": float(self.mixture.lower_bound_),
                "test_scenes": found.num_scenes,
                "test_detections": len(found.labels),
                "test_pairs": int((found.labels != NO_LABEL).sum()),
                "ap50": found.ap50,
                **self.scores,
            }
        )


def cluster(
    model: ObjectModel,
    data: SceneDataModule,
    num_clusters: int = 10,
    *,
    covariance: Covariance = "full",
    num_fits: int = 1,
    num_scenes: int | None = 10_000,
    seed: int = 0,
) -> Clustering:
    """Fit a Gaussian mixture to what a model finds in training scenes, and cluster what it finds in the test scenes.

    No label is used but for scores. The paper says neither which covariances nor how many scenes it took.

    Args:
        model: Any model of the zoo, on any device.
        data: Where the scenes are from.
        num_clusters: Components; 10 in the paper.
        covariance: Of a component: `full`; `tied`, the same for all; `diag`; or `spherical`. Models leave most of their
            appearance dimensions unused, at a small variance that is the same everywhere: `diag` overrates these.
        num_fits: From so many initialisations, of which the likeliest is kept.
        num_scenes: Training scenes, the first of the training order; null: all.
        seed: Of the initialisations.

    Raises:
        ValueError: A number is below 1, or there are fewer detections than clusters.
    """
    for name, value in (("num_clusters", num_clusters), ("num_fits", num_fits), ("num_scenes", num_scenes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    train = detect(model, data.train_dataloader(), num_scenes)
    mixture = fit_mixture(train.what, num_clusters, covariance, num_fits, seed)
    found = detect(model, data.test_dataloader())
    clusters = {"gmm": assign(mixture, found.what)}
    if found.categories is not None:
        clusters["categories"] = found.categories
    settings = {
        "model": type(model).__name__,
        "data": data.name,
        "num_clusters": num_clusters,
        "covariance": covariance,
        "num_fits": num_fits,
        "seed": seed,
        "train_scenes": train.num_scenes,
        "train_detections": len(train.labels),
    }
    return Clustering(mixture=mixture, settings=settings, detections=found, clusters=clusters)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
