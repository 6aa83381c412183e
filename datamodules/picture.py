"""One large picture, such as a micrograph or an aerial photo: crops of one half to learn from, the other to test on.

Objects that look alike and are strewn over one picture are many scenes: training sees crops at random places of one
half, validation that half, and the test the half that training never saw, each in tiles or as a whole. A file of one's
own is read, or a picture that a package brings along: `coins` of scikit-image, `nuclear` of mahotas (the extra `real`).
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import SPLITS, SceneDataModule, SceneDataset, Split, check, size_name
from datamodules.batch import Batch
from datamodules.errors import DatasetNotFoundError, ImageError
from datamodules.storage.converted import pair_of_sides
from datamodules.storage.images import read_image, to_channels

Half = Literal["top", "bottom", "left", "right"]
_OTHER: dict[Half, Half] = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}


class Shipped(NamedTuple):
    """A picture that a package brings along.

    Attributes:
        package: As it is imported.
        project: As it is installed.
        file: Within the package.
        boxes: (x1, y1, x2, y2) of its objects in the picture's pixels, half-open; none where nobody drew any.
    """

    package: str
    project: str
    file: str
    boxes: tuple[tuple[int, int, int, int], ...] = ()


# Boxes of `coins` are tight around the regions of a watershed on Sobel's gradient, from grey values below 30 and above
# 150, with their holes filled; each was looked at.
PICTURES = {
    "coins": Shipped(
        *("skimage", "scikit-image", "data/coins.png"),
        (
            *((22, 35, 67, 74), (81, 39, 120, 74), (132, 28, 179, 74), (192, 30, 240, 73), (255, 34, 297, 72)),
            *((305, 16, 365, 72), (25, 104, 67, 145), (84, 108, 122, 145), (134, 110, 173, 145), (186, 105, 226, 144)),
            *((245, 95, 296, 144), (317, 106, 356, 145), (26, 179, 63, 217), (80, 175, 124, 217), (135, 179, 174, 217)),
            *(
                (189, 170, 237, 217),
                (251, 172, 297, 217),
                (315, 156, 380, 218),
                (18, 233, 75, 288),
                (93, 245, 136, 287),
            ),
            *((144, 236, 201, 288), (220, 240, 269, 288), (276, 239, 326, 289), (336, 248, 382, 289)),
        ),
    ),
    "nuclear": Shipped("mahotas", "mahotas", "demos/data/nuclear.png"),
}


def picture_file(picture: str) -> Path:
    """Of a picture's name in `PICTURES`, or its own path.

    Raises:
        DatasetNotFoundError: The package that brings it along is not installed, or there is no such file.
    """
    if picture in PICTURES:
        shipped = PICTURES[picture]
        spec = importlib.util.find_spec(shipped.package)
        if spec is None or spec.origin is None:
            raise DatasetNotFoundError(
                f"the picture {picture!r} comes with {shipped.project}, which is not installed: "
                "pip install 'object-centric-zoo[real]'"
            )
        return Path(spec.origin).parent / shipped.file
    path = Path(picture).expanduser()
    if not path.is_file():
        raise DatasetNotFoundError(f"there is no picture {path}: give a file, or one of {', '.join(PICTURES)}")
    return path


class PictureScenes(SceneDataset):
    """Scenes of one size, each a part of a picture.

    Args:
        picture: (C, H, W) float32 in [0, 1].
        corners: (S, 2) int64, row and column of each scene's first pixel.
        size: (h, w) of a scene.
        turns: (S,) int64 from 0 to 7, whether and how each is turned: by quarters, 4 and more after a reflection; null:
            none is.
        boxes: (N, 4) float32 of all objects of the picture, in its pixels, where they are known. A scene has those
            whose centres it holds.
    """

    def __init__(
        self,
        picture: Tensor,
        corners: Tensor,
        size: tuple[int, int],
        *,
        turns: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> None:
        self.picture = picture
        self.corners = corners
        self.size = size
        self.turns = turns
        self.boxes = boxes

    def __len__(self) -> int:
        return len(self.corners)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices`, stacked."""
        (h, w), chosen = self.size, list(indices)
        images = [self.picture[:, y : y + h, x : x + w] for y, x in self.corners[chosen].tolist()]
        if self.turns is not None:
            images = [_turned(image, turn) for image, turn in zip(images, self.turns[chosen].tolist(), strict=True)]
        batch = Batch(image=torch.stack(images))
        if self.boxes is not None:
            batch.update(self._objects(self.corners[chosen]))
        return batch

    def _objects(self, corners: Tensor) -> Batch:
        assert self.boxes is not None
        h, w = self.size
        edge = self.boxes.new_tensor([w, h, w, h])
        boxes = self.boxes - corners.flip(1).repeat(1, 2)[:, None]  # (B, N, 4), from the scene's corner
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        valid = ((centre >= 0) & (centre < edge[:2])).all(-1)
        boxes = boxes.clamp_min(0).minimum(edge) * valid[..., None]
        return Batch(boxes=boxes, labels=torch.zeros(valid.shape, dtype=torch.int64), valid=valid)


def _levelled(picture: Tensor, side: int) -> Tensor:
    """What of a (C, H, W) picture stands out from its ground, each channel stretched to [0, 1].

    The ground is the picture's opening by a window (the brightest that fills it everywhere), smoothed by a quarter of
    its side.
    """
    values = picture.numpy()
    ground = scipy.ndimage.grey_opening(values, size=(1, side, side), mode="nearest")
    ground = scipy.ndimage.gaussian_filter(ground, sigma=(0, side / 4, side / 4), mode="nearest")
    above = (values - ground).clip(0)
    return torch.from_numpy(above / above.max((1, 2), keepdims=True).clip(1e-6))


def _turned(image: Tensor, turn: int) -> Tensor:
    """One of the eight symmetries of a square (C, H, H) image."""
    return torch.rot90(image.flip(-1) if turn >= 4 else image, turn % 4, (-2, -1))


class PictureDataModule(SceneDataModule):
    """One picture: crops of one half are trained on, that half validates, the other half tests.

    Where the objects of the picture are known (`coins`), the usual metrics are measured; training sees images alone.

    Args:
        picture: A file, or `coins` or `nuclear`, which packages bring along.
        shrink: Pixels of the picture for one of a scene, at least 1, in both directions: the mean of what they cover.
        image_size: Side of a training scene in pixels, after shrinking, or [height, width].
        level: Side of a window in pixels, after shrinking: what is brighter than everything that fills such a window is
            left, on black (a white top-hat, as for uneven light). It has to be wider than an object. Null: none.
        whole: Validation and test see their half as one image, for models that take images of any size, such as SPAIR;
            otherwise as tiles of `image_size`, side by side, where objects are cut.
        test_half: "bottom", "top", "right" or "left", what training never sees; a middle row or column is in neither.
        turn: Training scenes are also turned by quarters and reflected, for objects that have no upright position.
        gamma: Exponent of the values in [0, 1], after levelling; below 1 it brings out what is dim.
        channels: 1 or 3; null: as the picture has them.
        num_train: Training scenes, at places that are drawn once from `seed`.
        batch_size: Training scenes in a batch of one process, or as many as there are.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Of the places, and of the training order.

    Raises:
        ValueError: A parameter is out of its range.
        DatasetNotFoundError: There is no such picture.
        ImageError: It cannot be read.
    """

    def __init__(
        self,
        *,
        picture: str,
        shrink: float = 1.0,
        image_size: int | Sequence[int] = 48,
        level: int | None = None,
        whole: bool = False,
        test_half: Half = "bottom",
        turn: bool = False,
        gamma: float = 1.0,
        channels: int | None = None,
        num_train: int = 4000,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=1, num_workers=num_workers, seed=seed)
        self.save_hyperparameters(logger=False)  # names may clash with the model's: the run folder has the config
        self.size = pair_of_sides(image_size)
        check("shrink", shrink, shrink >= 1, "at least 1")
        check("level", level, level is None or level >= 2, "at least 2, or null")
        check("test_half", test_half, test_half in _OTHER, f"one of {', '.join(get_args(Half))}")
        check("turn", turn, not turn or self.size[0] == self.size[1], "false where crops are no squares")
        check("gamma", gamma, gamma > 0, "above 0")
        check("channels", channels, channels in (None, 1, 3), "1 or 3, or null")
        check("num_train", num_train, num_train >= 1, "at least 1")
        self._picture: Tensor | None = None
        self._boxes: Tensor | None = None
        self._digest = ""

    @property
    def name(self) -> str:  # type: ignore[override]
        """Such as `coins-3-48-bottom`: picture, shrinking, side of a crop, the half that tests, and what departs."""
        hp = self.hparams
        own = hp["picture"]
        if own not in PICTURES:
            own = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(own).stem)
        parts = (
            [own, f"{hp['shrink']:g}", size_name(self.size), hp["test_half"]]
            + ["turned"] * hp["turn"]
            + ["whole"] * hp["whole"]
        )
        parts += [f"l{hp['level']}"] * (hp["level"] is not None)
        parts += [f"g{hp['gamma']:g}"] * (hp["gamma"] != 1) + [f"c{hp['channels']}"] * (hp["channels"] is not None)
        return "-".join(parts + [f"s{self.seed}"] * (self.seed != 0))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a half, or of its tiles."""
        return (self.everything.shape[0], *(self._half if self.hparams["whole"] else self.size))

    @property
    def _half(self) -> tuple[int, int]:
        """(H, W) of a half."""
        return _half_of(self.everything.shape[-2:], self.hparams["test_half"])

    @property
    def train_image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a crop."""
        return (self.everything.shape[0], *self.size)

    @property
    def num_classes(self) -> int:
        """All objects are of one."""
        return 1

    @property
    def max_objects(self) -> int:
        """Those of the picture; 1 where they are not known."""
        return max(1, len(self.boxes) if self.boxes is not None else 1)

    @property
    def has_objects(self) -> bool:
        """Whether anyone has drawn their boxes."""
        return self.boxes is not None

    @property
    def looks(self) -> str | None:
        """Such as `a picture of 128x101, grey`."""
        C, H, W = self.everything.shape
        return f"a picture of {W}x{H}, {'grey' if C == 1 else 'colour'}, shrunk by {self.hparams['shrink']:g}"

    @property
    def everything(self) -> Tensor:
        """(C, H, W) float32 in [0, 1], the whole picture as scenes are cut from it."""
        if self._picture is None:
            self._picture, self._boxes = self._read()
        return self._picture

    @property
    def boxes(self) -> Tensor | None:
        """(N, 4) float32, boxes of all objects in pixels of `whole`; null where they are not known."""
        return None if self.everything is None else self._boxes

    def _read(self) -> tuple[Tensor, Tensor | None]:
        hp = self.hparams
        path = picture_file(hp["picture"])
        image = read_image(path)
        if image.shape[0] == 3 and hp["channels"] is None and bool((image == image[:1]).all()):
            image = image[:1]  # grey, stored as colour
        image = to_channels(image, hp["channels"] or image.shape[0])
        H, W = (max(1, round(side / hp["shrink"])) for side in image.shape[-2:])
        halves = _half_of((H, W), hp["test_half"])
        if halves[0] < self.size[0] or halves[1] < self.size[1]:
            raise ImageError(
                f"{path}: a half of {halves[0]} x {halves[1]} px, shrunk by {hp['shrink']:g}, holds no crop of "
                f"{self.size[0]} x {self.size[1]} px; lower image_size or shrink"
            )
        known = PICTURES[hp["picture"]].boxes if hp["picture"] in PICTURES else ()
        scale = torch.tensor([W / image.shape[-1], H / image.shape[-2]] * 2)
        boxes = torch.tensor(known, dtype=torch.float32) * scale if known else None
        small = F.interpolate(image[None], (H, W), mode="area")[0] if hp["shrink"] > 1 else image
        if hp["level"] is not None:
            small = _levelled(small, hp["level"])
        return small.clamp(0, 1) ** hp["gamma"], boxes

    def make_dataset(self, split: Split) -> PictureScenes:
        """The scenes of a split."""
        check("split", split, split in SPLITS, f"one of {', '.join(SPLITS)}")
        (_, H, W), (h, w), (tall, wide) = self.everything.shape, self._half, self.size
        tests: Half = self.hparams["test_half"]
        half = tests if split == "test" else _OTHER[tests]
        top, left = (H - h if half == "bottom" else 0), (W - w if half == "right" else 0)
        if split != "train" and self.hparams["whole"]:
            return PictureScenes(self.everything, torch.tensor([[top, left]]), (h, w), boxes=self.boxes)
        if split != "train":
            tiles = [[y, x] for y in range(0, h - tall + 1, tall) for x in range(0, w - wide + 1, wide)]
            corners = torch.tensor(tiles) + torch.tensor([top, left])
            return PictureScenes(self.everything, corners, self.size, boxes=self.boxes)
        rng, count = np.random.default_rng([self.seed, _salt(self.name)]), self.hparams["num_train"]
        rows = top + rng.integers(0, h - tall + 1, count)
        columns = left + rng.integers(0, w - wide + 1, count)
        turns = torch.from_numpy(rng.integers(0, 8, count)) if self.hparams["turn"] else None
        return PictureScenes(self.everything, torch.from_numpy(np.stack([rows, columns], 1)), self.size, turns=turns)


def _half_of(size: Sequence[int], half: Half) -> tuple[int, int]:
    """(H, W) of a half of a picture of `size` (H, W)."""
    H, W = size
    return (H // 2, W) if half in ("top", "bottom") else (H, W // 2)


def _salt(name: str) -> int:
    """A number from a name, so that two pictures have different places."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
