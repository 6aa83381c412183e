"""The line of progress: totals that are real, in a terminal and in a log."""

import re
from typing import Any

import pytest
from lightning.pytorch import Trainer

from zoo.callbacks import progress
from zoo.callbacks.progress import StepProgress
from zoo.models import SPAIR


@pytest.fixture
def tiny(uci_data: Any) -> Any:
    data = uci_data(channels=1, num_train=64, num_val=8, num_test=8, batch_size=8)
    return SPAIR(channels=1, backbone_channels=4), data


def trainer(max_steps: int, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(max_steps=max_steps, callbacks=[StepProgress()], **quiet, **options)


def test_a_log_has_a_line_for_each_validation(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fitting = trainer(16, val_check_interval=4)
    fitting.fit(*tiny)
    said = capsys.readouterr()
    assert re.findall(r"^step (\d+) of (\d+): ", said.out, re.MULTILINE) == [(f"{i}", "16") for i in (4, 8, 12, 16)]
    assert "%|" not in said.err  # no line that changes
    fitting.validate(*tiny, verbose=False)
    fitting.test(*tiny, verbose=False)
    assert "step" not in capsys.readouterr().out


def test_a_terminal_has_one_line_that_ends_at_the_last_step(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Bar(progress.tqdm):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "mininterval": 0})
            self.said: list[str] = []
            bars.append(self)

        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            self.said.append(s)

    monkeypatch.setattr(progress, "tqdm", Bar)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    fitting = trainer(12, val_check_interval=6)
    fitting.fit(*tiny)
    (bar,) = bars
    assert (bar.n, bar.total, bar.desc) == (12, 12, "training")
    assert "validating" in bar.said
    assert re.fullmatch(r"loss -?[\d.e+]+", bar.said[-1])
    fitting.test(*tiny, verbose=False)
    assert (bars[1].n, bars[1].total) == (1, 1)
    assert StepProgress._total(float("inf")) is None  # a run that ends by the clock
    assert StepProgress._total(-1) is None
