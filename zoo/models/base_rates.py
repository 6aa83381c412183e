"""Learning rates that follow a model's schedules."""

from typing import TYPE_CHECKING

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel


class ScheduledLR(LambdaLR):
    """Learning rates as a model's schedules have them at its own step, for each group by its `lr_name`."""

    def __init__(self, optimizer: Optimizer, model: "ObjectModel") -> None:
        for group in optimizer.param_groups:
            group["initial_lr"] = 1.0  # the factor is the rate
        names = [group.get("lr_name", "lr") for group in optimizer.param_groups]
        super().__init__(optimizer, [lambda _, name=name: model.scheduled(name) for name in names])  # type: ignore[misc]

    def renew(self) -> None:
        """Set the rates of now, where a run goes on with others than its checkpoint had."""
        for group, rate in zip(self.optimizer.param_groups, self.lr_lambdas, strict=True):
            group["lr"] = rate(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
