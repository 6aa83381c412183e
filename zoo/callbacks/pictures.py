"""Pictures of what a model sees: input, reconstruction, boxes."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.batch import Batch
from zoo.models.base import ObjectModel
from zoo.scene import Scene

TRUE_COLOR, PREDICTED_COLOR = (255, 200, 0), (60, 140, 255)  # as in the SPAIR paper's figure 2
_GAP, _LABEL = 4, 14


class ScenePictures(Callback):
    """Draws a fixed set of validation (or test) images: input with true boxes, reconstruction, predicted boxes.

    One PNG for each validation goes to `pictures/` in the run folder, and to every logger that takes images.

    Args:
        num_images: How many images, the first of the set.
        every_n_validations: Draw at every n-th validation; the last before training ends is kept as `last.png`.
        threshold: Slots with at least this presence are drawn.
    """

    def __init__(self, num_images: int = 8, every_n_validations: int = 1, threshold: float = 0.5) -> None:
        if num_images < 1 or every_n_validations < 1:
            raise ValueError(
                f"num_images={num_images} and every_n_validations={every_n_validations} must be at least 1"
            )
        self.num_images = num_images
        self.every_n_validations = every_n_validations
        self.threshold = threshold
        self._validations = 0
        self._batch: Batch | None = None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Keep the first images."""
        self._keep(batch, batch_idx)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Keep the first images."""
        self._keep(batch, batch_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless this is the check before training."""
        if not trainer.sanity_checking:
            if self._validations % self.every_n_validations == 0:
                self._draw(trainer, pl_module, f"val_step{trainer.global_step:07d}")
            self._validations += 1

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module, "test")

    def _keep(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self._batch = cast(Batch, {key: value[: self.num_images] for key, value in cast(dict, batch).items()})

    @torch.no_grad()
    def _draw(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        log_dir = trainer.log_dir  # asks the other processes, so all of them have to come here
        if self._batch is None or not trainer.is_global_zero:
            return
        sheet = draw_scenes(self._batch, cast(ObjectModel, pl_module).see(self._batch), self.threshold)
        if log_dir is not None:
            folder = Path(log_dir, "pictures")
            folder.mkdir(parents=True, exist_ok=True)
            sheet.save(folder / f"{name}.png")
            sheet.save(folder / "last.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # W&B and its like
                logger.log_image(key=f"scenes/{name.split('_')[0]}", images=[sheet])


def draw_scenes(batch: Batch, scene: Scene, threshold: float = 0.5, scale: int | None = None) -> Image.Image:
    """A sheet with one column an image, and rows for input, reconstruction and predictions.

    Args:
        batch: B images; true boxes are drawn in yellow where it has them.
        scene: What a model sees in them; boxes of presence at least `threshold` are drawn in blue, brighter for more.
        threshold: In [0, 1].
        scale: Enlargement of each pixel; by default images become at least 192 pixels wide.

    Returns:
        An RGB picture.
    """
    B, _, _, W = batch["image"].shape
    scale = scale or max(1, -(-192 // W))
    inputs = [to_picture(image, scale) for image in batch["image"]]
    reconstructions = [to_picture(image, scale) for image in scene.reconstruction]
    predictions = [picture.copy() for picture in inputs]
    for b in range(B):
        if "boxes" in batch:
            for box in batch["boxes"][b][batch["valid"][b]]:
                draw_box(inputs[b], box, scale, TRUE_COLOR)
        for box, presence in zip(scene.boxes[b], scene.presence[b].tolist(), strict=True):
            if presence >= threshold:
                color = tuple(int(c * (0.4 + 0.6 * presence)) for c in PREDICTED_COLOR)
                draw_box(predictions[b], box, scale, color, f"{presence:.2f}")
    titles = ["input and true boxes" if "boxes" in batch else "input", "reconstruction", "predicted boxes"]
    return sheet_of(dict(zip(titles, [inputs, reconstructions, predictions], strict=True)))


def to_picture(image: Tensor, scale: int) -> Image.Image:
    """A (C, H, W) image in [0, 1], C 1 or 3, as an enlarged RGB picture with sharp pixels."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().expand(3, -1, -1)
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def draw_box(picture: Image.Image, box: Tensor, scale: int, color: tuple[int, ...], label: str = "") -> None:
    """Outline a box given in the pixels of the image before it was enlarged; draws in place."""
    x1, y1, x2, y2 = (float(v) * scale for v in box)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=max(1, scale // 3))
    if label:
        draw.text((x1 + 2, y1 + 1), label, fill=color)


def sheet_of(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """Rows of equally large pictures, each under its title."""
    first = next(iter(rows.values()))[0]
    columns = max(len(row) for row in rows.values())
    width = columns * (first.width + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(rows) * (first.height + _LABEL + _GAP)), (24, 24, 28))
    for r, (title, row) in enumerate(rows.items()):
        top = r * (first.height + _LABEL + _GAP)
        ImageDraw.Draw(sheet).text((_GAP, top + 1), title, fill=(220, 220, 220))
        for c, picture in enumerate(row):
            sheet.paste(picture, (_GAP + c * (first.width + _GAP), top + _LABEL))
    return sheet
