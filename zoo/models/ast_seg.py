"""AST-Seg: Attention and Soft-argmax with Transformer using Segformer (Sauvalle and de La Fortelle, WACV 2023).

Section, equation, algorithm and table numbers are the paper's. "The program" is its authors', BrunoSauvalle/AST. Where
the paper is silent (dropout, order of operations in the U-Net) the program decides. Differences:

- The program takes the activation of isotropic objects from z_what's first number and leaves their own unused: a slip,
  mended here.
- The learning rate of step t is that of t updates done, the program's of t + 1.
- Backgrounds for phase 2 are computed once and cached in 8 bits, as the program does by hand; rounded, not truncated.
- Table 7's captions are swapped, and the program has them right: 128 px images have glimpses of 64 texels.
- Pretrained weights of Segformer are for normalised images; the program, and so the default, has them in [0, 1].
- CLEVR is prepared by default as the program does it (first tenth test, bilinear); the paper says as in GENESIS-V2 (the
  first 70,000 scenes, single pixels): `splits: genesis` and `resampling: nearest` of `CLEVRDataModule`. Its "CLEVR"
  figures are then of other test scenes.
- An activation is at most e^40 times the background's, so that its gradient stays finite.
- U-Nets whose maps are coarser than the image (`unet_stride`) end at the resolution asked for. Our own.

From random weights it learns slowly if at all. Cures, off by default, our own, as in recipes/quick/ast_seg.yaml:

- `background_activation` of 2 lets heads start at once, `scale_bias` with objects of a few percent of the image, and
  `scale_gain` keeps them at that until they are in place: glimpses that may grow at once end at the largest scale.
- `see_background` shows the backbone what the background leaves; heads then find objects within minutes.
- `attention_spread` and `unet_position` send heads to different places, and `attention_gain` sharpens early maps.
- The squared L1 error of a mix has an easy way out: objects stay half-transparent, in colours too light or too dark,
  which have no gradient towards better ones. `layer_error` closes it: an object has to look right by itself.
- `attended_color` starts an object from the colour where its head looks, which from z_what alone is long learned.
- `slot_weight` is against several heads on one object, and heads on patterns of the ground; `object_entropy_weight`,
  from the paper's first version, did less in its place.
- `encoder_residual` starts from an encoder that changes nothing.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules.base import SceneDataModule
from datamodules.batch import Batch
from zoo.backgrounds import WithBackgrounds, training_backgrounds
from zoo.layers.blur import blur
from zoo.layers.boxes import attention_to_boxes, trim_boxes
from zoo.layers.compositing import composite, composite_losses
from zoo.layers.feature_maps import Segformer, UNet
from zoo.layers.glimpse_generator import GlimpseGenerator
from zoo.layers.positional_autoencoder import IMAGE_SIZES, PositionalAutoencoder
from zoo.layers.schedules import Schedule
from zoo.layers.soft_argmax import attend, soft_argmax, spatial_softmax
from zoo.models.base import ObjectModel, RefusedError
from zoo.scene import Scene
from zoo.sharing import weights

_COLOR_BOUNDS = (0.02, 0.98)  # of a colour that others are to start from

Latents = dict[str, Tensor]

# of ImageNet, which pretrained encoders saw normalised
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ASTSeg(ObjectModel):
    """K attention maps point at objects, which are drawn over a background and mixed by activation times mask.

    The loss is `reconstruction`, the mean squared L1 error of a pixel (equations 19 and 20), plus `entropy`, the mean
    squared entropy of a pixel's weights (equation 21), weighted by `entropy_weight`.

    Trained with a pretrained `background`, frozen for `frozen_steps`, then along with all else: the paper's curriculum,
    phases 2 and 3. Without one, all is trained from the start: its baseline training.

    Args:
        channels: Image channels, 1 or 3.
        image_size: Side of the images in pixels, 64 or 128.
        num_slots: K, the most objects that can be found: as many as there are in a scene at most.
        what_dim: d_zwhat, dimension of the appearance vector.
        backbone: Generator of the feature map: "segformer", or "unet" (table 4).
        segformer: Hugging Face's name of the pretrained encoder, nvidia/mit-b0 to nvidia/mit-b5, or a folder with it.
        pretrained: Training starts from these weights; false: from random ones (table 4).
        normalize: Give Segformer images with ImageNet's mean and spread, as its pretraining did; the program does not.
        unet_channels: Of the U-Net's maps at full resolution, a half, a quarter, ... (table 8).
        unet_stride: Pixels of a cell of its output; 1 in the paper. 4, as Segformer's, is much faster.
        unet_position: A cure: it sees each pixel's row and column too, so that heads soon look at different places.
        encoder_layers: Of the transformer encoder; 0 does without it (table 4).
        encoder_dim: d_T.
        encoder_heads: Its heads.
        encoder_hidden: Its feedforward dimension.
        encoder_dropout: Its dropout, PyTorch's default.
        encoder_residual: A cure: the encoder's output, at first zero, is added to what went in.
        glimpse_size: Texels of a side of a generated glimpse, a power of two; null: half of the image's side (table 7).
        isotropic: One scale for both sides (CLEVR, ShapeStacks).
        scale_bounds: s_min and s_max, of the image's side over the object's.
        background_activation: log alpha_0 at the start; learned.
        attention_gain: A cure: factor on attention logits.
        see_background: A cure: the backbone sees what the background leaves of the image too, doubled: (B, 2 C, H, W).
        attention_spread: A cure: pulls each head's attention to a place of its own, as a Gaussian of this precision
            would (the image reaches from -1 to 1). Meant to fade out once heads have objects: before, they crowd
            together; as long as it stays, they miss objects far from their places.
        scale_bias: A cure: added to scale logits; -2 starts with a scale of about 4.
        scale_gain: A cure: factor on scale logits. 0 keeps glimpses at one size; meant to rise to 1 when places are
            learned, as until then glimpses grow to their largest, and stay there.
        attended_color: A cure: texels start from the colour of the image where the head looks, which z_what's
            logits are added to.
        background: Where training starts from a trained background: a checkpoint's name, a run folder or a file, of a
            `BackgroundAE` or an `ASTSeg`. Trained weights contain their background, and need it no more.
        background_form: "simple" or "complex", as the checkpoint has it.
        background_code_dim: Dimension of its code.
        background_width: Factor on its channels.
        frozen_steps: Length of phase 2, 30,000 in the paper, during which the background stays as it is; at its end the
            optimiser starts anew. As many as there are steps: frozen throughout (table 4).
        cache_backgrounds: Compute the training images' backgrounds of phase 2 once and keep them on disk.
        entropy_weight: lambda_pixel and its warm-up (equation 22).
        object_entropy_weight: Weight of the squared entropy of the layers' shares of an image's pixels, against several
            slots on one object. In the paper's first version (3e-4, after a warm-up), gone from the second.
        slot_weight: A cure: weight of the soft count of an image's objects (see `composite_losses`), against several
            slots on one object and slots on patterns of the background.
        layer_error: A cure: how much of the reconstruction error is the expected error of the layers, each to look like
            the image by itself, instead of the error of their mix (a bound of the mixture likelihoods of MONet and
            IODINE). Else objects of half-learned colours stay half-transparent. Meant to rise from 0: at the start no
            object is worth drawing.
        target_blur: A cure: what is to be drawn is the image blurred by a Gaussian of so many pixels. Texture that the
            background lacks is then no reason for objects to cover it. Meant to go to 0, or nearly so.
        lr: Adam's learning rate, with a quadratic warm-up, and a tenth for the last tenth of 125,000 steps.
        max_grad_norm: Largest norm of the gradient; null, as in the paper, for no limit.

    Raises:
        ModuleNotFoundError: Segformer is asked for, and transformers is not installed.
        ValueError: A hyperparameter is out of its range.
    """

    schedules = ("lr", "attention_spread", "scale_gain", "layer_error", "target_blur")
    adam = {"betas": (0.9, 0.98), "eps": 1e-9}  # table 6

    def __init__(
        self,
        *,
        channels: int = 3,
        image_size: int = 128,
        num_slots: int = 10,
        what_dim: int = 32,
        backbone: str = "segformer",
        segformer: str = "nvidia/mit-b3",
        pretrained: bool = True,
        normalize: bool = False,
        unet_channels: tuple[int, ...] = (80, 128, 192, 256, 256, 256),
        unet_stride: int = 1,
        unet_position: bool = False,
        encoder_layers: int = 6,
        encoder_dim: int = 256,
        encoder_heads: int = 8,
        encoder_hidden: int = 512,
        encoder_dropout: float = 0.1,
        encoder_residual: bool = False,
        glimpse_size: int | None = None,
        isotropic: bool = False,
        scale_bounds: tuple[float, float] = (1.3, 24.0),
        background_activation: float = 11.0,
        see_background: bool = False,
        attention_gain: float = 1.0,
        attention_spread: Schedule = 0.0,
        scale_bias: float = 0.0,
        scale_gain: Schedule = 1.0,
        attended_color: bool = False,
        background: str | None = None,
        background_form: str = "complex",
        background_code_dim: int = 16,
        background_width: float = 1.0,
        frozen_steps: int = 0,
        cache_backgrounds: bool = True,
        entropy_weight: Schedule = [0.0, 1e-2, 10000, "quadratic"],  # noqa: B006 (never changed)
        object_entropy_weight: Schedule = 0.0,
        slot_weight: Schedule = 0.0,
        layer_error: Schedule = 0.0,
        target_blur: Schedule = 0.0,
        lr: Schedule = [[0.0, 4e-5, 5000, "quadratic"], [4e-5, 4e-6, 107500, "step"]],  # noqa: B006
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.term_weights = {
            "entropy": entropy_weight,
            "object_entropy": object_entropy_weight,
            "slots": slot_weight,
        }
        _check(self.hp)
        self.check_schedules(layer_error=(0.0, 1.0), attention_spread=(0.0, math.inf), target_blur=(0.0, math.inf))
        token_dim = 2 + (1 if isotropic else 2) + 1 + what_dim  # place, scale, activation, appearance
        in_channels = channels * (1 + see_background)
        map_dim = num_slots + token_dim - 2
        self.features: Segformer | UNet
        if backbone == "segformer":
            self.features = Segformer(segformer, in_channels, map_dim)
        else:
            self.features = UNet(in_channels, map_dim, unet_channels, unet_stride, unet_position)
        self.encoder = None
        if encoder_layers:
            self.encoder = ObjectEncoder(
                token_dim, encoder_layers, encoder_dim, encoder_heads, encoder_hidden, encoder_dropout, encoder_residual
            )
        self.glimpses = GlimpseGenerator(what_dim, channels, image_size // 2 if glimpse_size is None else glimpse_size)
        self.background_activation = nn.Parameter(torch.tensor(float(background_activation)))
        self.background = PositionalAutoencoder(
            channels, image_size, background_form, background_code_dim, background_width
        )
        self._has_start = False  # weights that training begins with

    @classmethod
    def image_limits(cls, init_args: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Square images of the sizes that backgrounds have, in colour where ImageNet's weights are to see them."""
        of_imagenet = init_args["backbone"] == "segformer" and (init_args["pretrained"] or init_args["normalize"])
        return {"image_size": IMAGE_SIZES, **({"channels": (3,)} if of_imagenet else {})}

    # encoding: algorithm 1

    def infer(self, image: Tensor, background: Tensor) -> Latents:
        """Find objects.

        Args:
            image: (B, C, H, W) in [0, 1].
            background: (B, C, H, W) in [0, 1]; looked at where `see_background` says so.

        Returns:
            `attention` (B, K, h, w), `boxes` (B, K, 4) in pixels, `log_activation` (B, K), `z_what` (B, K, A); with
            `attended_color`, `color` (B, K, C) in (0, 1).
        """
        hp, size = self.hp, (image.shape[-2], image.shape[-1])
        self.check_image(image)
        if size[0] % self.features.multiple or size[1] % self.features.multiple:
            raise ValueError(
                f"images of {size[0]} x {size[1]} px: backbone: {hp.backbone} needs sides that are multiples of "
                f"{self.features.multiple}; set data.init_args.image_size, or fewer unet_channels"
            )
        seen = image
        if hp.normalize:
            seen = (image - image.new_tensor(_MEAN)[:, None, None]) / image.new_tensor(_STD)[:, None, None]
        if hp.see_background:
            seen = torch.cat([seen, 2 * (image - background.detach())], 1)
        maps = self.features(seen.contiguous(memory_format=torch.channels_last)).to(image.dtype)
        with torch.autocast(image.device.type, enabled=False):  # places need more than eight bits
            logits, features = maps[:, : hp.num_slots], maps[:, hp.num_slots :]
            attention = spatial_softmax(hp.attention_gain * logits + self._pull(maps))
            tokens = torch.cat([soft_argmax(attention), attend(attention, features)], -1)  # (B, K, token_dim)
        if self.encoder is not None:
            tokens = self.encoder(tokens)
        center, scale, activation, z_what = tokens.split([2, 1 if hp.isotropic else 2, 1, hp.what_dim], -1)
        low, high = hp.scale_bounds
        scale = low + (high - low) * (self.scheduled("scale_gain") * scale + hp.scale_bias).sigmoid()
        latents = {
            "attention": attention,
            "boxes": attention_to_boxes(center.clamp(-1, 1), (1 / scale).expand_as(center), size),
            "log_activation": activation[..., 0],
            "z_what": z_what,
        }
        if hp.attended_color:
            cells = F.avg_pool2d(image, (size[0] // attention.shape[-2], size[1] // attention.shape[-1]))
            latents["color"] = attend(attention, cells).clamp(*_COLOR_BOUNDS)
        return latents

    def _pull(self, maps: Tensor) -> Tensor | float:
        """What draws the heads apart at the start: (K, h, w) to be added to attention logits."""
        spread = self.scheduled("attention_spread")
        if not spread:
            return 0.0
        y, x = (torch.linspace(-1, 1, n, device=maps.device) for n in maps.shape[-2:])
        k = torch.arange(self.hp.num_slots, device=maps.device)
        # as a sunflower has its seeds: about equally far apart, whatever their number
        radius, angle = 0.85 * ((k + 0.5) / self.hp.num_slots).sqrt(), math.pi * (3 - math.sqrt(5)) * k
        away_y = (y - (radius * angle.sin())[:, None]).square()  # (K, h)
        away_x = (x - (radius * angle.cos())[:, None]).square()
        return -spread / 2 * (away_y[:, :, None] + away_x[:, None, :])

    # training: section 4.2

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction, entropies and the soft count of objects, means over images."""
        image = batch["image"]
        self.check_image(image)
        background = self._background(batch)
        q = self.infer(image, background)
        color, mask = self.glimpses(q["z_what"], q.get("color"))
        target = blur(image, self.scheduled("target_blur"))
        layers = (color, mask, q["log_activation"], q["boxes"], background, self.background_activation)
        terms = composite_losses(target, *layers, self.scheduled("layer_error"))
        return dict(zip(("reconstruction", "entropy", "object_entropy", "slots"), terms, strict=True))

    @property
    def frozen(self) -> bool:
        """Whether this is phase 2."""
        return self.steps_trained < self.hp.frozen_steps

    def _background(self, batch: Batch) -> Tensor:
        if not self.frozen:
            return self.background(batch["image"])[0]
        if "background" in batch:
            return batch["background"]
        with torch.no_grad():
            return self.background(batch["image"])[0]

    def resting_parameters(self) -> Iterable[nn.Parameter]:
        """The background's, in phase 2."""
        return self.background.parameters() if self.frozen else ()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begin phase 3 with a fresh optimiser, in a run resumed at that very step too."""
        if self.steps_trained == self.hp.frozen_steps:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    # what training starts from

    def setup(self, stage: str) -> None:
        """Warn of scenes with too many objects; refuse to look for a learning rate before training has its start."""
        most = getattr(getattr(self.trainer, "datamodule", None), "max_objects", 0)
        if most > self.hp.num_slots:
            rank_zero_warn(
                f"scenes have up to {most} objects, and num_slots={self.hp.num_slots} finds no more than that; K in "
                "the paper is the most objects in a scene"
            )
        starts = self.hp.background or (isinstance(self.features, Segformer) and self.hp.pretrained)
        finds = any(isinstance(callback, LearningRateFinder) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        if stage == "fit" and finds and starts and not (self._has_start or self.steps_trained):
            raise RefusedError(
                "LearningRateFinder would look for a learning rate before the weights are loaded that training starts "
                "from: call model.load_pretrained() first, or leave it out"
            )

    def on_fit_start(self) -> None:
        """Load what training starts from, unless it goes on; put cached backgrounds into the batches of phase 2."""
        super().on_fit_start()
        if not (self.trainer.ckpt_path is not None or self.steps_trained or self._has_start):
            self.load_pretrained()
        data = getattr(self.trainer, "datamodule", None)
        if self.frozen and self.hp.cache_backgrounds and isinstance(data, SceneDataModule):
            scenes = data.datasets["train"]
            if isinstance(scenes, WithBackgrounds):  # of a training that broke off
                scenes = scenes.scenes
            file = training_backgrounds(self.background, scenes, data, self.device)
            data.datasets["train"] = WithBackgrounds(scenes, file)

    def on_fit_end(self) -> None:
        """Give the datamodule its own training scenes back."""
        scenes = getattr(getattr(self.trainer, "datamodule", None), "datasets", {})
        if isinstance(scenes.get("train"), WithBackgrounds):
            scenes["train"] = scenes["train"].scenes

    def load_pretrained(self) -> None:
        """Take over Segformer's pretrained encoder and the trained background, as the hyperparameters ask for.

        Called when training starts; for use without a trainer, call it once.

        Raises:
            CheckpointError: One of them cannot be had, the background is of another form, or it is to be frozen, but
                none is named.
        """
        hp = self.hp
        if hp.frozen_steps and hp.background is None:
            raise weights.CheckpointError(
                f"frozen_steps={hp.frozen_steps} needs a trained background: set model.init_args.background to a "
                "checkpoint of BackgroundAE (configs/background.yaml trains one), or frozen_steps to 0"
            )
        if hp.background is not None:
            self._load_background()
        if isinstance(self.features, Segformer) and hp.pretrained:
            try:
                self.features.load_pretrained()
            except OSError as error:
                raise weights.CheckpointError(
                    f"{error}\nWithout them: model.init_args.pretrained: false trains Segformer from random weights, "
                    "model.init_args.backbone: unet does without it; model.init_args.segformer may name a local folder"
                ) from error
        self._has_start = True

    def _load_background(self) -> None:
        hp = self.hp
        path = weights.find(hp.background)
        record, state = weights.read(path)
        prefix = {"BackgroundAE": "net.", "ASTSeg": "background."}.get(record["class"])
        if prefix is None:
            raise weights.CheckpointError(f"{path} holds a {record['class']}: background needs a BackgroundAE")
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        try:
            self.background.load_state_dict(state)
        except RuntimeError as error:
            own = "" if record["class"] == "BackgroundAE" else "background_"
            theirs = {name: record["init_args"].get(own + name) for name in ("form", "code_dim", "width")}
            wanted = ", ".join(f"background_{name}: {value}" for name, value in theirs.items())
            size = record["init_args"].get("image_size")
            raise weights.CheckpointError(
                f"the background in {path} is of another form: set model.init_args.image_size: {size}, {wanted}"
            ) from error

    def record(self) -> dict[str, Any]:
        """As other models', but for the background's file: its weights are in this checkpoint."""
        record = super().record()
        return {**record, "init_args": {**record["init_args"], "background": None}}

    # use: algorithm 2

    def forward(self, image: Tensor) -> Scene:
        """Segment (B, C, H, W) images in [0, 1].

        `presence` is the largest weight that a slot has at any pixel. `boxes` are around the pixels that a slot has in
        `mask`; around its glimpse, as `attention_boxes`, where it has none.
        """
        hp = self.hp
        B, _, H, W = image.shape
        background = self.background(image)[0]
        q = self.infer(image, background)
        color, mask = self.glimpses(q["z_what"], q.get("color"))
        drawn, weight = composite(color, mask, q["log_activation"], q["boxes"], background, self.background_activation)
        labels = weight.argmax(1)  # (B, H, W)
        own = labels[:, None] == torch.arange(1, hp.num_slots + 1, device=image.device)[:, None, None]  # (B, K, H, W)
        around = trim_boxes(q["boxes"].new_tensor([0, 0, W, H]).expand(B, hp.num_slots, 4), own.to(image.dtype), 0.5)
        return Scene(
            reconstruction=drawn.clamp(0, 1),
            boxes=torch.where(own.flatten(2).any(-1, keepdim=True), around, q["boxes"]),
            presence=weight[:, 1:].flatten(2).amax(-1),
            what=q["z_what"],
            mask=labels,
            background=background,
            attention_boxes=q["boxes"],
            attention=q["attention"],
        )


class ObjectEncoder(nn.Module):
    """A transformer encoder over the K tokens of an image, in no order (section 4.1).

    Args:
        token_dim: Of what goes in and comes out.
        layers: How many.
        dim: d_T.
        heads: Of attention; divides `dim`.
        hidden: Feedforward dimension.
        dropout: In training.
        residual: Add the output, at first zero, to what went in.
    """

    def __init__(
        self, token_dim: int, layers: int, dim: int, heads: int, hidden: int, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.embed = nn.Linear(token_dim, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.project = nn.Linear(dim, token_dim)
        if residual:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, K, token_dim) to the same, of which places need more than eight bits on both ways."""
        with torch.autocast(tokens.device.type, enabled=False):
            embedded = self.embed(tokens)
        encoded = self.encoder(embedded).to(tokens.dtype)
        with torch.autocast(tokens.device.type, enabled=False):
            refined = self.project(encoded)
        return tokens + refined if self.residual else refined


def _check(hp: Any) -> None:
    """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
    if hp.channels not in (1, 3):
        raise ValueError(f"channels must be one of [1, 3], got {hp.channels!r}")
    if hp.backbone not in ("segformer", "unet"):
        raise ValueError(f"backbone must be one of ['segformer', 'unet'], got {hp.backbone!r}")
    if hp.channels != 3 and hp.backbone == "segformer" and hp.pretrained:
        raise ValueError("pretrained: true needs channels: 3; set pretrained: false, or data.init_args.channels: 3")
    if hp.normalize and (hp.channels != 3 or hp.backbone != "segformer"):
        raise ValueError("normalize: true goes with backbone: segformer and channels: 3")
    for name in ("num_slots", "what_dim", "attention_gain"):
        if not hp[name] > 0:
            raise ValueError(f"{name} must be above 0, got {hp[name]!r}")
    for name in ("encoder_layers", "frozen_steps"):
        if hp[name] < 0:
            raise ValueError(f"{name} must be at least 0, got {hp[name]!r}")
    if hp.encoder_layers and hp.encoder_dim % hp.encoder_heads:
        raise ValueError(f"encoder_heads={hp.encoder_heads} must divide encoder_dim={hp.encoder_dim}")
    if len(hp.scale_bounds) != 2 or not 0 < hp.scale_bounds[0] < hp.scale_bounds[1]:
        raise ValueError(f"scale_bounds must be [min, max] with 0 < min < max, got {hp.scale_bounds!r}")
    if hp.see_background and hp.backbone == "segformer" and hp.pretrained:
        raise ValueError("see_background: true needs pretrained: false, or backbone: unet: there are more channels")
