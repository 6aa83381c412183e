"""SPAIR as the zoo trains it: Crawford and Pineau's model (AAAI 2019) with what learns sooner.

Additions to `spair`, each off by default:

- `initial_biases`: boxes start with a size and little spread, and objects present, so that there is something to learn.
- `center_bias`, `center_blob`: objects are drawn in the middle of their boxes; the likelihood leaves that free.
- `training_wheels` (the code's): appearance comes first, before where, depth and presence learn.
- `importance_floor` (the code's): no object within its box is without gradient.
- `likelihood`: the normal one, whose scale is in balance with the divergences.
- `term_weights`: weights of loss terms; divergences that start low are a warm-up.
- `trim_threshold`: boxes are trimmed to what is drawn in them, as in GMAIR's section 4, for truth that is tight.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo.layers.blocks import last_bias
from zoo.layers.boxes import trim_boxes
from zoo.layers.distributions import normal_log_likelihood
from zoo.layers.schedules import Schedule
from zoo.models.spair import SPAIR, Objects


class SPAIRRecipe(SPAIR):
    """SPAIR with the zoo's additions.

    Args:
        initial_biases: Values that parts of the last lateral layer's bias start at: `size`, means of z_h and z_w;
            `where_std`, raw spread of z_where, whose std is 2 sigmoid(raw), -3 keeps boxes from collapsing onto their
            prior early on; `presence`, logit of z_pres, 3 starts with all objects on. Null: all at 0.
        center_bias: Fixed, subtracted from the alpha logits outside the patch's centre: this much at 2.5 / 14 of the
            patch beyond a central square of 8 / 14. Objects can then not be drawn off-centre in their boxes; 6 works.
        center_blob: Initial bias of the last layer's alpha: this much at the centre, minus as much at the border.
        training_wheels: Steps during which where, depth and presence learn nothing; 1000 in the code.
        importance_floor: Least importance inside a patch; the code's 0.01 for a depth in (0, 4) is 0.0025 here.
        likelihood: "bernoulli" (the paper), or "normal" with `likelihood_std`.
        likelihood_std: Standard deviation of the normal likelihood, of values in [0, 1].
        term_weights: Weights of loss terms by their names, numbers or schedules; null: all 1.
        trim_threshold: Null yields the attention boxes. A number in (0, 1) trims them to the texels whose alpha times
            difference from the background reaches it.
        **paper: As for `SPAIR`.
    """

    def __init__(
        self,
        *,
        initial_biases: dict[str, float] | None = None,
        center_bias: float = 0.0,
        center_blob: float = 0.0,
        training_wheels: int = 0,
        importance_floor: float = 0.0,
        likelihood: str = "bernoulli",
        likelihood_std: float = 0.2,
        term_weights: dict[str, Schedule] | None = None,
        trim_threshold: float | None = None,
        **paper: Any,
    ) -> None:
        super().__init__(**paper)
        if likelihood not in ("bernoulli", "normal"):
            raise ValueError(f"likelihood must be one of ['bernoulli', 'normal'], got {likelihood!r}")
        if not likelihood_std > 0:
            raise ValueError(f"likelihood_std must be above 0, got {likelihood_std!r}")
        if trim_threshold is not None and not 0 < trim_threshold < 1:
            raise ValueError(f"trim_threshold must be null or in (0, 1), got {trim_threshold!r}")
        self.weigh_terms(term_weights)
        self.check_schedules()
        lateral = last_bias(self.lateral).detach()  # of 4 means and 4 spreads of where, 2 of depth, 1 of presence
        places = {"size": lateral[2:4], "where_std": lateral[4:8], "presence": lateral[-1]}
        self.start_biases(initial_biases, places)
        P = self.hp.object_size
        offset = torch.arange(P) - (P - 1) / 2
        beyond = (offset.abs() - 4 / 14 * P).relu() / (2.5 / 14 * P)
        self.alpha_bias -= center_bias * (beyond[:, None] + beyond)
        radius = offset.square()[:, None] + offset.square()
        blob = center_blob * (2 * torch.exp(-radius / (2 * (P / 4) ** 2)) - 1)
        last_bias(self.decoder).detach().view(-1, P, P)[-1] = blob

    @property
    def _on_wheels(self) -> bool:
        return self.steps_trained < self.hp.training_wheels

    def where_depth_presence(self, seen: Tensor) -> Tensor:
        """As in SPAIR; on training wheels nothing is learnt through it."""
        parameters = super().where_depth_presence(seen)
        return parameters.detach() if self.training and self._on_wheels else parameters

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """On training wheels all that decides on where, depth and presence."""
        if self._on_wheels:
            yield from (*self.backbone.parameters(), *self.lateral.parameters(), self.edge)

    def importance(self, opacity: Tensor, depth: Tensor) -> Tensor:
        """As in SPAIR, at least `importance_floor` if that is above 0."""
        importance = super().importance(opacity, depth)
        return importance.clamp_min(self.hp.importance_floor) if self.hp.importance_floor else importance

    def log_likelihood(self, image: Tensor, mean: Tensor) -> Tensor:
        """Of each value of (B, C, H, W) images, in nats."""
        if self.hp.likelihood == "normal":
            return normal_log_likelihood(image, mean, self.hp.likelihood_std)
        return super().log_likelihood(image, mean)

    def bounds(self, objects: Objects, color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Boxes (B, N, 4) that objects were attended to in, trimmed to what shows of them."""
        if self.hp.trim_threshold is None:
            return objects.boxes
        # what a patch changes in the picture, mean over channels; backgrounds are one colour an image
        visible = (alpha[:, :, None] * (color - background[:, None, :, :1, :1]).abs()).mean(2)
        return trim_boxes(objects.boxes, visible, self.hp.trim_threshold)
