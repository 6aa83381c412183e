"""SPAIR: Spatially Invariant Attend, Infer, Repeat (Crawford and Pineau, AAAI 2019).

Section, equation and algorithm numbers are the paper's and its supplement's (S). "The code" is the program behind the
paper's figures, e2crawfo/auto_yolo at its branch aaai_2019. Where the paper is silent (widths of the object networks,
spread of a fresh posterior, scales of the decoder's logits) defaults are the code's; where the two disagree, the
paper's. What the zoo adds is in `spair_recipe`. Differences from the paper:

- Cells are encoded in waves instead of one by one (`layers.wavefront`); the function is the same.
- Divergences of where, depth and what are weighted by presence, relaxed or not, as in the code: an absent object is not
  paid for. By equation 1 and the priors of section 4.2 it would be.
- Cells at the upper, left and right border see a learned object where there is no neighbour (the code).
- Glimpses have zeros beyond the image's border, where the paper is silent and the code repeats edge pixels; their
  texels are areas, where in the code the outermost are the box's corners.
- A patch acts up to half a texel beyond its box, fading (the code); CONTAINS in Algorithm 1 ends at the box. Colours do
  not fade along (`color_edge`).
- The background is black by default, as in the code's runs on digits; section 4.4 has `mode` and `mlp`. That MLP reads
  a thumbnail of the image, so that any image size works. `learned` is the code's in the runs of figures 3 and 7.
- The schedule of s (S D.2: near 0, then some 0.99 after the first few thousand updates) is the code's.
- `forward` yields presence as a probability, and rounds it where it draws (section 4.5). The latents are means, where
  the code draws samples.

What the code has beyond the paper and is left out here:

- Three lateral networks in a row, for where, depth and presence, each fed all that is already drawn, what included, and
  100 features of the one before: 1,762,235 parameters. The paper's e_lat yields all three at once.
- Logits clipped to +-10, presence and boxes among them; here only those of spreads are.
- Gradient noise, after clipping, gone within some thousand steps.
- Importance of at least 0.01 inside a patch (in `spair_recipe`), and steps during which where, depth and presence do
  not learn (of no use here: `zoo/results/ablations.csv`).
"""

from itertools import islice
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.layers import boxes as box_ops
from zoo.layers import distributions, settings
from zoo.layers.background import ColorBackground
from zoo.layers.blocks import GridBackbone, mlp
from zoo.layers.count_prior import presence_history_logits, presence_prior_logits, sample_presence
from zoo.layers.glimpses import extract_glimpses
from zoo.layers.overlap import instance_mask
from zoo.layers.renderer import COLOR_EDGES, render
from zoo.layers.schedules import POSITIVE, Schedule
from zoo.layers.wavefront import encode_in_waves, num_neighbors
from zoo.models.base import ObjectModel
from zoo.scene import Scene

BACKGROUNDS = ("black", "mode", "learned", "mlp")


class Noise(NamedTuple):
    """What is random in encoding images: one row a cell, in raster order."""

    where: Tensor  # (B, HW, 4) standard normal, as depth and what
    depth: Tensor  # (B, HW, 1)
    what: Tensor  # (B, HW, A)
    presence: Tensor  # (B, HW, 1) standard logistic


class Objects(NamedTuple):
    """What a scene is drawn from: one object a cell, in raster order."""

    boxes: Tensor  # (B, HW, 4) xyxy, pixels
    presence: Tensor  # (B, HW, 1) in [0, 1], how far it is drawn
    probability: Tensor  # (B, HW, 1) that it is there
    depth: Tensor  # (B, HW, 1) z_depth, lower is in front
    what: Tensor  # (B, HW, A) z_what


class Latents(NamedTuple):
    """Posterior and latents of each cell (section 4.3), in raster order; means and stds are those of normals."""

    where_mean: Tensor  # (B, HW, 4) of z_y, z_x, z_h, z_w
    where_std: Tensor  # (B, HW, 4)
    z_where: Tensor  # (B, HW, 4)
    boxes: Tensor  # (B, HW, 4) xyxy, pixels; z_where by equations 2 to 6
    depth_mean: Tensor  # (B, HW, 1)
    depth_std: Tensor  # (B, HW, 1)
    z_depth: Tensor  # (B, HW, 1)
    presence_logit: Tensor  # (B, HW, 1) of beta_pres
    presence: Tensor  # (B, HW, 1) z_pres: Concrete in training, else rounded
    what_mean: Tensor  # (B, HW, A)
    what_std: Tensor  # (B, HW, A)
    z_what: Tensor  # (B, HW, A)

    @property
    def objects(self) -> Objects:
        """What they draw."""
        return Objects(self.boxes, self.presence, self.presence_logit.sigmoid(), self.z_depth, self.z_what)


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
        backbone_channels: Filters of e_conv (S D.2).
        backbone_features: Features that it yields for each cell (S D.2).
        backbone_strides: Strides of its first layers. The code's later version has [3, 2, 2], at half the cost.
        backbone_kernel: Kernel of its last three layers; 2 in the code's runs of figures 6 and 7 and table 1.
        lateral_hidden: Hidden layers of e_lat.
        lookback: How far lateral connections reach, in cells; 0, none, is in the ablation (section 5.5).
        encoder_hidden: Hidden layers of e_obj.
        decoder_hidden: Hidden layers of d_obj.
        color_logit_scale: Factor on the decoder's colour logits (the code; 1 in its runs of table 1).
        alpha_logit_scale: Factor on its alpha logits (likewise).
        alpha_logit_bias: Added to the alpha logits: objects start opaque (the code; 1 in its runs of table 1).
        temperature: Of the Concrete presence (the code).
        color_edge: Colours that are drawn beyond a patch's outermost texel centres: "repeat", those of the edge, so
            that alpha alone fades; "zeros", fading too (Algorithm 1 taken literally; on black, the code), which darkens
            edges on bright backgrounds.
        background: "black"; "mode", the most frequent colour of the training images; "learned", one colour; "mlp", a
            colour for each image.
        position_prior: Mean and std of z_y, z_x.
        size_prior: Mean and std of z_h, z_w.
        depth_prior: Mean and std of z_depth.
        what_prior: Mean and std of z_what.
        count_prior_odds: (1 - s) / s of the geometric prior on the count; the default goes from no penalty to
            s = 0.988 in some 8000 steps (S D.2 and the code).
        lr: Adam's learning rate.
        max_grad_norm: Largest norm of the gradient.
    """

    schedules = ("lr", "count_prior_odds")
    elbo_terms = ("reconstruction", "kl_position", "kl_size", "kl_depth", "kl_what", "kl_presence")

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
        lateral_hidden: tuple[int, ...] = (100, 100),
        lookback: int = 1,
        encoder_hidden: tuple[int, ...] = (512, 256),
        decoder_hidden: tuple[int, ...] = (256, 512),
        color_logit_scale: float = 2.0,
        alpha_logit_scale: float = 0.1,
        alpha_logit_bias: float = 5.0,
        temperature: float = 1.0,
        color_edge: str = "repeat",
        background: str = "black",
        position_prior: tuple[float, float] = (0.0, 1.0),
        size_prior: tuple[float, float] = (-2.2, 0.5),
        depth_prior: tuple[float, float] = (0.0, 1.0),
        what_prior: tuple[float, float] = (0.0, 1.0),
        count_prior_odds: Schedule = [1e6, 0.0125, 1000, "exponential"],  # noqa: B006 (never changed)
        lr: Schedule = 1e-4,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check(self.hp)
        self.check_schedules(count_prior_odds=POSITIVE)
        self.backbone = GridBackbone(
            channels, backbone_channels, backbone_features, backbone_strides, final_kernel=backbone_kernel
        )
        if self.backbone.cell_size != cell_size:
            raise ValueError(f"the product of backbone_strides={list(backbone_strides)} must be cell_size={cell_size}")
        object_dim = 4 + what_dim + 2  # where, what, depth and presence of an object as its neighbours see it
        self.lateral = mlp(backbone_features + num_neighbors(lookback) * object_dim, lateral_hidden, 8 + 2 + 1)
        self.edge = nn.Parameter(torch.zeros(object_dim))
        self.encoder = mlp(channels * object_size**2, encoder_hidden, 2 * what_dim)
        self.decoder = mlp(what_dim, decoder_hidden, (channels + 1) * object_size**2)
        self.background = ColorBackground(background, channels)
        for module in self.modules():  # Glorot weights and zero biases, as the code has
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def setup(self, stage: str) -> None:
        """Find the training images' most frequent colour, where the background is that (section 4.4)."""
        if stage == "fit" and self.hp.background == "mode":
            data = getattr(self.trainer, "datamodule", None)
            if data is None:
                raise ValueError("background: mode needs a datamodule to look at; background: learned does without one")
            self.background.fit(torch.cat([batch["image"] for batch in islice(data.train_dataloader(), 8)]))

    # inference: sections 4.3 and 4.1

    def infer(self, image: Tensor, noise: Noise) -> Latents:
        """Encode (B, C, H, W) images in [0, 1], each cell after its neighbours; z = mean + std * noise.

        Raises:
            ValueError: An image is smaller than a cell, or is none (`check_image`).
        """
        hp = self.hp
        self.check_image(image)
        if min(image.shape[-2:]) < hp.cell_size:
            raise ValueError(f"images of {tuple(image.shape[-2:])} px are smaller than a cell of {hp.cell_size} px")
        features = self.backbone(image.contiguous(memory_format=torch.channels_last))
        rows, columns = features.shape[-2:]
        features = rearrange(features, "b f i j -> b (i j) f")
        cells = box_ops.grid_cells(rows, columns, image.device).expand(image.shape[0], -1, -1)
        edge = torch.cat([self.edge[:4].sigmoid(), self.edge[4:-2], self.edge[-2:].sigmoid()])

        def step(inputs: tuple[Tensor, ...], context: Tensor) -> tuple[Tensor, Latents]:
            feature, cell, *eps = inputs
            return self._infer_cells(image, torch.cat([feature, context.flatten(2)], -1), cell, Noise(*eps))

        return Latents(*encode_in_waves(step, (features, cells, *noise), edge, rows, columns, hp.lookback))

    def _infer_cells(self, image: Tensor, seen: Tensor, cell: Tensor, noise: Noise) -> tuple[Tensor, Latents]:
        """Objects of some cells, as their neighbours see them (B, n, 4 + A + 2), and their latents.

        Args:
            image: (B, C, H, W).
            seen: (B, n, .), what e_lat reads: the cells' features and the objects around them.
            cell: (B, n, 2), their rows and columns.
            noise: Of these cells.
        """
        hp = self.hp
        where_raw, depth_raw, presence_logit = self.lateral(seen).split([8, 2, 1], -1)
        where_mean, where_std = _mean_std(where_raw)
        z_where = where_mean + where_std * noise.where
        depth_mean, depth_std = _mean_std(depth_raw)
        z_depth = depth_mean + depth_std * noise.depth
        presence = distributions.relaxed_bernoulli(presence_logit, noise.presence, hp.temperature)
        if not self.training:
            presence = presence.round()

        offset, size = box_ops.where_to_cell_offsets(z_where, hp.center_bounds)
        boxes = box_ops.cell_offsets_to_boxes(offset, size, cell, (hp.cell_size,) * 2, (hp.anchor,) * 2)
        what_mean, what_std = _mean_std(self.encoder(extract_glimpses(image, boxes, hp.object_size).flatten(2)))
        z_what = what_mean + what_std * noise.what

        return torch.cat([offset, size, z_what, z_depth.sigmoid(), presence], -1), Latents(
            where_mean=where_mean, where_std=where_std, z_where=z_where, boxes=boxes,
            depth_mean=depth_mean, depth_std=depth_std, z_depth=z_depth,
            presence_logit=presence_logit, presence=presence,
            what_mean=what_mean, what_std=what_std, z_what=z_what,
        )  # fmt: skip

    def draw_noise(self, image: Tensor, sample: bool) -> Noise:
        """Noise for the latents of (B, C, H, W) images; zeros unless `sample`, which yield the posterior's means."""
        hp = self.hp
        B, _, H, W = image.shape
        N = -(-H // hp.cell_size) * -(-W // hp.cell_size)
        if not sample:
            return Noise(*(image.new_zeros(B, N, dim) for dim in (4, 1, hp.what_dim, 1)))
        like: dict[str, Any] = {"device": image.device, "dtype": image.dtype}
        where, depth, what = (torch.randn(B, N, dim, **like) for dim in (4, 1, hp.what_dim))
        return Noise(where, depth, what, presence=distributions.logistic_noise(B, N, 1, **like))

    # generation: section 4.4 and supplement C

    def decode(self, what: Tensor) -> tuple[Tensor, Tensor]:
        """d_obj: colours (B, N, C, P, P) and alpha (B, N, P, P), both in (0, 1), of z_what (B, N, A)."""
        hp = self.hp
        P = hp.object_size
        logits = rearrange(self.decoder(what), "b n (c p q) -> b n c p q", p=P, q=P)
        color, alpha = logits.split([hp.channels, 1], 2)
        color, alpha = hp.color_logit_scale * color, hp.alpha_logit_scale * alpha[:, :, 0] + hp.alpha_logit_bias
        return color.sigmoid(), alpha.sigmoid()

    def importance(self, opacity: Tensor, depth: Tensor) -> Tensor:
        """Importance gamma (S C): (B, N, P, P) of alpha times presence, (B, N, P, P), and z_depth, (B, N, 1)."""
        return opacity * (-depth[..., None]).sigmoid()

    def render(self, objects: Objects, color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Draw the objects, of colours and alpha as `decode` has them, by Algorithm 1: (B, C, H, W)."""
        opacity = alpha * objects.presence[..., None]
        maps = (color, opacity, self.importance(opacity, objects.depth))
        size = (self.hp.anchor, self.hp.anchor)
        return render(*maps, objects.boxes, background, max_size=size, color_edge=self.hp.color_edge)

    # training: section 4.5

    def log_likelihood(self, image: Tensor, mean: Tensor) -> Tensor:
        """Of each value of (B, C, H, W) images, independent Bernoullis (section 4.4), in nats."""
        return distributions.bernoulli_log_likelihood(image, mean)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the negative ELBO, in nats per image (equation 1; presence as in S B)."""
        hp = self.hp
        image = batch["image"]
        q = self.infer(image, self.draw_noise(image, sample=True))
        mean = self.render(q.objects, *self.decode(q.z_what), self.background(image))
        position_mean, size_mean = q.where_mean.split(2, -1)
        position_std, size_std = q.where_std.split(2, -1)
        table = presence_prior_logits(q.presence.shape[1], self.scheduled("count_prior_odds")).to(image.device)
        prior_logits = presence_history_logits(table, q.presence[..., 0])

        def per_image(divergence: Tensor) -> Tensor:
            return (q.presence * divergence).sum() / image.shape[0]  # what an absent object is like costs nothing

        return {
            "reconstruction": -self.log_likelihood(image, mean).sum() / image.shape[0],
            "kl_position": per_image(distributions.kl_normal(position_mean, position_std, *hp.position_prior)),
            "kl_size": per_image(distributions.kl_normal(size_mean, size_std, *hp.size_prior)),
            "kl_depth": per_image(distributions.kl_normal(q.depth_mean, q.depth_std, *hp.depth_prior)),
            "kl_what": per_image(distributions.kl_normal(q.what_mean, q.what_std, *hp.what_prior)),
            "kl_presence": distributions.kl_bernoulli(q.presence_logit[..., 0], prior_logits).sum() / image.shape[0],
        }

    # use

    def forward(self, image: Tensor) -> Scene:
        """Detect the objects of (B, C, H, W) images in [0, 1]; slots are the grid's cells in raster order."""
        background = self.background(image)
        return self._scene(self.infer(image, self.draw_noise(image, sample=False)).objects, background)

    def _scene(self, objects: Objects, background: Tensor) -> Scene:
        color, alpha = self.decode(objects.what)
        cover, least = self.cover(color, alpha, background)
        opacity, cover = alpha * objects.presence[..., None], cover * objects.presence[..., None]
        maps, (H, W) = (self.importance(opacity, objects.depth), cover), background.shape[-2:]
        return Scene(
            reconstruction=self.render(objects, color, alpha, background),
            boxes=self.bounds(objects, color, alpha, background),
            presence=objects.probability[..., 0],
            what=objects.what,
            mask=instance_mask(
                *maps, objects.presence[..., 0], objects.boxes, (H, W), least, (self.hp.anchor, self.hp.anchor)
            ),
            depth=objects.depth[..., 0],
            background=background,
            attention_boxes=objects.boxes,
        )

    def bounds(self, objects: Objects, color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Boxes that objects are reported to have, (B, N, 4): the paper's are those that they are drawn in."""
        return objects.boxes

    def cover(self, color: Tensor, alpha: Tensor, background: Tensor) -> tuple[Tensor, float]:
        """How much of an object is in each texel, (B, N, P, P), and from how much on a pixel is the object's.

        A pixel's object is the one of largest importance times cover. By alpha it is what it shows half of, or more.
        """
        return alpha, 0.5

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
        objects = Objects(
            boxes=box_ops.cell_offsets_to_boxes(offset, size, cells, (hp.cell_size,) * 2, (hp.anchor,) * 2),
            presence=presence,
            probability=presence,
            depth=normal(1, hp.depth_prior),
            what=normal(hp.what_dim, hp.what_prior),
        )
        behind = self.background.draw((B, hp.channels, H, W), self.device, generator, background)
        return self._scene(objects, behind.to(dtype))


def _mean_std(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Halves of the last dimension as mean and std in (0, 2), away from 0 where a divergence is infinite (the code)."""
    mean, spread = raw.chunk(2, -1)
    return mean, 2 * spread.clamp(-10, 10).sigmoid()


def _check(hp: Any) -> None:
    """Raise ValueError for hyperparameters that cannot work, naming the cause and the fix."""
    settings.check_choices(hp, channels=(1, 3), lookback=(0, 1, 2), color_edge=COLOR_EDGES, background=BACKGROUNDS)
    settings.check_above_zero(hp, "temperature", "anchor", "object_size", "what_dim", "max_grad_norm")
    settings.check_normals(hp, "position_prior", "size_prior", "depth_prior", "what_prior")
    if not hp.center_bounds[0] < hp.center_bounds[1]:
        raise ValueError(f"center_bounds must be [min, max] with min below max, got {hp.center_bounds!r}")
