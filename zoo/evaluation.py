"""The metrics of every model on every data set, chosen by the fields that the scene and the batch both have."""

from torch import Tensor, nn
from torchmetrics import MetricCollection

from datamodules.batch import Batch
from metrics import (
    AveragePrecision,
    CategoryCorrespondence,
    ClusterPurity,
    CountAccuracy,
    CountError,
    ForegroundARI,
    GMAIRAveragePrecision,
    HungarianAccuracy,
    LocationMatchedAccuracy,
    MeanIoU,
    NormalizedMutualInformation,
    ReconstructionError,
    SegmentationCovering,
    SPAIRAveragePrecision,
    cluster_label_pairs,
)
from zoo.scene import Scene

_AVERAGE_PRECISIONS = ("ap50", "ap50_11pt", "ap", "ap_11pt", "ap_spair", "ap50_gmair", "tile_ap50")
_RAW = "raw_"  # of the boxes that a model attends to, where its boxes are derived from them
METRIC_NAMES = (
    *_AVERAGE_PRECISIONS,
    *(f"{_RAW}{name}" for name in _AVERAGE_PRECISIONS),
    *("count_accuracy", "count_error"),
    *("category_correspondence", "category_accuracy", "hungarian_accuracy", "cluster_purity", "nmi"),
    *("ari_fg", "miou", "miou_fg", "miou_strict", "miou_fg_strict", "msc_fg"),
    *("mse", "normalized_error", "mse_sum"),
)
_IOU_THRESHOLDS = tuple(i / 10 for i in range(1, 10))


def clustering_metrics(num_clusters: int, num_classes: int) -> MetricCollection:
    """What is said of clusters against classes; takes pairs of them, in one table for all metrics."""
    sizes = (num_clusters, num_classes)
    return MetricCollection(
        {
            "hungarian_accuracy": HungarianAccuracy(*sizes),
            "cluster_purity": ClusterPurity(*sizes),
            "nmi": NormalizedMutualInformation(*sizes),
        }
    )


class _DetectionMetrics(nn.Module):
    """Average precisions of one kind of boxes; their names begin with `prefix`."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        # collections, so that metrics of one kind share their states and updates
        self.voc = MetricCollection(
            {
                "ap50": AveragePrecision(),
                "ap50_11pt": AveragePrecision(interpolation="11_points"),
                "ap": AveragePrecision(_IOU_THRESHOLDS),
                "ap_11pt": AveragePrecision(_IOU_THRESHOLDS, interpolation="11_points"),
            },
            prefix=prefix,
        )
        self.spair = MetricCollection({"ap_spair": SPAIRAveragePrecision()}, prefix=prefix)
        self.gmair = MetricCollection({"ap50_gmair": GMAIRAveragePrecision()}, prefix=prefix)
        self.tiles = MetricCollection({"tile_ap50": AveragePrecision()}, prefix=prefix)

    def update(self, boxes: Tensor, presence: Tensor, batch: Batch) -> None:
        """Take in one batch, which has boxes."""
        true = batch["boxes"], batch["valid"]
        self.voc.update(boxes, presence, *true)
        self.spair.update(boxes, presence.round(), *true)  # as the program has it
        self.gmair.update(boxes, presence, *true)
        if "tile_boxes" in batch:
            self.tiles.update(boxes, presence, batch["tile_boxes"], batch["valid"])

    def groups(self) -> tuple[MetricCollection, ...]:
        """All of them."""
        return self.voc, self.spair, self.gmair, self.tiles


class SceneMetrics(nn.Module):
    """Metrics of scenes against batches.

    - `ap50`: VOC average precision at an IoU of 0.5, area under the precision envelope; `ap50_11pt`: at 11 recalls.
    - `ap`: mean over IoU 0.1, 0.2, ..., 0.9, area under the envelope; `ap_11pt`: at 11 recalls, as in the SPAIR paper.
    - `ap_spair`: the same as SPAIR's program computes it, by 32 images, of presence that is rounded first;
      `ap50_gmair`: `ap50` as GMAIR's program computes it. Neither is for comparisons with other programs' figures.
    - `tile_ap50`: `ap50` against the whole tiles that digits come in, where `boxes` are tight on their ink.
    - `raw_ap50` and the others with `raw_` in front: of `Scene.attention_boxes`, where a model has them: the boxes that
      it attends to, which SPAIR's paper scores. Those without are of `Scene.boxes`, trimmed to what is drawn in them
      where the model does that (`trim_threshold`), as GMAIR's paper does.
    - `count_accuracy`: images with the right number of slots of presence at least 0.5; `count_error`: mean difference.
    - `category_correspondence`: share of true objects whose class is among the image's predicted categories, under the
      best one-to-one naming of categories (Discrete-AIR); `category_accuracy`: the same for objects paired by place.
    - `hungarian_accuracy`: share of correct detections (presence and IoU of at least 0.5) whose category stands for
      their class, under the best one-to-one matching; `cluster_purity`: the same with several categories for one class
      (GMAIR's "ACC", equation 16); `nmi`: normalized mutual information of their categories and classes.
    - `ari_fg`: adjusted Rand index over the pixels of true objects; `miou`: mean IoU of masks under the best one-to-one
      matching, background included (AST-Seg's tables); `miou_fg`: without the true background (ClevrTex's `mIoU_fg`);
      `miou_strict`, `miou_fg_strict`: the same, with masks that share no pixel counted apart (see `MeanIoU`);
      `msc_fg`: best IoU with any predicted mask, mean over true objects. All are means over images; those without
      objects count for `miou` and `miou_strict` alone.
    - `mse`: squared error of a pixel; `normalized_error`: squared error over squared intensity, both over all images;
      `mse_sum`: squared error summed over an image, mean over images ("MSE" in ClevrTex's and AST-Seg's tables).
    """

    def __init__(self) -> None:
        super().__init__()
        self.detection, self.raw_detection = _DetectionMetrics(), _DetectionMetrics(_RAW)
        self.counts = MetricCollection({"count_accuracy": CountAccuracy(), "count_error": CountError()})
        self.pixels = MetricCollection(
            {
                "mse": ReconstructionError("mean"),
                "normalized_error": ReconstructionError("normalized"),
                "mse_sum": ReconstructionError("sum"),
            }
        )
        self.segmentation = MetricCollection(
            {
                "ari_fg": ForegroundARI(),
                "miou": MeanIoU(include_background=True),
                "miou_fg": MeanIoU(include_background=False),
                "miou_strict": MeanIoU(include_background=True, strict=True),
                "miou_fg_strict": MeanIoU(include_background=False, strict=True),
                "msc_fg": SegmentationCovering(),
            }
        )
        # filled when numbers of categories and classes are known
        self.categories = MetricCollection({})
        self.clusters = MetricCollection({})

    def update(self, scene: Scene, batch: Batch, num_classes: int | None = None) -> None:
        """Take in one batch.

        Args:
            scene: What the model sees.
            batch: What there is.
            num_classes: How many classes the data set tells apart; null leaves out what is said of categories.
        """
        if "boxes" in batch:
            self.detection.update(scene.boxes, scene.presence, batch)
            if scene.attention_boxes is not None:
                self.raw_detection.update(scene.attention_boxes, scene.presence, batch)
        if "valid" in batch:
            self.counts.update(scene.presence, batch["valid"])
        self.pixels.update(scene.reconstruction, batch["image"])
        if scene.mask is not None and "mask" in batch:
            self.segmentation.update(scene.mask, batch["mask"])
        if scene.category is not None and num_classes is not None and "labels" in batch:
            if not self.categories:
                sizes = (scene.category.shape[-1], num_classes)
                self.categories.add_metrics({"category_correspondence": CategoryCorrespondence(*sizes)})
                self.categories.add_metrics({"category_accuracy": LocationMatchedAccuracy(*sizes)})
                self.categories.to(scene.category.device)
                self.clusters = clustering_metrics(*sizes).to(scene.category.device)
            category, labels, valid = scene.category.argmax(-1), batch["labels"], batch["valid"]
            self.categories["category_correspondence"].update(category, scene.presence, labels, valid)
            place = (scene.presence, scene.boxes, labels, batch["boxes"], valid)
            self.categories["category_accuracy"].update(category, *place)
            self.clusters.update(*cluster_label_pairs(category, *place))

    def compute(self) -> dict[str, Tensor]:
        """Values of the metrics that were updated."""
        used = [group for group in self._groups() if any(metric.update_called for metric in group.values())]
        values = {name: value for group in used for name, value in group.compute().items()}
        return {name: values[name] for name in METRIC_NAMES if name in values}

    def reset(self) -> None:
        """Start anew."""
        for group in self._groups():
            group.reset()

    def _groups(self) -> tuple[MetricCollection, ...]:
        others = self.counts, self.segmentation, self.pixels, self.categories, self.clusters
        return (*self.detection.groups(), *self.raw_detection.groups(), *others)
