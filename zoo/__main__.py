"""`python -m zoo VERB`: what needs no training library answers before one is imported."""

import difflib
import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec

from zoo import _beside
from zoo.registry import PluginError

_TRAINER_VERBS = {
    "fit": "train a model; a test on held-out scenes follows",
    "validate": "evaluate a checkpoint on the validation scenes",
    "test": "evaluate a checkpoint on the test scenes",
    "predict": "yield the scenes of a datamodule's test images, or of a folder (--images)",
    "cluster": "cluster what a checkpoint finds by a Gaussian mixture, beside its own categories",
}
_OWN_VERBS = {
    "show": "draw one picture of what a checkpoint sees, and of what it has learned to draw",
    "export": "write a checkpoint as a program that runs without this package: torch or onnx",
    "benchmark": "train and test a grid of configurations and seeds, and compare them",
    "dashboard": "make a workspace on Weights & Biases that compares models",
    "curriculum": "train a background, then the model that takes it, from two configurations",
    "figure": "draw a paper's figure from recorded points, or measure them again",
    "probe": "read class, position, size and colour off what a checkpoint finds, beside controls",
    "matrix": "test every checkpoint on every data set that fits it",
    "robustness": "test checkpoints under crops, occlusion, colours, blur, noise, and draw it",
    "results": "record runs in the zoo's table, or print it",
    "publish": "test a run's checkpoint and put it among those that come with the zoo",
    "speed": "time training and inference here, and say how far that is from the limit",
    "page": "open a local page: drop or draw images, and see what a checkpoint finds in them",
}
_GROUPS = {  # verbs in the order of a visit; those that no group names come last
    "train and evaluate": ("fit", "test", "validate"),
    "use what is trained": ("show", "predict", "page", "cluster", "probe", "export"),
    "compare": ("benchmark", "matrix", "robustness", "results", "dashboard"),
}
_HEADLINES = (
    *("ap50", "ap", "count_accuracy", "category_correspondence", "hungarian_accuracy", "nmi"),
    *("ari_fg", "miou_fg"),
)


def usage() -> str:
    """What there is to run."""
    verbs = {
        **_TRAINER_VERBS,
        **_OWN_VERBS,
        "list": "the models, datamodules, trained checkpoints and configurations there are",
    }
    lines = ["usage: python -m zoo VERB [options]"]
    grouped = {verb for group in _GROUPS.values() for verb in group}
    for title, group in {**_GROUPS, "more": [verb for verb in verbs if verb not in grouped]}.items():
        lines += ["", f"{title}:", *(f"  {verb:11}{verbs[verb]}" for verb in group)]
    lines += [
        "",
        "examples:",
        "  python -m zoo fit --config recipes/quick/spair",
        "  python -m zoo fit --config spair --model.init_args.lr 3e-4 --trainer.devices 2",
        "  python -m zoo fit --ckpt_path last                      # go on with the newest run",
        "  python -m zoo test --ckpt_path spair-multimnist-recipe   # a trained checkpoint, on its own kind of data",
        "  python -m zoo predict --ckpt_path spair-multimnist-recipe --images FOLDER --out DIR",
        "  python -m zoo show --ckpt_path spair-multimnist-recipe   # one picture: spair-multimnist-recipe.png",
        "  python -m zoo benchmark --configs recipes/quick/air recipes/quick/dair --seeds 0 1 2",
        "  python -m zoo cluster --ckpt_path spair-multimnist-recipe --num_clusters 10",
        "  python -m zoo page --open                                # try the checkpoints in a browser",
        "",
        "options of a verb: python -m zoo VERB --help; of a model: python -m zoo fit --model.help SPAIR",
    ]
    return "\n".join(lines)


def listing() -> str:
    """Models, datamodules, checkpoints and configurations, found by reading files."""
    from zoo import configurations, registry
    from zoo.sharing import weights

    def section(title: str, rows: dict[str, str]) -> list[str]:
        width = max((len(name) for name in rows), default=0) + 2
        return [title, *(f"  {name:{width}}{what}" for name, what in rows.items()), ""]

    checkpoints = {}
    for name, record in weights.list_weights().items():
        metrics = ", ".join(
            f"{k} {record['metrics'][k]:.3f}" for k in _HEADLINES if record.get("metrics", {}).get(k) is not None
        )
        data = (record.get("data") or {}).get("name", "?")
        size = f"{record.get('parameters', 0) / 1e6:.2f} M parameters, {record['size'] / 1e6:.1f} MB"
        experiment = record.get("training", {}).get("experiment")
        by = f" by {experiment}" if experiment else ""
        what = f"{record['setting']}: {record['class']} on {data}{by}"
        checkpoints[name] = f"{what}, {size}, {record['license']}: {metrics}"
    lines = section("models", weights.list_models())
    lines += section("datamodules", {name: entry.summary for name, entry in registry.datamodules().items()})
    lines += section("checkpoints (zoo.load, --ckpt_path)", checkpoints)
    known = {name: configurations.summary(path) for name, path in configurations.names().items()}
    return "\n".join(lines + section("configurations (--config)", known)).rstrip()


def main() -> None:
    """Run a verb; exits with 2 for one that is not known."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    warnings.filterwarnings("ignore", category=_beside.HiddenModuleWarning)  # nobody here misses what is hidden
    try:
        _run(verb)
        sys.stdout.flush()
    except PluginError as error:
        sys.exit(f"zoo: {error}")
    except ImportError as error:  # unless a module of the user's does
        if (said := _beside.explain(error)) is None:
            raise
        sys.exit(f"zoo: {said}")
    except BrokenPipeError:  # `python -m zoo list | head`: nothing is left to say, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(verb: str) -> None:
    if verb in ("-h", "--help", "help"):
        print(usage())
    elif verb == "list":
        print(listing())
    elif verb == "predict" and any(arg.split("=")[0] == "--images" for arg in sys.argv):
        from zoo.commands.predict import main as run_folder

        run_folder()
    elif verb in _OWN_VERBS:
        import_module(f"zoo.commands.{verb}").main()
    elif verb in _TRAINER_VERBS and {"-h", "--help"} & set(sys.argv[2:]):
        from zoo.commands.help import short_help

        print(short_help(verb, _TRAINER_VERBS[verb]))
    elif verb in _TRAINER_VERBS:
        sys.argv = ["--help" if arg == "--help_all" else arg for arg in sys.argv]
        from zoo.commands.cli import main as run

        run()
    else:
        known = [*_TRAINER_VERBS, *_OWN_VERBS, "list"]
        if verb.startswith("-"):
            hint = f": a verb comes first, as in `python -m zoo fit {verb} ...`;"
        else:
            close = difflib.get_close_matches(verb, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
        print(f"zoo: no verb {verb!r}{hint} There are {', '.join(known)}; --help says more", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    # Processes that are spawned import what this says before all else, unless it ends with `__main__`: so they know,
    # as this one does, where our packages are.
    __spec__ = find_spec("zoo")
    main()
