"""Any images in, scenes out: what `ObjectModel.predict` does."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.base import check
from datamodules.errors import ImageError
from datamodules.storage.converted import pair_of_sides
from datamodules.storage.images import Fit, Placement, fit_image, read_image, to_channels, to_images
from zoo import registry
from zoo.scene import FoundObject, Scene

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel

ImageSize = int | Sequence[int] | Literal["original"] | None
Refuse = Callable[[int, str], None]  # told the place of an image that a model does not take, and why


@dataclass(frozen=True, kw_only=True, repr=False)
class Prediction(Scene):
    """A scene with the images that it was read from, on the CPU.

    Its tensors are in the pixels of `image`, which is what the model saw; `objects()` is in those of the images as they
    were given, whatever size they had.

    Attributes:
        image: (B, C, H, W) float in [0, 1], in the model's channels and size.
        placements: Where each image as it was given lies in `image`.
    """

    image: Tensor
    placements: tuple[Placement, ...]

    def objects(
        self, threshold: float = 0.5, *, vectors: bool = False, clip: bool = False, max_overlap: float = 1.0
    ) -> list[list[FoundObject]]:
        """As for every scene, with boxes in the pixels of the images as they were given, which `clip` ends at."""
        own = replace(self, boxes=self.boxes_in_images(clip))
        return Scene.objects(own, threshold, vectors=vectors, max_overlap=max_overlap)

    def boxes_in_images(self, clip: bool = False) -> Tensor:
        """(B, K, 4) boxes in the pixels of the images as they were given, which `clip` ends at."""
        if not self.placements:
            return self.boxes
        boxes = self.boxes
        if clip:
            edges = [[p.left, p.top, p.left + p.width, p.top + p.height] for p in self.placements]
            edge = boxes.new_tensor(edges)[:, None]
            boxes = boxes.maximum(edge[..., :2].repeat(1, 1, 2)).minimum(edge[..., 2:].repeat(1, 1, 2))
        shift = torch.tensor([[place.left, place.top] * 2 for place in self.placements])
        scale = torch.tensor([place.scale * 2 for place in self.placements])
        return (boxes - shift[:, None]) * scale[:, None]

    def crops(self, image: Tensor | None = None, size: int | tuple[int, int] = 32) -> Tensor:
        """As for every scene, by default of the images themselves."""
        return super().crops(self.image if image is None else image, size)


def predict(
    model: "ObjectModel",
    images: Any,
    *,
    batch_size: int = 32,
    image_size: int | Sequence[int] | None = None,
    fit: Fit = "stretch",
    progress: bool = False,
) -> Prediction:
    """What a model sees in images; see `ObjectModel.predict`."""
    sources = to_images(images)
    if not sources:
        raise ImageError("there are no images to look at")
    size = target_size(model, image_size)
    read = (read_image(source) if isinstance(source, Path) else source for source in sources)
    parts: list[Prediction] = []
    with tqdm(total=len(sources), unit="image", disable=not progress) as bar:
        for _, part in predict_batches(model, read, batch_size, size, fit):
            parts.append(part)
            bar.update(len(part.image))
            check_sizes(parts)
    return concatenate(parts)


def check_sizes(parts: Sequence[Prediction]) -> None:
    """Refuse images of several sizes, which one scene does not hold.

    Raises:
        ImageError: There are such.
    """
    sizes = {tuple(part.image.shape[-2:]) for part in parts}
    if len(sizes) > 1:
        raise ImageError(
            f"images of several sizes, {' and '.join(f'{h} x {w}' for h, w in sorted(sizes))}: one scene holds "
            "images of one; set image_size=(height, width) to resize them, or predict them apart"
        )


def target_size(model: "ObjectModel", image_size: int | Sequence[int] | None = None) -> tuple[int, int] | None:
    """(H, W) that images are resized to: as asked for, else as the model reads them; null: they stay as they are."""
    if image_size is None:
        image_size = model.hparams.get("image_size")
    return None if image_size is None else pair_of_sides(image_size)


def pick_device(name: str = "auto") -> torch.device:
    """A device by its name; auto: a GPU if there is one.

    Raises:
        ValueError: There is none of that name.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device


def predict_batches(
    model: "ObjectModel",
    images: Iterable[Tensor],
    batch_size: int,
    size: tuple[int, int] | None,
    fit: Fit,
    refuse: Refuse | None = None,
) -> Iterator[tuple[list[int], Prediction]]:
    """Scenes of images in their order, batch by batch; a batch ends where the size changes.

    Args:
        model: In any mode, which it has again afterwards.
        images: (C, H, W) float in [0, 1] each.
        batch_size: Most images in a batch.
        size: (H, W) that they are resized to; null: as they are.
        fit: See `fit_image`.
        refuse: Told of each image that the model does not take, be it for its size, for want of memory, or as what the
            model sees there is not finite; all others are seen nevertheless. Null: the first of them stops with what
            the model raised.

    Yields:
        Places of a batch's images among those given, from 0, and their scene.

    Raises:
        ValueError: `batch_size` is not positive; or `refuse` is null, and the model does not take an image.
    """
    check("batch_size", batch_size, batch_size >= 1, "at least 1")
    placed = _placed(model, images, size, fit, refuse)
    for _, group in groupby(placed, key=lambda entry: entry[1].shape):
        while batch := list(islice(group, batch_size)):
            yield from _batch_scenes(model, batch, refuse)


_Placed = tuple[int, Tensor, Placement]


def _placed(
    model: "ObjectModel", images: Iterable[Tensor], size: tuple[int, int] | None, fit: Fit, refuse: Refuse | None
) -> Iterator[_Placed]:
    for i, image in enumerate(images):
        try:
            yield i, *fit_image(to_channels(image, model.hp.channels), size, fit)
        except ValueError as error:
            if refuse is None:
                raise
            refuse(i, str(error))


def _batch_scenes(
    model: "ObjectModel", batch: Sequence[_Placed], refuse: Refuse | None
) -> Iterator[tuple[list[int], Prediction]]:
    """The scene of a batch; where a model stops at it, of either half, so that an image costs no others."""
    places = [entry[0] for entry in batch]
    image = torch.stack([entry[1] for entry in batch])
    reason = None
    try:
        scene = _see(model, image)
        found = {name: value.cpu() for name, value in vars(scene).items() if value is not None}
    except Exception as error:  # models raise what they like, torch half a dozen kinds where memory ends
        if refuse is None:
            raise
        reason = brief_reason(error)
    if reason is None:
        part = Prediction(**found, image=image, placements=tuple(entry[2] for entry in batch))
        finite = torch.ones(len(batch), dtype=torch.bool) if refuse is None else _finite(part)
        for i, good in zip(places, finite.tolist(), strict=True):
            if refuse is not None and not good:
                refuse(i, f"what {type(model).__name__} sees there is not finite")
        chosen = finite.nonzero().squeeze(1).tolist()
        if chosen:
            yield [places[i] for i in chosen], part if len(chosen) == len(batch) else _of_images(part, chosen)
    elif len(batch) > 1:  # memory of the failed attempt is free again outside its exception
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            yield from _batch_scenes(model, half, refuse)
    else:
        assert refuse is not None
        refuse(places[0], reason)


def brief_reason(error: Exception) -> str:
    """Why a model did not take an image, in a line: what it says itself, or the kind of what went wrong as well."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first if isinstance(error, ValueError) and first else f"{type(error).__name__}: {first}".rstrip(": ")


def _finite(scene: Prediction) -> Tensor:
    """(B,) bool: whether presence, and box and vector of whatever may be present, are numbers."""
    there = scene.presence > 0
    values = torch.cat([scene.boxes, scene.what], -1).isfinite().all(-1)
    return scene.presence.isfinite().all(1) & (values | ~there).all(1)


def _of_images(scene: Prediction, images: Sequence[int]) -> Prediction:
    """The scenes of some images."""
    values = {name: value[[*images]] for name, value in vars(scene).items() if isinstance(value, Tensor)}
    return Prediction(**values, placements=tuple(scene.placements[i] for i in images))


def _see(model: "ObjectModel", image: Tensor) -> Scene:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(image.to(model.device))
    finally:
        model.train(was_training)


def concatenate(parts: Sequence[Prediction]) -> Prediction:
    """One of all images, which have one size."""
    values: dict[str, Any] = {}
    for field in fields(Prediction):
        values_of_parts = [getattr(part, field.name) for part in parts]
        if field.name == "placements":
            values[field.name] = tuple(place for places in values_of_parts for place in places)
        else:
            values[field.name] = None if values_of_parts[0] is None else torch.cat(values_of_parts)
    return Prediction(**values)


def trained_size(record: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """(H, W) of the scenes that a model was trained on.

    Args:
        record: Of its data, as `ObjectModel.data_record`.

    Returns:
        None where the record does not say.
    """
    record = record or {}
    given = record.get("init_args") or {}
    size = given.get("image_size")
    if size is None and record.get("class") in registry.datamodules():
        with contextlib.suppress(Exception):  # a record of another version's data, or of data that are not here
            size = registry.datamodules()[record["class"]].load()(**given).image_shape[-2:]
    return None if size is None else pair_of_sides(size)


def photo_size(model: "ObjectModel", image_size: ImageSize = None) -> tuple[int, int] | None:
    """(H, W) that photos are resized to, of which one seldom has any in a model's own size.

    Args:
        model: Any.
        image_size: Side in pixels or [height, width]; `original`: as they are; null: what the model reads, or else what
            it was trained on, or else as they are.

    Raises:
        ValueError: It is none of these.
    """
    if image_size == "original":
        return None
    if isinstance(image_size, str):
        raise ValueError(f"image_size={image_size!r}: must be pixels, [height, width], original or null")
    return target_size(model, image_size) or trained_size(model.data_record)
