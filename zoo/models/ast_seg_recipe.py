"""AST-Seg from random weights, in few steps, with small networks. What the zoo adds to `ASTSeg`.

Each is off by default, and on in recipes/quick/ast_seg.yaml:

- `scale_bias` starts with objects of a few percent of the image, and `scale_gain` keeps them at that until they are in
  place: glimpses that may grow at once end at the largest scale. With `background_activation` of 2 instead of the
  paper's 11, heads start at once.
- `see_background` shows the backbone what the background leaves; heads then find objects within minutes.
- `attention_spread` and `unet_position` send heads to different places, and `attention_gain` sharpens early maps.
- `layer_error` closes an easy way out of the squared L1 error of a mix: objects stay half-transparent, in colours too
  light or too dark, which have no gradient towards better ones. With it an object has to look right by itself.
- `attended_color` starts an object from the colour where its head looks, which from z_what alone is long learned.
- The loss term `slots`, of weight 0 unless `term_weights` has it, is against several heads on one object, and heads on
  patterns of the ground.
- `encoder_residual` starts from an encoder that changes nothing.
- `unet_stride` of 4, as Segformer's, makes the U-Net much faster.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.layers.compositing import composite_losses
from zoo.layers.feature_maps import Segformer, UNet
from zoo.layers.schedules import Schedule
from zoo.layers.soft_argmax import attend
from zoo.models.ast_seg import ASTSeg, Latents

_COLOR_BOUNDS = (0.02, 0.98)  # of a colour that others are to start from


class ASTSegRecipe(ASTSeg):
    """`ASTSeg` whose heads start apart, see what the background leaves, and draw opaque objects in seen colours.

    A further loss term is `slots`: the soft count of an image's objects (see `CompositeLosses.objects`).

    Args:
        unet_stride: Pixels of a cell of the U-Net's map, a power of two; 1 in the paper.
        unet_position: The U-Net sees each pixel's row and column too, so that heads soon look at different places.
        encoder_residual: The encoder's output, at first zero, is added to what went in.
        see_background: The backbone sees what the background leaves of the image too, doubled: (B, 2 C, H, W).
        attention_gain: Factor on attention logits.
        attention_spread: Pulls each head's attention to a place of its own, as a Gaussian of this precision would (the
            image reaches from -1 to 1). Meant to fade out once heads have objects: before, they crowd together; as
            long as it stays, they miss objects far from their places.
        scale_bias: Added to scale logits; -2 starts with a scale of about 4.
        scale_gain: Factor on scale logits. 0 keeps glimpses at one size; meant to rise to 1 when places are learned,
            as until then glimpses grow to their largest, and stay there.
        attended_color: Texels start from the colour of the image where the head looks, which z_what's logits are
            added to.
        layer_error: How much of the reconstruction error, from 0 to 1, is the expected error of the layers, each to
            look like the image by itself, instead of the error of their mix (a bound of the mixture likelihoods of
            MONet and IODINE). Meant to rise from 0: at the start no object is worth drawing.
        **paper: As for `ASTSeg`.

    Raises:
        ModuleNotFoundError: Segformer is asked for, and transformers is not installed.
        ValueError: A hyperparameter is out of its range.
    """

    schedules = (*ASTSeg.schedules, "attention_spread", "scale_gain", "layer_error")
    training_terms = (*ASTSeg.training_terms, "slots")
    standard_weights = {**ASTSeg.standard_weights, "slots": 0.0}

    def __init__(
        self,
        *,
        unet_stride: int = 1,
        unet_position: bool = False,
        encoder_residual: bool = False,
        see_background: bool = False,
        attention_gain: float = 1.0,
        attention_spread: Schedule = 0.0,
        scale_bias: float = 0.0,
        scale_gain: Schedule = 1.0,
        attended_color: bool = False,
        layer_error: Schedule = 0.0,
        **paper: Any,
    ) -> None:
        super().__init__(**paper)
        if not attention_gain > 0:
            raise ValueError(f"attention_gain must be above 0, got {attention_gain!r}")
        self.check_schedules(layer_error=(0.0, 1.0), attention_spread=(0.0, math.inf))
        self.adds_to_tokens = encoder_residual and self.encoder is not None
        if encoder_residual and self.encoder is not None:
            nn.init.zeros_(self.encoder.project.weight)
            nn.init.zeros_(self.encoder.project.bias)

    def make_backbone(self, map_dim: int) -> Segformer | UNet:
        """For images, and what the background leaves of them."""
        hp = self.hp
        if hp.see_background and hp.backbone == "segformer" and hp.pretrained:
            raise ValueError("see_background: true needs pretrained: false, or backbone: unet: there are more channels")
        in_channels = hp.channels * (1 + hp.see_background)
        if hp.backbone == "segformer":
            return Segformer(hp.segformer, in_channels, map_dim)
        return UNet(in_channels, map_dim, hp.unet_channels, hp.unet_stride, hp.unet_position)

    # encoding

    def seen_by_backbone(self, image: Tensor, background: Tensor) -> Tensor:
        """(B, C, H, W) images and backgrounds to (B, C or 2 C, H, W)."""
        return torch.cat([image, 2 * (image - background.detach())], 1) if self.hp.see_background else image

    def attention_logits(self, logits: Tensor) -> Tensor:
        """(B, K, h, w) to the same: sharper, and each head's drawn to a place of its own."""
        logits = self.hp.attention_gain * logits
        spread = self.scheduled("attention_spread")
        return logits - spread * distances_apart(logits) / 2 if spread else logits

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, K, token_dim) to the same: what the encoder adds to them, or makes of them."""
        encoded = super().encode(tokens)
        return tokens + encoded if self.adds_to_tokens else encoded

    def scale_logits(self, logits: Tensor) -> Tensor:
        """(B, K, 1 or 2) to the same."""
        return self.scheduled("scale_gain") * logits + self.hp.scale_bias

    # decoding

    def draw_objects(self, latents: Latents, image: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (B, K, C, P, P) and masks (B, K, P, P) of objects, colours from where heads look; all in (0, 1)."""
        if not self.hp.attended_color:
            return super().draw_objects(latents, image)
        (H, W), (h, w) = image.shape[-2:], latents["attention"].shape[-2:]
        cells = F.avg_pool2d(image, (H // h, W // w))
        color = attend(latents["attention"], cells).clamp(*_COLOR_BOUNDS)
        return self.glimpses(latents["z_what"], color)

    # training

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction, entropy and the soft count of objects, means over images."""
        image, background = batch["image"], self.find_background(batch)
        layers = self.layers(self.infer(image, background), image, background)
        terms = composite_losses(image, *layers, layer_error=self.scheduled("layer_error"))
        return {"reconstruction": terms.reconstruction, "entropy": terms.entropy, "slots": terms.objects}


def distances_apart(logits: Tensor) -> Tensor:
    """Squared distances of the cells of K maps from K places, spread as a sunflower has its seeds.

    So they are about equally far apart, whatever their number, and none far out.

    Args:
        logits: (B, K, h, w); of which the shape counts.

    Returns:
        (K, h, w), where the image reaches from -1 to 1.
    """
    K = logits.shape[1]
    y, x = (torch.linspace(-1, 1, n, device=logits.device) for n in logits.shape[-2:])
    k = torch.arange(K, device=logits.device)
    radius, angle = 0.85 * ((k + 0.5) / K).sqrt(), math.pi * (3 - math.sqrt(5)) * k
    away_y = (y - (radius * angle.sin())[:, None]).square()  # (K, h)
    away_x = (x - (radius * angle.cos())[:, None]).square()
    return away_y[:, :, None] + away_x[:, None, :]
