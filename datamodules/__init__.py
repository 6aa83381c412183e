"""Data sets of scenes, each a `torch.utils.data.Dataset` and a `LightningDataModule` that yield a `Batch`."""

from datamodules.base import SceneDataModule, SceneDataset
from datamodules.batch import Batch
from datamodules.clevr import CLEVR, CLEVRDataModule
from datamodules.clevrtex import CLEVRTEX, CLEVRTEXDataModule
from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError, ImageError
from datamodules.fruit2d import Fruit2D, Fruit2DDataModule
from datamodules.image_folder import ImageFolder, ImageFolderDataModule
from datamodules.multi_mnist import MultiMNIST, MultiMNISTDataModule
from datamodules.multi_sprites import MultiSprites, MultiSpritesDataModule
from datamodules.objects_room import ObjectsRoom, ObjectsRoomDataModule
from datamodules.shapestacks import ShapeStacks, ShapeStacksDataModule

__all__ = [
    "CLEVR",
    "CLEVRTEX",
    "Batch",
    "CLEVRDataModule",
    "CLEVRTEXDataModule",
    "CacheError",
    "DatasetCorruptError",
    "DatasetNotFoundError",
    "Fruit2D",
    "Fruit2DDataModule",
    "ImageError",
    "ImageFolder",
    "ImageFolderDataModule",
    "MultiMNIST",
    "MultiMNISTDataModule",
    "MultiSprites",
    "MultiSpritesDataModule",
    "ObjectsRoom",
    "ObjectsRoomDataModule",
    "SceneDataModule",
    "SceneDataset",
    "ShapeStacks",
    "ShapeStacksDataModule",
]
