"""One training step of AST-Seg: forward, losses, backward, Adam; and the segmentation of an image.

python tests/benchmarks/bench_ast_seg.py [--device cuda] [--threads 1] [--repeats 3]

Straightforward is the same model and weights, but each object's colours and mask are pasted by `grid_sample` onto
canvases of the image's size, for all images at once. Both yield the same loss; that is checked first. Phase 2 has the
background at hand, phase 3 trains its network too. Times are medians, the forms taking turns.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo.models.ast_seg_recipe
from zoo.layers.compositing import CompositeLosses
from zoo.models import ASTSegRecipe

LARGE = {"image_size": 128, "num_slots": 10, "pretrained": False}
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {  # settings and images
    "quick": (  # of configs/recipes/quick/ast_seg.yaml
        {
            "image_size": 64,
            "num_slots": 10,
            "backbone": "unet",
            "unet_channels": (16, 32, 64, 96),
            "unet_stride": 4,
            "unet_position": True,
            "see_background": True,
            "attended_color": True,
            "encoder_layers": 2,
            "encoder_dim": 128,
            "encoder_hidden": 256,
            "encoder_dropout": 0.0,
            "glimpse_size": 32,
            "background_form": "simple",
            "background_code_dim": 6,
            "background_width": 0.25,
        },
        16,
    ),
    "B0": ({**LARGE, "segformer": "nvidia/mit-b0"}, 8),
    "B3": ({**LARGE, "segformer": "nvidia/mit-b3"}, 8),
    "U-Net": ({**LARGE, "backbone": "unet"}, 8),
}


def composite_losses(
    image: Tensor,
    color: Tensor,
    mask: Tensor,
    log_activation: Tensor,
    boxes: Tensor,
    background: Tensor,
    background_log_activation: Tensor,
    layer_error: float = 0.0,
) -> CompositeLosses:
    """Algorithm 2 and equations 19 to 21 as they stand."""
    B, K, C = color.shape[:3]
    H, W = image.shape[-2:]
    x1, y1, x2, y2 = boxes.flatten(0, 1).unbind(-1)
    zero = torch.zeros_like(x1)
    row_x = torch.stack([W / (x2 - x1), zero, (W - x1 - x2) / (x2 - x1)], -1)
    row_y = torch.stack([zero, H / (y2 - y1), (H - y1 - y2) / (y2 - y1)], -1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), [B * K, C + 1, H, W], align_corners=False)
    maps = torch.cat([color, mask[:, :, None]], 2).flatten(0, 1)
    pasted = F.grid_sample(maps, grid, align_corners=False).unflatten(0, (B, K))
    layers = torch.cat([background[:, None], pasted[:, :, :C]], 1)
    masks = torch.cat([torch.ones(B, 1, H, W, device=image.device), pasted[:, :, C]], 1)
    activation = torch.cat([background_log_activation.expand(B, 1), log_activation], 1).exp()
    weights = activation[..., None, None] * masks
    weights = weights / weights.sum(1, keepdim=True)
    error = ((weights[:, :, None] * layers).sum(1) - image).abs().sum(1)
    entropy = (weights * (weights + 1e-20).log()).sum(1)
    count = (400 * weights[:, 1:].mean((2, 3))).log1p().sum(1)
    return CompositeLosses(error.square().mean(), entropy.square().mean(), count.mean())


def straightforward_form() -> AbstractContextManager[object]:
    """Within it, AST-Seg composites literally."""
    return patch.object(zoo.models.ast_seg_recipe, "composite_losses", composite_losses)


def make_step(
    network: str, phase: int, device: str
) -> Callable[[Callable[[], AbstractContextManager[object]]], Tensor]:
    """A training step of a fresh model on random images, in a given form; yields the loss."""
    settings, batch = NETWORKS[network]
    torch.manual_seed(0)
    model = ASTSegRecipe(**settings, background="", frozen_steps=10**6 if phase == 2 else 0).to(device)
    optimizer = model.configure_optimizers()["optimizer"]
    image = torch.rand(batch, 3, settings["image_size"], settings["image_size"]).to(device)

    def step(form: Callable[[], AbstractContextManager[object]]) -> Tensor:
        with form():
            terms = model.losses({"image": image, "background": 1 - image})
            loss = terms["reconstruction"] + 0.01 * terms["entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def make_inference(network: str, device: str) -> Callable[[], object]:
    """Scenes of a batch of random images."""
    settings, batch = NETWORKS[network]
    model = ASTSegRecipe(**settings).to(device).eval()
    image = torch.rand(batch, 3, settings["image_size"], settings["image_size"]).to(device)

    def see() -> object:
        with torch.no_grad():
            return model(image)

    return see


def main() -> None:
    """Print a row for each network and phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--memory-of", nargs=3, metavar=("FORM", "NETWORK", "PHASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    forms = {"zoo": nullcontext, "straight": straightforward_form}
    if args.memory_of:
        form, network, phase = args.memory_of
        make_step("quick", 2, args.device)(forms[form])  # libraries load on the first call
        step = make_step(network, int(phase), args.device)
        print(timing.peak_extra_mib(lambda: step(forms[form]), args.device))
        return

    rows = []
    for network in args.networks:
        batch = NETWORKS[network][1]
        images = f"{NETWORKS[network][0]['image_size']} px, batch {batch}"
        seconds = timing.interleaved_seconds({"see": make_inference(network, args.device)}, args.repeats, args.device)
        inference = f"{1000 * seconds['see'] / batch:.1f}"
        for phase in (2, 3):
            losses = []
            for form in forms.values():
                step = make_step(network, phase, args.device)
                torch.manual_seed(1)
                losses.append(step(form))
            torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
            calls = {name: lambda form=form, step=step: step(form) for name, form in forms.items()}
            seconds = timing.interleaved_seconds(calls, args.repeats, args.device)
            options = ["--device", args.device, "--threads", str(args.threads)]
            mib = {
                form: timing.in_own_process(__file__, [*options, "--memory-of", form, network, str(phase)])
                for form in forms
            }
            rows.append(
                [
                    f"{network}, phase {phase}",
                    images,
                    *(f"{1000 * seconds[form]:.0f}" for form in forms),
                    f"{seconds['straight'] / seconds['zoo']:.2f}",
                    *(f"{mib[form]:.0f}" for form in forms),
                    inference,
                ]
            )
    header = ("network", "images", "ms a step", "straight", "faster", "MiB", "straight", "ms to see an image")
    timing.print_table(header, rows)


if __name__ == "__main__":
    main()
