"""Pictures of what a model has learned to tell apart, as in GMAIR's figure 2."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from zoo.files import write_whole
from zoo.models.base import ObjectModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClusterPictures(Callback):
    """Draws, when training ends, appearance vectors by t-SNE and the curves of AP, accuracies and NMI.

    `embedding.png` has what is found in the validation scenes, coloured by true class, in the model's own clusters, if
    it has categories, and in those of a Gaussian mixture; `curves.png` has the metrics of every validation, before a
    run was resumed too. Both go to `pictures/` in the run folder, and to every logger that takes images. Under several
    processes the embedding is of the first one's share of the scenes.

    Args:
        num_clusters: Components of the mixture; null: 10, and no mixture where the model has categories of its own.
        num_scenes: Validation scenes to look at.
        num_points: Most points in the picture: 3000 take some 10 s on one CPU core.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, num_clusters: int | None = None, num_scenes: int = 1000, num_points: int = 3000) -> None:
        if min(1 if num_clusters is None else num_clusters, num_scenes, num_points) < 1:
            raise ValueError(
                f"num_clusters={num_clusters}, num_scenes={num_scenes} and num_points={num_points} must be at least 1"
            )
        self.num_clusters = num_clusters
        self.num_scenes = num_scenes
        self.num_points = num_points
        self._curves: dict[str, list[tuple[int, float]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"curves": {name: [list(point) for point in curve] for name, curve in self._curves.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curves of a run that is resumed."""
        curves = cast(dict[str, list[tuple[int, float]]], state_dict["curves"])
        self._curves = {name: [(step, value) for step, value in curve] for name, curve in curves.items()}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to each curve."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        from zoo.downstream.embedding import CURVES  # matplotlib takes its time

        for name in CURVES:
            value = trainer.callback_metrics.get(f"val/{name}")
            if value is not None:
                self._curves.setdefault(name, []).append((trainer.global_step, float(value)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw; what cannot be drawn is said, and does not end the run."""
        log_dir = trainer.log_dir  # asks the other processes, so all of them have to come here
        if not trainer.is_global_zero:
            return
        from zoo.downstream.embedding import draw_curves

        figures = {}
        try:
            figures["curves"] = draw_curves(self._curves)
            figures["embedding"] = self._embedding(trainer, cast(ObjectModel, pl_module))
        except ValueError as error:
            rank_zero_warn(f"no {'embedding' if figures else 'curves'}.png: {error}")
        publish(trainer, log_dir, figures)

    def _embedding(self, trainer: Trainer, model: ObjectModel) -> "Figure":
        from zoo.downstream.clustering import assign, detect, fit_mixture
        from zoo.downstream.embedding import draw_embedding

        loaders = trainer.val_dataloaders
        found = detect(model, loaders[0] if isinstance(loaders, list) else loaders or [], self.num_scenes)
        clusters = {"categories": found.categories} if found.categories is not None else {}
        if self.num_clusters is not None or not clusters:
            clusters["gmm"] = assign(fit_mixture(found.what, self.num_clusters or 10), found.what)
        return draw_embedding(found, clusters, num_points=self.num_points)


def publish(trainer: Trainer, log_dir: str | None, figures: dict[str, "Figure"]) -> None:
    """Write figures to `pictures/` in the run folder, and hand them to every logger that takes images.

    Args:
        trainer: Has the loggers.
        log_dir: The run folder; null: none.
        figures: By name.
    """
    from zoo.downstream.embedding import to_png

    for name, figure in figures.items():
        png = to_png(figure)
        if log_dir is not None:
            path = Path(log_dir, "pictures", f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, png)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # W&B and its like
                logger.log_image(key=f"clusters/{name}", images=[Image.open(io.BytesIO(png))])
