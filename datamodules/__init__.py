"""Data sets of scenes, each a `torch.utils.data.Dataset` and a `LightningDataModule` that yield a `Batch`.

One file a data set, with `NAME_published` for how its published files are read where that is long. All of them share
`base` (datasets, loaders, splits, checks), `batch` (what they yield) and `errors`.

- `storage/`: how data sets lie on disk: archives, caches, conversions, images, TFRecords.
- `folders/`: what a folder of one's own images may hold: splits, COCO's annotations, masks.
- `drawing/`: scenes that are made from a seed: digits, fruits, textured solids.
"""

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
from datamodules.picture import PictureDataModule, PictureScenes
from datamodules.set_game import SetGame, SetGameDataModule
from datamodules.shapestacks import ShapeStacks, ShapeStacksDataModule
from datamodules.space_invaders import SpaceInvaders, SpaceInvadersDataModule

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
    "PictureDataModule",
    "PictureScenes",
    "SceneDataModule",
    "SceneDataset",
    "SetGame",
    "SetGameDataModule",
    "ShapeStacks",
    "ShapeStacksDataModule",
    "SpaceInvaders",
    "SpaceInvadersDataModule",
]
