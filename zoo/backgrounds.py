"""Backgrounds of all training images, computed once by a frozen network and kept in a memory-mapped file."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from datamodules.base import SceneDataset
from datamodules.batch import Batch
from datamodules.storage.cache import cache_folder, data_folder
from datamodules.storage.converted import converted, verify

Backgrounds = npt.NDArray[np.uint8]

_BATCH = 64  # images computed at once
_SAMPLES = 16  # images that tell one data set from another


class WithBackgrounds(SceneDataset):
    """Scenes, each with its background.

    Args:
        scenes: Yield batches without.
        file: Of (N, C, H, W) uint8, from `training_backgrounds`.
    """

    def __init__(self, scenes: SceneDataset, file: Path) -> None:
        verify(file.parent)
        self.scenes, self.file = scenes, file
        self._backgrounds: Backgrounds | None = None

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    def __getstate__(self) -> dict[str, Any]:
        """Workers map the file themselves."""
        return {**self.__dict__, "_backgrounds": None}

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked, with `background`."""
        if self._backgrounds is None:
            self._backgrounds = np.load(self.file, mmap_mode="r")
        batch = self.scenes.batch(indices)
        batch["background"] = torch.from_numpy(self._backgrounds[np.asarray(indices)]).float().div_(255)
        return batch


def training_backgrounds(
    network: nn.Module, scenes: SceneDataset, data: LightningDataModule, device: torch.device
) -> Path:
    """The file with the backgrounds of a datamodule's training scenes; computes them if there is none yet.

    It lies among the cached data, named after the network's weights and all that the scenes depend on. Work that was
    interrupted goes on where it was. Processes that ask at once: one computes, the others wait.

    Args:
        network: (B, C, H, W) images in [0, 1] to a tuple whose first part is their backgrounds, alike. What it yields
            must depend on each image alone.
        scenes: The training scenes, the same at every look.
        data: Their datamodule.
        device: Where to compute.

    Returns:
        A `.npy` file of (N, C, H, W) uint8, within 0.5 / 255 of what the network yields.

    Raises:
        CacheError: The file cannot be written.
    """
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    sample = _images(scenes, range(0, len(scenes), -(-len(scenes) // _SAMPLES)))
    parameters = {
        "weights": hashlib.sha256(to_bytes(state)).hexdigest(),
        "data": {"class": type(data).__name__, **_identity(data)},
        "images": hashlib.sha256(sample.numpy().data).hexdigest(),
    }

    def compute(start: int) -> Iterator[dict[str, Backgrounds]]:
        for first in range(start, len(scenes), _BATCH):
            with torch.no_grad():
                image = _images(scenes, range(first, min(first + _BATCH, len(scenes)))).to(device)
                background = (255 * network(image)[0].float()).round().byte()
            for row in background.cpu().numpy():
                yield {"backgrounds": row}

    fields = {"backgrounds": (tuple(sample.shape[1:]), "uint8")}
    folder = cache_folder(data_folder(data.hparams.get("data_dir")))
    return converted(folder, "backgrounds", parameters, {}, fields, compute, lambda: len(scenes)) / "backgrounds.npy"


def _images(scenes: SceneDataset, indices: range) -> Tensor:
    return scenes.batch(indices)["image"].contiguous()


def _identity(data: LightningDataModule) -> dict[str, Any]:
    """The parameters of a datamodule that its scenes may depend on, in JSON values."""
    loading = ("batch_size", "eval_batch_size", "num_workers", "data_dir", "root", "test_also")
    return {key: str(value) for key, value in data.hparams.items() if key not in loading and not key.startswith("_")}
