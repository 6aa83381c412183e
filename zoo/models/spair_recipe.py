"""SPAIR as the zoo trains it: Crawford and Pineau's model (AAAI 2019) with what learns sooner.

Additions to `spair`, each off by default:

- `initial_biases`: boxes start with a size, and objects present, so that there is something to learn.
- `importance_floor` (the code's): no object within its box is without gradient.
- `likelihood`: the normal one, whose scale is in balance with the divergences.
- `term_weights`: weights of loss terms; divergences that start low are a warm-up.
- `trim_threshold`: boxes are trimmed to what is drawn in them, as in GMAIR's section 4, for truth that is tight.
"""

from typing import Any

from torch import Tensor

from zoo.layers.blocks import last_bias
from zoo.layers.boxes import trim_boxes
from zoo.layers.distributions import normal_log_likelihood
from zoo.layers.schedules import Schedule
from zoo.models.spair import SPAIR, Objects


class SPAIRRecipe(SPAIR):
    """SPAIR with the zoo's additions.

    Args:
        initial_biases: Values that parts of the last lateral layer's bias start at: `size`, means of z_h and z_w;
            `presence`, logit of z_pres, 3 starts with all objects on. Null: all at 0.
        importance_floor: Least importance inside a patch; the code's 0.01 for a depth in (0, 4) is 0.0025 here.
        likelihood: "bernoulli" (the paper), or "normal" with `likelihood_std`.
        likelihood_std: Standard deviation of the normal likelihood, of values in [0, 1].
        term_weights: Weights of loss terms by their names, numbers or schedules; null: all 1.
        trim_threshold: Null yields the attention boxes. A number in (0, 1) trims them to the texels whose alpha times
            difference from the background reaches it, and masks likewise.
        **paper: As for `SPAIR`.
    """

    def __init__(
        self,
        *,
        initial_biases: dict[str, float] | None = None,
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
        self.start_biases(initial_biases, {"size": lateral[2:4], "presence": lateral[-1]})

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
        return trim_boxes(objects.boxes, _visible(color, alpha, background), self.hp.trim_threshold)

    def cover(self, color: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor, float]:
        """As in SPAIR; where boxes are trimmed to what shows, masks are, too."""
        if self.hp.trim_threshold is None:
            return super().cover(color, alpha, background)
        return _visible(color, alpha, background), self.hp.trim_threshold


def _visible(color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """What a patch changes in the picture, (B, N, P, P), mean over channels; backgrounds are one colour an image."""
    return (alpha[:, :, None] * (color - background[:, None, :, :1, :1]).abs()).mean(2)
