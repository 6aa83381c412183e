"""The renderer and glimpses alone, forward and backward, against their straightforward forms.

python tests/benchmarks/bench_layers.py [--device cuda] [--threads 1] [--repeats 5]

Straightforward is `grid_sample` of every object onto a canvas of the image's size, mixed as in Algorithm 1, and, for
glimpses, a copy of the image for each object. Three channels, patches of 14 x 14. Times are medians, both forms taking
turns. Memory is the peak that one call adds, gradients included, each form in a process of its own.
"""

import argparse
from collections.abc import Callable

import timing  # first: it makes `straightforward` importable
import torch
from straightforward import extract_glimpses as straightforward_glimpses
from straightforward import render as straightforward_render

from zoo.layers.glimpses import extract_glimpses
from zoo.layers.renderer import render

SIZES = {48: (32, 16), 84: (32, 49), 128: (8, 121)}  # pixels: (images, objects)
BOXES = {"typical": (10.0, 20.0), "worst": (48.0, 48.0)}  # least and largest side in pixels; the anchor is 48
LAYERS = ("exact", "premultiplied", "glimpses")
PATCH, CHANNELS = 14, 3


def make_call(layer: str, form: str, pixels: int, boxes: str, device: str) -> Callable[[], tuple[torch.Tensor, ...]]:
    """A forward and backward pass of a layer, in one of its forms, on the same random objects."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).to(device).requires_grad_()

    B, N = SIZES.get(pixels, (1, 2))
    least, most = BOXES[boxes]
    center = pixels * torch.rand(B, N, 2, generator=generator)
    half = (least + (most - least) * torch.rand(B, N, 2, generator=generator)) / 2
    box = torch.cat([center - half, center + half], -1).to(device).requires_grad_()
    image = random(B, CHANNELS, pixels, pixels)
    if layer == "glimpses":
        leaves: tuple[torch.Tensor, ...] = (image, box)
        glimpse = extract_glimpses if form == "zoo" else straightforward_glimpses
        function = lambda: glimpse(image, box, PATCH)  # noqa: E731
    else:
        maps = random(B, N, CHANNELS, PATCH, PATCH), random(B, N, PATCH, PATCH), random(B, N, PATCH, PATCH)
        leaves = (*maps, box, image)
        if form == "zoo":
            function = lambda: render(*leaves, layer, max_size=(most, most))  # noqa: E731
        else:  # premultiplied is to save time: it, too, is measured against Algorithm 1
            function = lambda: straightforward_render(*leaves, "exact")  # noqa: E731

    def call() -> tuple[torch.Tensor, ...]:
        out = function()
        return out.detach(), *torch.autograd.grad(out.square().sum(), leaves)

    return call


def main() -> None:
    """Print a row for each layer, image size and choice of boxes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", nargs=4, metavar=("LAYER", "FORM", "PIXELS", "BOXES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        layer, form, pixels, boxes = args.memory_of
        call = make_call(layer, form, int(pixels), boxes, args.device)
        make_call(layer, form, 8, boxes, args.device)()  # libraries load on the first call
        print(timing.peak_extra_mib(call, args.device))
        return

    def memory(layer: str, form: str, pixels: int, boxes: str) -> float:
        own = ["--device", args.device, "--threads", str(args.threads), "--memory-of", layer, form, str(pixels), boxes]
        return timing.in_own_process(__file__, own)

    rows = []
    for layer in LAYERS:
        for pixels, (B, N) in SIZES.items():
            for boxes, (least, most) in BOXES.items():
                calls = {form: make_call(layer, form, pixels, boxes, args.device) for form in ("zoo", "straight")}
                if layer != "premultiplied":  # a benchmark of something else would be none
                    for ours, reference in zip(calls["zoo"](), calls["straight"](), strict=True):
                        assert (ours - reference).norm() <= 1e-3 * reference.norm()
                seconds = timing.interleaved_seconds(calls, args.repeats, args.device)
                mib = {form: memory(layer, form, pixels, boxes) for form in calls}
                rows.append(
                    [
                        layer,
                        f"{pixels} px, {B} x {N}",
                        f"{least:.0f}" if least == most else f"{least:.0f}-{most:.0f}",
                        *(f"{1000 * seconds[form]:.1f}" for form in calls),
                        f"{seconds['straight'] / seconds['zoo']:.1f}",
                        *(f"{mib[form]:.0f}" for form in calls),
                        f"{mib['straight'] / max(mib['zoo'], 0.1):.1f}",
                    ]
                )
    timing.print_table(
        ("layer", "image, B x N", "boxes px", "ms", "straight", "faster", "MiB", "straight", "smaller"), rows
    )


if __name__ == "__main__":
    main()
