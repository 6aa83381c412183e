"""The metrics of every model on every data set, chosen by the fields that the scene and the batch both have."""

from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from datamodules.batch import Batch
from metrics import AveragePrecision, CountAccuracy, CountError
from zoo.scene import Scene

_IOU_THRESHOLDS = tuple(i / 10 for i in range(1, 10))


class SceneMetrics(nn.Module):
    """Metrics of scenes against batches.

    - `ap50`: VOC average precision at an IoU of 0.5, area under the precision envelope; `ap50_11pt`: at 11 recalls.
    - `ap`: mean over IoU 0.1, 0.2, ..., 0.9, area under the envelope; `ap_11pt`: at 11 recalls, as in the SPAIR paper.
    - `count_accuracy`: images with the right number of slots of presence at least 0.5; `count_error`: mean difference.
    - `mse`: squared error of a pixel, mean over images.
    """

    def __init__(self) -> None:
        super().__init__()
        # collections, so that metrics of one kind share their states and updates
        self.detection = MetricCollection(
            {
                "ap50": AveragePrecision(),
                "ap50_11pt": AveragePrecision(interpolation="11_points"),
                "ap": AveragePrecision(_IOU_THRESHOLDS),
                "ap_11pt": AveragePrecision(_IOU_THRESHOLDS, interpolation="11_points"),
            }
        )
        self.counts = MetricCollection({"count_accuracy": CountAccuracy(), "count_error": CountError()})
        self.pixels = MetricCollection({"mse": MeanMetric()})

    def update(self, scene: Scene, batch: Batch) -> None:
        """Take in one batch."""
        if "boxes" in batch:
            self.detection.update(scene.boxes, scene.presence, batch["boxes"], batch["valid"])
        if "valid" in batch:
            self.counts.update(scene.presence, batch["valid"])
        self.pixels.update((scene.reconstruction - batch["image"]).square().mean((1, 2, 3)))

    def compute(self) -> dict[str, Tensor]:
        """Values of the metrics that were updated."""
        used = [group for group in self._groups() if next(iter(group.values())).update_called]
        return {name: value for group in used for name, value in group.compute().items()}

    def reset(self) -> None:
        """Start anew."""
        for group in self._groups():
            group.reset()

    def _groups(self) -> tuple[MetricCollection, ...]:
        return self.detection, self.counts, self.pixels
