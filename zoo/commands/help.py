"""The short help of the trainer's verbs: what is mostly wanted, by groups; `--help_all` has every option."""

_START = {
    "--config NAME": "a configuration: a name that `python -m zoo list` shows, or a file; later ones beat earlier ones",
    "--ckpt_path NAME": "a checkpoint: its name, a run folder, a file, an id on the hub, `best` or `last` of the runs",
}
_CHANGE = {
    "--model CLASS": "the model; its options are --model.init_args.KEY VALUE, and listed by fit --model.help CLASS",
    "--data CLASS": "the data; its options are --data.init_args.KEY VALUE, and listed by fit --data.help CLASS",
    "--seed_everything N": "seed of weights, noise and order (0)",
}
_MACHINE = {
    "--trainer.accelerator NAME": "auto, cpu, gpu, mps",
    "--trainer.devices N": "how many of them",
    "--trainer.precision NAME": "32-true, bf16-mixed, 16-mixed or 64-true",
}
_KEEP = {
    "--runs FOLDER": "of all runs (runs); each has its own in it",
    "--run_name NAME": "instead of <model>_<data>",
    "--wandb MODE": "auto, online, offline or disabled",
}
_GROUPS: dict[str, dict[str, dict[str, str]]] = {
    "fit": {
        "what to start from": {
            **_START,
            "--init NAME": "weights of such a checkpoint, with a fresh optimiser; --ckpt_path goes on with a run",
        },
        "what to change in it": _CHANGE,
        "how long, and how often to look": {
            "--trainer.max_steps N": "steps of the optimiser",
            "--trainer.max_time DD:HH:MM:SS": "or this long, whichever is over first",
            "--trainer.val_check_interval N": "batches between validations",
        },
        "where to run": _MACHINE,
        "what to keep": {
            **_KEEP,
            "--checkpoint.monitor METRIC": "what best.ckpt is chosen by, such as val/ap50 or val/negative_elbo",
            "--checkpoint.mode MODE": "max or min of it",
            "--pictures.num_images N": "in pictures/ of the run folder (8)",
            "--test_after_fit BOOL": "test the best checkpoint after training (true)",
        },
    },
    "cluster": {
        "what to look at": {**_START, "--data CLASS": _CHANGE["--data CLASS"]},
        "how": {
            "--num_clusters N": "components of the mixture (10)",
            "--num_scenes N": "training scenes to fit to (10000)",
            "--out FOLDER": "to write to; a run folder of its own otherwise",
        },
        "where to run": _MACHINE,
    },
}
_EVALUATE = {
    "what to evaluate": _START,
    "what to change in it": _CHANGE,
    "where to run": _MACHINE,
    "what to keep": _KEEP,
}


def options(verb: str) -> list[str]:
    """All options that the short help of a verb names."""
    return [option.split()[0] for group in _GROUPS.get(verb, _EVALUATE).values() for option in group]


def short_help(verb: str, what: str) -> str:
    """The help of a verb of the trainer.

    Args:
        verb: fit, validate, test, predict or cluster.
        what: It does.
    """
    begin = "--config NAME" if verb == "fit" else "--ckpt_path NAME"
    lines = [f"usage: python -m zoo {verb} {begin} [options]", "", f"{what}."]
    for title, group in _GROUPS.get(verb, _EVALUATE).items():
        lines += ["", f"{title}:", *(f"  {option:32}{text}" for option, text in group.items())]
    if verb == "predict":
        lines += ["", "a folder of images: python -m zoo predict --ckpt_path NAME --images FOLDER --help"]
    return "\n".join([*lines, "", f"every option: python -m zoo {verb} --help_all"])
