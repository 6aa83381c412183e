"""One training step of AIR: forward, losses, backward, clipping, Adam; against the straightforward form.

python tests/benchmarks/bench_air.py [--device cuda] [--threads 1] [--repeats 10]

64 images of 50x50 pixels, 3 steps. Straightforward is the same model and weights, but its LSTM is PyTorch's cell, which
reads image and latents anew at each step, and its objects are pasted one by one onto canvases of the image's size by
`grid_sample`. Both yield the same loss; that is checked first. Rates are of median
times, both forms taking turns.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from unittest.mock import patch

import timing  # first: it makes `straightforward` importable
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo.models.air
from zoo.layers.recurrent import ImageLSTM, State
from zoo.models.air import AIR

BATCH, PIXELS, STEPS = 64, 50, 3
NETWORKS = {
    "quick": {
        "gradient": "concrete",
        "num_scales": 2,
        "object_size": 20,
        "encoder_hidden": (512, 256),
        "decoder_hidden": (256, 512),
    },  # configs/recipes/quick/air.yaml
    "paper, concrete": {"gradient": "concrete"},  # configs/experiments/air/concrete.yaml
    "paper": {},  # configs/air.yaml
}


def add_up(patches: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """One `grid_sample` for each object, whose full canvas is added (as in most programs)."""
    B, N, C = patches.shape[:3]
    H, W = image_size
    canvas = patches.new_zeros(B, C, H, W)
    for n in range(N):
        x1, y1, x2, y2 = boxes[:, n].unbind(-1)
        zero = torch.zeros_like(x1)
        # the inverse map, from canvas to patch: scales W / w, H / h; both run from -1 to 1
        row_x = torch.stack([W / (x2 - x1), zero, (W - x1 - x2) / (x2 - x1)], -1)
        row_y = torch.stack([zero, H / (y2 - y1), (H - y1 - y2) / (y2 - y1)], -1)
        grid = F.affine_grid(torch.stack([row_x, row_y], 1), [B, C, H, W], align_corners=False)
        canvas = canvas + F.grid_sample(patches[:, n], grid, align_corners=False)
    return canvas


class PlainLSTM(nn.LSTMCell):
    """PyTorch's cell on the concatenation of image and features, with the weights of an `ImageLSTM`."""

    def __init__(self, cell: ImageLSTM) -> None:
        pixels, hidden = cell.image.in_features, cell.start.shape[1]
        features = cell.rest.in_features - hidden
        super().__init__(pixels + features, hidden)
        self.start = cell.start
        with torch.no_grad():
            self.weight_ih.copy_(torch.cat([cell.image.weight, cell.rest.weight[:, :features]], 1))
            self.weight_hh.copy_(cell.rest.weight[:, features:])
            self.bias_ih.copy_(cell.image.bias)
            self.bias_hh.zero_()

    begin = ImageLSTM.begin

    def read(self, image: Tensor) -> Tensor:
        """Nothing can be prepared: the flat image itself."""
        return image.flatten(1)

    def forward(self, image: Tensor, features: Tensor, state: State) -> tuple[Tensor, State]:
        """One step."""
        state = super().forward(torch.cat([image, features], -1), state)
        return state[0], state


def make_step(network: str, form: str, device: str) -> Callable[[], Tensor]:
    """A training step of a fresh model on random images, in a given form; yields the loss."""
    torch.manual_seed(0)
    model = AIR(**NETWORKS[network], image_size=PIXELS, num_steps=STEPS)
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    if form == "straight":
        model.cell = PlainLSTM(model.cell)
        if model.baseline is not None:
            model.baseline.lstm = PlainLSTM(model.baseline.lstm)
        context = partial(patch.object, zoo.models.air, "add_up", add_up)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    image = torch.rand(BATCH, 1, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> Tensor:
        with context():
            loss = torch.stack(list(model.losses({"image": image}).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for network in NETWORKS:
        steps = {form: make_step(network, form, args.device) for form in ("zoo", "straight")}
        losses = []
        for step in steps.values():
            torch.manual_seed(1)
            losses.append(step())
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
        seconds = timing.interleaved_seconds(steps, args.repeats, args.device)
        rates = [f"{1 / seconds[form]:.1f}" for form in steps]
        rows.append([network, *rates, f"{seconds['straight'] / seconds['zoo']:.1f}"])
    timing.print_table(("network", "steps/s", "straight", "faster"), rows)


if __name__ == "__main__":
    main()
