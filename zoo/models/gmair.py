"""GMAIR: Gaussian Mixture Attend, Infer, Repeat, which finds objects and groups them by kind (Zhu et al. 2021).

Section, equation and table numbers are the paper's. "The code" is the authors' program, EmoFuncs/GMAIR-pytorch. Where
the paper is silent (kernels, strides, temperatures, spreads, the decoder's alpha) this is as the code. Where the two
disagree the paper is the default and the code's choice an option, named with its hyperparameter. Scenes, trimmed boxes
and figures 3 and 4 are in `gmair_scenes.py`, what the zoo adds for training in `gmair_recipe.py`. Differences:

- Tables 4 and 6 count an output for each variable and colour; means come with a std, and the renderer, which is said to
  be SPAIR's, needs an alpha: both are there, as in the code, whose alpha starts opaque.
- Depth is SPAIR's: lower is in front. In the code it is in (0, 4) and higher is in front; the same function.
- The overlap loss is the code's sum over pixels, with which table 7's coefficients are seen to work. The paper says
  average, which is a weight 1 / (H W) as large. Its weight falls in a line from 2 to 0; in the code it jumps.
- Of p, which table 7 has falling from 1 to 6e-6, the logarithm falls by a hundredth a step, as in the code.
- The code samples no presence, so that its temperature is ours; that it is 1 is SPAIR's. Divergences are those of the
  discrete variables that samples relax, as in the code, outside training too, where samples stay relaxed.
- Centres stay in their cells, as in the code; SPAIR's, which the paper builds on, reach half a cell farther. Patches
  act up to half a texel beyond their boxes, and their colours do not fade along (`color_edge`).
- The code clamps logits to +-10 before a sigmoid. Epsilons are others: in the logarithms of the Bernoulli likelihood
  1e-9, in the prior's 1 - p 1e-9, as p starts at 1, added to posteriors' stds 1e-6; in the renderer's division none.
- The backbone's convolutions start as ResNet's (He et al. 2016), all else as PyTorch has it, an MLP's output too. The
  code has PyTorch's everywhere but in its 3 x 3 convolutions, which start at a std of 0.001, and in single kernels of
  the deconvolutions, which start as bilinear interpolation.
- A box whose patch has nothing above `trim_threshold` stays as it is; in the code it turns inside out.
- `where_norm` has statistics of all cells together; the code's are of each cell, which ties it to one image size.
- Objects are drawn in windows, not on canvases of the image's size (`zoo.layers.renderer`); the function is the same.

Trained so, objects are found after some thousand steps, but what categories mean takes 100,000 and more (figure 2).
"""

import math
from collections.abc import Iterator
from typing import Any, TypedDict, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.layers import boxes as box_ops
from zoo.layers import distributions
from zoo.layers.background import ColorBackground
from zoo.layers.blocks import mlp
from zoo.layers.categorical import gumbel_noise, kl_categorical, relaxed_categorical
from zoo.layers.glimpse_decoder import GlimpseDecoder
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.mixture_prior import MixturePrior
from zoo.layers.overlap import overlap
from zoo.layers.renderer import COLOR_EDGES, render
from zoo.layers.resnet import ResNetBackbone, convolutional_head
from zoo.layers.schedules import POSITIVE, Schedule, schedule_value
from zoo.models import gmair_scenes
from zoo.models.base import ObjectModel
from zoo.models.gmair_scenes import Appearances
from zoo.scene import Scene

ALPHA_LOGIT_BIAS = 5.0  # added to the alpha logits: objects start opaque (the code)
PRESENCE_TEMPERATURE = 1.0  # of the relaxed presence (SPAIR's)
_LEAST_ABSENCE = 1e-9  # 1 - p of the presence prior, which starts at p = 1 (the code's epsilon)


class Cells(TypedDict):
    """What the heads say of K cells; of all HW, in raster order."""

    boxes: Tensor  # (B, K, 4) in pixels, of z_where
    where_mean: Tensor  # (B, K, 4), of z_y, z_x, z_h, z_w
    where_std: Tensor  # (B, K, 4)
    z_depth: Tensor  # (B, K, 1), lower is in front
    depth_mean: Tensor  # (B, K, 1)
    depth_std: Tensor  # (B, K, 1)
    presence: Tensor  # (B, K, 1) in [0, 1]: z_pres, or its probability
    presence_logit: Tensor  # (B, K, 1)


class Objects(Cells):
    """All that is said of the K cells that are looked at closely."""

    glimpses: Tensor  # (B, K, channels * H_obj * W_obj) in [0, 1]
    category: Tensor  # (B, K, C), sum 1: z_cat, or its probabilities
    category_logits: Tensor  # (B, K, C)
    z_what: Tensor  # (B, K, A)
    what_mean: Tensor  # (B, K, A)
    what_std: Tensor  # (B, K, A)


class GMAIR(ObjectModel):
    """A convolutional detector, an object for each cell of a grid, whose appearance has a Gaussian mixture as prior.

    In nats per image, -ELBO = `reconstruction` + `kl_presence` + `kl_where` + `kl_depth` + `kl_category` + `kl_what`
    (equations 4 to 10); training adds `overlap` while its weight is above 0 (equation 11).

    Args:
        channels: Image channels, 1 or 3.
        anchor: a_h and a_w, pixels of the largest box (table 7).
        num_categories: C, dimension of z_cat (table 7).
        what_dim: A, dimension of z_what (table 7).
        glimpse_size: H_obj and W_obj, texels of a glimpse and of a decoded object (table 7), as its decoder makes them.
        backbone_widths: Channels of the backbone's stages (table 3: ResNet18).
        backbone_blocks: Residual blocks in each stage.
        backbone_up: Channels of its deconvolutions (table 3). Stages and deconvolutions make the cells: of 8 px.
        backbone_convolutions: 3 x 3 convolutions before them (the code).
        head_hidden: Channels of the 3 x 3 convolutions of the presence, depth and where heads (table 4).
        encoder_hidden: Hidden layers of the category and what encoders (table 5); [512, 512, 512] in the code.
        decoder_channels: Width of the glimpse decoder's linear layer and of each doubling (table 6).
        decoder_upsampling: "deconv" (table 6), or "pixel_shuffle" (the code), which has a bias for each texel.
        where_norm: Null is the paper. A number normalises the means of z_where over the batch to this std, plus a
            learned bias for each of the four; 0.5 in the code.
        presence: "relaxed", a Gumbel-softmax sample (the paper), or "sigmoid", its probability (the code).
        temperature: Of the Gumbel-softmax z_cat; 1 throughout in the code.
        presence_log_prior: Natural logarithm of p, the prior probability of presence: from 1 to 6e-6 (table 7).
        detached_prior_steps: Steps during which the mixture learns nothing and nothing is learned through it but
            z_what; 2000 in the code for MultiMNIST, 0 for Fruit2D.
        importance_floor: Least importance inside a patch; the code's 1e-4 for a depth in (0, 4) is 2.5e-5 here.
        color_edge: Colours beyond a patch's outermost texel centres: "repeat", those of the edge, so that alpha alone
            fades; "zeros", fading too (the code, and SPAIR's Algorithm 1 taken literally), which darkens edges.
        term_weights: alpha of equation 11 by the loss terms' names, where they are not table 7's: 8 for
            `reconstruction` (table 7: 8 or 16), [2.0, 0.0, 5000, linear] for `overlap` (table 7: from 2 to 0; in the
            code a step, and 0 for Fruit2D), 1 for the divergences.
        trim_threshold: Boxes are trimmed to the texels whose alpha times colour reaches this (section 4; 0.2 in the
            code), which are also those that `Scene.mask` gives to the object. Null yields the attention boxes.
        lr: Adam's learning rate (table 7).
        object_lr: That of the encoders and of the decoder of objects; 5e-5 in the code for Fruit2D.
        max_grad_norm: Largest norm of the gradient; null, as in the paper: any.
    """

    elbo_terms = ("reconstruction", "kl_presence", "kl_where", "kl_depth", "kl_category", "kl_what")
    training_terms: tuple[str, ...] = ("overlap",)
    schedules = ("lr", "object_lr", "temperature", "presence_log_prior")
    standard_weights: dict[str, Schedule] = {"reconstruction": 8.0, "overlap": [2.0, 0.0, 5000, "linear"]}
    where_prior: tuple[tuple[float, float], ...] = ((0.0, 1.0),) * 4  # means and stds of z_y, z_x, z_h, z_w (table 7)
    depth_prior = (0.0, 1.0)  # mean and std of z_depth (table 7)

    def __init__(
        self,
        *,
        channels: int = 3,
        anchor: float = 72.0,
        num_categories: int = 10,
        what_dim: int = 256,
        glimpse_size: int = 32,
        backbone_widths: tuple[int, ...] = (64, 128, 256, 512),
        backbone_blocks: int = 2,
        backbone_up: tuple[int, ...] = (128, 64),
        backbone_convolutions: bool = False,
        head_hidden: tuple[int, ...] = (128, 128, 128),
        encoder_hidden: tuple[int, ...] = (128, 256, 512),
        decoder_channels: tuple[int, ...] = (256, 128, 128, 64, 32, 16),
        decoder_upsampling: str = "deconv",
        where_norm: float | None = None,
        presence: str = "relaxed",
        temperature: Schedule = 1.0,
        presence_log_prior: Schedule = [0.0, -12.0238, 1202.38, "linear"],  # noqa: B006 (never changed)
        detached_prior_steps: int = 0,
        importance_floor: float = 0.0,
        color_edge: str = "repeat",
        term_weights: dict[str, Schedule] | None = None,
        trim_threshold: float | None = 0.2,
        lr: Schedule = 1e-4,
        object_lr: Schedule = 1e-4,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.check_hyperparameters()
        self.weigh_terms(term_weights, **self.standard_weights)
        self.check_schedules(temperature=POSITIVE, presence_log_prior=(-1e9, 0.0))
        self.backbone = ResNetBackbone(channels, backbone_widths, backbone_blocks, backbone_up, backbone_convolutions)
        self.cell_size = self.backbone.cell_size  # pixels: the image's 128 over the grid's 16 (table 3)
        self.heads = nn.ModuleDict({
            name: convolutional_head(self.backbone.out_channels, head_hidden, out)
            for name, out in (("presence", 1), ("depth", 2), ("where", 8))
        })  # fmt: skip
        self.heads.to(memory_format=torch.channels_last)
        self.backbone.to(memory_format=torch.channels_last)
        texels = channels * glimpse_size**2
        self.category_encoder = self.make_category_encoder(texels)
        self.what_encoder = mlp(texels + num_categories, encoder_hidden, 2 * what_dim)
        self.what_prior = MixturePrior(num_categories, what_dim)
        self.decoder = self.make_decoder()
        if where_norm is not None:
            self.where_statistics = nn.BatchNorm1d(4, affine=False)
            self.where_bias = nn.Parameter(torch.zeros(4))
        self.background = ColorBackground("black", channels)

    def check_hyperparameters(self) -> None:
        """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
        hp = self.hp
        for name, works, wanted in (
            ("channels", hp.channels in (1, 3), "1 or 3"),
            *((name, hp[name] > 0, "above 0") for name in ("anchor", "num_categories", "what_dim")),
            *((name, hp[name] is None or hp[name] > 0, "null or above 0") for name in ("where_norm", "max_grad_norm")),
            ("presence", hp.presence in ("relaxed", "sigmoid"), "relaxed or sigmoid"),
            ("detached_prior_steps", hp.detached_prior_steps >= 0, "at least 0"),
            ("importance_floor", 0 <= hp.importance_floor < 1, "in [0, 1)"),
            ("color_edge", hp.color_edge in COLOR_EDGES, " or ".join(COLOR_EDGES)),
            ("trim_threshold", hp.trim_threshold is None or 0 < hp.trim_threshold < 1, "null or in (0, 1)"),
        ):
            if not works:
                raise ValueError(f"{name} must be {wanted}, got {hp[name]!r}")

    def make_category_encoder(self, texels: int) -> nn.Sequential:
        """From a flat glimpse of so many values to C logits (table 5)."""
        return mlp(texels, self.hp.encoder_hidden, self.hp.num_categories)

    def make_decoder(self) -> nn.Module:
        """From (B, K, A) codes to logits of colours and alpha, (B, K, channels + 1, H_obj, W_obj) (table 6)."""
        hp = self.hp
        if hp.glimpse_size != (made := 2 ** (len(hp.decoder_channels) - 1)):
            raise ValueError(f"glimpse_size must be what decoder_channels make, {made}, got {hp.glimpse_size!r}")
        return GlimpseDecoder(hp.what_dim, hp.channels + 1, hp.decoder_channels, hp.decoder_upsampling)

    # inference: section 2.2

    def infer(self, image: Tensor, noise: dict[str, Tensor] | None, least: float = 0.0) -> tuple[Cells, Objects]:
        """Encode images into latents, z = mean + std * noise (equation 3).

        Args:
            image: (B, C, H, W).
            noise: From `draw_noise`; None for means and, for category and presence, probabilities (section B.3).
            least: Presence of the cells that are looked at closely: of these an image's strongest, as many as an image
                has whose presence or its probability is above it; at 0 all, in raster order.
        """
        chosen = cells = self.locate(image, noise)
        if least > 0:
            strength = torch.maximum(cells["presence"], cells["presence_logit"].sigmoid())[..., 0].detach()
            K = max(1, int((strength > least).sum(1).amax()))
            index = strength.topk(K).indices[..., None]  # (B, K, 1)
            chosen, noise = _take(cells, index), noise and _take(noise, index)
        return cells, self.look(image, chosen, noise)

    def locate(self, image: Tensor, noise: dict[str, Tensor] | None) -> Cells:
        """q(z_pres, z_where, z_depth | x), by the heads; see `infer`."""
        self.check_image(image)
        if min(image.shape[-2:]) < self.cell_size:
            raise ValueError(f"images of {[*image.shape[-2:]]} pixels are smaller than a cell of {self.cell_size} px")
        features = self.backbone(image.contiguous(memory_format=torch.channels_last))
        raw = {
            name: rearrange(head(features).to(image.dtype), "b d i j -> b (i j) d") for name, head in self.heads.items()
        }
        where_mean, where_std = _mean_std(raw["where"])
        if self.hp.where_norm is not None:
            where_mean = self.hp.where_norm * self.where_statistics(where_mean.flatten(0, 1)).view_as(where_mean)
            where_mean = where_mean + self.where_bias
        depth_mean, depth_std = _mean_std(raw["depth"])
        logit = raw["presence"]
        z_where, z_depth, presence = where_mean, depth_mean, logit.sigmoid()
        if noise is not None:
            z_where = where_mean + where_std * noise["where"]
            z_depth = depth_mean + depth_std * noise["depth"]
            if self.hp.presence == "relaxed":
                presence = distributions.relaxed_bernoulli(logit, noise["presence"], PRESENCE_TEMPERATURE)
        return {
            "boxes": self.place(z_where, (features.shape[-2], features.shape[-1])),
            "z_depth": z_depth,
            "presence": presence,
            "where_mean": where_mean,
            "where_std": where_std,
            "depth_mean": depth_mean,
            "depth_std": depth_std,
            "presence_logit": logit,
        }

    def look(self, image: Tensor, cells: Cells, noise: dict[str, Tensor] | None) -> Objects:
        """q(z_cat | x, z_where) and q(z_what | x, z_where, z_cat), of glimpses; see `infer`."""
        glimpses = extract_glimpses(image, cells["boxes"], self.hp.glimpse_size, "border").flatten(2)
        logits = self.category_encoder(glimpses)
        category = logits.softmax(-1)
        if noise is not None:
            category = relaxed_categorical(logits, noise["category"], self.scheduled("temperature"))
        what_mean, what_std = _mean_std(self.what_encoder(torch.cat([glimpses, category], -1)))
        return {
            **cells,
            "glimpses": glimpses,
            "category_logits": logits,
            "category": category,
            "what_mean": what_mean,
            "what_std": what_std,
            "z_what": what_mean if noise is None else what_mean + what_std * noise["what"],
        }

    def draw_noise(self, image: Tensor) -> dict[str, Tensor]:
        """Standard noise for every latent of each cell of (B, C, H, W) images."""
        B, N = image.shape[0], math.prod(-(-side // self.cell_size) for side in image.shape[-2:])
        like: dict[str, Any] = {"device": image.device, "dtype": image.dtype}
        return {
            "where": torch.randn(B, N, 4, **like),
            "depth": torch.randn(B, N, 1, **like),
            "presence": distributions.logistic_noise(B, N, 1, **like),
            "category": gumbel_noise(B, N, self.hp.num_categories, **like),
            "what": torch.randn(B, N, self.hp.what_dim, **like),
        }

    def place(self, z_where: Tensor, grid: tuple[int, int]) -> Tensor:
        """Boxes (..., HW, 4) in pixels of where-codes (..., HW, 4): centres in their cells, sides up to the anchor."""
        offset, size = box_ops.where_to_cell_offsets(z_where, (0.0, 1.0))
        cells = box_ops.grid_cells(*grid, z_where.device)
        return box_ops.cell_offsets_to_boxes(offset, size, cells, (self.cell_size,) * 2, (self.hp.anchor,) * 2)

    # generation: section 2.2

    def decode(self, z_what: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance of objects: colours (B, K, C, P, P) and alpha (B, K, P, P), both in (0, 1)."""
        color, alpha = self.decoder(z_what).to(z_what.dtype).split([self.hp.channels, 1], 2)
        return color.sigmoid(), (alpha[:, :, 0] + ALPHA_LOGIT_BIAS).sigmoid()

    def render(self, objects: Appearances, color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Draw decoded objects with their presence and depth onto a background: the image (B, C, H, W)."""
        opacity = alpha * objects["presence"][..., None]
        maps = color, opacity, self.importance(objects, opacity)
        return render(*maps, objects["boxes"], background, "exact", (self.hp.anchor,) * 2, self.hp.color_edge)

    def importance(self, objects: Appearances, opacity: Tensor) -> Tensor:
        """Weights (B, K, P, P) of texels among all that are drawn at a pixel, of their (B, K, P, P) opacity."""
        importance = opacity * (-objects["z_depth"][..., None]).sigmoid()
        return importance.clamp_min(self.hp.importance_floor) if self.hp.importance_floor else importance

    # training: section 2.3

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the negative ELBO, in nats per image (equations 4 to 10), and those that training adds."""
        image = batch["image"]
        cells, q = self.infer(image, self.draw_noise(image))
        color, alpha = self.decode(q["z_what"])
        mean = self.render(q, color, alpha, self.background(image))
        log_p, logit = self.scheduled("presence_log_prior"), cells["presence_logit"]
        prior_logit = torch.full_like(logit, log_p - math.log(max(-math.expm1(log_p), _LEAST_ABSENCE)))
        where_prior = logit.new_tensor(self.where_prior).unbind(-1)
        uniform = torch.zeros_like(q["category_logits"])
        in_cell, present = logit.sigmoid(), q["presence_logit"][..., 0].sigmoid()  # q(z_pres = 1) of equation 14
        terms = {
            "reconstruction": -self.log_likelihood(image, mean),
            "kl_presence": distributions.kl_bernoulli(logit, prior_logit),
            "kl_where": in_cell * distributions.kl_normal(cells["where_mean"], cells["where_std"], *where_prior),
            "kl_depth": in_cell * distributions.kl_normal(cells["depth_mean"], cells["depth_std"], *self.depth_prior),
            "kl_category": present * kl_categorical(q["category_logits"], uniform),
            "kl_what": present * self.kl_what(q),
            **self.auxiliary_losses(q, color, alpha, mean),
        }
        return {name: value.sum() / image.shape[0] for name, value in terms.items()}

    def log_likelihood(self, image: Tensor, mean: Tensor) -> Tensor:
        """Log p(x | z) of each pixel, (B, C, H, W): Bernoulli's (the code)."""
        return distributions.bernoulli_log_likelihood(image, mean)

    def kl_what(self, q: Objects) -> Tensor:
        """Divergence of z_what from the mixture's component at the one sample of z_cat (equation 10, M = 1), (B, K)."""
        mean, std = self.what_prior(q["category"])
        if self.prior_detached:
            mean, std = mean.detach(), std.detach()
        return distributions.kl_normal(q["what_mean"], q["what_std"], mean, std).sum(-1)

    def auxiliary_losses(self, q: Objects, color: Tensor, alpha: Tensor, mean: Tensor) -> dict[str, Tensor]:
        """Summed over the batch, of what was decoded and drawn: the overlap loss, while it weighs anything."""
        if not schedule_value(self.term_weights["overlap"], self.steps_trained):
            return {}
        size, opacity = (mean.shape[-2], mean.shape[-1]), alpha * q["presence"][..., None]
        return {"overlap": overlap(color, opacity, q["boxes"], size, (self.hp.anchor,) * 2, self.hp.color_edge)}

    @property
    def prior_detached(self) -> bool:
        """Whether the mixture does not learn yet."""
        return self.steps_trained < cast(int, self.hp.detached_prior_steps)

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """The prior of appearance while it is detached."""
        if self.prior_detached:
            yield from self.what_prior.parameters()

    def object_modules(self) -> list[nn.Module]:
        """Encoders and decoder of objects."""
        return [self.category_encoder, self.what_encoder, self.decoder]

    def parameter_groups(self) -> Any:
        """Encoders and decoder of objects have a learning rate of their own."""
        own = [p for module in self.object_modules() for p in module.parameters()]
        others = [p for p in self.parameters() if not any(p is known for known in own)]
        return [{"params": others}, {"params": own, "lr_name": "object_lr"}]

    # use

    def forward(self, image: Tensor) -> Scene:
        """Find, group and draw the objects of (B, C, H, W) images in [0, 1]; slots are the cells in raster order."""
        return self.draw_scene(self.infer(image, None)[1], self.background(image))

    draw_scene = gmair_scenes.draw_scene
    detect = gmair_scenes.detect
    generate = gmair_scenes.generate
    assemble = gmair_scenes.assemble
    vary = gmair_scenes.vary


def _mean_std(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Halves of the last dimension as mean and std; a std of 0 would be infinitely far from any prior."""
    mean, spread = raw.chunk(2, -1)
    return mean, F.softplus(spread) + 1e-6


def _take(latents: Any, index: Tensor) -> Any:
    """Of the cells at (B, K, 1) only."""
    return {name: value.take_along_dim(index, 1) for name, value in latents.items()}
