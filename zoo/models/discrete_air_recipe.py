"""Discrete-AIR with the zoo's additions, by which its categories come to mean something.

The paper's model is in `zoo.models.discrete_air`; trained as the paper has it, it finds places, but its categories
often stay at chance. The additions, all of our own and off by default:

- `heat_map`, `second_glimpse`: objects are found first.
- `template_gain`, `template_blob`: templates learn fast, from a bright spot that draws objects' places. With
  `template_hidden: []`, an option of the paper's class, they are literal, and all the same at first.
- `uniform_category_steps`: categories are held back until objects are found, which decides whether they come to mean
  anything.
- `balance`, a loss term: all categories are used.
- `attribute_steps`: attributes are held back until templates are learned.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.layers import boxes as box_ops
from zoo.layers.blocks import last_bias, mlp
from zoo.layers.categorical import kl_categorical
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.heat_map import HeatMap
from zoo.layers.recurrent import ImageLSTM, State
from zoo.layers.schedules import schedule_value
from zoo.layers.settings import check_above_zero
from zoo.models.discrete_air import DiscreteAIR, Latents

_HEAT_GAIN = 10.0  # of brightness in the heat map's logits, at first


class DiscreteAIRRecipe(DiscreteAIR):
    """Discrete-AIR that finds objects first, then learns what they are, then how they differ.

    Where `term_weights` gives it a weight, which is 0 otherwise, training has a further loss term, in nats per image,
    that is no part of the ELBO: `balance`, the divergence of a batch's mean category from uniform.

    Args:
        heat_map: Shifts are the mean of a heat map over convolutional features of what is left to see; the LSTM reads
            these features' mean and maximum. False: it reads the image itself, and yields shifts as tanh.
        heat_channels: Features of the heat map.
        second_glimpse: An upright first glimpse refines scale, shift, angle and shears before the glimpse that is
            encoded.
        second_hidden: Hidden layers from this first glimpse.
        template_gain: Factor on f_t, with its initial values unchanged: templates learn faster by this factor.
        template_blob: Added to the initial template logits, this much at the centre, minus as much far out.
        uniform_category_steps: [start, end]; until step `start` all categories draw the mean template, from `end` on
            each its own, in between a mixture. Null: their own from the first step.
        attribute_steps: [start, end]; attributes change nothing until step `start`, and come in until `end`. Null: from
            the first step.
        **paper: As for `DiscreteAIR`.
    """

    training_terms = ("balance",)

    def __init__(
        self,
        *,
        heat_map: bool = False,
        heat_channels: int = 32,
        second_glimpse: bool = False,
        second_hidden: tuple[int, ...] = (256, 128),
        template_gain: float = 1.0,
        template_blob: float = 0.0,
        uniform_category_steps: tuple[int, int] | None = None,
        attribute_steps: tuple[int, int] | None = None,
        **paper: Any,
    ) -> None:
        super().__init__(**paper)  # saves these hyperparameters too
        _check(self.hp)
        self.weigh_terms(self.hp.term_weights, balance=0.0)
        self._start_templates()

    def build_search(self) -> None:
        """As the paper's networks, or those of the heat map; and `second`, of the second glimpse."""
        hp, D = self.hp, len(self.where_prior)
        self.heat: HeatMap | None = None
        if hp.heat_map:
            self.heat = HeatMap(hp.channels, hp.heat_channels, hp.cell_hidden, _HEAT_GAIN)
            self.cell = ImageLSTM(2 * hp.heat_channels, self.code_dim, hp.cell_hidden)
            self.locate = mlp(hp.cell_hidden + hp.heat_channels, hp.where_hidden, 2 * D - 2 + 1)
        else:
            super().build_search()
        texels = hp.channels * hp.patch_size**2
        self.second = mlp(texels, hp.second_hidden, 2 * D) if hp.second_glimpse else None

    @torch.no_grad()
    def _start_templates(self) -> None:
        hp, (C, P, Q) = self.hp, self.decoder.patch_shape
        radius = torch.linspace(-1, 1, P)[:, None].square() + torch.linspace(-1, 1, Q).square()
        blob = hp.template_blob * (2 * torch.exp(-radius / (2 * 0.45**2)) - 1)
        bias = last_bias(self.decoder.template).view(C, P, Q)
        bias.add_(blob).div_(hp.template_gain)
        if not hp.template_hidden:
            self.decoder.template[-1].get_parameter("weight").zero_()

    # objects first

    def look(self, image: Tensor, canvas: Tensor, code: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """As in the paper, or by the heat map; refined by a second glimpse."""
        if self.heat is None:
            mean, spread, logit, state = super().look(image, canvas, code, state)
        else:
            D = len(self.where_prior)
            difference = image - canvas
            features = self.heat.read(difference)
            hidden, state = self.cell(self.cell.read(self.heat.summary(features)), code, state)
            shift, local = self.heat(difference, features, hidden)
            scale, pose, spread, logit = self.locate(torch.cat([hidden, local], -1)).split([2, D - 4, D, 1], -1)
            mean = torch.cat([scale + self.where_prior[:2, 0], shift, pose], -1)
        if self.second is not None:
            more_mean, more_spread = self._look_again(image, mean)
            mean, spread = mean + more_mean, spread + more_spread
        return mean, spread, logit, state

    def _look_again(self, image: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """What an upright glimpse at (B, D) where-codes adds to them and to their spread, (B, D) each."""
        assert self.second is not None
        (H, W), D = self.size_hw, len(self.where_prior)
        scale, shift, _ = mean.split([2, 2, D - 4], -1)
        side = scale.sigmoid() * scale.new_tensor([min(H, W) / W, min(H, W) / H])  # as fractions of width and height
        boxes = box_ops.attention_to_boxes(shift.flip(-1), side.flip(-1), self.size_hw)
        glimpse = extract_glimpses(image, boxes[:, None], self.hp.patch_size)
        more_scale, more_shift, more_pose, spread = self.second(glimpse.flatten(1)).split([2, 2, D - 4, D], -1)
        return torch.cat([more_scale, side * more_shift, more_pose], -1), spread

    # then what they are, then how they differ

    def decode(self, category: Tensor, z_attribute: Tensor) -> Tensor:
        """As in the paper, as far as categories and attributes are let loose."""
        categories, attributes = map(self.released, (self.hp.uniform_category_steps, self.hp.attribute_steps))
        mixed = torch.lerp(torch.full_like(category, 1 / category.shape[-1]), category, categories)
        template, change = self.hp.template_gain * self.decoder.template(mixed), self.decoder.attribute
        return self.decoder.combine(template, None if change is None else attributes * change(z_attribute))

    def released(self, span: tuple[int, int] | None) -> float:
        """Share in [0, 1] that is let loose at this step of what comes in over a span of steps."""
        if span is None:
            return 1.0
        return min(1.0, max(0.0, (self.steps_trained - span[0]) / max(1, span[1] - span[0])))

    # training

    def terms(self, image: Tensor, q: Latents) -> dict[str, Tensor]:
        """The paper's terms, and in training the balance; see the class."""
        terms, presence = super().terms(image, q), q["presence"][..., 0]
        if self.training and schedule_value(self.term_weights["balance"], self.steps_trained):
            total = presence.sum()
            mean = (presence[..., None] * q["category_logits"].softmax(-1)).sum((0, 1)) / total.clamp_min(1e-6)
            log_mean = mean.clamp_min(1e-12).log()
            terms["balance"] = total / image.shape[0] * kl_categorical(log_mean, torch.zeros_like(log_mean))
        return terms


def _check(hp: Any) -> None:
    """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
    check_above_zero(hp, "heat_channels", "template_gain")
    for name in ("uniform_category_steps", "attribute_steps"):
        if hp[name] is not None and not (len(hp[name]) == 2 and 0 <= hp[name][0] <= hp[name][1]):
            raise ValueError(f"{name} must be null or [start, end] with 0 <= start <= end, got {hp[name]!r}")
