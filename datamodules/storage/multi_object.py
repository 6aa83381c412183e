"""What the data sets of DeepMind's Multi-Object Datasets share: where their files are, and how they are converted.

Source: Kabra et al., "Multi-Object Datasets", 2019, https://github.com/google-deepmind/multi_object_datasets.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.base import Array, check
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.cache import cache_folder, data_folder
from datamodules.storage.converted import (
    ConvertedParameters,
    Fields,
    Resampling,
    converted,
    fingerprint,
    resize_bilinear,
    resize_nearest,
)
from datamodules.storage.tfrecord import read_examples

BUCKET = "https://storage.googleapis.com/multi-object-datasets"
WHOLE = 2**30  # bytes from which a file is taken for all that was published, so that progress has an end


@dataclass(frozen=True, kw_only=True)
class MultiObjectParameters(ConvertedParameters):
    """What scenes of all these data sets are prepared by.

    Raises:
        ValueError: A parameter is out of its range.
    """

    resampling: Resampling = "bilinear"
    num_scenes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("resampling", "bilinear", "nearest")
        check("num_scenes", self.num_scenes, self.num_scenes is None or self.num_scenes >= 1, "at least 1, or null")

    def resized(self, image: Array, mask: Array) -> tuple[Array, Array]:
        """An image (H, W, 3) and ids or masks (H, W, ...) in `size`, as `resampling` says."""
        if self.resampling == "bilinear":
            return resize_bilinear(image, self.size), resize_nearest(mask, self.size)
        return resize_nearest(image, self.size, corners=True), resize_nearest(mask, self.size, corners=True)


def convert_records(
    name: str,
    data_dir: str | None,
    collection: str,
    file: str,
    features: Mapping[str, tuple[tuple[int, ...], str]],
    parameters: Mapping[str, Any],
    fields: Fields,
    pack: Callable[[dict[str, Array]], Mapping[str, Array]],
    published: int,
    num_scenes: int | None = None,
) -> Path:
    """Convert a TFRecord file, unless it has been converted already, after which it may be deleted.

    Args:
        name: Of the converted data set.
        data_dir: The data folder; null: see `data_folder`.
        collection: Folder of the file in the bucket.
        file: Its name.
        features: Those read, as in `read_examples`.
        parameters: All that the content depends on, `num_scenes` aside.
        fields: Of a converted scene.
        pack: Converts an example.
        published: How many examples the whole file has.
        num_scenes: Convert only the first ones; null: all.

    Returns:
        The converted data set's folder.

    Raises:
        DatasetNotFoundError: The file is not there, nor what was converted from it.
        DatasetCorruptError: It is damaged, or not the published file.
        CacheError: The cache folder cannot be written.
    """
    folder = data_folder(data_dir)
    path = find_file(folder, collection, file)

    def read(start: int) -> Iterator[Mapping[str, Array]]:
        if path is None:
            raise DatasetNotFoundError(
                f"{file} is not in {folder / collection}; download it from {BUCKET}/{collection}/{file} and put it "
                "there, or set ZOO_DATA (or `data_dir`) to the folder that holds it"
            )
        examples = enumerate(read_examples(path, features, start), start)
        for number, example in itertools.islice(examples, None if num_scenes is None else num_scenes - start):
            try:
                yield pack(example)
            except ValueError as error:
                raise DatasetCorruptError(f"record {number} of {path}: {error}") from error

    def total() -> int | None:
        whole = path is not None and path.stat().st_size > WHOLE
        return published if num_scenes is None and whole else num_scenes

    return converted(
        cache_folder(folder),
        name,
        {**parameters, "num_scenes": num_scenes},
        None if path is None else fingerprint(path),
        fields,
        read,
        total,
    )


def find_file(folder: Path, collection: str, file: str) -> Path | None:
    """A file of the bucket, in `folder/collection` or `folder`, under its own name or the one that browsers give it."""
    places = [place / name for place in (folder / collection, folder) for name in (file, f"{collection}_{file}")]
    return next((place for place in places if place.is_file()), None)
