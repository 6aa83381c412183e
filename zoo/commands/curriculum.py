"""AST-Seg's curriculum in one command: the background alone, then objects before it, then both (section 4.2.2).

    python -m zoo fit --config configs/ast_seg.yaml

The configuration's `background_config` names the one of phase 1, a run of BackgroundAE; phases 2 and 3 are one of
ASTSeg (or of their recipes), whose `frozen_steps` parts them. Started again after an interruption, with the same
arguments, it goes on where it was: what is done is not done again. Two configurations that know nothing of each other
are run by

    python -m zoo curriculum --background configs/background.yaml --config configs/ast_seg.yaml
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml

from zoo import configurations, registry
from zoo.commands.agreement import content_of, find_class
from zoo.commands.arguments import VerbParser
from zoo.records import RecordError, read_run
from zoo.sharing import weights

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
        prog="python -m zoo curriculum",
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
    options, rest = parser.parse_known_args(sys.argv[2:] if args is None else args)
    try:
        options.background, options.config = (
            [str(configurations.find(name)) for name in given] for given in (options.background, options.config)
        )
    except configurations.ConfigurationError as error:
        sys.exit(f"zoo: {error}")
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
        sys.exit(f"zoo: a phase ended with {error.returncode}: {' '.join(map(str, error.cmd))}")
    except weights.CheckpointError as error:
        sys.exit(f"zoo: {error}")


_SHARED = ("--seed_everything", "--wandb", "--wandb_project", "--test_after_fit")


# as a part of `fit`


class Done(Exception):  # noqa: N818 (nothing is wrong)
    """There is nothing left to do."""


def begin(argv: Sequence[str], config: Any, parse: Callable[[Sequence[str]], dict[str, Any]]) -> list[str]:
    """Train the background that a configuration needs, or find the one that was trained for it.

    Args:
        argv: Of `fit`, with the verb.
        config: What the parser made of it.
        parse: Makes of arguments what a run's config.yaml says.

    Returns:
        Arguments to go on with: the background, and a checkpoint of phase 2 or 3 if this very training broke off;
        none if no background is needed.

    Raises:
        CheckpointError: A background is needed, but nothing says how to train it; or something cannot be had.
        ConfigurationError: The configuration of phase 1 is not there.
        ValueError: The model does not work with its parameters.
        Done: All phases are.
    """
    own = config.model.get("init_args") or {}
    if own.get("background", "") is not None or not own.get("frozen_steps"):
        return []
    if config.background_config is None:
        raise weights.CheckpointError(
            f"frozen_steps={own['frozen_steps']} needs a trained background: set model.init_args.background to a "
            "checkpoint of BackgroundAE, background_config to the configuration that trains one "
            "(configs/background.yaml), or frozen_steps to 0"
        )
    if config.trainer.fast_dev_run:
        raise weights.CheckpointError(
            "trainer.fast_dev_run keeps no checkpoint, so that phase 1 would leave no background; "
            "--trainer.max_steps 2 tries all phases"
        )
    first = _first_phase(argv, config)
    wanted = parse(first)
    # what phases 2 and 3 would be refused for is refused before phase 1: data that are not there may have no name
    _ = find_class(config.data.class_path)(**dict(config.data.get("init_args") or {})).name
    find_class(config.model.class_path)(**{**own, "frozen_steps": 0}).load_pretrained()
    background = _finish(Path(config.runs), _runs_of(wanted), first, wanted)
    trained = weights.read_record(background)["init_args"]
    form = {f"background_{key}": trained[key] for key in ("form", "code_dim", "width")}
    more = [f"--model.init_args.background={background}"]
    more += [f"--model.init_args.{key}={value}" for key, value in form.items() if own[key] != value]
    wanted = parse([*argv, *more])
    for version in _like(Path(config.runs), _runs_of(wanted), wanted):
        last = _readable(version)
        if last is None:
            continue
        steps = weights.read_record(last)["step"]
        if steps >= wanted["trainer"]["max_steps"] > 0 and _tested(version, wanted):
            raise Done(f"phases 2 and 3 are done, {steps} steps: {version}; another --run_name trains them anew")
        print(f"phases 2 and 3 go on after {steps} steps: {last}", flush=True)
        return [*more, f"--ckpt_path={last}"]
    print("phases 2 and 3: objects before the background, then both", flush=True)
    return more


_OF_OBJECTS = ("model", "checkpoint", "background_config", "run_name", "ckpt_path", "pictures")  # not of phase 1


def _first_phase(argv: Sequence[str], config: Any) -> list[str]:
    """Arguments of phase 1: those of all phases but what is said of the objects' model."""
    first = ["fit", f"--config={_background_config(argv, config.background_config)}"]
    for option, values in _grouped(argv[1:]):
        name, _, inline = option.partition("=")
        if name in ("--config", "-c"):
            file = inline or " ".join(values)
            content = content_of(file)
            if "model" not in content:  # an overlay
                kept = {key: value for key, value in content.items() if key not in _OF_OBJECTS}
                first.append(f"--config={file if kept == content else json.dumps(kept)}")
        elif name.removeprefix("--").partition(".")[0] not in _OF_OBJECTS:
            first += [option, *values]
    first += [f"--{key}={config[key]}" for key in ("runs", "wandb", "seed_everything")]
    return first + ([f"--run_name={config.run_name}_background"] if config.run_name else [])


def _grouped(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Options with the values that follow them."""
    groups: list[tuple[str, list[str]]] = []
    for arg in argv:
        if arg.startswith("--") or arg == "-c":
            groups.append((arg, []))
        elif groups:
            groups[-1][1].append(arg)
    return iter(groups)


def _background_config(argv: Sequence[str], named: str) -> Path:
    """The configuration of phase 1: beside the one that names it, or as `configurations.find` has it."""
    beside = []
    for option, values in _grouped(argv):
        name, _, inline = option.partition("=")
        file = inline or " ".join(values)
        if name in ("--config", "-c") and content_of(file).get("background_config") == named:
            beside.append(Path(file).parent / named)
    try:
        return next(filter(Path.is_file, reversed(beside)), None) or configurations.find(named)
    except configurations.ConfigurationError as error:
        raise configurations.ConfigurationError(f"background_config: {error}") from None


def _finish(runs: Path, name: str, argv: Sequence[str], wanted: Mapping[str, Any]) -> Path:
    """Train phase 1 to its end, unless that has been done; returns its last checkpoint."""
    most = wanted["trainer"]["max_steps"]
    if most < 1:
        raise weights.CheckpointError(f"{argv[1].partition('=')[2]} sets no trainer.max_steps: when is phase 1 done?")
    last = next(filter(None, map(_readable, _like(runs, name, wanted))), None)
    steps = weights.read_record(last)["step"] if last is not None else 0
    if last is None or steps < most:
        resumed = [f"--ckpt_path={last}", "--trust"] if last is not None else []  # a run of its own
        command = [sys.executable, "-m", "zoo", *argv, *resumed]
        print(f"phase 1 of 3, the background alone, {steps} of {most} steps are done: {' '.join(command)}", flush=True)
        _run(command)
        last = next(filter(None, map(_readable, _like(runs, name, wanted))), None)
        if last is None:
            raise weights.CheckpointError(f"phase 1 left no checkpoint in {runs}: see what it said")
    else:
        print(f"phase 1 is done, {steps} steps: {last}", flush=True)
    return last


def _runs_of(config: Mapping[str, Any]) -> str:
    """Which folders a configuration's runs may be in: as it says, or as the command line has it."""
    return str(config["run_name"] or f"{config['model']['class_path'].split('.')[-1].lower()}_*")


def _like(runs: Path, name: str, wanted: Mapping[str, Any]) -> list[Path]:
    """Folders of runs of the same configuration, the newest first."""
    found = []
    for file in runs.glob(f"{name}/version_*/config.yaml"):
        if _results_of(yaml.safe_load(file.read_text(encoding="utf-8"))) == _results_of(wanted):
            found.append(file)
    return [file.parent for file in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)]


def _results_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says that makes a difference to results."""
    own = json.loads(json.dumps(config, default=str))
    trainer = {key: own["trainer"].get(key) for key in _OF_RESULTS}
    data = {key: value for key, value in (own["data"].get("init_args") or {}).items() if key not in _OF_PLACES}
    kept = {key: own.get(key) for key in ("seed_everything", "model")}
    return {**kept, "trainer": trainer, "data": {"class_path": own["data"]["class_path"], "init_args": data}}


_OF_RESULTS = (  # of the trainer
    *("max_steps", "max_epochs", "precision", "devices", "num_nodes", "accumulate_grad_batches", "limit_train_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "overfit_batches", "val_check_interval"),
)
_OF_PLACES = ("data_dir", "root", "num_workers", "eval_batch_size")  # of the data


def _tested(version: Path, wanted: Mapping[str, Any]) -> bool:
    try:
        record = read_run(version / "run.json")
    except FileNotFoundError:
        return False
    except RecordError as error:
        print(f"curriculum: {error}; the run goes on from its last checkpoint", flush=True)
        return False
    if wanted.get("test_after_fit"):
        return bool(record.get("metrics"))
    return record.get("max_steps") is None or record["steps"] >= record["max_steps"]  # and was not ended before


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
        command += [f"--ckpt_path={last}", "--trust"]  # a run of its own
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
    return next(filter(None, map(_readable, versions)), None)


def _readable(version: Path) -> Path | None:
    """The checkpoint of a run's folder to go on from, if there is one that is whole."""
    files = [version / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")]
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
    data = registry.make_data(model.data_record)
    data.prepare_data()
    data.setup("fit")
    loader, each = data.train_dataloader(), data.batch_size
    with torch.no_grad():
        backgrounds = [model.net(batch["image"])[0] for batch in islice(loader, -(-_IMAGES_TO_CHOOSE // each))]
    return background_change(torch.cat(backgrounds))
