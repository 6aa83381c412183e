"""Files that annotations mean, by names which other machines and other folders may have given them."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DatasetCorruptError
from datamodules.folders.coco import AnnotatedImage, Report
from datamodules.folders.coco_values import AnnotationError, few

Claims = dict[Path, AnnotatedImage | None]  # null: several annotated images are that file
_FIX = "write file_name relative to"


def match_files(
    images: Sequence[AnnotatedImage], files: Sequence[Path], folders: Sequence[Path], report: Report
) -> dict[Path, AnnotatedImage]:
    """Annotated images by their files.

    A name is relative to the JSON's folder or to one of `folders`. Where no file is there, since the name has another
    machine's root or a prefix, the file is meant that alone has the same end of its path (the last part at least, in
    upper or lower case); a warning says so.

    Args:
        images: Annotations.
        files: Of the data set; annotations of other files are left out and counted.
        folders: That names may be relative to, that of the data set first.
        report: Decides on faults: a name that could be several files, a file that has several names.

    Raises:
        DatasetCorruptError: A JSON names no file at all, or there is a fault that is not to be left out.
    """
    root, known, unknown = folders[0], Claims(), list[AnnotatedImage]()
    there = {_absolute(path): path for path in files}
    for image in images:
        with report.guard(image.where):
            if (path := _exact(image, there, folders)) is None:
                unknown.append(image)
            else:
                _claim(known, path, image, root)
    by_name = defaultdict(list)
    for path in set(files) - set(known):
        by_name[_parts(path.relative_to(root).as_posix())[-1]].append(path)
    loose, absent = Claims(), Counter[Path]()
    for image in unknown:
        with report.guard(image.where):
            if (path := _by_end(image, by_name, root)) is None:
                absent[image.file] += 1
            else:
                _claim(loose, path, image, root)
    for file, count in absent.items():
        names = [image.name for image in images if image.file == file]
        if count == len(names):
            own = few(path.relative_to(root).as_posix() for path in files)
            raise DatasetCorruptError(f"{file} names none of the images in {root}: {few(names)}; they are {own}")
    report.absent += absent.total()
    matched = {path: image for path, image in loose.items() if image is not None}
    if matched:
        path, image = next(iter(matched.items()))
        rank_zero_warn(
            f"{len(matched)} of {len(images)} annotated images were found by the end of their path alone: "
            f"{few([image.name])} is taken to be {path}; {_FIX} {root}"
        )
    return {path: image for path, image in (known | loose).items() if image is not None}


def _exact(image: AnnotatedImage, there: Mapping[str, Path], folders: Iterable[Path]) -> Path | None:
    """The file of that very name, beside the JSON or else in one of the folders."""
    name = image.name.replace("\\", "/")
    if (beside := there.get(_absolute(image.file.parent / name))) is not None:
        return beside
    found = {there[path]: None for folder in folders if (path := _absolute(folder / name)) in there}
    return _only([*found], image, next(iter(folders)))


def _by_end(image: AnnotatedImage, by_name: Mapping[str, Sequence[Path]], root: Path) -> Path | None:
    """The file whose path has the longest end in common with an image's."""
    parts = _parts(image.name.replace("\\", "/"))
    shared = {}
    for path in by_name.get(parts[-1], ()):
        own = _parts(path.relative_to(root).as_posix())
        same = [a == b for a, b in zip(reversed(parts), reversed(own), strict=False)]
        shared[path] = [*same, False].index(False)
    longest = max(shared.values(), default=0)
    return _only([path for path, count in shared.items() if count == longest], image, root)


def _only(found: Sequence[Path], image: AnnotatedImage, root: Path) -> Path | None:
    if len(found) > 1:
        both = " and ".join(sorted(map(str, found))[:2])
        raise AnnotationError("file_name", "could be several files", f"there is {both}: {_FIX} {root}", image.name)
    return found[0] if found else None


def _claim(known: Claims, path: Path, image: AnnotatedImage, root: Path) -> None:
    if path in known:
        also, known[path] = known[path], None
        fix = f"{also.where if also else 'others'} is the same file: join them, or {_FIX} {root}"
        raise AnnotationError("file_name", "is annotated twice", fix, image.name)
    known[path] = image


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - which follows no links: they are names too


def _parts(name: str) -> list[str]:
    """Of a path, such that spellings of different systems are alike."""
    return unicodedata.normalize("NFC", name).casefold().split("/")
