"""Backgrounds by a robust autoencoder (Sauvalle and de La Fortelle 2021), AST-Seg's background model.

An autoencoder whose code is too small for objects, with a loss that gives up on pixels that it reconstructs badly: what
remains is the background. A further output channel predicts the error, so that noisy backgrounds are told from objects.
"The program" is the authors', the background part of AST-Seg's and the earlier AE-NE. Differences:

- Images are in [0, 1] here; the constants in 255ths are the program's for 8-bit values, and the loss is the same.
- The weights' window follows the program, 2 (W // 75) + 1 pixels: at 64 px it is a single pixel.
- AdamW without weight decay, as the program has it, is Adam.
- The program trains the simple form first and goes on to the complex one where backgrounds change; here `form` says
  which, and `python -m zoo curriculum` chooses so (`background_change`).

`robust_rate` may rise, and `width` be below 1, for training that is short: see `zoo.models.background_ae_recipe`.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import Batch
from zoo import registry
from zoo.layers.boxes import trim_boxes
from zoo.layers.positional_autoencoder import IMAGE_SIZES, PositionalAutoencoder
from zoo.layers.schedules import Schedule
from zoo.models.base import ObjectModel
from zoo.scene import Scene
from zoo.sharing import weights


class BackgroundAE(ObjectModel):
    """A positional convolutional autoencoder that learns the background alone. Its one slot is the whole foreground.

    Args:
        channels: Image channels, 1 or 3.
        image_size: Side of the images in pixels, 64 or 128.
        form: "simple", for backgrounds that hardly change, or "complex"; see `background_change`.
        code_dim: Dimension of the code.
        width: Factor on the networks' channels; 1 is the paper's. A quarter learns on one CPU core.
        robust_scale: tau_1: an error, summed over channels, far above which a pixel is given up.
        robust_rate: beta: a pixel that is given up weighs e^-beta.
        smoothing: Error of a channel, in 255ths, from which the loss goes from quadratic to linear.
        noise_factor: alpha_2: so many times the predicted error are no foreground.
        foreground_threshold: alpha_1, in 255ths of the background's mean: a larger excess is foreground.
        lr: Adam's learning rate; a tenth for the last fifth of the paper's 500,000 steps.
        max_grad_norm: Largest norm of the gradient; null, as in the paper, for no limit.

    Raises:
        ValueError: A hyperparameter is out of its range.
    """

    schedules: tuple[str, ...] = ("lr", "robust_rate")
    training_terms = ("reconstruction", "error")
    background_at = ("net.", "")  # see `load_background`

    def __init__(
        self,
        *,
        channels: int = 3,
        image_size: int = 128,
        form: str = "complex",
        code_dim: int = 16,
        width: float = 1.0,
        robust_scale: float = 0.25,
        robust_rate: Schedule = 6.0,
        smoothing: float = 3.0,
        noise_factor: float = 7.0,
        foreground_threshold: float = 96.0,
        lr: Schedule = [2e-3, 2e-4, 400000, "step"],  # noqa: B006 (never changed)
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name in ("robust_scale", "smoothing", "foreground_threshold"):
            if not self.hp[name] > 0:
                raise ValueError(f"{name} must be above 0, got {self.hp[name]!r}")
        if noise_factor < 0:
            raise ValueError(f"noise_factor must be at least 0, got {noise_factor!r}")
        self.check_schedules()
        self.net = PositionalAutoencoder(channels, image_size, form, code_dim, width)

    @classmethod
    def image_limits(cls, init_args: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Square images of the sizes that there are networks for."""
        return {"image_size": IMAGE_SIZES}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The robust loss of the background and of the predicted error, means over pixels and images."""
        hp, image = self.hp, batch["image"]
        self.check_image(image)
        background, error = self.net(image)
        return robust_losses(
            self.target(image), background, error, hp.robust_scale, self.scheduled("robust_rate"), hp.smoothing
        )

    def target(self, image: Tensor) -> Tensor:
        """(B, C, H, W) images to what is to be drawn: the same."""
        return image

    def forward(self, image: Tensor) -> Scene:
        """The background of (B, C, H, W) images in [0, 1]; presence is 1 where there is any foreground."""
        hp = self.hp
        self.check_image(image)
        code = self.net.encode(image)
        background, error = self.net.decode(code)
        # the program's rule, meant for looking at
        excess = (image - background).abs().mean(1) - hp.noise_factor * error
        threshold = hp.foreground_threshold / 255 * background.mean((1, 2, 3))
        foreground = 3 * excess > threshold[:, None, None]
        H, W = image.shape[-2:]
        whole = image.new_tensor([0, 0, W, H]).expand(image.shape[0], 1, 4)
        return Scene(
            reconstruction=background,
            boxes=trim_boxes(whole, foreground[:, None].to(image.dtype), 0.5),
            presence=foreground.flatten(1).any(1, keepdim=True).to(image.dtype),
            what=code[:, None],
            mask=foreground.long(),
            background=background,
            error=error,
        )


def robust_losses(
    image: Tensor, background: Tensor, error: Tensor, scale: float = 0.25, rate: float = 6.0, smoothing: float = 3.0
) -> dict[str, Tensor]:
    """Reconstruction of the background and of its error, each pixel weighted by exp(-rate tanh(e / scale)).

    e is the pixel's smooth L1 error, summed over channels; its tanh is averaged over a small window before it weights,
    and the weights get no gradient.

    Args:
        image: (B, C, H, W) in [0, 1].
        background: (B, C, H, W) in [0, 1].
        error: (B, H, W) in [0, 1], the error predicted, a channel's mean.
        scale: tau_1 of the paper.
        rate: beta of the paper.
        smoothing: In 255ths.

    Returns:
        `reconstruction` and `error`, both ().
    """
    beta, C = smoothing / 255, image.shape[1]
    e = F.smooth_l1_loss(background, image, beta=beta, reduction="none").sum(1)  # (B, H, W)
    with torch.no_grad():
        window = 2 * (image.shape[-1] // 75) + 1
        lost = F.avg_pool2d((e / scale).tanh(), window, 1, window // 2, count_include_pad=False)
        weight = (-rate * lost).exp()
    wrong = F.smooth_l1_loss(error, e.detach() / C, beta=beta, reduction="none")
    return {"reconstruction": (weight * e).mean(), "error": (weight * wrong).mean()}


def background_change(background: Tensor, scale: float = 0.25) -> float:
    """How much backgrounds differ from their median: above 0.24 they call for the complex form (AE-NE's rule).

    Args:
        background: (N, C, H, W) in [0, 1], of the simple form after some 2000 steps.
        scale: tau_1 of the paper.

    Returns:
        Mean over images and pixels of tanh(L1 distance from the pixel's median / scale), in [0, 1).
    """
    distance = (background - background.median(0).values).abs().sum(1)
    return float((distance / scale).tanh().mean())


def load_background(network: PositionalAutoencoder, source: str) -> None:
    """Take over the weights of a trained background.

    Args:
        network: Takes them.
        source: A checkpoint's name, a run folder or a file, of a model whose class says by `background_at` how the
            names of its background's weights and of its hyperparameters begin.

    Raises:
        CheckpointError: There is no such checkpoint, its model has no background, or one of another form.
    """
    path = weights.find(source)
    record, state = weights.read(path)
    kind = registry.find_model(record["class"])
    if kind is None or not hasattr(kind, "background_at"):
        raise weights.CheckpointError(f"{path} holds a {record['class']}: background needs a BackgroundAE")
    prefix, own = kind.background_at
    try:
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    except RuntimeError as error:
        theirs = {name: record["init_args"].get(own + name) for name in ("form", "code_dim", "width")}
        wanted = ", ".join(f"background_{name}: {value}" for name, value in theirs.items())
        size = record["init_args"].get("image_size")
        raise weights.CheckpointError(
            f"the background in {path} is of another form: set model.init_args.image_size: {size}, {wanted}"
        ) from error
