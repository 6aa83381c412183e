"""AST-Seg: Attention and Soft-argmax with Transformer using Segformer (Sauvalle and de La Fortelle, WACV 2023).

Section, equation, algorithm and table numbers are the paper's. "The program" is its authors', BrunoSauvalle/AST. Where
the paper is silent (dropout, order of operations in the U-Net) the program decides. Differences:

- The program takes the activation of isotropic objects from z_what's first number and leaves their own unused: a slip,
  mended here.
- The learning rate of step t is that of t updates done, the program's of t + 1.
- Backgrounds for phase 2 are computed once and cached in 8 bits, as the program does by hand; rounded, not truncated.
- Table 7's captions are swapped, and the program has them right: 128 px images have glimpses of 64 texels.
- Segformer sees images in [0, 1], as in the program, although its pretraining normalised them.
- CLEVR is prepared by default as the program does it (first tenth test, bilinear); the paper says as in GENESIS-V2 (the
  first 70,000 scenes, single pixels): `splits: genesis` and `resampling: nearest` of `CLEVRDataModule`. Its "CLEVR"
  figures are then of other test scenes.
- An activation is at most e^40 times the background's, so that its gradient stays finite.

From random weights, with few steps or small networks, it learns slowly if at all: see `zoo.models.ast_seg_recipe`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules.base import SceneDataModule
from datamodules.batch import Batch
from zoo.backgrounds import WithBackgrounds, training_backgrounds
from zoo.layers.boxes import attention_to_boxes, trim_boxes
from zoo.layers.compositing import Layers, composite, composite_losses
from zoo.layers.feature_maps import Segformer, UNet
from zoo.layers.glimpse_generator import GlimpseGenerator
from zoo.layers.positional_autoencoder import IMAGE_SIZES, PositionalAutoencoder
from zoo.layers.schedules import Schedule
from zoo.layers.soft_argmax import attend, soft_argmax, spatial_softmax
from zoo.models.background_ae import load_background
from zoo.models.base import ObjectModel, RefusedError
from zoo.scene import Scene
from zoo.sharing import weights


class Latents(TypedDict):
    """What algorithm 1 finds in B images by K slots."""

    attention: Tensor  # (B, K, h, w), each map with sum 1
    boxes: Tensor  # (B, K, 4) in pixels, of the glimpses
    log_activation: Tensor  # (B, K), log alpha_k
    z_what: Tensor  # (B, K, A)


class ASTSeg(ObjectModel):
    """K attention maps point at objects, which are drawn over a background and mixed by activation times mask.

    The loss is `reconstruction`, the mean squared L1 error of a pixel (equations 19 and 20), plus `entropy`, the mean
    squared entropy of a pixel's weights (equation 21), weighted by lambda_pixel (equation 22).

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
        unet_channels: Of the U-Net's maps at full resolution, a half, a quarter, ... (table 8).
        encoder_layers: Of the transformer encoder; 0 does without it (table 4).
        encoder_dim: d_T.
        encoder_heads: Its heads.
        encoder_hidden: Its feedforward dimension.
        encoder_dropout: Its dropout, PyTorch's default.
        glimpse_size: Texels of a side of a generated glimpse, a power of two; null: half of the image's side (table 7).
        isotropic: One scale for both sides (CLEVR, ShapeStacks).
        scale_bounds: s_min and s_max, of the image's side over the object's.
        background_activation: log alpha_0 at the start; learned.
        background: Where training starts from a trained background: a checkpoint's name, a run folder or a file, of a
            `BackgroundAE`, an `ASTSeg` or a recipe. Trained weights contain their background, and need it no more.
        background_form: "simple" or "complex", as the checkpoint has it.
        background_code_dim: Dimension of its code.
        background_width: Factor on its channels; 1 in the paper.
        frozen_steps: Length of phase 2, 30,000 in the paper, during which the background stays as it is; at its end the
            optimiser starts anew. As many as there are steps: frozen throughout (table 4).
        term_weights: Weights of loss terms by name, `reconstruction` and `entropy`, where they are not the paper's: of
            the entropy lambda_pixel = 1e-2, reached by a quadratic warm-up of 10,000 steps (equation 22); 0 does
            without (table 4).
        lr: Adam's learning rate, with a quadratic warm-up, and a tenth for the last tenth of 125,000 steps.
        max_grad_norm: Largest norm of the gradient; null, as in the paper, for no limit.

    Raises:
        ModuleNotFoundError: Segformer is asked for, and transformers is not installed.
        ValueError: A hyperparameter is out of its range.
    """

    schedules: tuple[str, ...] = ("lr",)
    training_terms: tuple[str, ...] = ("reconstruction", "entropy")
    standard_weights: dict[str, Schedule] = {"entropy": [0.0, 1e-2, 10000, "quadratic"]}
    adam = {"betas": (0.9, 0.98), "eps": 1e-9}  # table 6
    background_at = ("background.", "background_")  # see `load_background`

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
        unet_channels: tuple[int, ...] = (80, 128, 192, 256, 256, 256),
        encoder_layers: int = 6,
        encoder_dim: int = 256,
        encoder_heads: int = 8,
        encoder_hidden: int = 512,
        encoder_dropout: float = 0.1,
        glimpse_size: int | None = None,
        isotropic: bool = False,
        scale_bounds: tuple[float, float] = (1.3, 24.0),
        background_activation: float = 11.0,
        background: str | None = None,
        background_form: str = "complex",
        background_code_dim: int = 16,
        background_width: float = 1.0,
        frozen_steps: int = 0,
        term_weights: dict[str, Schedule] | None = None,
        lr: Schedule = [[0.0, 4e-5, 5000, "quadratic"], [4e-5, 4e-6, 107500, "step"]],  # noqa: B006 (never changed)
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check(self.hp)
        self.weigh_terms(term_weights, **self.standard_weights)
        self.check_schedules()
        token_dim = 2 + (1 if isotropic else 2) + 1 + what_dim  # place, scale, activation, appearance
        self.features = self.make_backbone(num_slots + token_dim - 2)
        self.encoder = None
        if encoder_layers:
            self.encoder = ObjectEncoder(
                token_dim, encoder_layers, encoder_dim, encoder_heads, encoder_hidden, encoder_dropout
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
        of_imagenet = init_args["backbone"] == "segformer" and init_args["pretrained"]
        return {"image_size": IMAGE_SIZES, **({"channels": (3,)} if of_imagenet else {})}

    def make_backbone(self, map_dim: int) -> Segformer | UNet:
        """Generator of the feature map, (B, C, H, W) to (B, map_dim, h, w)."""
        hp = self.hp
        if hp.backbone == "segformer":
            return Segformer(hp.segformer, hp.channels, map_dim)
        return UNet(hp.channels, map_dim, hp.unet_channels)

    # encoding: algorithm 1

    def infer(self, image: Tensor, background: Tensor) -> Latents:
        """Find objects.

        Args:
            image: (B, C, H, W) in [0, 1].
            background: (B, C, H, W) in [0, 1]; the paper's backbone does not look at it (see `seen_by_backbone`).

        Raises:
            ValueError: They are no such images, or their sides do not fit the backbone's.
        """
        self.check_image(image)
        size = (image.shape[-2], image.shape[-1])
        if size[0] % self.features.multiple or size[1] % self.features.multiple:
            raise ValueError(
                f"images of {size[0]} x {size[1]} px: backbone: {self.hp.backbone} needs sides that are multiples of "
                f"{self.features.multiple}; set data.init_args.image_size, or fewer unet_channels"
            )
        seen = self.seen_by_backbone(image, background)
        maps = self.features(seen.contiguous(memory_format=torch.channels_last)).to(image.dtype)
        with torch.autocast(image.device.type, enabled=False):  # places need more than eight bits
            logits, features = maps[:, : self.hp.num_slots], maps[:, self.hp.num_slots :]
            attention = spatial_softmax(self.attention_logits(logits))
            tokens = torch.cat([soft_argmax(attention), attend(attention, features)], -1)  # (B, K, token_dim)
        tokens = self.encode(tokens)
        center, scale, activation, z_what = tokens.split([2, 1 if self.hp.isotropic else 2, 1, self.hp.what_dim], -1)
        low, high = self.hp.scale_bounds
        scale = low + (high - low) * self.scale_logits(scale).sigmoid()
        return {
            "attention": attention,
            "boxes": attention_to_boxes(center.clamp(-1, 1), (1 / scale).expand_as(center), size),
            "log_activation": activation[..., 0],
            "z_what": z_what,
        }

    def seen_by_backbone(self, image: Tensor, background: Tensor) -> Tensor:
        """(B, C, H, W) images and backgrounds to the backbone's input: the images."""
        return image

    def attention_logits(self, logits: Tensor) -> Tensor:
        """(B, K, h, w) of the feature map to the logits of the attention maps: the same."""
        return logits

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, K, token_dim) to the same, by the transformer encoder, where there is one."""
        return tokens if self.encoder is None else self.encoder(tokens)

    def scale_logits(self, logits: Tensor) -> Tensor:
        """(B, K, 1 or 2) of the tokens to the logits of scales: the same."""
        return logits

    # decoding: algorithm 2

    def layers(self, latents: Latents, image: Tensor, background: Tensor) -> Layers:
        """Layers to composite from what was found in (B, C, H, W) images, before backgrounds (B, C, H, W)."""
        color, mask = self.draw_objects(latents, image)
        places = (latents["log_activation"], latents["boxes"])
        return Layers(color, mask, *places, background, self.background_activation)

    def draw_objects(self, latents: Latents, image: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (B, K, C, P, P) and masks (B, K, P, P) of objects, from z_what alone; all in (0, 1)."""
        return self.glimpses(latents["z_what"])

    # training: section 4.2

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction (equations 19, 20) and entropy (equation 21), means over pixels and images."""
        image, background = batch["image"], self.find_background(batch)
        terms = composite_losses(image, *self.layers(self.infer(image, background), image, background))
        return {"reconstruction": terms.reconstruction, "entropy": terms.entropy}

    @property
    def frozen(self) -> bool:
        """Whether this is phase 2."""
        return self.steps_trained < self.hp.frozen_steps

    def find_background(self, batch: Batch) -> Tensor:
        """(B, C, H, W) backgrounds of a batch: in phase 2 those that come with it, if any, and without gradient."""
        self.check_image(batch["image"])
        if self.frozen and "background" in batch:
            return batch["background"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
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
        if self.frozen and isinstance(data, SceneDataModule):
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
            load_background(self.background, hp.background)
        if isinstance(self.features, Segformer) and hp.pretrained:
            try:
                self.features.load_pretrained()
            except OSError as error:
                raise weights.CheckpointError(
                    f"{error}\nWithout them: model.init_args.pretrained: false trains Segformer from random weights, "
                    "model.init_args.backbone: unet does without it; model.init_args.segformer may name a local folder"
                ) from error
        self._has_start = True

    def record(self) -> dict[str, Any]:
        """As other models', but for the background's file: its weights are in this checkpoint."""
        record = super().record()
        return {**record, "init_args": {**record["init_args"], "background": None}}

    # use

    def forward(self, image: Tensor) -> Scene:
        """Segment (B, C, H, W) images in [0, 1].

        `presence` is the largest weight that a slot has at any pixel. `boxes` are around the pixels that a slot has in
        `mask`; around its glimpse, as `attention_boxes`, where it has none.
        """
        hp = self.hp
        B, _, H, W = image.shape
        background = self.background(image)[0]
        q = self.infer(image, background)
        drawn, weight = composite(*self.layers(q, image, background))
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
    """

    def __init__(self, token_dim: int, layers: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(token_dim, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.project = nn.Linear(dim, token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, K, token_dim) to the same, of which places need more than eight bits on both ways."""
        with torch.autocast(tokens.device.type, enabled=False):
            embedded = self.embed(tokens)
        encoded = self.encoder(embedded).to(tokens.dtype)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.project(encoded)


def _check(hp: Any) -> None:
    """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
    known: dict[str, list[Any]] = {"channels": [1, 3], "backbone": ["segformer", "unet"]}
    for name, choices in known.items():
        if hp[name] not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {hp[name]!r}")
    if hp.channels != 3 and hp.backbone == "segformer" and hp.pretrained:
        raise ValueError("pretrained: true needs channels: 3; set pretrained: false, or data.init_args.channels: 3")
    for name, least in {"num_slots": 1, "what_dim": 1, "encoder_layers": 0, "frozen_steps": 0}.items():
        if hp[name] < least:
            raise ValueError(f"{name} must be at least {least}, got {hp[name]!r}")
    if hp.encoder_layers and hp.encoder_dim % hp.encoder_heads:
        raise ValueError(f"encoder_heads={hp.encoder_heads} must divide encoder_dim={hp.encoder_dim}")
    if len(hp.scale_bounds) != 2 or not 0 < hp.scale_bounds[0] < hp.scale_bounds[1]:
        raise ValueError(f"scale_bounds must be [min, max] with 0 < min < max, got {hp.scale_bounds!r}")
