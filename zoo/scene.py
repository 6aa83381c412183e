"""The scene: what every model's `forward` returns."""

from dataclasses import dataclass, fields
from typing import NotRequired, TypedDict

from torch import Tensor
from torchvision.ops import nms

from zoo.layers.glimpses import extract_glimpses


class FoundObject(TypedDict):
    """An object as plain Python has it.

    Attributes:
        box: [x1, y1, x2, y2] in pixels, half-open.
        score: Its presence, in [0, 1].
        category: The likeliest one; None where the model has none.
        what: Its appearance vector, where it was asked for.
        slot: Its place in the scene's tensors: `scene.mask == slot + 1` are its pixels.
    """

    box: list[float]
    score: float
    category: int | None
    what: NotRequired[list[float]]
    slot: int


@dataclass(frozen=True, kw_only=True, repr=False)
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

    def objects(
        self, threshold: float = 0.5, *, vectors: bool = False, clip: bool = False, max_overlap: float = 1.0
    ) -> list[list[FoundObject]]:
        """The objects of each image as plain Python, the likeliest first.

        Args:
            threshold: Slots with at least this presence are objects, in [0, 1].
            vectors: Whether each has its appearance vector.
            clip: Whether boxes end where the image does; models may attend to what is beyond its edge.
            max_overlap: Of objects whose boxes overlap by a larger IoU, in [0, 1], the likeliest is left alone
                (non-maximum suppression), for counting where a model finds large things twice. 1: all are left.
        """
        H, W = self.reconstruction.shape[-2:]
        shown = self.boxes.minimum(self.boxes.new_tensor([W, H, W, H])).clamp_min(0) if clip else self.boxes
        presence, what, boxes = (t.detach().cpu().float().tolist() for t in (self.presence, self.what, shown))
        category = None if self.category is None else self.category.argmax(-1).cpu().tolist()

        def chosen(b: int, row: list[float]) -> list[int]:
            order = sorted((k for k, p in enumerate(row) if p >= threshold), key=lambda k: -row[k])
            if max_overlap >= 1 or not order:
                return order
            own, scores = self.boxes[b, order].float(), self.presence[b, order].float()
            return [order[i] for i in nms(own, scores, max_overlap).tolist()]

        def found(b: int, k: int) -> FoundObject:
            kind = None if category is None else category[b][k]
            one = FoundObject(box=boxes[b][k], score=presence[b][k], category=kind, slot=k)
            if vectors:
                one["what"] = what[b][k]
            return one

        return [[found(b, k) for k in chosen(b, row)] for b, row in enumerate(presence)]

    def __repr__(self) -> str:
        """Counts, then each field that there is: its type, its shape and its range."""
        counts = (self.presence >= 0.5).sum(1).tolist() if self.presence.ndim == 2 else []
        listed = ", ".join(map(str, counts[:8])) + (", ..." if len(counts) > 8 else "")
        few = "image" if len(counts) == 1 else "images"
        lines = [f"{type(self).__name__}: {sum(counts)} objects in {len(counts)} {few} ({listed})"]
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                shape = ", ".join(map(str, value.shape))
                ends = f" in [{value.min():.3g}, {value.max():.3g}]" if value.numel() else ""
                lines.append(f"  {field.name}: ({shape}) {str(value.dtype).removeprefix('torch.')}{ends}")
        return "\n".join(lines)

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
