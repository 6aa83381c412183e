"""One training step of SPAIR: forward, losses, backward, clipping, Adam; against the straightforward form.

python tests/benchmarks/bench_spair.py [--device cuda] [--threads 1] [--repeats 3]

Straightforward is the same model and weights, cells encoded one by one in raster order, and every object drawn onto a
canvas of the image's size by `grid_sample`. Both yield the same loss; that is checked first. Times are medians, both
forms taking turns.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import timing  # first: it makes `straightforward` importable
import torch
from straightforward import encode_in_waves, extract_glimpses, render

import zoo.models.spair
from zoo.models.spair import SPAIR

SIZES = {48: 32, 84: 32, 128: 8}  # pixels: images
NETWORKS = {
    "quick": {  # of configs/recipes/quick/spair.yaml
        "channels": 1,
        "backbone_strides": (3, 2, 2),
        "backbone_channels": 64,
        "encoder_hidden": (256, 128),
        "decoder_hidden": (128, 256),
    },
    "paper": {},
}


def straightforward_form() -> AbstractContextManager[object]:
    """Within it, SPAIR does without waves, windows and shared images."""
    return patch.multiple(
        zoo.models.spair, encode_in_waves=encode_in_waves, extract_glimpses=extract_glimpses, render=render
    )


def make_step(
    network: str, pixels: int, batch: int, device: str
) -> Callable[[Callable[[], AbstractContextManager[object]]], torch.Tensor]:
    """A training step of a fresh model on random images, in a given form; yields the loss."""
    torch.manual_seed(0)
    model = SPAIR(**NETWORKS[network]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    image = torch.rand(batch, model.hparams.channels, pixels, pixels).to(device)

    def step(form: Callable[[], AbstractContextManager[object]]) -> torch.Tensor:
        with form():
            loss = torch.stack(list(model.losses({"image": image}).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def main() -> None:
    """Print a row for each network and image size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", nargs=3, metavar=("FORM", "NETWORK", "PIXELS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    forms = {"zoo": nullcontext, "straight": straightforward_form}
    if args.memory_of:
        form, network, pixels = args.memory_of
        step = make_step(network, int(pixels), SIZES[int(pixels)], args.device)
        make_step(network, 24, 1, args.device)(forms[form])  # libraries load on the first call
        print(timing.peak_extra_mib(lambda: step(forms[form]), args.device))
        return

    rows = []
    for network in NETWORKS:
        for pixels, batch in SIZES.items():
            losses = []
            for form in forms.values():
                step = make_step(network, pixels, batch, args.device)
                torch.manual_seed(1)
                losses.append(step(form))
            torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
            calls = {name: lambda form=form, step=step: step(form) for name, form in forms.items()}
            seconds = timing.interleaved_seconds(calls, args.repeats, args.device)
            options = ["--device", args.device, "--threads", str(args.threads)]
            mib = {
                form: timing.in_own_process(__file__, [*options, "--memory-of", form, network, str(pixels)])
                for form in forms
            }
            rows.append(
                [
                    network,
                    f"{pixels} px, batch {batch}",
                    *(f"{1000 * seconds[form]:.0f}" for form in forms),
                    f"{seconds['straight'] / seconds['zoo']:.1f}",
                    *(f"{mib[form]:.0f}" for form in forms),
                    f"{mib['straight'] / max(mib['zoo'], 0.1):.1f}",
                ]
            )
    timing.print_table(("network", "image", "ms", "straight", "faster", "MiB", "straight", "smaller"), rows)


if __name__ == "__main__":
    main()
