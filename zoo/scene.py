"""The scene: what every model's `forward` returns."""

from dataclasses import dataclass, fields
from typing import TypedDict

from torch import Tensor

from zoo.layers.glimpses import extract_glimpses


class FoundObject(TypedDict):
    """An object as plain Python has it.

    Attributes:
        box: [x1, y1, x2, y2] in pixels, half-open.
        score: Its presence, in [0, 1].
        category: The likeliest one; None where the model has none.
        what: Its appearance vector.
        slot: Its place in the scene's tensors: `scene.mask == slot + 1` are its pixels.
    """

    box: list[float]
    score: float
    category: int | None
    what: list[float]
    slot: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a model sees in B images, in K slots: modes and means, never a sample.

    Attributes:
        reconstruction: (B, C, H, W) float in [0, 1], the rendered image.
        boxes: (B, K, 4) float, (x1, y1, x2, y2) in absolute pixels, half-open, as in `datamodules.Batch`.
        presence: (B, K) float in [0, 1], confidence that the slot holds an object.
        what: (B, K, A) float, appearance vector.
        category: (B, K, G) float category probabilities, where the model has categories.
        mask: (B, H, W) int64 predicted instances, 0 background, k + 1 is slot k, where the model segments.
        depth: (B, K) float in the paper's convention: lower is in front.
        background: (B, C, H, W) float in [0, 1], what is drawn behind the objects.
        attention_boxes: (B, K, 4) float, the boxes that the model attends to, where `boxes` is derived from them.
        attention: (B, K, h, w) float, at least 0 with sum 1, where each slot looks, in cells of any size.
        error: (B, H, W) float in [0, 1], the reconstruction error that the model expects, a channel's mean.
    """

    reconstruction: Tensor
    boxes: Tensor
    presence: Tensor
    what: Tensor
    category: Tensor | None = None
    mask: Tensor | None = None
    depth: Tensor | None = None
    background: Tensor | None = None
    attention_boxes: Tensor | None = None
    attention: Tensor | None = None
    error: Tensor | None = None

    def objects(self, threshold: float = 0.5) -> list[list[FoundObject]]:
        """The objects of each image as plain Python, the likeliest first.

        Args:
            threshold: Slots with at least this presence are objects, in [0, 1].
        """
        presence, what, boxes = (t.detach().cpu().float().tolist() for t in (self.presence, self.what, self.boxes))
        category = None if self.category is None else self.category.argmax(-1).cpu().tolist()
        return [
            [
                FoundObject(
                    box=boxes[b][k],
                    score=presence[b][k],
                    category=None if category is None else category[b][k],
                    what=what[b][k],
                    slot=k,
                )
                for k in sorted(range(len(row)), key=lambda k, row=row: -row[k])  # type: ignore[misc]
                if row[k] >= threshold
            ]
            for b, row in enumerate(presence)
        ]

    def crops(self, image: Tensor | None = None, size: int | tuple[int, int] = 32) -> Tensor:
        """What lies in each box, all in one size: `scene.crops(image)[scene.presence >= 0.5]` are those of objects.

        Args:
            image: (B, C, H, W), what the scene was read from; null: its reconstruction.
            size: (P, Q) of a crop in pixels, or one number for both. Boxes are stretched to it, by bilinear
                interpolation; what is outside the image is black.

        Returns:
            (B, K, C, P, Q).
        """
        return extract_glimpses(self.reconstruction if image is None else image, self.boxes, size)

    def check(self, image: Tensor) -> None:
        """Compare every field's shape with the contract above.

        Args:
            image: (B, C, H, W), what the scene was read from.

        Raises:
            ValueError: A field's shape is off; the message names the field, its shape and the expected one.
        """
        B, C, H, W = image.shape
        K = self.presence.shape[-1]
        expected: dict[str, tuple[int | None, ...]] = {
            "reconstruction": (B, C, H, W),
            "boxes": (B, K, 4),
            "presence": (B, K),
            "what": (B, K, None),
            "category": (B, K, None),
            "mask": (B, H, W),
            "depth": (B, K),
            "background": (B, C, H, W),
            "attention_boxes": (B, K, 4),
            "attention": (B, K, None, None),
            "error": (B, H, W),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or field.name not in expected:
                continue
            shape, want = tuple(value.shape), expected[field.name]
            if len(shape) != len(want) or any(w is not None and s != w for s, w in zip(shape, want, strict=True)):
                wanted = "(" + ", ".join("any" if w is None else str(w) for w in want) + ")"
                raise ValueError(f"Scene.{field.name} has shape {shape}, expected {wanted} for images {(B, C, H, W)}")
