"""Data sets of scenes, each a `torch.utils.data.Dataset` and a `LightningDataModule` that yield a `Batch`."""

from datamodules.base import SceneDataModule, SceneDataset
from datamodules.batch import Batch
from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from datamodules.multi_mnist import MultiMNIST, MultiMNISTDataModule
from datamodules.multi_sprites import MultiSprites, MultiSpritesDataModule

__all__ = [
    "Batch",
    "CacheError",
    "DatasetCorruptError",
    "DatasetNotFoundError",
    "MultiMNIST",
    "MultiMNISTDataModule",
    "MultiSprites",
    "MultiSpritesDataModule",
    "SceneDataModule",
    "SceneDataset",
]
