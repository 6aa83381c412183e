"""AIR: Attend, Infer, Repeat, and DAIR, Difference AIR (Eslami et al., NeurIPS 2016).

The model as Discrete-AIR (Wang et al. 2019, section 2, equations 1 to 3) and SPAIR (Crawford and Pineau 2019, section
5.1 and supplement D.1) restate it. Where they are silent, defaults follow Pyro's program, which reaches the paper's
count accuracy. Differences from the paper:

- Scales go through a sigmoid and shifts through a tanh (SPAIR's AIR), so that their priors are no longer normal in
  pixels; means and stds of the priors are ours.
- The divergence of presence is in closed form, step by step; the paper's estimate has the same expectation.
- Divergences of where and what are weighted by presence, relaxed or not: an absent object is not paid for.
- The optimiser is Adam, at the paper's learning rate of 1e-4, and gradients are clipped at a norm of 1 (SPAIR's AIR);
  the paper has RMSProp, unclipped.
- As in Pyro's and others' programs, which found that this keeps objects from going off at once, q(z_where) starts at
  its prior's mean (`residual_where`) with a small std (`where_std`), q(z_what) with a small one too (`what_std`),
  presence and objects with `initial_biases` of 2 and -2; and `count_prior_odds` are low from the start, where in the
  paper the probability of one more object falls from nearly 1 to some 1e-5 within 100,000 steps.
- `forward` counts an object that is as likely as not to be there: of the number of objects that is the median, not the
  mode. Three chances of 0.6 make 1, though none, at 0.4, is likeliest. The paper's counts are those of a sample.
- Options that are not the paper's: `gradient: concrete` is SPAIR's AIR and Discrete-AIR's estimator; `num_scales: 2`,
  `cell: mlp`, `see_latents: false`, `known_count`, `residual_where: false` and the Bernoulli likelihood are the AIR and
  DAIR of SPAIR's program; `trim_threshold` is GMAIR's.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NotRequired, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import Batch
from zoo.layers import boxes as box_ops
from zoo.layers import distributions, settings
from zoo.layers.additive import add_up
from zoo.layers.blocks import last_bias, mlp
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.nvil import Baseline, score_function
from zoo.layers.overlap import instance_mask
from zoo.layers.recurrent import ImageLSTM, ImageMLP, check_image_size
from zoo.layers.schedules import POSITIVE, Schedule, schedule_value
from zoo.models.base import ObjectModel
from zoo.scene import Scene


class Latents(TypedDict):
    """What B images are encoded into by N steps."""

    where_mean: Tensor  # (B, N, D): scale, or height and width, and shift y and x, before sigmoid and tanh
    where_std: Tensor  # (B, N, D)
    z_where: Tensor  # (B, N, D)
    boxes: Tensor  # (B, N, 4), in pixels
    what_mean: Tensor  # (B, N, A)
    what_std: Tensor  # (B, N, A)
    z_what: Tensor  # (B, N, A)
    presence_logit: Tensor  # (B, N, 1), of one more object
    presence: Tensor  # (B, N, 1), z_pres: 1 until the model stops, 0 from there on; relaxed if Concrete, in training
    belief: Tensor  # (B, N, 1), probability of not having stopped
    patches: Tensor  # (B, N, C, P, P), objects in (0, 1)
    canvas: Tensor  # (B, C, H, W), what they add up to
    baseline: NotRequired[Tensor]  # (B, N, 1), nats per pixel; in training by NVIL


class AIR(ObjectModel):
    """A recurrent network that attends to one object at a time and decides when to stop, the encoder of a VAE.

    Loss terms are in nats per image; the plain sum of `elbo_terms` is -ELBO. With `gradient: nvil` two more train
    presence: `score_function`, whose value is 0, and `baseline`, an error in (nats per pixel)^2; see `zoo.layers.nvil`.

    Args:
        channels: Image channels, 1 or 3.
        image_size: Side of the images in pixels, or [height, width]; the recurrent cell reads them flat.
        num_steps: N, the most objects that can be found; one more than there are lets the model learn to stop.
        known_count: Tell the model each image's number of objects, from the batch's `valid` (SPAIR, section 5.1):
            that many steps are run, and presence is not inferred. Images alone get all `num_steps`.
        what_dim: Dimension of z_what.
        object_size: Side of a glimpse and of a decoded object, in texels.
        cell: "lstm"; or "mlp", four hidden layers without memory: the DAIR of SPAIR's program.
        cell_hidden: Width of the cell, and of NVIL's baseline.
        see_latents: Feed the last step's latents to the cell. Off in SPAIR's program.
        where_hidden: Hidden layers from the cell's output to z_where and z_pres.
        encoder_hidden: Hidden layers from glimpse to z_what.
        decoder_hidden: Hidden layers from z_what to object.
        num_scales: 1: one scale for height and width; 2: z_where has both (SPAIR's program).
        scale_prior: Mean and std of the scales before the sigmoid that makes them fractions of the image.
        shift_prior: Mean and std of the shifts before the tanh that makes them positions, the image's edges at -1, 1.
        residual_where: q(z_where) starts at its prior's mean, with std in units of the prior's.
        where_std: Initial std of q(z_where), in units of the prior's if it is residual.
        what_std: Initial std of q(z_what): with a small one counts come right several times sooner.
        initial_biases: `presence`, of its logit, 2 where not given: objects start on. `decoder`, of its last layer,
            before the sigmoid, -2: objects start faint, so that they do no harm before they are any good.
        gradient: How presence learns: "nvil", the score function with a learned baseline (Mnih and Gregor 2014),
            unbiased; or "concrete", a relaxation with `temperature` (SPAIR, Discrete-AIR).
        temperature: Of the Concrete presence.
        baseline_lr: Adam's learning rate of the baseline.
        likelihood: "normal" with `likelihood_std`, or "bernoulli" on the canvas cut off at 1.
        likelihood_std: Standard deviation of the normal likelihood.
        count_prior_odds: p / (1 - p), p the geometric prior's probability of one more object at each step.
        term_weights: Weights of loss terms by their names, where they are not 1.
        trim_threshold: Null yields the attention boxes; a number in (0, 1) trims them to the texels that reach it. A
            pixel is an object's in `Scene.mask` from this brightness on, or, if null, from 0.5.
        lr: Adam's learning rate.
        max_grad_norm: Largest norm of the gradient.
    """

    schedules = ("lr", "baseline_lr", "count_prior_odds")
    elbo_terms = ("reconstruction", "kl_where", "kl_what", "kl_presence")
    training_terms = ("score_function", "baseline")
    difference = False  # the cell sees what remains of the image: DAIR
    where_prior: Tensor

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int | tuple[int, int] = 50,
        num_steps: int = 3,
        known_count: bool = False,
        what_dim: int = 50,
        object_size: int = 28,
        cell: str = "lstm",
        cell_hidden: int = 256,
        see_latents: bool = True,
        where_hidden: tuple[int, ...] = (200,),
        encoder_hidden: tuple[int, ...] = (200,),
        decoder_hidden: tuple[int, ...] = (200,),
        num_scales: int = 1,
        scale_prior: tuple[float, float] = (-0.5, 0.2),
        shift_prior: tuple[float, float] = (0.0, 1.0),
        residual_where: bool = True,
        where_std: float = 0.13,
        what_std: float = 0.13,
        initial_biases: dict[str, float] | None = None,
        gradient: str = "nvil",
        temperature: float = 1.0,
        baseline_lr: Schedule = 1e-3,
        likelihood: str = "normal",
        likelihood_std: float = 0.3,
        count_prior_odds: Schedule = 0.01,
        term_weights: dict[str, Schedule] | None = None,
        trim_threshold: float | None = None,
        lr: Schedule = 1e-4,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        ways = {"cell": ("lstm", "mlp"), "gradient": ("concrete", "nvil"), "likelihood": ("normal", "bernoulli")}
        settings.check_choices(self.hp, channels=(1, 3), num_scales=(1, 2), **ways)
        settings.check_above_zero(self.hp, "num_steps", "what_dim", "object_size", "cell_hidden", "max_grad_norm")
        settings.check_above_zero(self.hp, "where_std", "what_std", "temperature", "likelihood_std")
        settings.check_normals(self.hp, "scale_prior", "shift_prior")
        settings.check_shares(self.hp, "trim_threshold")
        self.weigh_terms(term_weights)
        self.check_schedules(count_prior_odds=POSITIVE)
        self.size_hw = settings.height_width(image_size)
        self.where_dim = num_scales + 2
        self.code_dim = self.where_dim + what_dim + 1  # all latents of an object
        pixels, texels = channels * self.size_hw[0] * self.size_hw[1], channels * object_size**2
        seen = self.code_dim if see_latents else 0
        self.cell: ImageLSTM | ImageMLP
        if cell == "lstm":
            self.cell = ImageLSTM(pixels, seen, cell_hidden)
        else:
            self.cell = ImageMLP(pixels, seen, [cell_hidden] * 4, cell_hidden)
        self.locate = mlp(cell_hidden, where_hidden, 2 * self.where_dim + 1)
        self.encoder = mlp(texels, encoder_hidden, 2 * what_dim)
        self.decoder = mlp(what_dim, decoder_hidden, texels)
        learned = gradient == "nvil" and not known_count
        self.baseline = Baseline(pixels, self.code_dim, cell_hidden) if learned else None
        places = {"presence": last_bias(self.locate)[-1], "decoder": last_bias(self.decoder)}
        self.start_biases({"presence": 2.0, "decoder": -2.0, **(initial_biases or {})}, places)
        prior = torch.tensor([scale_prior] * num_scales + [shift_prior] * 2)
        self.register_buffer("where_prior", prior, persistent=False)  # (D, 2): mean and std

    # inference: Discrete-AIR, equation 1

    def infer(self, image: Tensor, noise: Mapping[str, Tensor] | None, count: Tensor | None = None) -> Latents:
        """Encode images into latents, z = mean + std * noise, one object after the other.

        Args:
            image: (B, C, H, W).
            noise: From `draw_noise`; None for means and, for presence, what is as likely as not.
            count: (B,) the number of objects, if it is known.
        """
        hp, B = self.hp, image.shape[0]
        self.check_image(image)
        canvas = torch.zeros_like(image)
        presence = belief = image.new_ones(B, 1)
        code = F.pad(presence, (self.code_dim - 1, 0))  # z of the step before: nothing, and that it is there
        state = self.cell.begin(B)
        history: list[tuple[Tensor, Tensor]] = []
        steps: list[dict[str, Tensor]] = []
        for t in range(hp.num_steps):
            eps = None if noise is None else {name: values[:, t] for name, values in noise.items()}
            if t == 0 or self.difference:
                remaining = image - canvas
                read = self.cell.read(remaining)
            history.append((remaining, code))
            hidden, state = self.cell(read, code if hp.see_latents else code[:, :0], state)
            where_raw, logit = self.locate(hidden).split([2 * self.where_dim, 1], -1)
            where_mean, where_std = _mean_std(where_raw, hp.where_std)
            if hp.residual_where:
                where_mean, where_std = self.where_prior[:, 0] + where_mean, self.where_prior[:, 1] * where_std
            z_where = where_mean if eps is None else where_mean + where_std * eps["where"]
            boxes = self.boxes(z_where)
            glimpse = extract_glimpses(image, boxes[:, None], hp.object_size)
            what_mean, what_std = _mean_std(self.encoder(glimpse.flatten(1)), hp.what_std)
            z_what = what_mean if eps is None else what_mean + what_std * eps["what"]
            if count is not None:
                presence = belief = (t < count[:, None]).to(image.dtype)
            else:
                belief = belief * logit.sigmoid()
                presence = self.stay(presence, belief, logit, None if eps is None else eps["presence"])
            patch = self.decode(z_what)
            if self.difference:
                canvas = canvas + self.draw(patch[:, None], boxes[:, None], presence[:, None])
            code = torch.cat([z_where, z_what, presence], -1)
            steps.append({
                "where_mean": where_mean, "where_std": where_std, "z_where": z_where, "boxes": boxes,
                "what_mean": what_mean, "what_std": what_std, "z_what": z_what,
                "presence_logit": logit, "presence": presence, "belief": belief, "patches": patch,
            })  # fmt: skip
        q = {name: torch.stack([step[name] for step in steps], 1) for name in steps[0]}
        if self.baseline is not None and self.training and noise is not None:
            q["baseline"] = self.baseline(history)
        q["canvas"] = canvas if self.difference else self.draw(q["patches"], q["boxes"], q["presence"])
        return cast(Latents, q)

    def stay(self, before: Tensor, belief: Tensor, logit: Tensor, noise: Tensor | None) -> Tensor:
        """Presence, (B, 1) as all arguments: a sample given that of the step before, or what is as likely as not."""
        if noise is None:
            return (belief >= 0.5).to(belief.dtype)
        if self.training and self.hp.gradient == "concrete":
            return before * distributions.relaxed_bernoulli(logit, noise, self.hp.temperature)
        return before * (logit + noise > 0)

    def draw_noise(self, image: Tensor) -> dict[str, Tensor]:
        """Noise for every latent of (B, C, H, W) images, each (B, N, .)."""
        B, N = image.shape[0], self.hp.num_steps
        like: dict[str, Any] = {"device": image.device, "dtype": image.dtype}
        where, what = torch.randn(B, N, self.where_dim, **like), torch.randn(B, N, self.hp.what_dim, **like)
        return {"where": where, "what": what, "presence": distributions.logistic_noise(B, N, 1, **like)}

    def boxes(self, z_where: Tensor) -> Tensor:
        """(..., scales + shift y, x) to (..., 4) boxes in pixels."""
        scale, shift = z_where.split([self.where_dim - 2, 2], -1)
        return box_ops.attention_to_boxes(shift.tanh(), scale.sigmoid().expand_as(shift), self.size_hw)

    # generation: Discrete-AIR, equations 2 and 3

    def decode(self, z_what: Tensor) -> Tensor:
        """(..., what_dim) to objects (..., C, P, P) in (0, 1)."""
        return self.decoder(z_what).sigmoid().unflatten(-1, (self.hp.channels, *[self.hp.object_size] * 2))

    def draw(self, patches: Tensor, boxes: Tensor, presence: Tensor) -> Tensor:
        """Add up objects (B, N, C, P, P), as far as they are present, (B, N, 1), in boxes (B, N, 4)."""
        return add_up(patches * presence[..., None, None], boxes, self.size_hw)

    # training

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the negative ELBO, and those that train presence by NVIL; see the class."""
        hp, image, count = self.hp, batch["image"], self._count(batch)
        q = self.infer(image, self.draw_noise(image), count)
        if hp.likelihood == "bernoulli":
            log_likelihood = distributions.bernoulli_log_likelihood(image, q["canvas"].clamp(max=1))
        else:
            log_likelihood = distributions.normal_log_likelihood(image, q["canvas"], hp.likelihood_std)
        presence = q["presence"][..., 0]
        where = distributions.kl_normal(q["where_mean"], q["where_std"], *self.where_prior.unbind(-1))
        what = distributions.kl_normal(q["what_mean"], q["what_std"], 0.0, 1.0)
        costs = {"kl_where": presence * where.sum(-1), "kl_what": presence * what.sum(-1)}  # (B, N)
        if count is None:
            prior_logit = image.new_tensor(self.scheduled("count_prior_odds")).log()
            before = F.pad(presence, (1, 0), value=1.0)[:, :-1]  # the step that stops is the last one paid for
            costs["kl_presence"] = before * distributions.kl_bernoulli(q["presence_logit"][..., 0], prior_logit)
        reconstruction = -log_likelihood.flatten(1).sum(1)
        terms = {"reconstruction": reconstruction.mean(), **{name: kl.sum(1).mean() for name, kl in costs.items()}}
        if self.baseline is not None and self.training:
            terms |= self._nvil(q, before, reconstruction, costs)
        return terms

    def _nvil(self, q: Latents, before: Tensor, reconstruction: Tensor, costs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What trains presence and the baseline: see `zoo.layers.nvil`.

        The signal of step t is what its presence can still change: the reconstruction, where and what from t on,
        presence after t; each weighted as in the loss. A step after the stop has no signal.
        """
        weight = {name: schedule_value(self.term_weights.get(name, 1.0), self.steps_trained) for name in costs}
        paid = torch.stack([weight[name] * cost for name, cost in costs.items()]).sum(0)
        to_go = paid.flip(1).cumsum(1).flip(1) - weight["kl_presence"] * costs["kl_presence"]
        drawn = (q["baseline"][..., 0], q["presence_logit"][..., 0], q["presence"][..., 0], before)
        surrogate, error = score_function(reconstruction[:, None] + to_go, *drawn, unit=q["canvas"][0].numel())
        return {"score_function": surrogate, "baseline": error}

    def parameter_groups(self) -> Iterable[Any]:
        """The baseline learns at its own rate."""
        if self.baseline is None:
            return self.parameters()
        own = list(self.baseline.parameters())
        others = [p for name, p in self.named_parameters() if not name.startswith("baseline.")]
        return [{"params": others}, {"params": own, "lr_name": "baseline_lr"}]

    # use

    def forward(self, image: Tensor, count: Tensor | None = None) -> Scene:
        """Find objects; slots are steps, presence the probability of not having stopped, drawn from 0.5 on.

        Args:
            image: (B, C, H, W) in [0, 1], of `image_size`.
            count: (B,) number of objects, for models with `known_count` only; None: `num_steps` in each image.
        """
        if self.hp.known_count and count is None:
            count = torch.full((image.shape[0],), self.hp.num_steps, device=image.device)
        elif not self.hp.known_count and count is not None:
            raise ValueError("count is for models with known_count=true; this one infers it")
        q = self.infer(image, None, count)
        return self._scene(q["canvas"], q["boxes"], q["patches"], q["belief"], q["z_what"])

    def see(self, batch: Batch) -> Scene:
        """The scene of a batch; with `known_count`, and where the batch has `valid`, of as many objects."""
        return self(batch["image"], self._count(batch) if "valid" in batch else None)

    def check_image(self, image: Tensor) -> None:
        """As for every model, and images must be of `image_size`."""
        super().check_image(image)
        check_image_size(image, self.size_hw, type(self).__name__)

    def _count(self, batch: Batch) -> Tensor | None:
        """(B,) number of objects, if the model is to know."""
        if not self.hp.known_count:
            return None
        if "valid" not in batch:
            raise ValueError("known_count=true needs batches with `valid`: use labelled data or set known_count=false")
        count, most = batch["valid"].sum(1), self.hp.num_steps
        # a table with room for no more than num_steps objects needs no look at its content, for which a GPU would wait
        if batch["valid"].shape[1] > most < int(count.max()):
            raise ValueError(
                f"num_steps={most} is below the {int(count.max())} objects of an image, which known_count=true says to "
                "find: raise model.init_args.num_steps"
            )
        return count

    def _scene(self, canvas: Tensor, boxes: Tensor, patches: Tensor, belief: Tensor, z_what: Tensor) -> Scene:
        trim, visible, (H, W) = self.hp.trim_threshold, patches.mean(2), canvas.shape[-2:]
        return Scene(
            reconstruction=canvas.clamp(0, 1),
            boxes=boxes if trim is None else box_ops.trim_boxes(boxes, visible, trim),
            presence=belief[..., 0],
            what=z_what,
            mask=instance_mask(None, visible, belief[..., 0], boxes, (H, W), trim),
            attention_boxes=boxes,
        )

    @torch.no_grad()
    def generate(
        self,
        num_images: int,
        image_size: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
        count: int | None = None,
    ) -> Scene:
        """Draw scenes from the prior: a count, then where and what of each object; presence is 0 or 1.

        Args:
            num_images: How many.
            image_size: (H, W) in pixels; None: the model's.
            generator: A CPU generator, for repeatable scenes.
            count: Objects in each image, any number; None: drawn from the prior as the schedule has it (which favours
                empty images, as it has to outweigh many pixels), or `num_steps` with `known_count`.
        """
        hp, slots = self.hp, self.hp.num_steps if count is None else count
        if count is None and not hp.known_count:
            odds = self.scheduled("count_prior_odds")
            more = torch.rand(num_images, slots, 1, generator=generator) < odds / (1 + odds)
            presence = more.cumprod(1).to(self.device, self.working_dtype)
        else:
            presence = torch.ones(num_images, slots, 1, device=self.device, dtype=self.working_dtype)
        where = torch.randn(num_images, slots, self.where_dim, generator=generator).to(presence)
        z_what = torch.randn(num_images, slots, hp.what_dim, generator=generator).to(presence)
        boxes, patches = self.boxes(self.where_prior[:, 0] + self.where_prior[:, 1] * where), self.decode(z_what)
        size = image_size or self.size_hw
        boxes = boxes * boxes.new_tensor([size[1] / self.size_hw[1], size[0] / self.size_hw[0]] * 2)
        canvas = add_up(patches * presence[..., None, None], boxes, size)
        return self._scene(canvas, boxes, patches, presence, z_what)


class DAIR(AIR):
    """AIR whose cell sees what remains of the image: the image minus the canvas so far.

    Glimpses are still read from the image itself, and gradients flow through the canvas (as in SPAIR's program). What
    is done shows in what the cell sees, so that it needs no memory: `cell: mlp`, as that program has it.
    Hyperparameters and their defaults are AIR's, the LSTM among them.
    """

    difference = True


def _mean_std(raw: Tensor, initial_std: float) -> tuple[Tensor, Tensor]:
    """Halves of the last dimension as mean and softplus std, which is `initial_std` where the raw spread is 0."""
    mean, spread = raw.chunk(2, -1)
    shift = math.log(math.expm1(initial_std))
    return mean, F.softplus((spread + shift).clamp(min=-10))  # away from 0, where a divergence is infinite
