import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zoo.backgrounds import WithBackgrounds, training_backgrounds


class Inverse(nn.Module):
    """A network whose images are told from its weights, and which counts what it was shown."""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        self.seen = 0
        self.most = 10**9

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.seen + len(image) > self.most:
            raise KeyboardInterrupt
        self.seen += len(image)
        return (1 - image) ** self.power, image


@pytest.fixture
def data(uci_data, tmp_path: Path):
    data = uci_data(num_train=700, data_dir=str(tmp_path))
    data.setup("fit")
    return data


def backgrounds(network: nn.Module, data) -> Path:
    return training_backgrounds(network, data.datasets["train"], data, torch.device("cpu"))


def test_what_is_cached_is_what_the_network_yields(data) -> None:
    network, scenes = Inverse(), data.datasets["train"]
    pictures = WithBackgrounds(scenes, backgrounds(network, data))
    indices = [699, 0, 3, 3, 64]
    batch = pictures.batch(indices)
    expected = network(scenes.batch(indices)["image"])[0].detach()
    assert len(pictures) == len(scenes)
    assert batch["background"].dtype == torch.float32
    torch.testing.assert_close(batch["background"], expected, rtol=0, atol=0.5 / 255 + 1e-6)
    assert torch.equal(batch["labels"], scenes.batch(indices)["labels"])


def test_nothing_is_computed_twice_and_changes_are_noticed(data, uci_data, tmp_path: Path) -> None:
    first, again, other = Inverse(), Inverse(), Inverse(3.0)
    path = backgrounds(first, data)
    assert first.seen == 700
    assert backgrounds(again, data) == path
    assert again.seen == 0
    data.batch_size = 5  # changes no scene
    assert backgrounds(again, data) == path
    assert backgrounds(other, data) != path  # other weights
    different = uci_data(num_train=700, seed=1, data_dir=str(tmp_path))
    different.setup("fit")
    assert backgrounds(again, different) != path  # other scenes
    assert again.seen == 700


def test_work_that_was_interrupted_goes_on(data) -> None:
    broken, whole = Inverse(), Inverse()
    broken.most = 600
    with pytest.raises(KeyboardInterrupt):
        backgrounds(broken, data)
    rest = Inverse()
    path = backgrounds(rest, data)
    assert 0 < rest.seen < 700
    data.hparams["seed"] = "as if other"  # made whole, under another name
    assert np.array_equal(np.load(path), np.load(backgrounds(whole, data)))


def test_a_damaged_file_is_made_again(data) -> None:
    network = Inverse()
    path = backgrounds(network, data)
    expected = np.load(path)
    os.truncate(path, 1000)
    assert np.array_equal(np.load(backgrounds(network, data)), expected)
