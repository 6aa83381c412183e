"""Probes: what a model's vectors say of true objects, as far as a linear map or a small network can read it.

Each true object goes with the slot that overlaps it most; pairs of an IoU of at least 0.5 (of boxes, or of masks where
model and data have them) are kept. Probes are fitted to training scenes and scored on test scenes: by accuracy for
classes, by R2 for what is measured. Controls: the pixels in the slot's box, and the vectors of the same model with
random weights, of which each true object takes the slot that overlaps it most, however little.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from einops import reduce
from torch import Tensor
from torchvision.ops import box_iou  # type: ignore[import-untyped]

from datamodules.base import SceneDataModule, Split
from datamodules.batch import Batch
from zoo.layers.glimpses import extract_glimpses
from zoo.models.base import ObjectModel
from zoo.scene import Scene

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Match = Literal["boxes", "masks"]
PROBES = ("linear", "mlp")
PRESENT, MIN_IOU = 0.5, 0.5
_TEXELS = 14  # of the control on pixels
LEAST = 20  # objects that a probe is fitted to, at least
_CONSTANT = 1e-4  # standard deviation below which a property is the same everywhere


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """D true objects, each with the slot that a model sees it in.

    Attributes:
        inputs: What probes read, by name: `what`, `what+box`, `pixels`; (D, F) each.
        properties: What they are to say: `class` (D,) int64; `position`, `size`, in shares of the image, and `color`, a
            mean in [0, 1], (D, P) float. Those that the data have.
        objects: True objects that were looked for.
    """

    inputs: dict[str, Tensor]
    properties: dict[str, Tensor]
    objects: int


def overlap(scene: Scene, batch: Batch, match: Match) -> Tensor:
    """IoU (B, N, K) of true objects with slots, by boxes or by masks; that of slots that are absent is not less.

    Raises:
        ValueError: Model or data have no masks.
    """
    if match == "boxes":
        return torch.stack([box_iou(*pair) for pair in zip(batch["boxes"], scene.boxes, strict=True)])
    if scene.mask is None or "mask" not in batch:
        raise ValueError("model or data have no masks: match by boxes")
    N, K = batch["boxes"].shape[1], scene.presence.shape[1]
    # pixels that each pair of instances shares, backgrounds included: a table of (N + 1) x (K + 1) an image
    cell = (batch["mask"] * (K + 1) + scene.mask).flatten(1)
    ones = torch.ones_like(cell, dtype=torch.float32)
    shared = ones.new_zeros(len(cell), (N + 1) * (K + 1)).scatter_add_(1, cell, ones).view(-1, N + 1, K + 1)
    union = shared.sum(2, keepdim=True) + shared.sum(1, keepdim=True) - shared
    return (shared / union.clamp_min(1))[:, 1:, 1:]


@torch.no_grad()
def collect(model: ObjectModel, batches: Iterable[Batch], match: Match = "boxes", any_overlap: bool = False) -> Pairs:
    """Pair true objects with slots.

    Args:
        model: With its weights, on any device.
        batches: Scenes with `boxes` and `valid`.
        match: What has to overlap.
        any_overlap: Take the slot that overlaps most however little that is, present or not.

    Raises:
        ValueError: The data do not say where objects are, or the model has no masks to match.
    """
    inputs: list[dict[str, Tensor]] = []
    properties: list[dict[str, Tensor]] = []
    objects = 0
    model.eval()
    for given in batches:
        if "boxes" not in given:
            raise ValueError("these data do not say where objects are, and so nothing of them can be probed")
        batch = cast(Batch, {name: value.to(model.device) for name, value in cast(dict[str, Tensor], given).items()})
        scene, image, valid = model.see(batch), batch["image"], batch["valid"]
        iou = overlap(scene, batch, match)
        if not any_overlap:
            iou = iou * (scene.presence >= PRESENT)[:, None]
        best, slot = iou.max(2)  # (B, N)
        chosen = valid if any_overlap else valid & (best >= MIN_IOU)
        objects += int(valid.sum())
        boxes = scene.boxes.gather(1, slot[..., None].expand(-1, -1, 4))
        what = scene.what.gather(1, slot[..., None].expand(-1, -1, scene.what.shape[-1]))
        H, W = image.shape[-2:]
        side = boxes.new_tensor([W, H, W, H])
        pixels = extract_glimpses(image, boxes, _TEXELS).flatten(2)
        read = {"what": what, "what+box": torch.cat([what, boxes / side], -1), "pixels": pixels}
        inputs.append({name: value[chosen].float().cpu() for name, value in read.items()})
        properties.append({name: value[chosen].cpu() for name, value in _properties(batch).items()})
    if not inputs:
        raise ValueError("there are no scenes to look at")
    return Pairs(inputs=_joined(inputs), properties=_joined(properties), objects=objects)


def _properties(batch: Batch) -> dict[str, Tensor]:
    """Of each true object, (B, N) or (B, N, P): those that a batch has."""
    image, boxes = batch["image"], batch["boxes"]
    H, W = image.shape[-2:]
    low, high = (boxes / boxes.new_tensor([W, H, W, H])).split(2, -1)
    found = {"position": (low + high) / 2, "size": high - low}
    if "labels" in batch:
        found["class"] = batch["labels"]
    if image.shape[1] == 3:
        if "mask" in batch:
            ids = torch.arange(1, boxes.shape[1] + 1, device=image.device)
            member = (batch["mask"][:, None] == ids[:, None, None]).to(image)  # (B, N, H, W)
            total = torch.einsum("bnhw,bchw->bnc", member, image)
            found["color"] = total / member.sum((2, 3)).clamp_min(1)[..., None]
        else:
            found["color"] = reduce(extract_glimpses(image, boxes, _TEXELS), "b n c p q -> b n c", "mean")
    return found


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def fit_and_score(kind: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int = 0) -> float:
    """Fit a probe, and score it where it was not fitted: accuracy for whole numbers, else R2, a mean over dimensions.

    Args:
        kind: `linear` or `mlp`, of one hidden layer of 128 units. Inputs are standardised.
        train: Inputs (D, F) and property (D,) or (D, P).
        test: Likewise.
        seed: Of the network.

    Raises:
        ValueError: There is no such probe.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind not in PROBES:
        raise ValueError(f"probe must be one of {list(PROBES)}, got {kind!r}")
    classes = not train[1].is_floating_point()
    network: dict[str, Any] = {"hidden_layer_sizes": (128,), "early_stopping": True, "random_state": seed}
    probe: BaseEstimator
    if kind == "linear":
        probe = LogisticRegression(max_iter=1000) if classes else Ridge()
    else:
        probe = MLPClassifier(**network) if classes else MLPRegressor(**network)
    x, y = train[0].numpy(), train[1].numpy()
    shift, scale = (0, 1) if classes else (y.mean(0), y.std(0) + 1e-8)  # networks fit what is of order one
    pipeline = make_pipeline(StandardScaler(), probe).fit(x, (y - shift) / scale if not classes else y)
    goal = test[1].numpy()
    return float(pipeline.score(test[0].numpy(), goal if classes else (goal - shift) / scale))


def probe(
    model: ObjectModel, data: SceneDataModule, num_scenes: int = 1000, match: Match = "boxes", seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Probe a model's vectors for each property that the data have.

    Args:
        model: With its weights.
        data: Where scenes are from; probes are fitted to the first training scenes in their order.
        num_scenes: To fit to; the test scenes are all there are, this number at most.
        match: What of an object and a slot has to overlap.
        seed: Of networks and of random weights.

    Returns:
        Rows with `property`, `input`, `probe`, `score` and `metric`; and how many objects there were in the test
        scenes, and which share was found.

    Raises:
        ValueError: See `collect`; or too few objects were found.
    """
    from lightning.pytorch import seed_everything

    with torch.random.fork_rng():
        seed_everything(seed, verbose=False)
        random = type(model)(**{k: v for k, v in model.hparams.items() if not k.startswith("_")}).to(model.device)
    train, test = ([*first_scenes(data, split, num_scenes)] for split in ("train", "test"))
    pairs = [collect(model, batches, match) for batches in (train, test)]
    controls = [collect(random, batches, "boxes", any_overlap=True) for batches in (train, test)]
    found = [len(each.inputs["what"]) for each in pairs]
    if min(found) < LEAST:
        raise ValueError(
            f"{min(found)} objects were found with an IoU of {MIN_IOU}: probes need {LEAST}; take more scenes "
            "(--num_scenes), or train the model for longer"
        )
    rows = []
    for name in ("class", "position", "size", "color"):
        if name not in pairs[0].properties or _is_constant(pairs[0].properties[name]):
            continue
        for source in (*pairs[0].inputs, "random weights"):
            sets = controls if source == "random weights" else pairs
            key = "what" if source == "random weights" else source
            fitted, held_out = ((each.inputs[key], each.properties[name]) for each in sets)
            for kind in PROBES:
                about = {"property": name, "input": source, "probe": kind}
                metric = "accuracy" if name == "class" else "R2"
                rows.append({**about, "metric": metric, "score": fit_and_score(kind, fitted, held_out, seed)})
    return rows, {"objects": pairs[1].objects, "found": found[1] / max(1, pairs[1].objects)}


def first_scenes(data: SceneDataModule, split: Split, num_scenes: int) -> Iterator[Batch]:
    """The first scenes of a split in their order, at most so many, in batches of evaluation."""
    scenes = data.make_dataset(split)
    most, size = min(num_scenes, len(scenes)), data.eval_batch_size
    return (scenes.batch(range(first, min(first + size, most))) for first in range(0, most, size))


def _is_constant(values: Tensor) -> bool:
    return bool((values.float().std(0) < _CONSTANT).all())
