"""GMAIR at 128 x 128 in the paper's setting: a training step, and detection; against the straightforward form.

python tests/benchmarks/bench_gmair.py [--device cuda] [--threads 1] [--repeats 3] [--batch 16] [--present 6]

A training step is forward, the seven loss terms, backward and Adam. It is measured twice: with all 256 cells of an
image present, as in the first steps; and with as many as there are objects, as from then on, when cells of less
presence than 1e-3 are left out (`negligible_presence`; here they have 1e-7, and a normal likelihood). Straightforward
is the same model and weights as the authors' program is built: every object is drawn onto a canvas of the image's size
by `grid_sample`, once for the image and once for the overlap loss, glimpses are read from a copy of the image for
each, and all objects are decoded at once. Detection is of boxes and categories; straightforward, it draws the image on
the way and trims box by box. Both forms yield the same loss and the same boxes; that is checked first. Times are
medians, all forms taking turns. Memory is the peak that one step adds, each form in a process of its own.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import timing  # first: it makes `straightforward` importable
import torch
from straightforward import extract_glimpses, render
from straightforward_overlap import overlap

import zoo.models.gmair
from zoo.layers.glimpse_decoder import GlimpseDecoder
from zoo.models.gmair import GMAIR
from zoo.models.gmair_recipe import GMAIRRecipe
from zoo.models.gmair_scenes import visible

PIXELS = 128
_LEAST_MIB = 50  # less does not show beside what is held already
FORMS = ("zoo", "zoo bf16", "straight")


def decode_at_once(self: GlimpseDecoder, code: torch.Tensor) -> torch.Tensor:
    """All objects, all activations kept."""
    texels = self.expand(code).flatten(0, -2)[..., None, None]
    return self.net(texels).unflatten(0, code.shape[:-1])


def in_form(form: str) -> AbstractContextManager[object]:
    """Within it, GMAIR draws, reads and decodes in this form."""
    if form != "straight":
        return nullcontext()
    return patch.multiple(zoo.models.gmair, render=render, extract_glimpses=extract_glimpses, overlap=overlap)


def make_model(form: str, device: str, present: int | None) -> GMAIR:
    """A model with the same weights in every form, which finds so many objects in an image; null: as it comes."""
    torch.manual_seed(0)
    sparse = {} if present is None else {"likelihood": "normal"}
    if present is not None and form != "straight":
        sparse["negligible_presence"] = 1e-3
    model = GMAIRRecipe(channels=1, **sparse).to(device)
    if present is not None:

        def choose(_: object, __: object, logit: torch.Tensor) -> torch.Tensor:
            rank = torch.rand(logit.shape, generator=torch.Generator().manual_seed(2)).flatten(1).argsort(1).argsort(1)
            return logit + torch.where(rank < present, 16.0, -16.0).view(logit.shape).to(logit)

        model.heads["presence"].register_forward_hook(choose)
    if form == "straight":
        model.decoder.forward = decode_at_once.__get__(model.decoder)
        model.decoder.to(memory_format=torch.contiguous_format)
    return model


def make_step(form: str, pixels: int, batch: int, device: str, present: int | None) -> Callable[[], torch.Tensor]:
    """A training step on random images; yields the loss."""
    model = make_model(form, device, present)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    image = torch.rand(batch, 1, pixels, pixels, generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> torch.Tensor:
        with in_form(form), torch.autocast(device, torch.bfloat16, enabled=form == "zoo bf16"):
            terms = model.losses({"image": image})
            loss = model._total(terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def make_detection(form: str, batch: int, device: str, present: int | None) -> Callable[[], torch.Tensor]:
    """Detection in random images; yields the boxes, of all cells or of those that are present, sorted."""
    model = make_model(form, device, present).eval()
    image = torch.rand(batch, 1, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0)).to(device)

    @torch.no_grad()
    def detect() -> torch.Tensor:
        if form != "straight":
            found = model.detect(image, 0.0 if present is None else 0.5)
            return found["boxes"] if present is None else found["boxes"].flatten(0, 1).sort(0).values
        with in_form(form):
            objects = model.infer(image, None)[1]
            color, alpha = model.decode(objects["z_what"])
            background = model.background(image)
            model.render(objects, color, alpha, background)
            boxes = trim(objects["boxes"], visible(color, alpha), model.hp.trim_threshold)
            return boxes if present is None else boxes[objects["presence"][..., 0] >= 0.5].sort(0).values

    return detect


def trim(boxes: torch.Tensor, visible: torch.Tensor, threshold: float) -> torch.Tensor:
    """Trimming box by box."""
    trimmed = boxes.clone()
    P = visible.shape[-1]
    for box, patch_ in zip(trimmed.view(-1, 4), visible.flatten(0, 1), strict=True):
        rows = (patch_.amax(1) >= threshold).nonzero()
        columns = (patch_.amax(0) >= threshold).nonzero()
        if len(rows):
            corner, size = box[:2].clone(), (box[2:] - box[:2]) / P
            low = torch.stack([columns[0, 0], rows[0, 0]])
            high = torch.stack([columns[-1, 0], rows[-1, 0]]) + 1
            box[:2], box[2:] = corner + low * size, corner + high * size
    return trimmed


def main() -> None:
    """Print a row for training and one for detection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--present", type=int, default=6, help="objects in an image, of 256 cells")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--all", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        present = None if args.all else args.present
        step = make_step(args.memory_of, PIXELS, args.batch, args.device, present)
        make_step(args.memory_of, 32, 2, args.device, present)()  # libraries load on the first call
        print(timing.peak_extra_mib(step, args.device))
        return
    header = ("cells", "form", "step s", "faster", "MiB", "smaller", "detection ms an image", "faster")
    timing.print_table(header, [*rows_of(args, None), *rows_of(args, args.present)])


def rows_of(args: argparse.Namespace, present: int | None) -> list[list[str]]:
    """A row for each form."""

    def seconds_of(make: Callable[[str], Callable[[], torch.Tensor]], tolerance: float) -> dict[str, float]:
        calls = {form: make(form) for form in FORMS}
        results = []
        for form in ("zoo", "straight"):
            torch.manual_seed(1)
            results.append(calls[form]())
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
        return timing.interleaved_seconds(calls, args.repeats, args.device)

    step = seconds_of(lambda form: make_step(form, PIXELS, args.batch, args.device, present), 1e-4)
    detection = seconds_of(lambda form: make_detection(form, args.batch, args.device, present), 1e-2)
    options = ["--device", args.device, "--threads", str(args.threads), "--batch", str(args.batch)]
    options += ["--all"] if present is None else ["--present", str(present)]
    mib = {form: timing.in_own_process(__file__, [*options, "--memory-of", form]) for form in FORMS}
    return [
        [
            "all" if present is None else f"{present} of 256",
            form,
            f"{step[form]:.2f}",
            f"{step['straight'] / step[form]:.1f}",
            f"{mib[form]:.0f}",
            f"{mib['straight'] / mib[form]:.1f}" if mib[form] > _LEAST_MIB else f"> {mib['straight'] / _LEAST_MIB:.0f}",
            f"{1000 * detection[form] / args.batch:.1f}",
            f"{detection['straight'] / detection[form]:.1f}",
        ]
        for form in FORMS
    ]


if __name__ == "__main__":
    main()
