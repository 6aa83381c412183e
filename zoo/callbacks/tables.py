"""A short table of metrics at the end of a run."""

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from zoo.evaluation import METRIC_NAMES
from zoo.loaders import stage_loader_names
from zoo.results.table import HEADLINES


class MetricTable(Callback):
    """Prints the main metrics of the last validation when training ends, and all of the test set after a test."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last validation's metrics."""
        title = f"validation after {trainer.global_step} steps"
        self._print(trainer, pl_module, "val", title, only=(*HEADLINES, "mse", "loss"))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the test metrics."""
        self._print(trainer, pl_module, "test", "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics of a validation that stands alone."""
        if trainer.state.fn == "validate":
            self._print(trainer, pl_module, "val", "validation")

    def _print(
        self, trainer: Trainer, pl_module: LightningModule, stage: str, title: str, only: tuple[str, ...] | None = None
    ) -> None:
        values = {
            k.split("/", 1)[1]: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(f"{stage}/")
        }
        if not values or not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        table = Table()
        table.add_column("metric")
        # of several loaders each has a column; the first one's values are there without its name, too
        loaders = stage_loader_names(trainer, stage)
        for loader in loaders:
            table.add_column(loader or "value", justify="right")
        names = [name for name in values if "/" not in name]
        metrics = [name for name in METRIC_NAMES if name in names]
        for name in metrics + [name for name in names if name not in metrics]:  # loss terms come last
            if only is not None and name not in only:
                continue
            table.add_row(name, *(_number(values.get(f"{name}/{loader}" if loader else name)) for loader in loaders))
        console = Console()
        console.print(
            f"{type(pl_module).__name__} on {getattr(data, 'name', type(data).__name__)}, {title}", soft_wrap=True
        )
        console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"
