"""Fixtures of all tests: no network, one thread, and data in folders that vanish."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def quiet_surroundings(tmp_path_factory: pytest.TempPathFactory):
    """Digits from scikit-learn unless a test says otherwise, one cache for all tests, no dashboards."""
    torch.set_num_threads(1)
    data = tmp_path_factory.mktemp("data")
    before = {name: os.environ.get(name) for name in ("ZOO_DATA", "WANDB_MODE")}
    os.environ.update(ZOO_DATA=str(data), WANDB_MODE="disabled")
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def uci_data(monkeypatch: pytest.MonkeyPatch):
    """A small MultiMNIST of built-in digits: `uci_data(num_train=64, ...)`."""
    from datamodules import MultiMNISTDataModule

    def make(**parameters):
        small = {"num_train": 64, "num_val": 8, "num_test": 8, "batch_size": 8, "channels": 1, "source": "uci"}
        return MultiMNISTDataModule(**{**small, **parameters})

    return make
