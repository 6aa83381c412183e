"""Any images in, scenes out: what `ObjectModel.predict` does."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.base import check
from datamodules.converted import pair_of_sides
from datamodules.errors import ImageError
from datamodules.images import Fit, Placement, fit_image, read_image, to_channels, to_images
from zoo.scene import FoundObject, Scene

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel


@dataclass(frozen=True, kw_only=True)
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

    def objects(self, threshold: float = 0.5) -> list[list[FoundObject]]:
        """As for every scene, with boxes in the pixels of the images as they were given."""
        if not self.placements:
            return []
        shift = torch.tensor([[place.left, place.top] * 2 for place in self.placements])
        scale = torch.tensor([place.scale * 2 for place in self.placements])
        return Scene.objects(replace(self, boxes=(self.boxes - shift[:, None]) * scale[:, None]), threshold)

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
        for part in predict_batches(model, read, batch_size, size, fit):
            parts.append(part)
            bar.update(len(part.image))
            sizes = {tuple(part.image.shape[-2:]) for part in parts}
            if len(sizes) > 1:
                raise ImageError(
                    f"images of several sizes, {' and '.join(f'{h} x {w}' for h, w in sorted(sizes))}: one scene holds "
                    "images of one; set image_size=(height, width) to resize them, or predict them apart"
                )
    return _concatenate(parts)


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
    model: "ObjectModel", images: Iterable[Tensor], batch_size: int, size: tuple[int, int] | None, fit: Fit
) -> Iterator[Prediction]:
    """Scenes of images in their order, batch by batch; a batch ends where the size changes.

    Args:
        model: In any mode, which it has again afterwards.
        images: (C, H, W) float in [0, 1] each.
        batch_size: Most images in a batch.
        size: (H, W) that they are resized to; null: as they are.
        fit: See `fit_image`.

    Raises:
        ValueError: `batch_size` is not positive, or the model does not take images of that size.
    """
    check("batch_size", batch_size, batch_size >= 1, "at least 1")
    placed = (fit_image(to_channels(image, model.hp.channels), size, fit) for image in images)
    for _, group in groupby(placed, key=lambda pair: pair[0].shape):
        while batch := list(islice(group, batch_size)):
            image = torch.stack([pair[0] for pair in batch])
            scene = _see(model, image)
            found = {name: value.cpu() for name, value in vars(scene).items() if value is not None}
            yield Prediction(**found, image=image, placements=tuple(pair[1] for pair in batch))


def _see(model: "ObjectModel", image: Tensor) -> Scene:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(image.to(model.device))
    finally:
        model.train(was_training)


def _concatenate(parts: Sequence[Prediction]) -> Prediction:
    values: dict[str, Any] = {}
    for field in fields(Prediction):
        values_of_parts = [getattr(part, field.name) for part in parts]
        if field.name == "placements":
            values[field.name] = tuple(place for places in values_of_parts for place in places)
        else:
            values[field.name] = None if values_of_parts[0] is None else torch.cat(values_of_parts)
    return Prediction(**values)
