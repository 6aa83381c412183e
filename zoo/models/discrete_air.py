"""Discrete-AIR: Discrete Attend Infer Repeat, AIR whose objects have categories (Wang, Jamnik and Lio 2019).

Section and equation numbers are the paper's. Its appendix (networks, priors, schedules) and its program are not to be
had: where the paper is silent, defaults are those of AIR's programs. Differences from the paper:

- Divergences are in closed form, those of categories and presence for the discrete variables that the samples relax
  (JointVAE); the paper estimates these two by sampling (section 3.4).
- Equation 5 has one Gumbel variable where a relaxed Bernoulli needs the difference of two, logistic noise.
- Divergences are weighted by presence, relaxed or not: an absent object is not paid for.
- Outside training presence and category are drawn as the discrete variables that they are, so that `negative_elbo`
  on held-out images is one; `forward` has the likeliest categories, and the objects that are as likely as not to be
  there: of their number the median (see `zoo.models.air`).
- "T_r and T_k combined as one" (section 4.2) is taken to be their product in equation 6.
- Scales go through a sigmoid and the mean of shifts through a tanh; angles and shears are in units of their priors'
  stds. Sizes of networks, priors, temperatures, the likelihood and its std are ours or AIR's programs'.
- Gradients are clipped at a norm of 1.
- The cures for collapse that AIR's programs found are on by default: `presence_bias`, `decoder_bias`, `where_std`,
  `attribute_std`, and `count_prior_odds` that go from high to low. `trim_threshold`, off, is GMAIR's.

Trained so, places are found but categories often stay at chance. The cures that made them meaningful are options, off
by default: `heat_map`, `second_glimpse`, `detach_canvas` and `blur_weight` find objects first; `template_hidden: []`,
`template_gain`, `template_blob` and `template_noise` make templates learn fast and start apart;
`uniform_category_steps` holds categories back until objects are found, which decides whether they come to mean
anything; `balance_weight` has all of them used; `aspect_std` keeps one shape from being squashed into another;
`attribute_steps` holds attributes back until templates are learned; `hard_presence_step` keeps presence from standing
in for brightness. Our own, all of them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import Batch
from zoo.layers import boxes as box_ops
from zoo.layers.affine import PLACE_DIM, affine_hull, affine_inverse, affine_matrix, read_patches, write_patches
from zoo.layers.blocks import last_bias, mlp
from zoo.layers.categorical import gumbel_noise, kl_categorical, relaxed_categorical
from zoo.layers.distributions import (
    kl_bernoulli,
    kl_normal,
    logistic_noise,
    normal_log_likelihood,
    relaxed_bernoulli,
)
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.heat_map import HeatMap
from zoo.layers.recurrent import ImageLSTM
from zoo.layers.schedules import POSITIVE, Schedule
from zoo.layers.templates import TemplateDecoder
from zoo.models.base import ObjectModel, in_working_precision
from zoo.scene import Scene

Latents = dict[str, Tensor]


class DiscreteAIR(ObjectModel):
    """A recurrent network that finds, names and draws one object at a time, the encoder of a VAE (section 3).

    In nats per image, -ELBO = `reconstruction` + `kl_scale` + `kl_pose` + `kl_category` + `kl_attribute` +
    `kl_presence`. `aspect`, where it is on, is a further factor of the prior up to its constant, and no part of that;
    training may add `blurred` and `balance`.

    Args:
        channels: Image channels, 1 or 3.
        image_size: Side of the images in pixels, or [height, width].
        num_steps: The most objects that can be found; one more than there are lets the model learn to stop.
        num_categories: K, dimension of z_cat: 10 for MultiMNIST, 3 for Multi-Sprites.
        attribute_dim: A, dimension of z_attr: 1 for MultiMNIST, 0 for Multi-Sprites.
        combination: How a template f_t(z_cat) is changed by f_a(z_attr), before a sigmoid (section 3.2): "additive",
            "multiplicative" (f_a starts near 1), or "convolutional" (f_a is a kernel for each channel, near identity).
        kernel_size: Of the convolutional combination; odd.
        rotation: Objects are rotated (T_r in equation 6).
        skew: Objects are sheared (T_k in equation 6); off for Multi-Sprites.
        patch_size: Side of a glimpse and of a template, in texels.
        cell_hidden: Width of the LSTM.
        where_hidden: Hidden layers from the LSTM to z_where and z_pres.
        encoder_hidden: Hidden layers from glimpse to z_cat and z_attr.
        template_hidden: Hidden layers of f_t. With none, templates are literal: a learned image for each category, and
            one that they share.
        attribute_hidden: Hidden layers of f_a.
        scale_prior: Mean and std of the scales, before the sigmoid that makes them fractions of the image's shorter
            side; q(z_where) starts at this mean.
        shift_prior: Mean and std of the shifts, the image's edges at -1 and 1: with a std of 0.5 most lie inside.
        rotation_scale: Prior std of the angle, in radians.
        skew_scale: Prior std of the shears.
        where_std: Initial std of q(z_where), whose angle and shears are in units of their prior's.
        attribute_std: Initial std of q(z_attr).
        presence_bias: Initial bias of the presence logit: 2 starts with objects on.
        decoder_bias: Initial template logit: -2 starts with faint objects, so that they do no harm before they are any
            good (AIR's programs).
        temperature: tau of z_cat (equation 4); annealed, as in the paper, with values of ours.
        presence_temperature: The same of z_pres.
        likelihood_std: Standard deviation of the normal likelihood (AIR).
        count_prior_odds: p / (1 - p), p the geometric prior's probability of one more object at each step.
        scale_kl_weight: Weight of the scales' divergence.
        pose_kl_weight: Weight of the divergence of shifts, angle and shears; one that starts low is a warm-up.
        category_kl_weight: Weight of z_cat's.
        attribute_kl_weight: Weight of z_attr's.
        presence_kl_weight: Weight of z_pres's.
        heat_map: A cure: shifts are the mean of a heat map over convolutional features of what is left to see; the
            LSTM reads these features' mean and maximum. False: it reads the image itself, and yields shifts as tanh.
        heat_channels: Features of the heat map.
        heat_gain: Initial factor of brightness in its logits.
        second_glimpse: A cure: an upright first glimpse refines scale, shift, angle and shears before the glimpse that
            is encoded.
        second_hidden: Hidden layers from this first glimpse.
        detach_canvas: A cure: no gradient flows through the canvas in the difference image.
        blur_weight: A cure: weight, in training only, of a second reconstruction error between blurred images, which
            shows an object where to go from farther away; meant to go to 0.
        template_gain: A cure: factor on f_t, with its initial values unchanged: templates learn faster by this factor.
        template_blob: A cure: added to the initial template logits, this much at the centre, minus as much far out.
        template_noise: A cure: std of smooth noise by which literal templates differ at first.
        uniform_category_steps: A cure: [start, end]; until step `start` all categories draw the mean template, from
            `end` on each its own, in between a mixture. Null: their own from the first step.
        hard_presence_step: A cure: from this step on presence draws as 0 or 1, with the relaxed gradient
            (straight-through), so that it cannot stand in for the brightness of faint objects. Null: never.
        balance_weight: A cure: weight, in training only, of the divergence of a batch's mean category from uniform.
        aspect_std: A cure: std of a prior on the difference of the two scales before the sigmoid; null for none.
        attribute_steps: A cure: [start, end]; attributes change nothing until step `start`, and come in until `end`.
        trim_threshold: Null yields boxes around whole patches. A number in (0, 1): around texels that reach it.
        lr: Adam's learning rate (section 4).
        max_grad_norm: Largest norm of the gradient.
    """

    schedules = ("lr", "temperature", "count_prior_odds", "blur_weight", "balance_weight")
    elbo_terms = ("reconstruction", "kl_scale", "kl_pose", "kl_category", "kl_attribute", "kl_presence")
    where_prior: Tensor
    released: Tensor

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int | tuple[int, int] = 50,
        num_steps: int = 3,
        num_categories: int = 10,
        attribute_dim: int = 1,
        combination: str = "additive",
        kernel_size: int = 5,
        rotation: bool = True,
        skew: bool = True,
        patch_size: int = 28,
        cell_hidden: int = 256,
        where_hidden: tuple[int, ...] = (200,),
        encoder_hidden: tuple[int, ...] = (200,),
        template_hidden: tuple[int, ...] = (200,),
        attribute_hidden: tuple[int, ...] = (200,),
        scale_prior: tuple[float, float] = (-0.5, 0.2),
        shift_prior: tuple[float, float] = (0.0, 0.5),
        rotation_scale: float = 0.3,
        skew_scale: float = 0.3,
        where_std: float = 0.05,
        attribute_std: float = 0.7,
        presence_bias: float = 2.0,
        decoder_bias: float = -2.0,
        temperature: Schedule = [1.0, 0.5, 50000, "linear"],  # noqa: B006 (never changed)
        presence_temperature: float = 1.0,
        likelihood_std: float = 0.3,
        count_prior_odds: Schedule = [1e4, 0.01, 3000, "exponential"],  # noqa: B006 (never changed)
        scale_kl_weight: Schedule = 1.0,
        pose_kl_weight: Schedule = 1.0,
        category_kl_weight: Schedule = 1.0,
        attribute_kl_weight: Schedule = 1.0,
        presence_kl_weight: Schedule = 1.0,
        heat_map: bool = False,
        heat_channels: int = 32,
        heat_gain: float = 10.0,
        second_glimpse: bool = False,
        second_hidden: tuple[int, ...] = (256, 128),
        detach_canvas: bool = False,
        blur_weight: Schedule = 0.0,
        template_gain: float = 1.0,
        template_blob: float = 0.0,
        template_noise: float = 0.0,
        uniform_category_steps: tuple[int, int] | None = None,
        hard_presence_step: int | None = None,
        balance_weight: Schedule = 0.0,
        aspect_std: float | None = None,
        attribute_steps: tuple[int, int] | None = None,
        trim_threshold: float | None = None,
        lr: Schedule = 1e-4,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.term_weights = {
            "kl_scale": scale_kl_weight,
            "kl_pose": pose_kl_weight,
            "kl_category": category_kl_weight,
            "kl_attribute": attribute_kl_weight,
            "kl_presence": presence_kl_weight,
            "blurred": blur_weight,
            "balance": balance_weight,
        }
        _check(self.hp)
        self.check_schedules(temperature=POSITIVE, count_prior_odds=POSITIVE)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.size_hw = (height, width)
        prior = [scale_prior] * 2 + [shift_prior] * 2 + [(0.0, 1.0)] * (rotation + 2 * skew)
        self.register_buffer("where_prior", torch.tensor(prior), persistent=False)  # (D, 2): mean and std
        # how far categories and attributes are let loose: what is drawn depends on it, so it goes into checkpoints
        self.register_buffer("released", torch.tensor(self._release()))
        D, texels = len(prior), channels * patch_size**2
        latents = num_categories + attribute_dim + D + 1
        self.heat: HeatMap | None = None
        if heat_map:
            self.heat = HeatMap(channels, heat_channels, cell_hidden, heat_gain)
            self.cell = ImageLSTM(2 * heat_channels, latents, cell_hidden)
            self.locate = mlp(cell_hidden + heat_channels, where_hidden, 2 * D - 2 + 1)
        else:
            self.cell = ImageLSTM(channels * height * width, latents, cell_hidden)
            self.locate = mlp(cell_hidden, where_hidden, 2 * D + 1)
        with torch.no_grad():
            last_bias(self.locate)[-1] = presence_bias
        self.second = mlp(texels, second_hidden, 2 * D) if second_glimpse else None
        self.encoder = mlp(texels, encoder_hidden, num_categories + 2 * attribute_dim)
        self.decoder = TemplateDecoder(
            num_categories,
            attribute_dim,
            (channels, patch_size, patch_size),
            combination,
            kernel_size,
            template_hidden,
            attribute_hidden,
            bias=decoder_bias,
            gain=template_gain,
            blob=template_blob,
            noise=template_noise,
        )

    # inference: section 3.3

    def infer(self, image: Tensor, noise: Latents | None) -> Latents:
        """Encode images into latents, one object after the other.

        Args:
            image: (B, C, H, W).
            noise: From `draw_noise`; None for means, the likeliest category, and presence where it is as likely as not.

        Returns:
            With N steps, each (B, N, .): `where_mean`, `where_std`, `z_where` (scale x and y, shift x and y, angle and
            shears where they are on), `place` (see `zoo.layers.affine`), `category_logits`, `category` (one-hot, or
            relaxed in training), `attribute_mean`, `attribute_std`, `z_attribute`, `presence_logit`, `presence` (0 from
            where the model stops), `belief` (probability of not having stopped), `patches` (C, P, P). And `canvas`,
            (B, C, H, W).
        """
        hp = self.hp
        self.check_image(image)
        B, D = image.shape[0], len(self.where_prior)
        canvas = torch.zeros_like(image)
        latents = image.new_zeros(B, hp.num_categories + hp.attribute_dim + D + 1)
        presence = belief = image.new_ones(B, 1)
        state = self.cell.begin(B)
        steps: list[tuple[Tensor, ...]] = []
        for t in range(hp.num_steps):
            difference = image - (canvas.detach() if hp.detach_canvas else canvas)
            where_mean, where_std, logit, state = self._locate(image, difference, latents, state)
            z_where = where_mean if noise is None else where_mean + where_std * noise["where"][:, t]
            place = self.place(z_where)
            # reading with T^d undoes writing with its inverse: what is seen is as the templates are
            glimpse = read_patches(image, affine_matrix(place)[:, None], hp.patch_size)
            category_logits, attribute_raw = self.encoder(glimpse.flatten(1)).split(
                [hp.num_categories, 2 * hp.attribute_dim], -1
            )
            attribute_mean, attribute_std = _mean_std(attribute_raw, hp.attribute_std)
            z_attribute = attribute_mean if noise is None else attribute_mean + attribute_std * noise["attribute"][:, t]
            if noise is not None and self.training:
                category = relaxed_categorical(category_logits, noise["category"][:, t], self.scheduled("temperature"))
            else:
                chosen = (category_logits if noise is None else category_logits + noise["category"][:, t]).argmax(-1)
                category = F.one_hot(chosen, hp.num_categories).to(image.dtype)
            belief = belief * logit.sigmoid()
            if noise is None:
                presence = (belief >= 0.5).to(image.dtype)
            elif self.training:
                drawn = relaxed_bernoulli(logit, noise["presence"][:, t], hp.presence_temperature)
                if hp.hard_presence_step is not None and self.steps_trained >= hp.hard_presence_step:
                    drawn = (drawn > 0.5).to(drawn.dtype) + drawn - drawn.detach()
                presence = presence * drawn
            else:
                presence = presence * (logit + noise["presence"][:, t] > 0)
            patch = self.decoder(category, z_attribute, self.released)
            canvas = canvas + self.draw(patch[:, None], place[:, None], presence[:, None])
            latents = torch.cat([category, z_attribute, z_where, presence], -1)
            steps.append((
                where_mean, where_std, z_where, place, category_logits, category, attribute_mean, attribute_std,
                z_attribute, logit, presence, belief, patch,
            ))  # fmt: skip
        q = {name: torch.stack(values, 1) for name, values in zip(_LATENTS, zip(*steps, strict=True), strict=True)}
        return {**q, "canvas": canvas}

    def _locate(
        self, image: Tensor, difference: Tensor, latents: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Mean and std of the next z_where, (B, D) each, and presence logit, (B, 1); and the LSTM's state."""
        D = len(self.where_prior)
        if self.heat is not None:
            features = self.heat.read(difference)
            hidden, state = self.cell(self.cell.read(self.heat.summary(features)), latents, state)
            shift, local = self.heat(difference, features, hidden)
            scale, pose, spread, logit = self.locate(torch.cat([hidden, local], -1)).split([2, D - 4, D, 1], -1)
        else:
            hidden, state = self.cell(self.cell.read(difference), latents, state)
            scale, shift, pose, spread, logit = self.locate(hidden).split([2, 2, D - 4, D, 1], -1)
            shift = shift.tanh()
        scale = scale + self.where_prior[:2, 0]
        if self.second is not None:
            side = scale.sigmoid()
            boxes = box_ops.attention_to_boxes(shift.flip(-1), self._fraction(side).flip(-1), self.size_hw)
            glimpse = extract_glimpses(image, boxes[:, None], self.hp.patch_size)
            more_scale, more_shift, more_pose, more_spread = self.second(glimpse.flatten(1)).split([2, 2, D - 4, D], -1)
            scale, shift = scale + more_scale, shift + self._fraction(side) * more_shift
            pose, spread = pose + more_pose, spread + more_spread
        mean, std = _mean_std(torch.cat([scale, shift, pose, spread], -1), self.hp.where_std)
        return mean, std, logit, state

    def draw_noise(self, image: Tensor) -> Latents:
        """Noise for every latent of (B, C, H, W) images, each (B, N, .)."""
        hp, B, N = self.hp, image.shape[0], self.hp.num_steps
        like: dict[str, Any] = {"device": image.device, "dtype": image.dtype}
        return {
            "where": torch.randn(B, N, len(self.where_prior), **like),
            "category": gumbel_noise(B, N, hp.num_categories, **like),
            "attribute": torch.randn(B, N, hp.attribute_dim, **like),
            "presence": logistic_noise(B, N, 1, **like),
        }

    def place(self, z_where: Tensor, image_size: tuple[int, int] | None = None) -> Tensor:
        """Where-codes (..., D) to places (..., 7) in pixels, as in `zoo.layers.affine` (equation 6)."""
        hp = self.hp
        H, W = image_size or self.size_hw
        scale, shift, angle, skew = z_where.split([2, 2, int(hp.rotation), 2 * hp.skew], -1)
        center = (shift + 1) / 2 * shift.new_tensor([W, H])
        angle = hp.rotation_scale * angle if hp.rotation else torch.zeros_like(scale[..., :1])
        skew = hp.skew_scale * skew if hp.skew else torch.zeros_like(scale)
        return torch.cat([center, min(H, W) * scale.sigmoid(), angle, skew], -1)

    def _fraction(self, side_xy: Tensor) -> Tensor:
        """Fractions of the image's shorter side as fractions of its width and height."""
        H, W = self.size_hw
        return side_xy * side_xy.new_tensor([min(H, W) / W, min(H, W) / H])

    # generation: section 3.2

    def draw(
        self, patches: Tensor, place: Tensor, presence: Tensor, image_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Add up objects (B, N, C, P, P), as far as they are present, (B, N, 1), at places (B, N, 7) (equation 3)."""
        return write_patches(patches * presence[..., None, None], affine_inverse(place), image_size or self.size_hw)

    # training: section 3.4

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the negative ELBO (equation 9), and in training those of the cures that are on; see the class."""
        hp = self.hp
        image = batch["image"]
        if self.training:
            for share, value in zip(self.released, self._release(), strict=True):
                share.fill_(value)
        q = self.infer(image, self.draw_noise(image))
        presence = q["presence"][..., 0]

        def per_image(divergence: Tensor) -> Tensor:
            return (presence * divergence).sum() / image.shape[0]  # what an absent object is like costs nothing

        where = kl_normal(q["where_mean"], q["where_std"], *self.where_prior.unbind(-1))
        prior_logit = image.new_tensor(self.scheduled("count_prior_odds")).log()
        before = F.pad(presence, (1, 0), value=1.0)[:, :-1]  # the step that stops is the last one paid for
        kl_presence = before * kl_bernoulli(q["presence_logit"][..., 0], prior_logit)
        uniform = torch.zeros_like(q["category_logits"])
        terms = {
            "reconstruction": -normal_log_likelihood(image, q["canvas"], hp.likelihood_std).sum() / image.shape[0],
            "kl_scale": per_image(where[..., :2].sum(-1)),
            "kl_pose": per_image(where[..., 2:].sum(-1)),
            "kl_category": per_image(kl_categorical(q["category_logits"], uniform)),
            "kl_presence": kl_presence.sum() / image.shape[0],
        }
        if hp.attribute_dim:
            terms["kl_attribute"] = per_image(kl_normal(q["attribute_mean"], q["attribute_std"], 0.0, 1.0).sum(-1))
        if hp.aspect_std is not None:
            scale_x, scale_y, *_ = q["z_where"].unbind(-1)
            terms["aspect"] = per_image(0.5 * ((scale_y - scale_x) / hp.aspect_std).square())
        if self.training and self.scheduled("blur_weight"):
            blurred = F.avg_pool2d(image - q["canvas"], _BLUR, _BLUR // 2)
            error = 0.5 * (blurred / hp.likelihood_std).square().sum() / image.shape[0]
            terms["blurred"] = (_BLUR // 2) ** 2 * error  # as many pixels as the image has
        if self.training and self.scheduled("balance_weight"):
            total = presence.sum()
            mean = (presence[..., None] * q["category_logits"].softmax(-1)).sum((0, 1)) / total.clamp_min(1e-6)
            log_mean = mean.clamp_min(1e-12).log()
            terms["balance"] = total / image.shape[0] * kl_categorical(log_mean, torch.zeros_like(log_mean))
        return terms

    def _release(self) -> list[float]:
        """Shares of categories and attributes that are in force at this step."""
        spans = (self.hp.uniform_category_steps, self.hp.attribute_steps)
        return [
            1.0 if span is None else min(1.0, max(0.0, (self.steps_trained - span[0]) / max(1, span[1] - span[0])))
            for span in spans
        ]

    # use

    def forward(self, image: Tensor) -> Scene:
        """Find the objects of (B, C, H, W) images in [0, 1]; slots are the steps, in order."""
        q = self.infer(image, None)
        return self._scene({**q, "category": q["category_logits"].softmax(-1)})

    def check_image(self, image: Tensor) -> None:
        """As every model, and refuse images of another size than `image_size`."""
        super().check_image(image)
        if image.shape[-2:] != self.size_hw:
            raise ValueError(
                f"{type(self).__name__} reads images of one size, image_size={list(self.size_hw)}, got "
                f"{list(image.shape[-2:])}; set model.init_args.image_size and data.init_args.image_size alike"
            )

    def _scene(self, q: Latents) -> Scene:
        matrix, threshold = affine_matrix(q["place"]), self.hp.trim_threshold
        hull = affine_hull(matrix)
        return Scene(
            reconstruction=q["canvas"].clamp(0, 1),
            boxes=hull if threshold is None else affine_hull(matrix, q["patches"].mean(2), threshold),
            presence=q["belief"][..., 0],
            what=torch.cat([q["category"], q["z_attribute"]], -1),
            category=q["category"],
            attention_boxes=hull,
        )

    @torch.no_grad()
    @in_working_precision
    def compose(
        self,
        categories: Tensor,
        attributes: Tensor | None,
        where: Tensor,
        image_size: tuple[int, int] | None = None,
        presence: Tensor | None = None,
    ) -> Scene:
        """Draw the scenes that one asks for, with any number of objects (figures 6 and 9).

        Args:
            categories: (B, N) integers from 0 to K - 1.
            attributes: (B, N, A); None: zeros, the prior's mean.
            where: (B, N, 4, 5 or 7): centre x and y, width and height of the patch in pixels, angle in radians,
                clockwise, and shears k_x and k_y; those left out are 0. As `place` from `infer`.
            image_size: (H, W) in pixels; None: the model's.
            presence: (B, N) in [0, 1]; None: all are there.

        Returns:
            A `Scene` with these objects.

        Raises:
            ValueError: A shape, type or category is off.
        """
        hp = self.hp
        if categories.ndim != 2 or categories.is_floating_point():
            raise ValueError(f"categories must be integers (B, N), got {categories.dtype} {tuple(categories.shape)}")
        B, N = categories.shape
        if categories.numel() and (categories.min() < 0 or categories.max() >= hp.num_categories):
            raise ValueError(
                f"categories must be from 0 to {hp.num_categories - 1}, got {categories.min()} to {categories.max()}"
            )
        if where.shape[:-1] != (B, N) or where.shape[-1] not in (4, 5, PLACE_DIM):
            raise ValueError(f"where must be ({B}, {N}, 4, 5 or {PLACE_DIM}), got {tuple(where.shape)}")
        if attributes is None:
            attributes = torch.zeros(B, N, hp.attribute_dim)
        if attributes.shape != (B, N, hp.attribute_dim):
            raise ValueError(f"attributes must be ({B}, {N}, {hp.attribute_dim}), got {tuple(attributes.shape)}")
        category = F.one_hot(categories.long(), hp.num_categories).to(self.device, self.where_prior.dtype)
        attribute = attributes.to(category)
        place = F.pad(where.to(category), (0, PLACE_DIM - where.shape[-1]))
        belief = torch.ones(B, N).to(category) if presence is None else presence.to(category)
        patches = self.decoder(category, attribute, self.released)
        return self._scene({
            "category": category,
            "z_attribute": attribute,
            "place": place,
            "belief": belief[..., None],
            "patches": patches,
            "canvas": self.draw(patches, place, belief[..., None], image_size),
        })  # fmt: skip

    @torch.no_grad()
    def generate(
        self,
        num_images: int,
        image_size: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
        count: int | None = None,
    ) -> Scene:
        """Draw scenes from the prior: a count, then category, attributes and place of each object (section 3.2).

        Args:
            num_images: How many.
            image_size: (H, W) in pixels; None: the model's.
            generator: A CPU generator, for repeatable scenes.
            count: Objects in each image, any number; None: drawn from the prior as the schedule has it, which favours
                empty images, as it has to outweigh many pixels.

        Returns:
            A `Scene` whose presence is 0 or 1.
        """
        hp, B, N = self.hp, num_images, self.hp.num_steps if count is None else count
        presence = torch.ones(B, N)
        if count is None:
            odds = self.scheduled("count_prior_odds")
            presence = (torch.rand(B, N, generator=generator) < odds / (1 + odds)).cumprod(1).float()
        mean, std = self.where_prior.cpu().unbind(-1)
        noise = torch.randn(B, N, len(mean), generator=generator)
        if hp.aspect_std is not None:  # as a factor of the prior it narrows the difference of the two scales, alone
            middle = noise[..., :2].mean(-1, keepdim=True)
            narrowed = (1 + 2 * (hp.scale_prior[1] / hp.aspect_std) ** 2) ** -0.5
            noise[..., :2] = middle + narrowed * (noise[..., :2] - middle)
        where = mean + std * noise
        categories = torch.randint(hp.num_categories, (B, N), generator=generator)
        attributes = torch.randn(B, N, hp.attribute_dim, generator=generator)
        return self.compose(categories, attributes, self.place(where, image_size), image_size, presence)


_LATENTS = (
    "where_mean", "where_std", "z_where", "place", "category_logits", "category", "attribute_mean", "attribute_std",
    "z_attribute", "presence_logit", "presence", "belief", "patches",
)  # fmt: skip
_BLUR = 8  # pixels


def _mean_std(raw: Tensor, initial_std: float) -> tuple[Tensor, Tensor]:
    """Halves of the last dimension as mean and std, which is `initial_std` where the raw spread is 0."""
    mean, spread = raw.chunk(2, -1)
    return mean, initial_std * spread.clamp(-5, 5).exp()


def _check(hp: Any) -> None:
    """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
    if hp.channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {hp.channels!r}")
    for name in ("num_steps", "num_categories"):
        if hp[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {hp[name]!r}")
    for name in (
        "patch_size", "cell_hidden", "rotation_scale", "skew_scale", "where_std", "attribute_std",
        "presence_temperature", "likelihood_std", "heat_channels", "template_gain", "max_grad_norm",
    ):  # fmt: skip
        if not hp[name] > 0:
            raise ValueError(f"{name} must be above 0, got {hp[name]!r}")
    for name in ("scale_prior", "shift_prior"):
        if len(hp[name]) != 2 or not hp[name][1] > 0:
            raise ValueError(f"{name} must be [mean, std] with std above 0, got {hp[name]!r}")
    size = [hp.image_size] if isinstance(hp.image_size, int) else list(hp.image_size)
    if len(size) > 2 or not all(side >= _BLUR for side in size):
        raise ValueError(f"image_size must be {_BLUR} pixels or more, or [height, width], got {hp.image_size!r}")
    if hp.attribute_dim < 0:
        raise ValueError(f"attribute_dim must be at least 0, got {hp.attribute_dim!r}")
    if hp.aspect_std is not None and not hp.aspect_std > 0:
        raise ValueError(f"aspect_std must be null or above 0, got {hp.aspect_std!r}")
    if hp.hard_presence_step is not None and hp.hard_presence_step < 0:
        raise ValueError(f"hard_presence_step must be null or at least 0, got {hp.hard_presence_step!r}")
    for name in ("uniform_category_steps", "attribute_steps"):
        if hp[name] is not None and not (len(hp[name]) == 2 and 0 <= hp[name][0] <= hp[name][1]):
            raise ValueError(f"{name} must be null or [start, end] with 0 <= start <= end, got {hp[name]!r}")
    if hp.trim_threshold is not None and not 0 < hp.trim_threshold < 1:
        raise ValueError(f"trim_threshold must be null or in (0, 1), got {hp.trim_threshold!r}")
