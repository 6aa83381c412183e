"""GMAIR with the zoo's additions, by which its categories mean something within 10,000 steps; off by default.

Each addition and what it is for:

- `initial_biases`: `where_std`, small, keeps boxes from collapsing onto their prior early on; `presence`, large, has
  every object there while the image is learned. `size_prior` says how large a box is where nothing else does.
- `likelihood: normal` weighs all pixels alike, where Bernoulli's tells 1e-6 from 0 by many nats.
- `negligible_presence` leaves cells out that have nothing to say: a model that has found its objects trains several
  times as fast.
- `what_prior_at: expectation` tells the category encoder which component is nearest, with no noise of a sample.
- The loss terms `consistency` and `balance`, which weigh 0 unless `term_weights` says otherwise: two looks at an object
  should agree on what it is (Ji et al. 2019: IIC), and categories that no object has should come back.
- `fine_categories`: a second, finer head, whose agreement counts as much (IIC's auxiliary over-clustering).
- `category_gain` makes objects differ in category from the first.
- `decoder_hidden`: an MLP for a decoder, as the authors' program has one without use for it: for small patches.
- `term_weights` with schedules for the divergences are warm-ups; that hyperparameter is the paper's class's.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.layers.affine import affine_matrix, read_patches
from zoo.layers.agreement import mutual_information
from zoo.layers.blocks import mlp
from zoo.layers.distributions import normal_log_likelihood
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.mixture_prior import expected_kl
from zoo.layers.schedules import schedule_value
from zoo.models.gmair import GMAIR, Cells, Objects
from zoo.models.gmair_scenes import visible

_TINY = 1e-12  # share of a category that no object has
_SHOWS = 0.2  # what a texel of an object shows at least, where boxes are not trimmed


class GMAIRRecipe(GMAIR):
    """GMAIR and what the zoo adds to it; without any of that, `GMAIR`.

    In nats per image, training may add `consistency`, what two looks at an object lack in mutual information, and
    `balance`, the divergence of a uniform distribution from a batch's mean category.

    Args:
        initial_biases: Added to what biases start from: `where_std`, of the raw spread of z_where, before a softplus;
            `presence`, of the presence logit.
        size_prior: Mean and std of z_h and z_w; (0, 1) is the paper's.
        likelihood: "bernoulli" (the paper's class), or "normal" with `likelihood_std`.
        likelihood_std: Standard deviation of the normal likelihood.
        negligible_presence: 0 draws all cells. Cells of less presence, both sampled and its probability, are left out
            of training's encoders, decoder and renderer: pixels, and gradients under a normal likelihood, change by
            about this share. (A Bernoulli likelihood tells 1e-6 from 0 by many nats.) A GPU is waited for once a step.
        what_prior_at: The mixture's component that z_what's divergence is taken from: "sample", that of the one relaxed
            sample of z_cat (the paper's M = 1); or "expectation", the mean of the divergences from all components,
            weighted with q(z_cat) (equation 10; the what encoder still reads the one sample).
        fine_categories: Outputs of a second head of the category encoder, for the two terms only; 0: none.
        category_gain: Factor of the initial weights of these heads.
        second_look: How much that look departs from the first: stds of its shift and of the logarithms of its width and
            height, as fractions of the box, of its angle, in radians, and of its shear.
        decoder_hidden: Hidden layers of an MLP that decodes instead of `decoder_channels`' deconvolutions, whatever
            `glimpse_size`; null: none.
        **paper: As for `GMAIR`; `term_weights` has `consistency` and `balance` too, which weigh 0.
    """

    training_terms = (*GMAIR.training_terms, "consistency", "balance")
    standard_weights = {**GMAIR.standard_weights, "consistency": 0.0, "balance": 0.0}

    def __init__(
        self,
        *,
        initial_biases: dict[str, float] | None = None,
        size_prior: tuple[float, float] = (0.0, 1.0),
        likelihood: str = "bernoulli",
        likelihood_std: float = 0.2,
        negligible_presence: float = 0.0,
        what_prior_at: str = "sample",
        fine_categories: int = 0,
        category_gain: float = 1.0,
        second_look: tuple[float, float, float, float] = (0.05, 0.1, 0.25, 0.3),
        decoder_hidden: tuple[int, ...] | None = None,
        **paper: Any,
    ) -> None:
        super().__init__(**paper)
        self.where_prior = (*GMAIR.where_prior[:2], size_prior, size_prior)
        starts = {"where_std": self._output_bias("where")[4:], "presence": self._output_bias("presence")}
        added = {name: torch.zeros_like(bias) for name, bias in starts.items()}
        self.start_biases(initial_biases, added)
        with torch.no_grad():
            for name, bias in starts.items():
                bias.add_(added[name])
            for head in self._category_heads():
                head.weight.mul_(category_gain)

    def _output_bias(self, head: str) -> Tensor:
        *_, output = self.heads[head].children()
        return output.get_parameter("bias")

    def _category_heads(self) -> list[nn.Linear]:
        heads = [self.category_encoder[-1], *([self.fine_head] if self.hp.fine_categories else [])]
        return cast(list[nn.Linear], heads)

    def check_hyperparameters(self) -> None:
        """As in the paper's class, and of the additions."""
        super().check_hyperparameters()
        hp = self.hp
        for name, works, wanted in (
            ("size_prior", len(hp.size_prior) == 2 and hp.size_prior[1] > 0, "[mean, std] with std above 0"),
            ("likelihood", hp.likelihood in ("bernoulli", "normal"), "bernoulli or normal"),
            ("likelihood_std", hp.likelihood_std > 0, "above 0"),
            ("negligible_presence", 0 <= hp.negligible_presence < 1, "in [0, 1)"),
            ("what_prior_at", hp.what_prior_at in ("sample", "expectation"), "sample or expectation"),
            ("fine_categories", hp.fine_categories >= 0, "at least 0"),
            ("fine_categories", not hp.fine_categories or hp.encoder_hidden, "0 without encoder_hidden"),
            (
                "second_look",
                len(hp.second_look) == 4 and min(hp.second_look) >= 0,
                "four stds, of shift, size, angle and shear",
            ),
        ):
            if not works:
                raise ValueError(f"{name} must be {wanted}, got {hp[name]!r}")

    def make_category_encoder(self, texels: int) -> nn.Sequential:
        """Beside it, a finer head if asked for."""
        encoder = super().make_category_encoder(texels)
        if self.hp.fine_categories:
            self.fine_head = nn.Linear(self.hp.encoder_hidden[-1], self.hp.fine_categories)
        return encoder

    def make_decoder(self) -> nn.Module:
        """An MLP if asked for."""
        hp = self.hp
        if hp.decoder_hidden is None:
            return super().make_decoder()
        shape = (hp.channels + 1, hp.glimpse_size, hp.glimpse_size)
        return nn.Sequential(mlp(hp.what_dim, hp.decoder_hidden, math.prod(shape)), nn.Unflatten(-1, shape))

    def infer(self, image: Tensor, noise: dict[str, Tensor] | None, least: float = 0.0) -> tuple[Cells, Objects]:
        """In training, of samples, look closely only at cells whose presence is not negligible."""
        samples = self.training and noise is not None
        return super().infer(image, noise, max(least, self.hp.negligible_presence) if samples else least)

    def log_likelihood(self, image: Tensor, mean: Tensor) -> Tensor:
        """Of each pixel, (B, C, H, W): Bernoulli's or a normal distribution's."""
        if self.hp.likelihood == "bernoulli":
            return super().log_likelihood(image, mean)
        return normal_log_likelihood(image, mean, self.hp.likelihood_std)

    def kl_what(self, q: Objects) -> Tensor:
        """Divergence of z_what from the mixture, (B, K): at the sample, or expected over q(z_cat)."""
        if self.hp.what_prior_at == "sample":
            return super().kl_what(q)
        weights, (mean, std) = q["category_logits"].softmax(-1), self.what_prior.components()
        if self.prior_detached:
            weights, mean, std = weights.detach(), mean.detach(), std.detach()
        return expected_kl(weights, q["what_mean"], q["what_std"], mean, std)

    def auxiliary_losses(self, q: Objects, color: Tensor, alpha: Tensor, mean: Tensor) -> dict[str, Tensor]:
        """The overlap loss; in training, while it weighs anything, how far two looks at an object agree."""
        terms = super().auxiliary_losses(q, color, alpha, mean)
        if self.training and self._agreement_weighs():
            terms |= self.agreement(q, color, alpha, mean)
        return terms

    def _agreement_weighs(self) -> bool:
        return bool(schedule_value(self.term_weights["consistency"], self.steps_trained))

    def agreement(self, q: Objects, color: Tensor, alpha: Tensor, mean: Tensor) -> dict[str, Tensor]:
        """What an object's glimpse and a second look at it lack in mutual information, and categories in use.

        The second look is turned, sheared and scaled. It is also cut to what the object extends over, and less what
        other objects explain of it: else objects would be grouped by their neighbours. Only the category encoder learns
        from this.

        Args:
            q: What was inferred.
            color: (B, K, C, P, P), of the objects.
            alpha: (B, K, P, P), of the objects.
            mean: (B, C, H, W), the image drawn of them.

        Returns:
            `consistency` and `balance`, summed over the batch.
        """
        P, (shift, size, turn, shear) = self.hp.glimpse_size, self.hp.second_look
        alone = alpha[:, :, None] * color
        all_drawn = extract_glimpses(mean, q["boxes"], P, "border")
        shows = visible(color, alpha) >= (self.hp.trim_threshold or _SHOWS)
        extent = _span(shows.any(-1))[..., :, None] & _span(shows.any(-2))[..., None, :]
        rest = (q["glimpses"].view_as(alone) - all_drawn + alone).clamp(0, 1) * extent[:, :, None]
        rest = rest.detach().flatten(0, 1)
        noise = torch.randn(6, len(rest), device=rest.device, dtype=rest.dtype)
        center, side = P * (0.5 + shift * noise[:2]), P * (size * noise[2:4]).exp()
        place = torch.stack([*center, *side, turn * noise[4], shear * noise[5], torch.zeros_like(noise[5])], -1)
        second_look = read_patches(rest, affine_matrix(place)[:, None], P).view(q["glimpses"].shape)
        presence = q["presence_logit"][..., 0].sigmoid().detach()
        first, second = (self.category_encoder[:-1](look) for look in (q["glimpses"].detach(), second_look))
        consistency = balance = presence.new_zeros(())
        for head in self._category_heads():
            here, there = head(first).softmax(-1), head(second).softmax(-1)
            consistency = consistency + math.log(head.out_features) - mutual_information(here, there, presence)
            share = (presence[..., None] * here).sum((0, 1)) / presence.sum().clamp_min(_TINY)
            balance = balance - share.clamp_min(_TINY).log().mean() - math.log(head.out_features)
        return {"consistency": presence.sum() * consistency, "balance": presence.sum() * balance}

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """The finer head too, as long as nothing is asked of it."""
        yield from super().resting_parameters()
        if self.hp.fine_categories and not self._agreement_weighs():
            yield from self.fine_head.parameters()

    def object_modules(self) -> list[nn.Module]:
        """With the finer head."""
        encoder, *others = super().object_modules()
        return [encoder, *([self.fine_head] if self.hp.fine_categories else []), *others]


def _span(on: Tensor) -> Tensor:
    """True from the first True of (..., P) to the last."""
    return (on.cumsum(-1) > 0) & (on.flip(-1).cumsum(-1).flip(-1) > 0)
