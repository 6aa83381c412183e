"""AST-Seg's curriculum in one command: the background alone, then objects before it, then both (section 4.2.2).

    python -m zoo.curriculum --background configs/background.yaml --config configs/ast_seg.yaml

Phase 1 is a run of BackgroundAE, RUN_NAME_background; phases 2 and 3 are one of ASTSeg, RUN_NAME, whose `frozen_steps`
parts them. Each is a `python -m zoo fit` of its own. Started again after an interruption, with the same arguments, it
goes on where it was: what is done is not done again.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml

from zoo import configurations, registry, weights
from zoo.arguments import VerbParser

SIMPLE_STEPS, SIMPLE_STEPS_TO_CHOOSE, MOST_CHANGE = 2500, 2000, 0.24  # of AE-NE's program
_IMAGES_TO_CHOOSE = 480


def main(args: Sequence[str] | None = None) -> Path:
    """Run, or go on with, all phases.

    Args:
        args: Of the command line; null: those that the program was started with.

    Returns:
        The last checkpoint of ASTSeg.
    """
    parser = VerbParser(
        prog="python -m zoo.curriculum",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Further options go to both runs, such as --data.init_args.root DIR or --trainer.devices 2.",
    )
    parser.add_argument("--background", nargs="+", required=True, metavar="YAML", help="configuration of phase 1")
    parser.add_argument("--config", nargs="+", required=True, metavar="YAML", help="configuration of phases 2 and 3")
    parser.add_argument("--runs", default="runs", help="folder of all runs")
    parser.add_argument("--run_name", default="ast_seg")
    parser.add_argument(
        "--choose_form",
        action="store_true",
        help=f"train the simple background for {SIMPLE_STEPS_TO_CHOOSE} steps; if it turns out to change, begin anew "
        f"with the complex one, else end after {SIMPLE_STEPS}",
    )
    options, rest = parser.parse_known_args(args)
    try:
        options.background, options.config = (
            [str(configurations.find(name)) for name in given] for given in (options.background, options.config)
        )
    except configurations.ConfigurationError as error:
        sys.exit(f"curriculum: {error}")
    names = [arg.split("=")[0] for arg in rest if arg.startswith("--")]
    if unknown := [name for name in names if "." not in name and name not in _SHARED]:
        parser.error(
            f"unknown {' '.join(unknown)}; options for both runs are {', '.join(_SHARED)} or have a dot in them"
        )

    def train(name: str, configs: Sequence[str], *more: str) -> Path:
        return fit(Path(options.runs), f"{options.run_name}{name}", configs, [*rest, *more])

    try:
        background = _choose(train, options) if options.choose_form else train("_background", options.background)
        init_args = weights.read_record(background)["init_args"]
        form = {f"background_{key}": init_args[key] for key in ("form", "code_dim", "width")}
        given = _given(options.config, "model", "init_args")
        unlike = [f"--model.init_args.{key}={value}" for key, value in form.items() if given.get(key) != value]
        return train("", options.config, f"--model.init_args.background={background}", *unlike)
    except subprocess.CalledProcessError as error:
        sys.exit(f"curriculum: a phase ended with {error.returncode}: {' '.join(map(str, error.cmd))}")
    except weights.CheckpointError as error:
        sys.exit(f"curriculum: {error}")


_SHARED = ("--seed_everything", "--wandb", "--wandb_project", "--test_after_fit")


def _choose(train: Callable[..., Path], options: argparse.Namespace) -> Path:
    """Train the form of background that the training images call for (AE-NE's program)."""
    simple, of_complex = f"{options.run_name}_background", f"{options.run_name}_background_complex"
    steps, form = "--trainer.max_steps=", ["--model.init_args.form=simple"]
    form.append(f"--model.init_args.lr=[0.002,0.0002,{SIMPLE_STEPS * 4 // 5},step]")
    if not Path(options.runs, of_complex).exists():
        background = train("_background", options.background, *form, f"{steps}{SIMPLE_STEPS_TO_CHOOSE}")
        chosen = weights.read_record(background)["step"] > SIMPLE_STEPS_TO_CHOOSE  # by an earlier run
        if not chosen:
            change = _change(background)
            chosen = change <= MOST_CHANGE
            print(f"curriculum: {simple} changes by {change:.3f}, {MOST_CHANGE} at most is simple", flush=True)
        if chosen:
            return train("_background", options.background, *form, f"{steps}{SIMPLE_STEPS}")
    return train("_background_complex", options.background, "--model.init_args.form=complex")


def fit(runs: Path, run_name: str, configs: Sequence[str], options: Sequence[str]) -> Path:
    """Train a run to its end, from its newest readable checkpoint if there is one.

    Args:
        runs: Folder of all runs.
        run_name: Of this one.
        configs: Configuration files, later ones over earlier ones.
        options: Of `python -m zoo fit`.

    Returns:
        The run's last checkpoint.

    Raises:
        CalledProcessError: Training failed.
        CheckpointError: It left no checkpoint.
    """
    last = _newest_readable(runs / run_name)
    command = [sys.executable, "-m", "zoo", "fit"]
    command += [f"--config={file}" for file in configs]
    command += [f"--runs={runs}", f"--run_name={run_name}", *options]
    if last is not None:
        command.append(f"--ckpt_path={last}")
        steps, wanted = weights.read_record(last)["step"], _max_steps(configs, options)
        if steps >= wanted:
            print(f"curriculum: {run_name} is done, {steps} steps: {last}", flush=True)
            return last
    print(f"curriculum: {' '.join(command)}", flush=True)
    _run(command)
    last = weights.newest((runs / run_name).glob("version_*"), "last")
    if last is None:
        raise weights.CheckpointError(f"no last.ckpt in {runs / run_name}/version_*: was it trained with fast_dev_run?")
    return last


def _newest_readable(run: Path) -> Path | None:
    """The checkpoint to go on from: a damaged one is passed over, with a warning, for the next newest."""
    versions = sorted(run.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")), reverse=True)
    files = [version / "checkpoints" / f"{name}.ckpt" for version in versions for name in ("last", "best")]
    for file in filter(Path.is_file, files):
        try:
            weights.read_record(file)
        except weights.CheckpointError as error:
            print(f"curriculum: going on from an older checkpoint: {error}", flush=True)
        else:
            return file
    return None


def _run(command: Sequence[str]) -> None:
    """Run a command to its end, and end it if this program is terminated; what a terminal interrupts reaches both.

    Raises:
        CalledProcessError: It failed, or was ended.
    """
    process, stopped = None, False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        if process is not None:
            process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        process = subprocess.Popen(command)
        if stopped:  # while it was begun
            process.terminate()
        code = process.wait()
    except KeyboardInterrupt:
        if process is not None:
            process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopped or code:
        raise subprocess.CalledProcessError(code or -signal.SIGTERM, command)


def _max_steps(configs: Sequence[str], options: Sequence[str]) -> int:
    """As the command line or else the last configuration that says so has it."""
    given = _given(configs, "trainer").get("max_steps")
    for option, value in zip(options, [*options[1:], ""], strict=True):
        if option == "--trainer.max_steps":
            given = value
        elif option.startswith("--trainer.max_steps="):
            given = option.split("=", 1)[1]
    if given is None:
        raise weights.CheckpointError(f"none of {', '.join(configs)} sets trainer.max_steps: when is training done?")
    return int(given)


def _given(configs: Sequence[str], *keys: str) -> dict[str, Any]:
    """What configurations have under these keys, later ones over earlier ones."""
    given: dict[str, Any] = {}
    for file in configs:
        part = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        for key in keys:
            part = (part or {}).get(key)
        given |= part or {}
    return given


def _change(checkpoint: Path) -> float:
    """How much a trained background differs from image to image, on the training images."""
    from zoo.models.background_ae import BackgroundAE, background_change

    model = weights.load(checkpoint)
    assert isinstance(model, BackgroundAE)
    assert model.data_record is not None
    entry = registry.datamodules()[model.data_record["class"]]
    data = entry.load()(**model.data_record["init_args"])
    data.prepare_data()
    data.setup("fit")
    loader, each = data.train_dataloader(), data.batch_size
    with torch.no_grad():
        backgrounds = [model.net(batch["image"])[0] for batch in islice(loader, -(-_IMAGES_TO_CHOOSE // each))]
    return background_change(torch.cat(backgrounds))


if __name__ == "__main__":
    main()
