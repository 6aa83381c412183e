"""SPAIR: Spatially Invariant Attend, Infer, Repeat (Crawford and Pineau, AAAI 2019).

Section, equation and algorithm numbers are the paper's and its supplement's (S). "The code" is the program behind the
paper's figures, e2crawfo/auto_yolo at its branch aaai_2019. Where the paper is silent (widths of the object networks,
spread of a fresh posterior, scales of the decoder's logits) defaults are the code's. Where the two disagree the paper
is the default and the code's choice an option. Differences from the paper:

- Cells are encoded in waves instead of one by one (`layers.wavefront`); the function is the same.
- Divergences of where, depth and what are weighted by presence, relaxed or not, as in the code: an absent object is not
  paid for. By equation 1 and the priors of section 4.2 it would be.
- Cells at the upper, left and right border see a learned object where there is no neighbour (the code).
- Glimpses have zeros beyond the image's border, where the paper is silent (`glimpse_padding`), and their texels are
  areas; in the code the outermost are the box's corners.
- A patch acts up to half a texel beyond its box, fading (the code); CONTAINS in Algorithm 1 ends at the box. Colours do
  not fade along (`color_edge`).
- The background is black by default, as in the code's runs on digits; section 4.4 has `mode` and `mlp`. That MLP reads
  a thumbnail of the image, so that any image size works.
- The schedule of s (S D.2: near 0, then some 0.99 after the first few thousand updates) is the code's.
- `forward` yields presence as a probability, and rounds it where it draws (section 4.5). The latents are means, where
  the code draws samples (`sample_outside_training`).
- The code clips logits to +-10, presence and boxes among them; here only those of spreads.
- The code's gradient noise (after clipping, gone within some thousand steps) is left out, and so are its training
  wheels, of which the paper says nothing (`training_wheels`).
- Cures of our own, off by default: `center_bias`, `center_blob`, `where_std_bias`, `size_bias`, `presence_bias`,
  weights of divergences other than 1, the normal likelihood. `trim_threshold` is GMAIR's.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.layers import boxes as box_ops
from zoo.layers.background import ColorBackground
from zoo.layers.blocks import GridBackbone, last_bias, mlp
from zoo.layers.count_prior import presence_history_logits, presence_prior_logits, sample_presence
from zoo.layers.distributions import (
    bernoulli_log_likelihood,
    kl_bernoulli,
    kl_normal,
    logistic_noise,
    normal_log_likelihood,
    relaxed_bernoulli,
)
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.noise import seeded
from zoo.layers.renderer import COLOR_EDGES, METHODS, render
from zoo.layers.schedules import POSITIVE, Schedule
from zoo.layers.wavefront import encode_in_waves, num_neighbors
from zoo.models.base import ObjectModel
from zoo.scene import Scene

Latents = dict[str, Tensor]


class SPAIR(ObjectModel):
    """A convolutional detector, one object for each cell of a grid, trained as the encoder of a VAE (section 4).

    In nats per image, -ELBO = `reconstruction` + `kl_position` + `kl_size` + `kl_depth` + `kl_what` + `kl_presence`.

    Args:
        channels: Image channels, 1 or 3.
        cell_size: c_h and c_w in the paper, pixels of a cell; the product of `backbone_strides`.
        anchor: a_h and a_w, pixels of the largest box (equation 6).
        center_bounds: b_min and b_max, bounds of a box's centre relative to its cell, in cells (equations 2 and 4).
        what_dim: A, dimension of z_what.
        object_size: H_obj and W_obj, texels of a glimpse and of a decoded object.
        backbone_channels: Filters of the backbone (S D.2).
        backbone_features: Features that it yields for each cell (S D.2).
        backbone_strides: Strides of its first layers. The code's later version has [3, 2, 2], at half the cost.
        backbone_kernel: Kernel of its last three layers; 2 in the code's ablation, SET and Atari runs.
        bf16_backbone: Run the backbone in bfloat16.
        lateral_hidden: Hidden layers of e_lat.
        lookback: How far lateral connections reach: 1 is the paper's; 0 and 2 are in its ablation (section 5.5).
        passthrough: 0 is the paper: e_lat yields where, depth and presence at once. Above 0 is the code: three networks
            in a row, where, depth, presence, each fed all that is already drawn, what included, and this many features
            of the one before.
        encoder_hidden: Hidden layers of e_obj.
        decoder_hidden: Hidden layers of d_obj.
        glimpse_padding: Beyond the image's border: "zeros", or "border" for its edge pixels (the code).
        color_logit_scale: Factor on the decoder's colour logits (the code).
        alpha_logit_scale: Factor on its alpha logits (the code; 1 learns faster).
        alpha_logit_bias: Added to the alpha logits: objects start opaque (the code).
        center_bias: Fixed, subtracted from the alpha logits outside the patch's centre: this much at 2.5 / 14 of the
            patch beyond a central square of 8 / 14. Objects can then not be drawn off-centre in their boxes, a freedom
            that the likelihood leaves. 0 is the paper; 6 works.
        center_blob: Initial bias of the last layer's alpha: this much at the centre, minus as much at the border.
        where_std_bias: Initial bias of the raw spread of z_where, whose std is 2 sigmoid(raw): 0 is the code; -3 keeps
            boxes from collapsing onto their prior early on.
        size_bias: Initial bias of the mean of z_h and z_w.
        presence_bias: Initial bias of the presence logit: 3 starts with all objects on.
        temperature: Of the Concrete presence.
        training_wheels: Steps during which where, depth and presence learn nothing, so that appearance comes first;
            1000 in the code.
        importance_floor: Least importance inside a patch; the code's 0.01 for a depth in (0, 4) is 0.0025 here.
        renderer: "exact" (Algorithm 1), or "premultiplied", one contraction that differs at soft edges.
        color_edge: Colours that "exact" draws beyond a patch's outermost texel centres: "repeat", those of the edge, so
            that alpha alone fades; "zeros", fading too (Algorithm 1 taken literally; on black, the code), which darkens
            edges on bright backgrounds.
        background: "black"; "fixed" (`background_color`); "mode", the most frequent colour of the training images;
            "learned", one colour; "mlp", a colour for each image.
        background_color: In [0, 1], for each channel; for "fixed".
        likelihood: "bernoulli" (the paper), or "normal" with `likelihood_std`.
        likelihood_std: Standard deviation of the normal likelihood.
        position_prior: Mean and std of z_y, z_x.
        size_prior: Mean and std of z_h, z_w.
        depth_prior: Mean and std of z_depth.
        what_prior: Mean and std of z_what.
        count_prior_odds: (1 - s) / s of the geometric prior on the count; the default goes from no penalty to
            s = 0.988 in some 8000 steps (S D.2 and the code).
        position_kl_weight: Weight of z_y's and z_x's divergence; weights that start low are a warm-up.
        size_kl_weight: Weight of z_h's and z_w's.
        depth_kl_weight: Weight of z_depth's.
        what_kl_weight: Weight of z_what's.
        presence_kl_weight: Weight of z_pres's.
        round_presence: Outside training, round presence before objects are seen laterally and drawn (section 4.5).
        sample_outside_training: Draw the latents in `forward` too, from a fixed seed, as the code does; the paper has
            their means.
        trim_threshold: Null yields the attention boxes. A number in (0, 1) trims them to the texels whose alpha times
            difference from the background reaches it (GMAIR, section 4).
        lr: Adam's learning rate.
        max_grad_norm: Largest norm of the gradient.
    """

    schedules = ("lr", "count_prior_odds")
    elbo_terms = ("reconstruction", "kl_position", "kl_size", "kl_depth", "kl_what", "kl_presence")
    alpha_bias: Tensor

    def __init__(
        self,
        *,
        channels: int = 3,
        cell_size: int = 12,
        anchor: float = 48.0,
        center_bounds: tuple[float, float] = (-0.5, 1.5),
        what_dim: int = 50,
        object_size: int = 14,
        backbone_channels: int = 128,
        backbone_features: int = 100,
        backbone_strides: tuple[int, ...] = (2, 2, 3),
        backbone_kernel: int = 1,
        bf16_backbone: bool = False,
        lateral_hidden: tuple[int, ...] = (100, 100),
        lookback: int = 1,
        passthrough: int = 0,
        encoder_hidden: tuple[int, ...] = (512, 256),
        decoder_hidden: tuple[int, ...] = (256, 512),
        glimpse_padding: str = "zeros",
        color_logit_scale: float = 2.0,
        alpha_logit_scale: float = 0.1,
        alpha_logit_bias: float = 5.0,
        center_bias: float = 0.0,
        center_blob: float = 0.0,
        where_std_bias: float = 0.0,
        size_bias: float = 0.0,
        presence_bias: float = 0.0,
        temperature: float = 1.0,
        training_wheels: int = 0,
        importance_floor: float = 0.0,
        renderer: str = "exact",
        color_edge: str = "repeat",
        background: str = "black",
        background_color: list[float] | None = None,
        likelihood: str = "bernoulli",
        likelihood_std: float = 0.2,
        position_prior: tuple[float, float] = (0.0, 1.0),
        size_prior: tuple[float, float] = (-2.2, 0.5),
        depth_prior: tuple[float, float] = (0.0, 1.0),
        what_prior: tuple[float, float] = (0.0, 1.0),
        count_prior_odds: Schedule = [1e6, 0.0125, 1000, "exponential"],  # noqa: B006 (never changed)
        position_kl_weight: Schedule = 1.0,
        size_kl_weight: Schedule = 1.0,
        depth_kl_weight: Schedule = 1.0,
        what_kl_weight: Schedule = 1.0,
        presence_kl_weight: Schedule = 1.0,
        round_presence: bool = True,
        sample_outside_training: bool = False,
        trim_threshold: float | None = None,
        lr: Schedule = 1e-4,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.term_weights = {
            "kl_position": position_kl_weight,
            "kl_size": size_kl_weight,
            "kl_depth": depth_kl_weight,
            "kl_what": what_kl_weight,
            "kl_presence": presence_kl_weight,
        }
        _check(self.hp)
        self.check_schedules(count_prior_odds=POSITIVE)
        self.backbone = GridBackbone(
            channels, backbone_channels, backbone_features, backbone_strides, final_kernel=backbone_kernel
        )
        if self.backbone.cell_size != cell_size:
            raise ValueError(f"the product of backbone_strides={list(backbone_strides)} must be cell_size={cell_size}")
        object_dim = 4 + what_dim + 2  # where, what, depth and presence of an object as its neighbours see it
        seen = backbone_features + num_neighbors(lookback) * object_dim
        if passthrough:
            drawn = seen + passthrough + 4 + what_dim
            outputs = {"where": (seen, 8 + passthrough), "depth": (drawn, 2 + passthrough), "presence": (drawn + 1, 1)}
        else:
            outputs = {"where": (seen, 8 + 2 + 1)}
        self.lateral = nn.ModuleDict({name: mlp(i, lateral_hidden, o) for name, (i, o) in outputs.items()})
        self.edge = nn.Parameter(torch.zeros(object_dim))
        self.encoder = mlp(channels * object_size**2, encoder_hidden, 2 * what_dim)
        self.decoder = mlp(what_dim, decoder_hidden, (channels + 1) * object_size**2)
        self.background = ColorBackground(background, channels, background_color)
        self._initialise()

    def _initialise(self) -> None:
        """Glorot weights and zero biases, as the code has; then the biases that the hyperparameters ask for."""
        hp = self.hp
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        P = hp.object_size
        offset = torch.arange(P) - (P - 1) / 2
        beyond = (offset.abs() - 4 / 14 * P).relu() / (2.5 / 14 * P)
        self.register_buffer("alpha_bias", hp.alpha_logit_bias - hp.center_bias * (beyond[:, None] + beyond))
        radius = offset.square()[:, None] + offset.square()
        with torch.no_grad():
            where = last_bias(self.lateral["where"])
            where[2:4], where[4:8] = hp.size_bias, hp.where_std_bias
            last_bias(self.lateral["presence" if hp.passthrough else "where"])[-1] = hp.presence_bias
            blob = hp.center_blob * (2 * torch.exp(-radius / (2 * (P / 4) ** 2)) - 1)
            last_bias(self.decoder).view(-1, P, P)[-1] = blob

    def setup(self, stage: str) -> None:
        """Find the training images' most frequent colour, where the background is that (section 4.4)."""
        if stage == "fit" and self.hp.background == "mode":
            data = getattr(self.trainer, "datamodule", None)
            if data is None:
                raise ValueError("background: mode needs a datamodule to look at; use background: fixed without one")
            self.background.fit(torch.cat([batch["image"] for batch in islice(data.train_dataloader(), 8)]))

    # inference: sections 4.3 and 4.1

    def infer(self, image: Tensor, noise: Latents) -> Latents:
        """Encode images into latents, z = mean + std * noise.

        Args:
            image: (B, C, H, W).
            noise: From `draw_noise`.

        Returns:
            Each (B, HW, .) in raster order: `where_mean`, `where_std`, `z_where`, `boxes`, `depth_mean`, `depth_std`,
            `z_depth`, `presence_logit`, `presence`, `what_mean`, `what_std`, `z_what`.
        """
        hp = self.hp
        self.check_image(image)
        if min(image.shape[-2:]) < hp.cell_size:
            raise ValueError(f"images of {tuple(image.shape[-2:])} px are smaller than a cell of {hp.cell_size} px")
        with torch.autocast(image.device.type, torch.bfloat16) if hp.bf16_backbone else nullcontext():
            features = self.backbone(image.contiguous(memory_format=torch.channels_last))
        rows, columns = features.shape[-2:]
        features = rearrange(features, "b f i j -> b (i j) f")
        cells = box_ops.grid_cells(rows, columns, image.device).expand(image.shape[0], -1, -1)
        wheels = self.training and self._on_wheels

        def lateral(name: str, seen: list[Tensor], split: list[int]) -> tuple[Tensor, ...]:
            parameters = self.lateral[name](torch.cat(seen, -1))
            return (parameters.detach() if wheels else parameters).split(split, -1)

        def step(inputs: tuple[Tensor, ...], context: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            feature, cell, eps_where, eps_depth, eps_presence, eps_what = inputs
            seen = [feature, context.flatten(2)]
            where_raw, *rest = lateral("where", seen, [8, hp.passthrough] if hp.passthrough else [8, 2, 1])
            where_mean, where_std = _mean_std(where_raw)
            z_where = where_mean + where_std * eps_where
            offset, size = box_ops.where_to_cell_offsets(z_where, hp.center_bounds)
            boxes = box_ops.cell_offsets_to_boxes(offset, size, cell, (hp.cell_size,) * 2, (hp.anchor,) * 2)
            glimpse = extract_glimpses(image, boxes, hp.object_size, hp.glimpse_padding)
            what_mean, what_std = _mean_std(self.encoder(glimpse.flatten(2)))
            z_what = what_mean + what_std * eps_what
            drawn = [offset, size, z_what]
            depth_raw = rest[0]
            if hp.passthrough:
                depth_raw, rest[0] = lateral("depth", [*seen, rest[0], *drawn], [2, hp.passthrough])
            depth_mean, depth_std = _mean_std(depth_raw)
            z_depth = depth_mean + depth_std * eps_depth
            drawn.append(z_depth.sigmoid())
            presence_logit = rest[-1]
            if hp.passthrough:
                (presence_logit,) = lateral("presence", [*seen, rest[0], *drawn], [1])
            presence = relaxed_bernoulli(presence_logit, eps_presence, hp.temperature)
            if not self.training and hp.round_presence:
                presence = presence.round()
            return torch.cat([*drawn, presence], -1), (
                where_mean, where_std, z_where, boxes, depth_mean, depth_std, z_depth,
                presence_logit, presence, what_mean, what_std, z_what,
            )  # fmt: skip

        inputs = (features, cells, noise["where"], noise["depth"], noise["presence"], noise["what"])
        edge = torch.cat([self.edge[:4].sigmoid(), self.edge[4:-2], self.edge[-2:].sigmoid()])
        outputs = encode_in_waves(step, inputs, edge, rows, columns, hp.lookback)
        return dict(zip(_LATENTS, outputs, strict=True))

    def draw_noise(self, image: Tensor, sample: bool) -> Latents:
        """Noise for every latent of (B, C, H, W) images, each (B, HW, .); zeros unless `sample`."""
        hp = self.hp
        B, _, H, W = image.shape
        N = -(-H // hp.cell_size) * -(-W // hp.cell_size)
        dims = {"where": 4, "depth": 1, "what": hp.what_dim}
        if not sample:
            return {name: image.new_zeros(B, N, dim) for name, dim in {**dims, "presence": 1}.items()}
        noise = {name: torch.randn(B, N, dim, device=image.device, dtype=image.dtype) for name, dim in dims.items()}
        return {**noise, "presence": logistic_noise(B, N, 1, device=image.device, dtype=image.dtype)}

    # generation: section 4.4 and supplement C

    def decode(self, z_what: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance of objects: colours (B, N, C, P, P) and alpha (B, N, P, P), both in (0, 1)."""
        hp = self.hp
        P = hp.object_size
        logits = rearrange(self.decoder(z_what), "b n (c p q) -> b n c p q", p=P, q=P)
        color, alpha = logits.split([hp.channels, 1], 2)
        return (hp.color_logit_scale * color).sigmoid(), (
            hp.alpha_logit_scale * alpha[:, :, 0] + self.alpha_bias
        ).sigmoid()

    def render(self, latents: Latents, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the objects: the image (B, C, H, W), and colours and alpha as `decode` has them."""
        hp = self.hp
        color, alpha = self.decode(latents["z_what"])
        opacity = alpha * latents["presence"][..., None]
        importance = opacity * (-latents["z_depth"][..., None]).sigmoid()
        if hp.importance_floor:
            importance = importance.clamp_min(hp.importance_floor)
        maps, size = (color, opacity, importance), (hp.anchor, hp.anchor)
        return render(*maps, latents["boxes"], background, hp.renderer, size, hp.color_edge), color, alpha

    # training: section 4.5

    @property
    def _on_wheels(self) -> bool:
        return self.steps_trained < self.hp.training_wheels

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """On training wheels all that decides on where, depth and presence."""
        if self._on_wheels:
            yield from (*self.backbone.parameters(), *self.lateral.parameters(), self.edge)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the negative ELBO, in nats per image (equation 1; presence as in S B)."""
        hp = self.hp
        image = batch["image"]
        q = self.infer(image, self.draw_noise(image, sample=True))
        mean, _, _ = self.render(q, self.background(image))
        if hp.likelihood == "bernoulli":
            log_likelihood = bernoulli_log_likelihood(image, mean)
        else:
            log_likelihood = normal_log_likelihood(image, mean, hp.likelihood_std)
        position_mean, size_mean = q["where_mean"].split(2, -1)
        position_std, size_std = q["where_std"].split(2, -1)
        presence = q["presence"]
        table = presence_prior_logits(presence.shape[1], self.scheduled("count_prior_odds")).to(image.device)
        prior_logits = presence_history_logits(table, presence[..., 0])

        def per_image(divergence: Tensor) -> Tensor:
            return (presence * divergence).sum() / image.shape[0]  # what an absent object is like costs nothing

        return {
            "reconstruction": -log_likelihood.sum() / image.shape[0],
            "kl_position": per_image(kl_normal(position_mean, position_std, *hp.position_prior)),
            "kl_size": per_image(kl_normal(size_mean, size_std, *hp.size_prior)),
            "kl_depth": per_image(kl_normal(q["depth_mean"], q["depth_std"], *hp.depth_prior)),
            "kl_what": per_image(kl_normal(q["what_mean"], q["what_std"], *hp.what_prior)),
            "kl_presence": kl_bernoulli(q["presence_logit"][..., 0], prior_logits).sum() / image.shape[0],
        }

    # use

    def forward(self, image: Tensor) -> Scene:
        """Detect the objects of (B, C, H, W) images in [0, 1]; slots are the grid's cells in raster order."""
        hp = self.hp
        if hp.sample_outside_training:
            with seeded(0, image.device):
                noise = self.draw_noise(image, sample=True)
        else:
            noise = self.draw_noise(image, sample=False)
        background = self.background(image)
        return self._scene(self.infer(image, noise), background)

    def _scene(self, latents: Latents, background: Tensor) -> Scene:
        hp = self.hp
        drawn, color, alpha = self.render(latents, background)
        boxes = latents["boxes"]
        if hp.trim_threshold is not None:
            # what a patch changes in the picture, mean over channels; backgrounds are one colour an image
            behind = background[:, None, :, :1, :1]
            visible = (alpha[:, :, None] * (color - behind).abs()).mean(2)
            boxes = box_ops.trim_boxes(boxes, visible, hp.trim_threshold)
        return Scene(
            reconstruction=drawn,
            boxes=boxes,
            presence=latents["presence_logit"].sigmoid()[..., 0],
            what=latents["z_what"],
            depth=latents["z_depth"][..., 0],
            background=background,
            attention_boxes=latents["boxes"],
        )

    @torch.no_grad()
    def generate(
        self,
        num_images: int,
        image_size: tuple[int, int] = (48, 48),
        generator: torch.Generator | None = None,
        count: int | None = None,
        background: Tensor | None = None,
    ) -> Scene:
        """Draw scenes from the prior: a count, that many cells, then where, depth and what (section 4.2, S A).

        Args:
            num_images: How many.
            image_size: (H, W) in pixels.
            generator: A CPU generator, for repeatable scenes.
            count: Objects in each image, at most one a cell; null: drawn from the prior, which favours empty scenes.
            background: (C,) or (num_images, C), colours in [0, 1]; null: the model's own. Where that is an MLP's, which
                reads it off an image, there is none to read: colours are then drawn uniformly.

        Returns:
            A `Scene` whose presence is 0 or 1.

        Raises:
            ValueError: The backgrounds are of another shape.
        """
        hp, dtype = self.hp, self.working_dtype
        B, (H, W) = num_images, image_size
        rows, columns = -(-H // hp.cell_size), -(-W // hp.cell_size)
        N = rows * columns

        def normal(dim: int, prior: tuple[float, float]) -> Tensor:
            return (prior[0] + prior[1] * torch.randn(B, N, dim, generator=generator)).to(self.device, dtype)

        z_where = torch.cat([normal(2, hp.position_prior), normal(2, hp.size_prior)], -1)
        offset, size = box_ops.where_to_cell_offsets(z_where, hp.center_bounds)
        cells = box_ops.grid_cells(rows, columns, self.device)
        odds = self.scheduled("count_prior_odds")
        presence = sample_presence(B, N, odds, generator, count).to(self.device, dtype)[..., None]
        latents = {
            "boxes": box_ops.cell_offsets_to_boxes(offset, size, cells, (hp.cell_size,) * 2, (hp.anchor,) * 2),
            "z_depth": normal(1, hp.depth_prior),
            "z_what": normal(hp.what_dim, hp.what_prior),
            "presence": presence,
            "presence_logit": torch.where(presence > 0, torch.inf, -torch.inf).to(dtype),
        }
        behind = self.background.draw((B, hp.channels, H, W), self.device, generator, background)
        return self._scene(latents, behind.to(dtype))


_LATENTS = (
    "where_mean", "where_std", "z_where", "boxes", "depth_mean", "depth_std", "z_depth",
    "presence_logit", "presence", "what_mean", "what_std", "z_what",
)  # fmt: skip


def _mean_std(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Halves of the last dimension as mean and std in (0, 2), away from 0 where a divergence is infinite (the code)."""
    mean, spread = raw.chunk(2, -1)
    return mean, 2 * spread.clamp(-10, 10).sigmoid()


def _check(hp: Any) -> None:
    """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
    for name, allowed in (
        ("channels", (1, 3)),
        ("lookback", (0, 1, 2)),
        ("glimpse_padding", ("zeros", "border")),
        ("renderer", METHODS),
        ("color_edge", COLOR_EDGES),
        ("likelihood", ("bernoulli", "normal")),
    ):
        if hp[name] not in allowed:
            raise ValueError(f"{name} must be one of {list(allowed)}, got {hp[name]!r}")
    for name in ("temperature", "likelihood_std", "anchor", "object_size", "what_dim", "max_grad_norm"):
        if not hp[name] > 0:
            raise ValueError(f"{name} must be above 0, got {hp[name]!r}")
    for name in ("position_prior", "size_prior", "depth_prior", "what_prior"):
        if len(hp[name]) != 2 or not hp[name][1] > 0:
            raise ValueError(f"{name} must be [mean, std] with std above 0, got {hp[name]!r}")
    if not hp.center_bounds[0] < hp.center_bounds[1]:
        raise ValueError(f"center_bounds must be [min, max] with min below max, got {hp.center_bounds!r}")
    if hp.trim_threshold is not None and not 0 < hp.trim_threshold < 1:
        raise ValueError(f"trim_threshold must be null or in (0, 1), got {hp.trim_threshold!r}")
