"""A short table of metrics at the end of a run."""

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from zoo.evaluation import METRIC_NAMES


class MetricTable(Callback):
    """Prints the metrics of the last validation when training ends, and those of the test set after a test."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last validation's metrics."""
        self._print(trainer, pl_module, "val", f"validation after {trainer.global_step} steps")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the test metrics."""
        self._print(trainer, pl_module, "test", "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics of a validation that stands alone."""
        if trainer.state.fn == "validate":
            self._print(trainer, pl_module, "val", "validation")

    def _print(self, trainer: Trainer, pl_module: LightningModule, stage: str, title: str) -> None:
        values = {
            k.split("/", 1)[1]: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(f"{stage}/")
        }
        if not values or not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        table = Table()
        table.add_column("metric")
        table.add_column("value", justify="right")
        metrics = [name for name in METRIC_NAMES if name in values]
        for name in metrics + [name for name in values if name not in metrics]:  # loss terms come last
            table.add_row(name, f"{values[name]:.4f}" if abs(values[name]) < 100 else f"{values[name]:.1f}")
        console = Console()
        console.print(
            f"{type(pl_module).__name__} on {getattr(data, 'name', type(data).__name__)}, {title}", soft_wrap=True
        )
        console.print(table)
