"""The scene: what every model's `forward` returns."""

from dataclasses import dataclass, fields

from torch import Tensor


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
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or field.name not in expected:
                continue
            shape, want = tuple(value.shape), expected[field.name]
            if len(shape) != len(want) or any(w is not None and s != w for s, w in zip(shape, want, strict=True)):
                wanted = "(" + ", ".join("any" if w is None else str(w) for w in want) + ")"
                raise ValueError(f"Scene.{field.name} has shape {shape}, expected {wanted} for images {(B, C, H, W)}")
