"""Objects that are learned with the task alone: what SPAIR's section 5.3 compares its objects with.

`TrueBB` is told where objects are, `ConnCompEncoder` takes connected components for them, and both read them with
SPAIR's object encoder; `ConvNet` takes each cell of SPAIR's backbone for an object. Widths are those of the program.
"""

from collections.abc import Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from datamodules.base import SceneDataModule
from datamodules.batch import Batch
from zoo.baselines.conn_comp import ConnComp
from zoo.layers.blocks import GridBackbone, mlp
from zoo.layers.boxes import grid_cells
from zoo.layers.glimpses import extract_glimpses
from zoo.scene import Scene

_TUNING = 512  # training scenes that the threshold of connected components is chosen by, at least


class TrueBB(nn.Module):
    """True boxes, each read by SPAIR's object encoder.

    Args:
        channels: Image channels.
        what_dim: A, of an object's vector.
        object_size: Texels of a glimpse.
        encoder_hidden: Hidden layers of the encoder.
    """

    def __init__(
        self, channels: int, what_dim: int = 50, object_size: int = 14, encoder_hidden: Sequence[int] = (512, 256)
    ) -> None:
        super().__init__()
        self.what_dim, self.object_size = what_dim, object_size
        self.encoder = mlp(channels * object_size**2, encoder_hidden, what_dim)

    def encode(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Vectors (B, N, A) of what lies in (B, N, 4) boxes of (B, C, H, W) images."""
        return self.encoder(extract_glimpses(image, boxes, self.object_size).flatten(2))

    def see(self, batch: Batch) -> Scene:
        """The true objects of a batch, with presence 0 or 1; nothing is reconstructed.

        Raises:
            ValueError: The batch has no boxes.
        """
        if "boxes" not in batch or "valid" not in batch:
            raise ValueError("TrueBB is told the true boxes, which these data lack: take ConvNet, or a trained model")
        image, boxes = batch["image"], batch["boxes"]
        what, presence = self.encode(image, boxes), batch["valid"].to(image)
        return Scene(reconstruction=torch.zeros_like(image), boxes=boxes, presence=presence, what=what)


class ConnCompEncoder(TrueBB):
    """Connected components, each read by SPAIR's object encoder.

    Args:
        channels: Image channels.
        what_dim: A, of an object's vector.
        object_size: Texels of a glimpse, as components may be several objects.
        encoder_hidden: Hidden layers of the encoder.
    """

    threshold: Tensor
    background_color: Tensor

    def __init__(
        self, channels: int, what_dim: int = 50, object_size: int = 21, encoder_hidden: Sequence[int] = (512, 256)
    ) -> None:
        super().__init__(channels, what_dim, object_size, encoder_hidden)
        self.register_buffer("threshold", torch.tensor(0.2))
        self.register_buffer("background_color", torch.zeros(channels))

    def fit(self, data: SceneDataModule) -> None:
        """Choose the threshold by the true boxes of training scenes (`ConnComp.tuned`).

        Raises:
            ValueError: The data have no boxes.
        """
        color = data.hparams.get("background_color") or (0.0,)
        self.background_color.copy_(torch.tensor(list(color))[: len(self.background_color)])
        batches = [*islice(data.train_dataloader(), -(-_TUNING // data.batch_size))]
        if not batches or "boxes" not in batches[0]:
            raise ValueError("ConnComp chooses its threshold by true boxes, which these data lack: take ConvNet")
        names = ("image", "boxes", "valid")
        scenes = Batch(**{name: torch.cat([batch[name] for batch in batches]) for name in names})  # type: ignore[typeddict-item, literal-required]
        self.threshold.fill_(ConnComp.tuned(scenes, self.background_color.tolist()).threshold)

    def see(self, batch: Batch) -> Scene:
        """The components of a batch's images, which may have none."""
        image = batch["image"]
        found = ConnComp(float(self.threshold), self.background_color.tolist())(image)
        lacking = max(0, 1 - found.presence.shape[1])  # one slot at least, as networks refuse none
        boxes, presence = F.pad(found.boxes, (0, 0, 0, lacking)), F.pad(found.presence, (0, lacking))
        return Scene(
            reconstruction=found.reconstruction,
            boxes=boxes,
            presence=presence,
            what=self.encode(image, boxes),
            mask=found.mask,
            background=found.background,
        )


class ConvNet(nn.Module):
    """SPAIR's convolutional backbone; each place of its output is taken for an object.

    Args:
        channels: Image channels.
        what_dim: Features of a place.
        backbone_channels: Filters of its layers.
        backbone_strides: Of its first layers.
    """

    def __init__(
        self,
        channels: int,
        what_dim: int = 50,
        backbone_channels: int = 128,
        backbone_strides: Sequence[int] = (2, 2, 3),
    ) -> None:
        super().__init__()
        self.what_dim = what_dim
        self.backbone = GridBackbone(channels, backbone_channels, what_dim, backbone_strides)

    def see(self, batch: Batch) -> Scene:
        """The cells of a batch's images, in raster order, all present; nothing is reconstructed."""
        image = batch["image"]
        features, side = self.backbone(image), self.backbone.cell_size
        rows, columns = features.shape[-2:]
        corner = side * grid_cells(rows, columns, image.device).flip(-1).to(image)  # (HW, 2) x, y
        boxes = torch.cat([corner, corner + side], -1).expand(len(image), -1, -1)
        return Scene(
            reconstruction=torch.zeros_like(image),
            boxes=boxes,
            presence=image.new_ones(len(image), rows * columns),
            what=rearrange(features, "b a i j -> b (i j) a"),
        )


BASELINES: dict[str, type[TrueBB] | type[ConvNet]] = {
    "ConvNet": ConvNet,
    "TrueBB": TrueBB,
    "ConnComp": ConnCompEncoder,
}
