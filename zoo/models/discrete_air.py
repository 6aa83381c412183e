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
- As in AIR's programs, which found that this keeps objects from going off at once: q(z_where) and q(z_attr) start with
  small stds, presence and templates with the `initial_biases` 2 and -2, and `count_prior_odds` go from high to low.
- Gradients are clipped at a norm of 1; `trim_threshold`, off, is GMAIR's.

Trained so, places are found but categories often stay at chance; what makes them meaningful is no part of the paper
and stands in `zoo.models.discrete_air_recipe`.
"""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import Batch
from zoo.layers import distributions, settings
from zoo.layers.affine import (
    PLACE_DIM,
    affine_hull,
    affine_inverse,
    affine_matrix,
    largest_patch,
    read_patches,
    write_patches,
)
from zoo.layers.blocks import last_bias, mlp
from zoo.layers.categorical import gumbel_noise, kl_categorical, relaxed_categorical
from zoo.layers.recurrent import ImageLSTM, State, check_image_size
from zoo.layers.schedules import POSITIVE, Schedule
from zoo.layers.templates import TemplateDecoder
from zoo.models.base import ObjectModel, in_working_precision
from zoo.scene import Scene

_WHERE_STD = 0.05  # of q(z_where) at first, whose angle and shears are in units of their priors' stds
_ATTRIBUTE_STD = 0.7  # of q(z_attr) at first


class Latents(TypedDict):
    """What B images are encoded into by N steps."""

    where_mean: Tensor  # (B, N, D): scale x and y, shift x and y, angle and shears where they are on
    where_std: Tensor  # (B, N, D)
    z_where: Tensor  # (B, N, D)
    place: Tensor  # (B, N, 7), in pixels: see `zoo.layers.affine`
    category_logits: Tensor  # (B, N, K), log a in equation 4
    category: Tensor  # (B, N, K), z_cat: one-hot, or relaxed in training
    attribute_mean: Tensor  # (B, N, A)
    attribute_std: Tensor  # (B, N, A)
    z_attribute: Tensor  # (B, N, A)
    presence_logit: Tensor  # (B, N, 1), of one more object
    presence: Tensor  # (B, N, 1), z_pres: 0 from where the model stops, relaxed in training
    belief: Tensor  # (B, N, 1), probability of not having stopped
    patches: Tensor  # (B, N, C, P, P), objects in (0, 1)
    canvas: Tensor  # (B, C, H, W), what they add up to


class DiscreteAIR(ObjectModel):
    """A recurrent network that finds, names and draws one object at a time, the encoder of a VAE (section 3).

    In nats per image, -ELBO is the plain sum of the loss terms.

    Args:
        channels: Image channels, 1 or 3.
        image_size: Side of the images in pixels, or [height, width].
        num_steps: The most objects that can be found; one more than there are lets the model learn to stop.
        num_categories: K, dimension of z_cat: 10 for MultiMNIST, 3 for Multi-Sprites.
        attribute_dim: A, dimension of z_attr: 1 for MultiMNIST, 0 for Multi-Sprites.
        combination: How a template f_t(z_cat) is changed by f_a(z_attr), before a sigmoid (section 3.2): "additive",
            "multiplicative" (f_a starts near 1), or "convolutional" (f_a is a kernel for each channel, near identity).
        rotation: Objects are rotated (T_r in equation 6).
        skew: Objects are sheared (T_k in equation 6); off for Multi-Sprites.
        patch_size: Side of a glimpse and of a template, in texels.
        cell_hidden: Width of the LSTM.
        where_hidden: Hidden layers from the LSTM to z_where and z_pres.
        encoder_hidden: Hidden layers from glimpse to z_cat and z_attr.
        template_hidden: Hidden layers of f_t; with none it is an image for each category, and one that they share.
        attribute_hidden: Hidden layers of f_a.
        scale_prior: Mean and std of the scales, before the sigmoid that makes them fractions of the image's shorter
            side; q(z_where) starts at this mean.
        shift_prior: Mean and std of the shifts, the image's edges at -1 and 1: with a std of 0.5 most lie inside.
        rotation_scale: Prior std of the angle, in radians.
        skew_scale: Prior std of the shears.
        initial_biases: `presence`, of its logit, 2 where not given: objects start on. `decoder`, of the templates'
            logits, -2: objects start faint, so that they do no harm before they are any good.
        temperature: tau of z_cat (equation 4); annealed, as in the paper, with values of ours.
        likelihood_std: Standard deviation of the normal likelihood (AIR).
        count_prior_odds: p / (1 - p), p the geometric prior's probability of one more object at each step.
        term_weights: Weights of loss terms by their names, where they are not 1.
        trim_threshold: Null yields boxes around whole patches. A number in (0, 1): around texels that reach it. A
            pixel is an object's in `Scene.mask` from this brightness on, or, if null, from 0.5.
        lr: Adam's learning rate (section 4).
        max_grad_norm: Largest norm of the gradient.
    """

    schedules = ("lr", "temperature", "count_prior_odds")
    elbo_terms = ("reconstruction", "kl_scale", "kl_pose", "kl_category", "kl_attribute", "kl_presence")
    where_prior: Tensor

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int | tuple[int, int] = 50,
        num_steps: int = 3,
        num_categories: int = 10,
        attribute_dim: int = 1,
        combination: str = "additive",
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
        initial_biases: dict[str, float] | None = None,
        temperature: Schedule = [1.0, 0.5, 50000, "linear"],  # noqa: B006 (never changed)
        likelihood_std: float = 0.3,
        count_prior_odds: Schedule = [1e4, 0.01, 3000, "exponential"],  # noqa: B006 (never changed)
        term_weights: dict[str, Schedule] | None = None,
        trim_threshold: float | None = None,
        lr: Schedule = 1e-4,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        settings.check_choices(self.hp, channels=(1, 3))
        settings.check_above_zero(self.hp, "num_steps", "num_categories", "patch_size", "cell_hidden")
        settings.check_above_zero(self.hp, "rotation_scale", "skew_scale", "likelihood_std", "max_grad_norm")
        settings.check_normals(self.hp, "scale_prior", "shift_prior")
        settings.check_shares(self.hp, "trim_threshold")
        if attribute_dim < 0:
            raise ValueError(f"attribute_dim must be at least 0, got {attribute_dim!r}")
        self.weigh_terms(term_weights)
        self.check_schedules(temperature=POSITIVE, count_prior_odds=POSITIVE)
        self.size_hw = settings.height_width(image_size)
        prior = [scale_prior] * 2 + [shift_prior] * 2 + [(0.0, 1.0)] * (rotation + 2 * skew)
        self.register_buffer("where_prior", torch.tensor(prior), persistent=False)  # (D, 2): mean and std
        self.code_dim = num_categories + attribute_dim + len(prior) + 1  # all latents of an object
        self.build_search()
        self.encoder = mlp(channels * patch_size**2, encoder_hidden, num_categories + 2 * attribute_dim)
        shape = (channels, patch_size, patch_size)
        self.decoder = TemplateDecoder(
            num_categories, attribute_dim, shape, combination, template_hidden, attribute_hidden
        )
        places = {"presence": last_bias(self.locate)[-1], "decoder": last_bias(self.decoder.template)}
        self.start_biases({"presence": 2.0, "decoder": -2.0, **(initial_biases or {})}, places)

    def build_search(self) -> None:
        """The networks that find a place: `cell`, and `locate` from its output to z_where and z_pres."""
        hp, (H, W) = self.hp, self.size_hw
        self.cell = ImageLSTM(hp.channels * H * W, self.code_dim, hp.cell_hidden)
        self.locate = mlp(hp.cell_hidden, hp.where_hidden, 2 * len(self.where_prior) + 1)

    # inference: section 3.3

    def infer(self, image: Tensor, noise: Mapping[str, Tensor] | None) -> Latents:
        """Encode images into latents, one object after the other.

        Args:
            image: (B, C, H, W).
            noise: From `draw_noise`; None for means, the likeliest category, and presence where it is as likely as not.
        """
        hp = self.hp
        self.check_image(image)
        canvas = torch.zeros_like(image)
        code = image.new_zeros(image.shape[0], self.code_dim)  # z of the step before
        presence = belief = image.new_ones(image.shape[0], 1)
        state = self.cell.begin(image.shape[0])
        steps: list[dict[str, Tensor]] = []
        for t in range(hp.num_steps):
            eps = None if noise is None else {name: values[:, t] for name, values in noise.items()}
            where_mean, where_spread, logit, state = self.look(image, canvas, code, state)
            where_std = _std(where_spread, _WHERE_STD)
            z_where = where_mean if eps is None else where_mean + where_std * eps["where"]
            place = self.place(z_where)
            # reading with T^d undoes writing with its inverse: what is seen is as the templates are
            glimpse = read_patches(image, affine_matrix(place)[:, None], hp.patch_size)
            category_logits, attribute_mean, attribute_spread = self.encoder(glimpse.flatten(1)).split(
                [hp.num_categories, hp.attribute_dim, hp.attribute_dim], -1
            )
            category = self.sample_category(category_logits, None if eps is None else eps["category"])
            attribute_std = _std(attribute_spread, _ATTRIBUTE_STD)
            z_attribute = attribute_mean if eps is None else attribute_mean + attribute_std * eps["attribute"]
            belief = belief * logit.sigmoid()
            if eps is None:
                presence = (belief >= 0.5).to(image.dtype)
            elif self.training:  # equation 5, with a temperature of 1
                presence = presence * distributions.relaxed_bernoulli(logit, eps["presence"], 1.0)
            else:
                presence = presence * (logit + eps["presence"] > 0)
            patch = self.decode(category, z_attribute)
            canvas = canvas + self.draw(patch[:, None], place[:, None], presence[:, None])
            code = torch.cat([category, z_attribute, z_where, presence], -1)
            steps.append({
                "where_mean": where_mean, "where_std": where_std, "z_where": z_where, "place": place,
                "category_logits": category_logits, "category": category,
                "attribute_mean": attribute_mean, "attribute_std": attribute_std, "z_attribute": z_attribute,
                "presence_logit": logit, "presence": presence, "belief": belief, "patches": patch,
            })  # fmt: skip
        latents = {name: torch.stack([step[name] for step in steps], 1) for name in steps[0]}
        return cast(Latents, {**latents, "canvas": canvas})

    def look(self, image: Tensor, canvas: Tensor, code: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Look for the next object in what the canvas, (B, C, H, W) as the image, does not explain.

        `code`, (B, K + A + D + 1), are the latents of the object before. Returns z_where's mean and the logarithm of
        its std in units of the initial one, (B, D) each; the presence logit, (B, 1); and the LSTM's state.
        """
        D = len(self.where_prior)
        hidden, state = self.cell(self.cell.read(image - canvas), code, state)
        scale, shift, pose, spread, logit = self.locate(hidden).split([2, 2, D - 4, D, 1], -1)
        return torch.cat([scale + self.where_prior[:2, 0], shift.tanh(), pose], -1), spread, logit, state

    def sample_category(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """Logits and Gumbel noise (B, K) to z_cat: relaxed in training (equation 4), else one-hot; None: the mode."""
        if noise is not None and self.training:
            return relaxed_categorical(logits, noise, self.scheduled("temperature"))
        chosen = (logits if noise is None else logits + noise).argmax(-1)
        return F.one_hot(chosen, self.hp.num_categories).to(logits.dtype)

    def draw_noise(self, image: Tensor) -> dict[str, Tensor]:
        """Noise for every latent of (B, C, H, W) images, each (B, N, .)."""
        B, N = image.shape[0], self.hp.num_steps
        like: dict[str, Any] = {"device": image.device, "dtype": image.dtype}
        return {
            "where": torch.randn(B, N, len(self.where_prior), **like),
            "category": gumbel_noise(B, N, self.hp.num_categories, **like),
            "attribute": torch.randn(B, N, self.hp.attribute_dim, **like),
            "presence": distributions.logistic_noise(B, N, 1, **like),
        }

    def place(self, z_where: Tensor, image_size: tuple[int, int] | None = None) -> Tensor:
        """Where-codes (..., D) to places (..., 7) in pixels, as in `zoo.layers.affine` (equation 6)."""
        hp, (H, W) = self.hp, image_size or self.size_hw
        scale, shift, angle, skew = z_where.split([2, 2, int(hp.rotation), 2 * hp.skew], -1)
        center = (shift + 1) / 2 * shift.new_tensor([W, H])
        angle = hp.rotation_scale * angle if hp.rotation else torch.zeros_like(scale[..., :1])
        skew = hp.skew_scale * skew if hp.skew else torch.zeros_like(scale)
        return torch.cat([center, min(H, W) * scale.sigmoid(), angle, skew], -1)

    # generation: section 3.2

    def decode(self, category: Tensor, z_attribute: Tensor) -> Tensor:
        """Categories (..., K) and attributes (..., A) to objects (..., C, P, P) in (0, 1)."""
        return cast(Tensor, self.decoder(category, z_attribute))

    def draw(
        self, patches: Tensor, place: Tensor, presence: Tensor, image_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Add up objects (B, N, C, P, P), as far as they are present, (B, N, 1), at places (B, N, 7) (equation 3)."""
        return write_patches(patches * presence[..., None, None], affine_inverse(place), image_size or self.size_hw)

    # training: section 3.4

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the negative ELBO (equation 9)."""
        image = batch["image"]
        return self.terms(image, self.infer(image, self.draw_noise(image)))

    def terms(self, image: Tensor, q: Latents) -> dict[str, Tensor]:
        """The same of images (B, C, H, W) and the latents that they are encoded into."""
        presence = q["presence"][..., 0]

        def per_image(divergence: Tensor) -> Tensor:
            return (presence * divergence).sum() / image.shape[0]  # what an absent object is like costs nothing

        where = distributions.kl_normal(q["where_mean"], q["where_std"], *self.where_prior.unbind(-1))
        prior_logit = image.new_tensor(self.scheduled("count_prior_odds")).log()
        before = F.pad(presence, (1, 0), value=1.0)[:, :-1]  # the step that stops is the last one paid for
        kl_presence = before * distributions.kl_bernoulli(q["presence_logit"][..., 0], prior_logit)
        log_likelihood = distributions.normal_log_likelihood(image, q["canvas"], self.hp.likelihood_std)
        terms = {
            "reconstruction": -log_likelihood.sum() / image.shape[0],
            "kl_scale": per_image(where[..., :2].sum(-1)),
            "kl_pose": per_image(where[..., 2:].sum(-1)),
            "kl_category": per_image(kl_categorical(q["category_logits"], torch.zeros_like(q["category_logits"]))),
            "kl_presence": kl_presence.sum() / image.shape[0],
        }
        if self.hp.attribute_dim:
            attribute = distributions.kl_normal(q["attribute_mean"], q["attribute_std"], 0.0, 1.0)
            terms["kl_attribute"] = per_image(attribute.sum(-1))
        return terms

    # use

    def forward(self, image: Tensor) -> Scene:
        """Find the objects of (B, C, H, W) images in [0, 1]; slots are the steps, in order."""
        q = self.infer(image, None)
        category = q["category_logits"].softmax(-1)
        return self._scene(q["canvas"], q["place"], q["patches"], q["belief"], category, q["z_attribute"])

    def check_image(self, image: Tensor) -> None:
        """As for every model, and images must be of `image_size`."""
        super().check_image(image)
        check_image_size(image, self.size_hw, type(self).__name__)

    def _scene(
        self, canvas: Tensor, place: Tensor, patches: Tensor, belief: Tensor, category: Tensor, z_attribute: Tensor
    ) -> Scene:
        matrix, threshold = affine_matrix(place), self.hp.trim_threshold
        hull, visible, (H, W) = affine_hull(matrix), patches.mean(2), canvas.shape[-2:]
        return Scene(
            reconstruction=canvas.clamp(0, 1),
            boxes=hull if threshold is None else affine_hull(matrix, visible, threshold),
            presence=belief[..., 0],
            mask=largest_patch(visible, belief[..., 0], affine_inverse(place), (H, W), threshold),
            what=torch.cat([category, z_attribute], -1),
            category=category,
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

        Raises:
            ValueError: A shape, type or category is off.
        """
        hp = self.hp
        if categories.ndim != 2 or categories.is_floating_point():
            raise ValueError(f"categories must be integers (B, N), got {categories.dtype} {tuple(categories.shape)}")
        (B, N), most = categories.shape, hp.num_categories - 1
        if categories.numel() and (categories.min() < 0 or categories.max() > most):
            raise ValueError(f"categories must be from 0 to {most}, got {categories.min()} to {categories.max()}")
        if where.shape[:-1] != (B, N) or where.shape[-1] not in (4, 5, PLACE_DIM):
            raise ValueError(f"where must be ({B}, {N}, 4, 5 or {PLACE_DIM}), got {tuple(where.shape)}")
        attributes = torch.zeros(B, N, hp.attribute_dim) if attributes is None else attributes
        if attributes.shape != (B, N, hp.attribute_dim):
            raise ValueError(f"attributes must be ({B}, {N}, {hp.attribute_dim}), got {tuple(attributes.shape)}")
        category = F.one_hot(categories.long(), hp.num_categories).to(self.device, self.where_prior.dtype)
        attribute = attributes.to(category)
        place = F.pad(where.to(category), (0, PLACE_DIM - where.shape[-1]))
        belief = (torch.ones(B, N) if presence is None else presence).to(category)[..., None]
        patches = self.decode(category, attribute)
        canvas = self.draw(patches, place, belief, image_size)
        return self._scene(canvas, place, patches, belief, category, attribute)

    @torch.no_grad()
    def generate(
        self,
        num_images: int,
        image_size: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
        count: int | None = None,
    ) -> Scene:
        """Draw scenes from the prior: a count, then category, attributes and place of each object; presence is 0 or 1.

        Args:
            num_images: How many.
            image_size: (H, W) in pixels; None: the model's.
            generator: A CPU generator, for repeatable scenes.
            count: Objects in each image, any number; None: drawn from the prior as the schedule has it, which favours
                empty images, as it has to outweigh many pixels.
        """
        hp, B, N = self.hp, num_images, self.hp.num_steps if count is None else count
        presence = torch.ones(B, N)
        if count is None:
            odds = self.scheduled("count_prior_odds")
            presence = (torch.rand(B, N, generator=generator) < odds / (1 + odds)).cumprod(1).float()
        where = self.prior_where(torch.randn(B, N, len(self.where_prior), generator=generator))
        categories = torch.randint(hp.num_categories, (B, N), generator=generator)
        attributes = torch.randn(B, N, hp.attribute_dim, generator=generator)
        return self.compose(categories, attributes, self.place(where, image_size), image_size, presence)

    def prior_where(self, noise: Tensor) -> Tensor:
        """Standard normal noise (..., D), on the CPU, to where-codes of the prior."""
        mean, std = self.where_prior.cpu().unbind(-1)
        return mean + std * noise


def _std(spread: Tensor, initial: float) -> Tensor:
    """A std that is `initial` where the spread is 0."""
    return initial * spread.clamp(-5, 5).exp()
