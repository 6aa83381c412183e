"""Whether there is what callbacks look at, before it is waited for."""

import difflib
from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

_LATER = ("train/", "schedule/", "loss", "epoch", "step", "lr-")  # what no validation measures


class MonitorCheck(Callback):
    """Refuses a metric to choose checkpoints or to stop by that the validation before training has not measured."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for what every callback monitors.

        Raises:
            ValueError: It is not there; the message says what is.
        """
        known = [*trainer.callback_metrics]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitored = getattr(callback, "monitor", None)
            if monitored and known and monitored not in known and not monitored.startswith(_LATER):
                option = "--checkpoint.monitor" if isinstance(callback, ModelCheckpoint) else type(callback).__name__
                raise ValueError(self.explain(monitored, known, option))

    @staticmethod
    def explain(monitored: str, known: Iterable[str], option: str = "--checkpoint.monitor") -> str:
        """What to say of a metric that is not measured but that the option, or callback, asks for."""
        known = sorted(name for name in known if name.startswith("val/"))
        same = [name for name in known if name.split("/")[-1] == monitored.split("/")[-1]]
        close = same or difflib.get_close_matches(monitored, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        unlabelled = "val/negative_elbo" if "val/negative_elbo" in known else "val/loss"
        return (
            f"there is no metric {monitored!r} ({option}) with this model and these data: {hint}There are "
            f"{', '.join(known)}; --checkpoint.monitor {unlabelled} --checkpoint.mode min needs no labels"
        )
