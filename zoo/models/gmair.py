"""GMAIR: Gaussian Mixture Attend, Infer, Repeat, which finds objects and groups them by kind (Zhu et al. 2021).

Section, equation and table numbers are the paper's. "The code" is the authors' program, EmoFuncs/GMAIR-pytorch. Where
the paper is silent (kernels, strides, temperatures, spreads, the decoder's alpha) defaults are the code's. Where the
two disagree the paper is the default and the code's choice an option, named with each hyperparameter. Differences:

- Tables 4 and 6 count an output for each variable and colour; means come with a std, and the renderer, which is said to
  be SPAIR's, needs an alpha: both are there, as in the code (`decoder_alpha: false` draws opaque patches).
- Depth is SPAIR's: lower is in front. In the code it is in (0, 4) and higher is in front; the same function.
- The overlap loss is the code's sum over pixels; the paper says average (`overlap_reduction`), of an image of 128 px
  1 / 16,384 of it.
- The code samples no presence, so that `presence_temperature` is ours; that it is 1 is SPAIR's. Divergences are those
  of the discrete variables that samples relax, as in the code, outside training too, where samples stay relaxed.
- Centres stay in their cells, as in the code; SPAIR's, which the paper builds on, reach half a cell farther. Patches
  act up to half a texel beyond their boxes, and their colours do not fade along (`color_edge`).
- The code clamps logits to +-10 before a sigmoid. Epsilons are others: in the logarithms of the Bernoulli likelihood
  1e-9, in the prior's 1 - p 1e-9, as p starts at 1, added to posteriors' stds 1e-6; in the renderer's division none.
- The backbone's convolutions start as ResNet's (He et al. 2016), all else as PyTorch has it, an MLP's output too. The
  code has PyTorch's everywhere but in its 3 x 3 convolutions, which start at a std of 0.001, and in single kernels of
  the deconvolutions, which start as bilinear interpolation.
- A box whose patch has nothing above `trim_threshold` stays as it is; in the code it turns inside out.
- The code's batch normalisation of the means of z_where has statistics of each cell, which ties it to one image size;
  `where_norm` shares them among cells.
- Objects are drawn in windows instead of on canvases of the image's size (`zoo.layers.renderer`, `zoo.layers.overlap`);
  the function is the same.

Trained so, objects are found after some thousand steps, but what categories mean takes 100,000 and more (figure 2). The
cures that make them meaningful sooner are options, off by default: `where_std_bias`, `size_bias`, `presence_bias` and
the priors of position and size, as in SPAIR; `likelihood`; `what_prior_at: expectation`; and `consistency_weight` with
`balance_weight` and `fine_categories`, which ask that two looks at an object agree on what it is. Where a schedule or
`detached_prior_steps` lets parts wait, several GPUs need `--trainer.strategy ddp_find_unused_parameters_true`.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.layers import boxes as box_ops
from zoo.layers.affine import affine_matrix, read_patches
from zoo.layers.agreement import mutual_information
from zoo.layers.background import ColorBackground
from zoo.layers.blocks import mlp
from zoo.layers.categorical import gumbel_noise, kl_categorical, relaxed_categorical
from zoo.layers.count_prior import sample_presence
from zoo.layers.distributions import (
    bernoulli_log_likelihood,
    kl_bernoulli,
    kl_normal,
    logistic_noise,
    normal_log_likelihood,
    relaxed_bernoulli,
)
from zoo.layers.glimpse_decoder import UPSAMPLINGS, GlimpseDecoder
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.mixture_prior import MixturePrior, expected_kl
from zoo.layers.overlap import instance_mask, overlap
from zoo.layers.renderer import COLOR_EDGES, METHODS, render
from zoo.layers.resnet import ResNetBackbone
from zoo.layers.schedules import POSITIVE, Schedule
from zoo.models.base import ObjectModel, in_working_precision
from zoo.scene import Scene

Latents = dict[str, Tensor]


class GMAIR(ObjectModel):
    """A convolutional detector, an object for each cell of a grid, whose appearance has a Gaussian mixture as prior.

    In nats per image, -ELBO = `reconstruction` + `kl_presence` + `kl_where` + `kl_depth` + `kl_category` + `kl_what`
    (equations 4 to 10); training adds `overlap` while its weight is above 0 (equation 11), and `consistency` and
    `balance` if asked for.

    Args:
        channels: Image channels, 1 or 3.
        cell_size: Pixels of a cell; the image's 128 over the grid's 16 (table 3). What the backbone's layers make it.
        anchor: a_h and a_w, pixels of the largest box (table 7).
        num_categories: C, dimension of z_cat (table 7).
        what_dim: A, dimension of z_what (table 7).
        glimpse_size: H_obj and W_obj, texels of a glimpse and of a decoded object (table 7); the decoder's layers
            make it.
        backbone_widths: Channels of the backbone's stages (table 3: ResNet18).
        backbone_blocks: Residual blocks in each stage.
        backbone_up: Channels of its deconvolutions (table 3).
        backbone_convolutions: 3 x 3 convolutions before them (the code).
        head_hidden: Channels of the 3 x 3 convolutions of the presence, depth and where heads (table 4).
        encoder_hidden: Hidden layers of the category and what encoders (table 5); [512, 512, 512] in the code.
        decoder_channels: Width of the glimpse decoder's linear layer and of each doubling (table 6).
        decoder_upsampling: "deconv" (table 6), or "pixel_shuffle" (the code), which has a bias for each texel.
        decoder_hidden: Hidden layers of an MLP that decodes instead; [128, 256, 512] in the code, unused there.
        decoder_alpha: The decoder yields an alpha beside the colours (the code), else patches are opaque (table 6).
        alpha_logit_bias: Added to the alpha logits: objects start opaque (the code).
        bf16: Run the convolutions, of backbone, heads and decoder, in bfloat16.
        glimpse_padding: Beyond the image's border: "border" for its edge pixels (the code), or "zeros".
        where_norm: Null is the paper. A number normalises the means of z_where over the batch to this std, plus a
            learned bias for each of the four; 0.5 in the code.
        where_std_bias: Initial bias of the raw spread of z_where, before a softplus. A cure: -3 keeps boxes from
            collapsing onto their prior early on.
        size_bias: A cure: initial bias of the mean of z_h and z_w.
        presence_bias: A cure: initial bias of the presence logit.
        presence: "relaxed", a Gumbel-softmax sample (the paper), or "sigmoid", its probability (the code).
        presence_temperature: Of the relaxed presence.
        temperature: Of the Gumbel-softmax z_cat; 1 throughout in the code.
        position_prior: Mean and std of z_y and z_x (table 7).
        size_prior: Mean and std of z_h and z_w (table 7).
        depth_prior: Mean and std of z_depth (table 7).
        presence_log_prior: Natural logarithm of p, the prior probability of presence: from 1 to 6e-6 (table 7), by a
            hundredth a step (the code).
        what_prior_at: The mixture's component that z_what's divergence is taken from: "sample", that of the relaxed
            sample of z_cat, of which there is one (the code; section 4 has M = 1); or "expectation", the mean of the
            divergences from all components, weighted with q(z_cat) (equation 10; the what encoder still reads the one
            sample). A cure, too: it tells the category encoder which component is nearest.
        detached_prior_steps: Steps during which the mixture learns nothing and nothing is learned through it but
            z_what; 2000 in the code for MultiMNIST, 0 for Fruit2D.
        consistency_weight: A cure: weight, in training only, of what the categories of an object's glimpse and of a
            second look at it lack in mutual information (IIC, Ji et al. 2019).
        balance_weight: A cure, beside it: weight of the divergence of a uniform distribution from a batch's mean
            category, which brings categories back that no object has.
        fine_categories: A cure: outputs of a second, finer head of the category encoder, whose agreement counts as much
            as that of the categories (IIC's auxiliary over-clustering); 0: none.
        category_gain: A cure: factor of the initial weights of these heads, which makes objects differ from the first.
        second_look: How much that look departs from the first: stds of its shift and of the logarithms of its width and
            height, as fractions of the box, of its angle, in radians, and of its shear.
        importance_floor: Least importance inside a patch; the code's 1e-4 for a depth in (0, 4) is 2.5e-5 here.
        negligible_presence: 0 draws all cells. Cells of less presence, both sampled and its probability, are left out
            of training's encoders, decoder and renderer: pixels, and gradients under a normal likelihood, change by
            about this share, and a model that has found its objects trains several times as fast. (A Bernoulli
            likelihood tells 1e-6 from 0 by many nats.) A GPU is waited for once a step.
        renderer: "exact" (SPAIR's Algorithm 1), or "premultiplied", one contraction that differs at soft edges.
        color_edge: Colours beyond a patch's outermost texel centres, in "exact" and in `overlap`: "repeat", those of
            the edge, so that alpha alone fades; "zeros", fading too (the code, and Algorithm 1 taken literally), which
            darkens edges on bright backgrounds.
        background: "black" (the paper); "fixed" (`background_color`); "learned", one colour; "mlp", a colour for each
            image.
        background_color: In [0, 1], for each channel; for "fixed".
        likelihood: "bernoulli" (the code), or "normal" with `likelihood_std`.
        likelihood_std: Standard deviation of the normal likelihood.
        reconstruction_weight: alpha_recon, 8 or 16 (table 7); 8 in the code.
        overlap_weight: alpha_overlap, from 2 to 0 (table 7); a jump after 5000 steps in the code: [2.0, 0.0, 5000,
            step].
        overlap_reduction: Over pixels: "sum" (the code, and what table 7's coefficients are seen to work with), or
            "mean" (section 2.3), which at 128 px is 16,384 times less.
        presence_kl_weight: alpha_pres, weight of z_pres's divergence.
        where_kl_weight: alpha_where, of z_where's; one that starts low is a warm-up.
        depth_kl_weight: alpha_depth, of z_depth's.
        category_kl_weight: alpha_cat, of z_cat's.
        what_kl_weight: alpha_what, of z_what's.
        trim_threshold: Boxes are trimmed to the texels whose alpha times difference from the background reaches this
            (section 4; 0.2 in the code), which are also those that `Scene.mask` gives to the object. Null yields the
            attention boxes.
        lr: Adam's learning rate (table 7).
        object_lr: That of the encoders and of the decoder of objects; 5e-5 in the code for Fruit2D.
        max_grad_norm: Largest norm of the gradient; null, as in the paper: any.
    """

    elbo_terms = ("reconstruction", "kl_presence", "kl_where", "kl_depth", "kl_category", "kl_what")
    schedules = (
        "lr",
        "object_lr",
        "temperature",
        "presence_log_prior",
        "overlap_weight",
        "consistency_weight",
        "balance_weight",
        "what_kl_weight",
    )

    def __init__(
        self,
        *,
        channels: int = 3,
        cell_size: int = 8,
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
        decoder_hidden: tuple[int, ...] | None = None,
        decoder_alpha: bool = True,
        alpha_logit_bias: float = 5.0,
        bf16: bool = False,
        glimpse_padding: str = "border",
        where_norm: float | None = None,
        where_std_bias: float = 0.0,
        size_bias: float = 0.0,
        presence_bias: float = 0.0,
        presence: str = "relaxed",
        presence_temperature: float = 1.0,
        temperature: Schedule = 1.0,
        position_prior: tuple[float, float] = (0.0, 1.0),
        size_prior: tuple[float, float] = (0.0, 1.0),
        depth_prior: tuple[float, float] = (0.0, 1.0),
        presence_log_prior: Schedule = [0.0, -12.0238, 1202.38, "linear"],  # noqa: B006 (never changed)
        what_prior_at: str = "sample",
        detached_prior_steps: int = 0,
        consistency_weight: Schedule = 0.0,
        balance_weight: Schedule = 0.0,
        fine_categories: int = 0,
        category_gain: float = 1.0,
        second_look: tuple[float, float, float, float] = (0.05, 0.1, 0.25, 0.3),
        importance_floor: float = 0.0,
        negligible_presence: float = 0.0,
        renderer: str = "exact",
        color_edge: str = "repeat",
        background: str = "black",
        background_color: list[float] | None = None,
        likelihood: str = "bernoulli",
        likelihood_std: float = 0.2,
        reconstruction_weight: Schedule = 8.0,
        overlap_weight: Schedule = [2.0, 0.0, 5000, "linear"],  # noqa: B006 (never changed)
        overlap_reduction: str = "sum",
        presence_kl_weight: Schedule = 1.0,
        where_kl_weight: Schedule = 1.0,
        depth_kl_weight: Schedule = 1.0,
        category_kl_weight: Schedule = 1.0,
        what_kl_weight: Schedule = 1.0,
        trim_threshold: float | None = 0.2,
        lr: Schedule = 1e-4,
        object_lr: Schedule = 1e-4,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.term_weights = {
            "reconstruction": reconstruction_weight,
            "overlap": overlap_weight,
            "kl_presence": presence_kl_weight,
            "kl_where": where_kl_weight,
            "kl_depth": depth_kl_weight,
            "kl_category": category_kl_weight,
            "kl_what": what_kl_weight,
            "consistency": consistency_weight,
            "balance": balance_weight,
        }
        _check(self.hp)
        self.check_schedules(temperature=POSITIVE, presence_log_prior=(-1e9, 0.0))
        self.backbone = ResNetBackbone(channels, backbone_widths, backbone_blocks, backbone_up, backbone_convolutions)
        if self.backbone.cell_size != cell_size:
            raise ValueError(
                f"the backbone's {len(backbone_widths)} stages and {len(backbone_up)} deconvolutions make cells of "
                f"{self.backbone.cell_size} pixels: set cell_size to that, or change backbone_widths or backbone_up"
            )
        self.heads = nn.ModuleDict({
            name: _head(self.backbone.out_channels, head_hidden, out)
            for name, out in (("presence", 1), ("depth", 2), ("where", 8))
        })  # fmt: skip
        self.heads.to(memory_format=torch.channels_last)
        self.backbone.to(memory_format=torch.channels_last)
        texels, drawn = channels * glimpse_size**2, channels + decoder_alpha
        self.category_encoder = mlp(texels, encoder_hidden, num_categories)
        if fine_categories:
            self.fine_head = nn.Linear(encoder_hidden[-1], fine_categories)
        self.what_encoder = mlp(texels + num_categories, encoder_hidden, 2 * what_dim)
        self.what_prior = MixturePrior(num_categories, what_dim)
        self.decoder: nn.Module
        if decoder_hidden is None:
            self.decoder = GlimpseDecoder(what_dim, drawn, decoder_channels, decoder_upsampling)
        else:
            shape = (drawn, glimpse_size, glimpse_size)
            self.decoder = nn.Sequential(mlp(what_dim, decoder_hidden, math.prod(shape)), nn.Unflatten(-1, shape))
        if where_norm is not None:
            self.where_statistics = nn.BatchNorm1d(4, affine=False)
            self.where_bias = nn.Parameter(torch.zeros(4))
        self.background = ColorBackground(background, channels, background_color)
        with torch.no_grad():
            where = self._output_bias("where")
            where[2:4] += size_bias
            where[4:] += where_std_bias
            self._output_bias("presence").add_(presence_bias)
            for output in self._category_heads():
                output.weight.mul_(category_gain)
            if where_norm is not None:
                self.where_bias[2:] = size_bias

    def _output_bias(self, head: str) -> Tensor:
        *_, output = self.heads[head].children()
        return output.get_parameter("bias")

    def _category_heads(self) -> list[nn.Linear]:
        *_, head = self.category_encoder
        heads = [head, self.fine_head] if self.hp.fine_categories else [head]
        return cast(list[nn.Linear], heads)

    # inference: section 2.2

    def infer(self, image: Tensor, noise: Latents | None, least: float = 0.0) -> tuple[Latents, Latents]:
        """Encode images into latents, z = mean + std * noise.

        Args:
            image: (B, C, H, W).
            noise: From `draw_noise`; None for means and, for category and presence, probabilities (section B.3).
            least: Presence of the cells that are looked at closely.

        Returns:
            cells: Each (B, HW, .) in raster order: `where_mean`, `where_std`, `boxes`, `depth_mean`, `depth_std`,
                `z_depth`, `presence_logit`, `presence`.
            objects: With K the most cells of an image whose presence or its probability is above `least`, each
                (B, K, .): the above, and `glimpses`, `category_logits`, `category`, `what_mean`, `what_std`, `z_what`.
                With a `least` of 0 all cells, in order.
        """
        hp = self.hp
        self.check_image(image)
        if min(image.shape[-2:]) < hp.cell_size:
            raise ValueError(f"images of {list(image.shape[-2:])} pixels are smaller than a cell of {hp.cell_size} px")
        with self._convolving(image):
            features = self.backbone(image.contiguous(memory_format=torch.channels_last))
            raw = {
                name: rearrange(head(features).to(image.dtype), "b d i j -> b (i j) d")
                for name, head in self.heads.items()
            }
        rows, columns = features.shape[-2:]
        where_mean, where_std = _mean_std(raw["where"])
        if hp.where_norm is not None:
            where_mean = hp.where_norm * self.where_statistics(where_mean.flatten(0, 1)).view_as(where_mean)
            where_mean = where_mean + self.where_bias
        depth_mean, depth_std = _mean_std(raw["depth"])
        logit = raw["presence"]
        z_where, z_depth, presence = where_mean, depth_mean, logit.sigmoid()
        if noise is not None:
            z_where = where_mean + where_std * noise["where"]
            z_depth = depth_mean + depth_std * noise["depth"]
            if hp.presence == "relaxed":
                presence = relaxed_bernoulli(logit, noise["presence"], hp.presence_temperature)
        cells = {
            "where_mean": where_mean,
            "where_std": where_std,
            "boxes": self.place(z_where, (rows, columns)),
            "depth_mean": depth_mean,
            "depth_std": depth_std,
            "z_depth": z_depth,
            "presence_logit": logit,
            "presence": presence,
        }
        objects = cells
        if least > 0:
            strength = torch.maximum(presence, logit.sigmoid())[..., 0].detach()
            K = max(1, int((strength > least).sum(1).amax()))
            index = strength.topk(K).indices[..., None]  # (B, K, 1)
            objects = {name: value.take_along_dim(index, 1) for name, value in cells.items()}
            noise = noise and {name: value.take_along_dim(index, 1) for name, value in noise.items()}
        glimpses = extract_glimpses(image, objects["boxes"], hp.glimpse_size, hp.glimpse_padding).flatten(2)
        category_logits = self.category_encoder(glimpses)
        category = category_logits.softmax(-1)
        if noise is not None:
            category = relaxed_categorical(category_logits, noise["category"], self.scheduled("temperature"))
        what_mean, what_std = _mean_std(self.what_encoder(torch.cat([glimpses, category], -1)))
        return cells, {
            **objects,
            "glimpses": glimpses,
            "category_logits": category_logits,
            "category": category,
            "what_mean": what_mean,
            "what_std": what_std,
            "z_what": what_mean if noise is None else what_mean + what_std * noise["what"],
        }

    def draw_noise(self, image: Tensor) -> Latents:
        """Noise for every latent of (B, C, H, W) images, each (B, HW, .)."""
        hp = self.hp
        B, _, H, W = image.shape
        N = -(-H // hp.cell_size) * -(-W // hp.cell_size)
        like: dict[str, Any] = {"device": image.device, "dtype": image.dtype}
        return {
            "where": torch.randn(B, N, 4, **like),
            "depth": torch.randn(B, N, 1, **like),
            "presence": logistic_noise(B, N, 1, **like),
            "category": gumbel_noise(B, N, hp.num_categories, **like),
            "what": torch.randn(B, N, hp.what_dim, **like),
        }

    def place(self, z_where: Tensor, grid: tuple[int, int]) -> Tensor:
        """Boxes (..., HW, 4) in pixels of where-codes (..., HW, 4): centres in their cells, sides up to the anchor."""
        hp = self.hp
        offset, size = box_ops.where_to_cell_offsets(z_where, (0.0, 1.0))
        cells = box_ops.grid_cells(*grid, z_where.device)
        return box_ops.cell_offsets_to_boxes(offset, size, cells, (hp.cell_size,) * 2, (hp.anchor,) * 2)

    def _convolving(self, image: Tensor) -> AbstractContextManager[Any]:
        return torch.autocast(image.device.type, torch.bfloat16) if self.hp.bf16 else nullcontext()

    # generation: section 2.2

    def decode(self, z_what: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance of objects: colours (B, K, C, P, P) and alpha (B, K, P, P), both in (0, 1)."""
        with self._convolving(z_what):
            logits = self.decoder(z_what).to(z_what.dtype)
        color, alpha = logits.split([self.hp.channels, logits.shape[2] - self.hp.channels], 2)
        if self.hp.decoder_alpha:
            return color.sigmoid(), (alpha[:, :, 0] + self.hp.alpha_logit_bias).sigmoid()
        return color.sigmoid(), torch.ones_like(color[:, :, 0])

    def render(self, objects: Latents, color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Draw decoded objects with their presence and depth: the image (B, C, H, W)."""
        hp, opacity = self.hp, alpha * objects["presence"][..., None]
        maps = color, opacity, self._importance(objects, opacity)
        return render(*maps, objects["boxes"], background, hp.renderer, (hp.anchor,) * 2, hp.color_edge)

    def _importance(self, objects: Latents, opacity: Tensor) -> Tensor:
        importance = opacity * (-objects["z_depth"][..., None]).sigmoid()
        return importance.clamp_min(self.hp.importance_floor) if self.hp.importance_floor else importance

    # training: section 2.3

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the negative ELBO, in nats per image (equations 4 to 10), and those that training adds."""
        hp = self.hp
        image = batch["image"]
        least = hp.negligible_presence if self.training else 0.0
        cells, q = self.infer(image, self.draw_noise(image), least)
        color, alpha = self.decode(q["z_what"])
        mean = self.render(q, color, alpha, self.background(image))
        if hp.likelihood == "bernoulli":
            log_likelihood = bernoulli_log_likelihood(image, mean)
        else:
            log_likelihood = normal_log_likelihood(image, mean, hp.likelihood_std)
        log_p = self.scheduled("presence_log_prior")
        prior_logit = log_p - math.log(max(-math.expm1(log_p), _LEAST_ABSENCE))
        logit = cells["presence_logit"]

        def per_image(presence_logit: Tensor, divergence: Tensor) -> Tensor:
            return (presence_logit.sigmoid() * divergence).sum() / image.shape[0]  # equation 14: q(present) times it

        where_prior = logit.new_tensor([hp.position_prior] * 2 + [hp.size_prior] * 2).unbind(-1)
        uniform = torch.zeros_like(q["category_logits"])
        terms = {
            "reconstruction": -log_likelihood.sum() / image.shape[0],
            "kl_presence": kl_bernoulli(logit, torch.full_like(logit, prior_logit)).sum() / image.shape[0],
            "kl_where": per_image(logit, kl_normal(cells["where_mean"], cells["where_std"], *where_prior)),
            "kl_depth": per_image(logit, kl_normal(cells["depth_mean"], cells["depth_std"], *hp.depth_prior)),
            "kl_category": per_image(q["presence_logit"], kl_categorical(q["category_logits"], uniform)[..., None]),
            "kl_what": per_image(q["presence_logit"], self._kl_what(q)[..., None]),
        }
        if self.scheduled("overlap_weight"):
            opacity = alpha * q["presence"][..., None]
            H, W = image.shape[-2:]
            drawn_twice = overlap(color, opacity, q["boxes"], (H, W), (hp.anchor,) * 2, hp.color_edge)
            pixels = H * W if hp.overlap_reduction == "mean" else 1
            terms["overlap"] = drawn_twice.sum() / (pixels * image.shape[0])
        if self.training and self.scheduled("consistency_weight"):
            terms |= self._agreement(q, color, alpha, mean, self.background(image))
        return terms

    def _agreement(self, q: Latents, color: Tensor, alpha: Tensor, mean: Tensor, background: Tensor) -> Latents:
        """What an object's glimpse and a second look at it lack in mutual information, and categories in use.

        The second look is turned, sheared and scaled. It is also cut to what the object extends over, and less what
        other objects explain of it: else objects would be grouped by their neighbours. Only the category encoder
            learns from
        this.
        """
        hp, (shift, size, turn, shear) = self.hp, self.hp.second_look
        alone = torch.lerp(background[:, None, :, :1, :1], color, alpha[:, :, None])
        all_drawn = extract_glimpses(mean, q["boxes"], hp.glimpse_size, hp.glimpse_padding)
        shows = self._visible(color, alpha, background) >= (hp.trim_threshold or 0.2)
        extent = _span(shows.any(-1))[..., :, None] & _span(shows.any(-2))[..., None, :]
        rest = (q["glimpses"].view_as(alone) - all_drawn + alone).clamp(0, 1) * extent[:, :, None]
        rest = rest.detach().flatten(0, 1)
        noise = torch.randn(6, len(rest), device=rest.device, dtype=rest.dtype)
        center, side = hp.glimpse_size * (0.5 + shift * noise[:2]), hp.glimpse_size * (size * noise[2:4]).exp()
        place = torch.stack([*center, *side, turn * noise[4], shear * noise[5], torch.zeros_like(noise[5])], -1)
        second_look = read_patches(rest, affine_matrix(place)[:, None], hp.glimpse_size).view(q["glimpses"].shape)
        presence = q["presence_logit"][..., 0].sigmoid().detach()
        first, second = (self.category_encoder[:-1](look) for look in (q["glimpses"].detach(), second_look))
        consistency = balance = presence.new_zeros(())
        for head in self._category_heads():
            here, there = head(first).softmax(-1), head(second).softmax(-1)
            consistency = consistency + math.log(head.out_features) - mutual_information(here, there, presence)
            share = (presence[..., None] * here).sum((0, 1)) / presence.sum().clamp_min(_TINY)
            balance = balance - share.clamp_min(_TINY).log().mean() - math.log(head.out_features)
        objects = presence.sum() / len(background)  # in an image
        return {"consistency": objects * consistency, "balance": objects * balance}

    def _kl_what(self, q: Latents) -> Tensor:
        """Divergence of z_what from the mixture (equation 10), (B, K)."""
        detached = self._prior_detached
        if self.hp.what_prior_at == "expectation":
            weights, (mean, std) = q["category_logits"].softmax(-1), self.what_prior.components()
            if detached:
                weights, mean, std = weights.detach(), mean.detach(), std.detach()
            return expected_kl(weights, q["what_mean"], q["what_std"], mean, std)
        mean, std = self.what_prior(q["category"])
        if detached:
            mean, std = mean.detach(), std.detach()
        return kl_normal(q["what_mean"], q["what_std"], mean, std).sum(-1)

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """The prior of appearance while it is detached; a finer head as long as nothing is asked of it."""
        if self._prior_detached:
            yield from self.what_prior.parameters()
        if self.hp.fine_categories and not self.scheduled("consistency_weight"):
            yield from self.fine_head.parameters()

    @property
    def _prior_detached(self) -> bool:
        return self.steps_trained < self.hp.detached_prior_steps

    def parameter_groups(self) -> Any:
        """Encoders and decoder of objects have a learning rate of their own."""
        modules = (self.category_encoder, *self._category_heads(), self.what_encoder, self.decoder)
        own = list(dict.fromkeys(p for module in modules for p in module.parameters()))
        names = {id(p) for p in own}
        others = [p for p in self.parameters() if id(p) not in names]
        return [{"params": others}, {"params": own, "lr_name": "object_lr"}]

    # use

    def forward(self, image: Tensor) -> Scene:
        """Find, group and draw the objects of (B, C, H, W) images in [0, 1]; slots are the cells in raster order."""
        return self._scene(self.infer(image, None)[1], self.background(image))

    @in_working_precision
    def detect(self, image: Tensor, min_presence: float = 0.0) -> dict[str, Tensor]:
        """Find and group objects, drawing nothing, which takes a fraction of the time.

        Args:
            image: (B, C, H, W) in [0, 1].
            min_presence: Leaves out what no image has: of K slots an image has all its cells that are above this,
                and, where it has fewer than another, others. 0 keeps all cells, in raster order.

        Returns:
            `boxes`, `presence`, `what`, `category`, `depth` and `attention_boxes` as in `Scene`.
        """
        objects = self.infer(image, None, min_presence)[1]
        visible = None
        if self.hp.trim_threshold is not None:
            visible = self._visible(*self.decode(objects["z_what"]), self.background(image))
        return self._findings(objects, visible)

    def _visible(self, color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """What each texel changes in the picture, (B, K, P, P), mean over channels; backgrounds are of one colour."""
        return (alpha[:, :, None] * (color - background[:, None, :, :1, :1]).abs()).mean(2)

    def _findings(self, objects: Latents, visible: Tensor | None) -> dict[str, Tensor]:
        boxes = objects["boxes"]
        if visible is not None:
            boxes = box_ops.trim_boxes(boxes, visible, self.hp.trim_threshold)
        return {
            "boxes": boxes,
            "presence": objects["presence"][..., 0],
            "what": objects["z_what"],
            "category": objects["category"],
            "depth": objects["z_depth"][..., 0],
            "attention_boxes": objects["boxes"],
        }

    def _scene(self, objects: Latents, background: Tensor) -> Scene:
        hp, (H, W) = self.hp, background.shape[-2:]
        color, alpha = self.decode(objects["z_what"])
        opacity = alpha * objects["presence"][..., None]
        trims = hp.trim_threshold is not None
        visible = self._visible(color, alpha, background) if trims else None
        return Scene(
            reconstruction=self.render(objects, color, alpha, background),
            mask=instance_mask(
                self._importance(objects, opacity),
                opacity if visible is None else visible,
                objects["presence"][..., 0],
                objects["boxes"],
                (H, W),
                hp.trim_threshold if trims else 0.5,
                (hp.anchor,) * 2,
            ),
            background=background,
            **self._findings(objects, visible),
        )

    @torch.no_grad()
    @in_working_precision
    def assemble(
        self,
        categories: Tensor,
        styles: Tensor | None,
        boxes: Tensor,
        image_size: tuple[int, int] = (128, 128),
        presence: Tensor | None = None,
        depth: Tensor | None = None,
        background: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Scene:
        """Draw the scenes that one asks for (figure 3: each category in many styles, each style in all categories).

        Args:
            categories: (B, K) integers from 0 to C - 1: z_avg is the mean of that component (equation 12).
            styles: (B, K, A), z_local in stds of the component, distributed as N(0, 1); None: zeros, the average
            object.
            boxes: (B, K, 4) in pixels, as `Scene.attention_boxes`: of the patch, whose border may be empty.
            image_size: (H, W) in pixels.
            presence: (B, K) in [0, 1]; None: all are there.
            depth: (B, K), lower is in front; None: all at the same.
            background: (C,) or (B, C), colours in [0, 1]; None: the model's own, or, where an MLP reads them off an
                image, drawn uniformly.
            generator: A CPU generator, for such backgrounds.

        Returns:
            A `Scene` with these objects.

        Raises:
            ValueError: A shape, type or category is off.
        """
        hp = self.hp
        if categories.ndim != 2 or categories.is_floating_point():
            raise ValueError(f"categories must be integers (B, K), got {categories.dtype} {tuple(categories.shape)}")
        if categories.numel() and not 0 <= categories.min() <= categories.max() < hp.num_categories:
            raise ValueError(
                f"categories must be from 0 to {hp.num_categories - 1}, got {categories.min()} to {categories.max()}"
            )
        shape = tuple(categories.shape)
        wanted = {"styles": (*shape, hp.what_dim), "boxes": (*shape, 4), "presence": shape, "depth": shape}
        given = {"styles": styles, "boxes": boxes, "presence": presence, "depth": depth}
        for name, value in given.items():
            if value is not None and tuple(value.shape) != wanted[name]:
                raise ValueError(f"{name} must be {wanted[name]}, got {tuple(value.shape)}")
        category = F.one_hot(categories.long(), hp.num_categories).to(self.device, self.working_dtype)
        mean, std = self.what_prior(category)
        z_what = mean if styles is None else mean + std * styles.to(mean)
        objects = {
            "boxes": boxes.to(mean),
            "presence": (torch.ones(shape) if presence is None else presence).to(mean)[..., None],
            "z_depth": (torch.zeros(shape) if depth is None else depth).to(mean)[..., None],
            "category": category,
            "z_what": z_what,
        }
        size = (shape[0], hp.channels, *image_size)
        return self._scene(objects, self.background.draw(size, self.device, generator, background).to(mean))

    @torch.no_grad()
    def generate(
        self,
        num_images: int,
        image_size: tuple[int, int] = (128, 128),
        generator: torch.Generator | None = None,
        count: int | None = None,
        categories: Tensor | None = None,
        styles: Tensor | None = None,
        background: Tensor | None = None,
    ) -> Scene:
        """Draw scenes from the prior: presence of each cell, then where, depth, category and what (section 2.1).

        Args:
            num_images: How many.
            image_size: (H, W) in pixels.
            generator: A CPU generator, for repeatable scenes.
            count: Objects in each image, at most one a cell; None: drawn from the prior as the schedule has it, which
                ends by favouring empty images.
            categories: (num_images, HW) integers, of the cells in raster order; None: drawn.
            styles: (num_images, HW, A), as for `assemble`; None: drawn.
            background: Colours, as for `assemble`.

        Returns:
            A `Scene` whose presence is 0 or 1.
        """
        hp, B, (H, W) = self.hp, num_images, image_size
        rows, columns = -(-H // hp.cell_size), -(-W // hp.cell_size)
        N = rows * columns
        if count is None:
            p = math.exp(self.scheduled("presence_log_prior"))
            presence = (torch.rand(B, N, generator=generator) < p).float()
        else:
            presence = sample_presence(B, N, 1.0, generator, count)
        priors = torch.tensor([hp.position_prior] * 2 + [hp.size_prior] * 2)
        z_where = priors[:, 0] + priors[:, 1] * torch.randn(B, N, 4, generator=generator)
        depth = hp.depth_prior[0] + hp.depth_prior[1] * torch.randn(B, N, generator=generator)
        if categories is None:
            categories = torch.randint(hp.num_categories, (B, N), generator=generator)
        if styles is None:
            styles = torch.randn(B, N, hp.what_dim, generator=generator)
        boxes = self.place(z_where, (rows, columns))
        return self.assemble(categories, styles, boxes, image_size, presence, depth, background, generator)

    @torch.no_grad()
    @in_working_precision
    def vary(
        self,
        image: Tensor,
        category: int | None = None,
        restyle: bool = False,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
    ) -> Scene:
        """Draw the objects of images otherwise than they are (figure 4, columns 2 to 5).

        Args:
            image: (B, C, H, W) in [0, 1].
            category: All objects get this category's average, with the local part that they have (column 3).
            restyle: Local parts are drawn anew (column 4).
            shuffle: Appearances change places among the objects present in an image (column 5).
            generator: A CPU generator, for repeatable scenes.

        Returns:
            A `Scene`; with none of these asked for, that of `forward`.
        """
        if category is not None and not 0 <= category < self.hp.num_categories:
            raise ValueError(f"category must be from 0 to {self.hp.num_categories - 1}, got {category}")
        objects = dict(self.infer(image, None)[1])
        average, _ = self.what_prior(F.one_hot(objects["category"].argmax(-1), self.hp.num_categories).to(image.dtype))
        local = objects["z_what"] - average
        if category is not None:
            chosen = torch.full_like(objects["category"].argmax(-1), category)
            objects["category"] = F.one_hot(chosen, self.hp.num_categories).to(image.dtype)
        if restyle or category is not None:
            nearest = F.one_hot(objects["category"].argmax(-1), self.hp.num_categories).to(image.dtype)
            average, std = self.what_prior(nearest)
            if restyle:
                local = std * torch.randn(local.shape, generator=generator).to(local)
            objects["z_what"] = average + local
        if shuffle:
            present = objects["presence"][..., 0] >= PRESENT
            # present objects first, in random order and in raster order: what is at one rank goes to the other
            key = torch.rand(present.shape, generator=generator).to(present.device)
            taken = (key + (~present).float()).argsort(-1)
            placed = (~present).long().argsort(stable=True)
            source = torch.empty_like(taken).scatter_(1, placed, taken)[..., None]
            for name in ("z_what", "category"):
                objects[name] = objects[name].take_along_dim(source, 1)
        return self._scene(objects, self.background(image))


PRESENT = 0.5  # objects of at least this presence are there
_TINY = 1e-12  # share of a category that no object has
_LEAST_ABSENCE = 1e-9  # 1 - p of the presence prior, which starts at p = 1 (the code's epsilon)


def _head(channels: int, hidden: tuple[int, ...], out: int) -> nn.Sequential:
    """3 x 3 convolutions, then one output a variable (table 4)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, out, 1))


def _span(on: Tensor) -> Tensor:
    """True from the first True of (..., P) to the last."""
    return (on.cumsum(-1) > 0) & (on.flip(-1).cumsum(-1).flip(-1) > 0)


def _mean_std(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Halves of the last dimension as mean and std; a std of 0 would be infinitely far from any prior."""
    mean, spread = raw.chunk(2, -1)
    return mean, F.softplus(spread) + 1e-6


def _check(hp: Any) -> None:
    """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
    for name, allowed in (
        ("channels", (1, 3)),
        ("decoder_upsampling", UPSAMPLINGS),
        ("glimpse_padding", ("zeros", "border")),
        ("presence", ("relaxed", "sigmoid")),
        ("what_prior_at", ("sample", "expectation")),
        ("renderer", METHODS),
        ("color_edge", COLOR_EDGES),
        ("background", ("black", "fixed", "learned", "mlp")),
        ("likelihood", ("bernoulli", "normal")),
        ("overlap_reduction", ("sum", "mean")),
    ):
        if hp[name] not in allowed:
            raise ValueError(f"{name} must be one of {list(allowed)}, got {hp[name]!r}")
    for name in ("anchor", "num_categories", "what_dim", "presence_temperature", "likelihood_std"):
        if not hp[name] > 0:
            raise ValueError(f"{name} must be above 0, got {hp[name]!r}")
    for name in ("where_norm", "max_grad_norm"):
        if hp[name] is not None and not hp[name] > 0:
            raise ValueError(f"{name} must be null or above 0, got {hp[name]!r}")
    if len(hp.second_look) != 4 or min(hp.second_look) < 0:
        raise ValueError(f"second_look must be four stds, of shift, size, angle and shear, got {hp.second_look!r}")
    for name in ("position_prior", "size_prior", "depth_prior"):
        if len(hp[name]) != 2 or not hp[name][1] > 0:
            raise ValueError(f"{name} must be [mean, std] with std above 0, got {hp[name]!r}")
    if hp.decoder_hidden is None and hp.glimpse_size != 2 ** (len(hp.decoder_channels) - 1):
        raise ValueError(
            f"decoder_channels={list(hp.decoder_channels)} make patches of {2 ** (len(hp.decoder_channels) - 1)} "
            f"texels: set glimpse_size to that, not {hp.glimpse_size!r}, or name another number of channels"
        )
    for name in ("negligible_presence", "importance_floor"):
        if not 0 <= hp[name] < 1:
            raise ValueError(f"{name} must be in [0, 1), got {hp[name]!r}")
    if hp.fine_categories < 0 or (hp.fine_categories and not hp.encoder_hidden):
        raise ValueError(
            f"fine_categories must be at least 0, and 0 without encoder_hidden, got {hp.fine_categories!r}"
        )
    if hp.detached_prior_steps < 0:
        raise ValueError(f"detached_prior_steps must be at least 0, got {hp.detached_prior_steps!r}")
    if hp.trim_threshold is not None and not 0 < hp.trim_threshold < 1:
        raise ValueError(f"trim_threshold must be null or in (0, 1), got {hp.trim_threshold!r}")
