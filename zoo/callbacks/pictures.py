"""Pictures of what a model sees and imagines, at each validation and at the end."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from datamodules.batch import Batch
from zoo.loaders import as_batch, stage_loader_names
from zoo.models.base import ObjectModel
from zoo.pictures.draw import draw_composed, draw_generated, draw_scenes, draw_styles, draw_varied


class ScenePictures(Callback):
    """Draws a fixed set of validation (or test) images: input with true boxes, reconstruction, predicted boxes.

    Below them masks, attention and background, where the batch or the scene has them.

    One PNG for each validation goes to `pictures/` in the run folder, and to every logger that takes images. So do, at
    the end of training and of a test, what the model imagines, as far as it can: `generated.png` (see
    `draw_generated`), `composed.png` (`draw_composed`), `styles.png` (`draw_styles`) and `varied.png` (`draw_varied`).

    Args:
        num_images: How many images, the first of the set.
        every_n_validations: Draw at every n-th validation; the last before training ends is `last.png`, too.
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
        self._batches: dict[int, Batch] = {}  # by the number of the loader

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        self._keep(batch, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        self._keep(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless this is the check before training."""
        if not trainer.sanity_checking:
            if self._validations % self.every_n_validations == 0:
                self._draw(trainer, pl_module, f"val_step{trainer.global_step:07d}", "val")
            self._validations += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the model imagines."""
        self._draw(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the model sees, and what it imagines."""
        self._draw(trainer, pl_module, "test", "test")
        self._draw(trainer, pl_module)

    def _keep(self, batch: Batch, batch_idx: int, dataloader_idx: int) -> None:
        if batch_idx == 0:
            first = {key: value[: self.num_images] for key, value in cast(dict, as_batch(batch)).items()}
            self._batches[dataloader_idx] = cast(Batch, first)

    @torch.no_grad()
    def _draw(
        self, trainer: Trainer, pl_module: LightningModule, name: str | None = None, stage: str | None = None
    ) -> None:
        """Draw the images that were kept of a stage's loaders, as `name`; without one, what the model imagines."""
        log_dir = trainer.log_dir  # asks the other processes, so all of them have to come here
        if 0 not in self._batches or not trainer.is_global_zero:
            return
        model, batch = cast(ObjectModel, pl_module), self._batches[0]
        size = cast(tuple[int, int], tuple(batch["image"].shape[-2:]))
        sheets: dict[str, Image.Image] = {}
        if name is not None and stage is not None:
            for i, loader in enumerate(stage_loader_names(trainer, stage)):
                if i in self._batches:
                    about = f"{type(model).__name__} after {model.steps_trained} steps"
                    sheet = draw_scenes(self._batches[i], model.see(self._batches[i]), self.threshold, about=about)
                    sheets[f"{name}_{loader}" if loader else name] = sheet
                    if stage == "val":
                        sheets.setdefault("last", sheet)
        else:
            if hasattr(model, "generate"):
                sheets["generated"] = draw_generated(model, self.num_images, size)
            if hasattr(model, "compose"):
                sheets["composed"] = draw_composed(model, self.num_images, size)
            if hasattr(model, "assemble"):
                sheets["styles"] = draw_styles(model, self.num_images)
            if hasattr(model, "vary"):
                sheets["varied"] = draw_varied(model, batch["image"][: self.num_images])
        for title, sheet in sheets.items():
            if log_dir is not None:
                folder = Path(log_dir, "pictures")
                folder.mkdir(parents=True, exist_ok=True)
                sheet.save(folder / f"{title}.png")
            for logger in trainer.loggers:
                if hasattr(logger, "log_image") and title != "last":  # W&B and its like
                    logger.log_image(key=f"scenes/{title.split('_')[0]}", images=[sheet])
