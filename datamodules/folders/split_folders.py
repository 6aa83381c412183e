"""Which of a folder's images are for training, validation and testing: as its folders say, or dealt by their names."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from datamodules.base import SPLITS, Split
from datamodules.errors import DatasetNotFoundError

NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def split_folders(root: Path, masks: Path | None = None) -> dict[Split, Path]:
    """Folders of the splits, by names as `train`, `Valid` or `val2017`; none: all images are to be dealt.

    Args:
        root: Of the data set.
        masks: A folder in it that is none of images.

    Raises:
        DatasetNotFoundError: There is no such folder, splits are missing or there twice, or they are one folder deeper.
    """
    if not root.is_dir():
        raise DatasetNotFoundError(f"{root} is a file, not a folder" if root.exists() else f"there is no folder {root}")
    found = _splits_in(root)
    if not found:
        deeper = [path for path in sorted(root.iterdir()) if path != masks and len(_splits_in(path)) > 1]
        if deeper:
            raise DatasetNotFoundError(f"{root} has its splits in {deeper[0]}: give that as the folder")
        return {}
    names = " and ".join(path.name for paths in found.values() for path in paths)
    if missing := [split for split in SPLITS if split not in found]:
        raise DatasetNotFoundError(
            f"{root} has a folder {names}, but not {' and '.join(missing)}: make what is missing, or rename what is "
            "there to have all images dealt"
        )
    if any(len(paths) > 1 for paths in found.values()):
        raise DatasetNotFoundError(f"{root} has folders {names}: leave one for each of {', '.join(SPLITS)}")
    return {split: found[split][0] for split in SPLITS}


def deal(files: Sequence[Path], root: Path, shares: Sequence[float]) -> dict[Split, list[Path]]:
    """Deal files by a hash of their names, so that they stay where they are when others come.

    Args:
        files: At least three.
        root: That their names are relative to.
        shares: Of training, validation and testing.

    Returns:
        Each sorted, none empty.

    Raises:
        DatasetNotFoundError: There are too few.
    """
    if len(files) < len(SPLITS):
        raise DatasetNotFoundError(f"{len(files)} images in {root}: training, validation and test need one each")
    dealt = sorted(files, key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    train, val, _ = (share / sum(shares) * len(files) for share in shares)
    first = min(max(round(train), 1), len(files) - 2)
    second = min(max(round(train + val), first + 1), len(files) - 1)
    return {"train": sorted(dealt[:first]), "val": sorted(dealt[first:second]), "test": sorted(dealt[second:])}


def _splits_in(folder: Path) -> dict[Split, list[Path]]:
    if not folder.is_dir():
        return {}
    named = [(path.name.lower().rstrip("0123456789"), path) for path in sorted(folder.iterdir()) if path.is_dir()]
    found = {split: [path for name, path in named if name in NAMES[split]] for split in SPLITS}
    return {split: paths for split, paths in found.items() if paths}
