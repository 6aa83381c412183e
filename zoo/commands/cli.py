"""The command line: a thin LightningCLI over all models and datamodules of the zoo."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules import SceneDataModule
from datamodules.storage.cache import is_writable
from zoo import configurations, registry
from zoo.callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    LastValidation,
    MetricTable,
    MonitorCheck,
    RunRecord,
    ScenePictures,
    SceneWriter,
    StepProgress,
)
from zoo.callbacks.checkpoints import WholeCheckpointIO, best_checkpoint
from zoo.callbacks.metrics_csv import MetricsCSV
from zoo.commands import agreement, curriculum, trust
from zoo.commands import parser as arguments
from zoo.commands.parser import PARTS, UsageError, ZooParser, brief, options
from zoo.commands.quiet import quiet
from zoo.downstream.clustering import Covariance
from zoo.models.base import ObjectModel
from zoo.sharing import weights
from zoo.sharing.former import upgrade

_NEWEST = ("best", "last")
_NO_CHANGE = (  # to results
    *("--seed_everything", "--runs", "--run_name", "--wandb", "--wandb_project", "--ckpt_path", "--pictures"),
    *("--trainer.enable", "--trainer.accelerator", "--trainer.devices", trust.FLAG),
)
_INIT = "--init"
_CHECKPOINTS = ("--ckpt_path", _INIT)
_EVALUATES = ("validate", "test", "predict", "cluster")  # a checkpoint
_OF_EVERY_RUN = ("config.yaml", "hparams.yaml")
_FOR_USERS = (ValueError, OSError, FloatingPointError, MisconfigurationException, torch.OutOfMemoryError)
_FIXES = {  # for what Lightning says without
    "No supported gpu backend": "--trainer.accelerator auto takes what there is",
    "`mode` can be": "--checkpoint.mode",
    "is not in bounds, numpy accepts": "--seed_everything",
}
WANDB_PROJECT = "object-centric-zoo"
_ONE_DEVICE = "trainer/gpu"  # an overlay that makes no difference to results either
_START = "--model.init_args.background"  # a file, another for each run of the curriculum


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder, and the same content, once, to loggers that keep configurations."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on the first process only."""
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False, format="yaml"))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # W&B
                data = getattr(trainer, "datamodule", None)
                about = {"model": type(pl_module).__name__, "data": getattr(data, "name", None)}  # to group runs by
                logger.experiment.config.update({"config": config, **about})  # type: ignore[attr-defined]


class ZooTrainer(Trainer):
    """Lightning's trainer with a method for each verb of the zoo that is not Lightning's."""

    def cluster(
        self,
        model: ObjectModel,
        datamodule: SceneDataModule,
        checkpoint: Path | None = None,
        num_clusters: int = 10,
        covariance: Covariance = "full",
        num_fits: int = 1,
        num_scenes: int | None = 10_000,
        out: str | None = None,
    ) -> None:
        """Cluster what a checkpoint (--ckpt_path) finds by a Gaussian mixture, beside the model's own categories.

        Fits to training scenes, scores on test scenes, and writes clustering.json, pictures/embedding.png and, where
        the checkpoint lies in a run folder, pictures/curves.png.

        Args:
            model: With its weights.
            datamodule: Where the scenes are from.
            checkpoint: Where the weights are from, for the record.
            num_clusters: Components of the mixture.
            covariance: Of a component; see `zoo.downstream.clustering.cluster`.
            num_fits: From so many initialisations, of which the likeliest is kept.
            num_scenes: Training scenes to fit to; null: all.
            out: Folder to write to; null: a new run folder.
        """
        from zoo.commands.cluster import report  # scikit-learn and matplotlib take their time

        options = {"covariance": covariance, "num_fits": num_fits, "num_scenes": num_scenes}
        report(self, model, datamodule, checkpoint, out, num_clusters=num_clusters, **options)
        for callback in self.callbacks if out is None else ():  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfig):
                callback.setup(self, model, "cluster")


class ZooCLI(LightningCLI):
    """`python -m zoo fit|validate|test|predict|cluster`.

    Beyond LightningCLI: a checkpoint may be a name, a run folder, a file, `best` or `last`; it brings its own model and
    data, as the weakest of defaults; every run has a folder of its own; a test follows training.
    """

    verb: ClassVar[str | None] = None  # the one that is asked for

    def __init__(self, args: ArgsType = None) -> None:
        for entry in [*registry.models().values(), *registry.tasks().values(), *registry.datamodules().values()]:
            entry.load()  # so that class names alone will do
        before = ZooCLI.verb
        ZooCLI.verb = next(iter(sys.argv[1:2] if args is None else args), None) if not isinstance(args, dict) else None
        self.csv: MetricsCSV | None = None
        self.checkpoint: Path | None = None
        self.fresh = False  # the checkpoint gives weights alone
        self.init: dict[str, Any] | None = None  # what the run's record says of them
        self.record: dict[str, Any] = {}
        self.started_from = ("", "")
        others = [SceneWriter(), MonitorCheck()]
        try:
            super().__init__(
                ObjectModel,
                SceneDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                save_config_callback=SaveConfig,
                trainer_class=ZooTrainer,
                parser_class=ZooParser,
                trainer_defaults={"callbacks": [MetricTable(), LastValidation(), LastCheckpoint(), *others]},
                args=args,
            )
        except BaseException:
            self._discard_empty_run()
            raise
        finally:
            ZooCLI.verb = before

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs and the zoo's, each with the arguments that are not for the command line.

        Only the one that is asked for, if it is one: its options are all that have to be made.
        """
        verbs = {**LightningCLI.subcommands(), "cluster": {"model", "datamodule", "checkpoint"}}
        return {verb: verbs[verb] for verb in verbs if ZooCLI.verb not in verbs or verb == ZooCLI.verb}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the zoo adds to Lightning's arguments; all of it can be set in YAML."""
        parser.add_argument(
            trust.FLAG,
            action="store_true",
            help="Import and run what the configuration names of a run that --ckpt_path goes on with: its callbacks, "
            "loggers, plugins. Only for runs whose origin you know.",
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument("--run_name", type=str | None, default=None, help="Instead of <model>_<data>.")
        parser.add_argument(
            "--wandb",
            type=Literal["auto", "online", "offline", "disabled"],
            default="auto",
            help="auto: WANDB_MODE if it is set; else online if logged in, else offline.",
        )
        parser.add_argument(
            "--wandb_project",
            type=str | None,
            default=None,
            help=f"Project on W&B; null: the environment variable WANDB_PROJECT, else {WANDB_PROJECT}.",
        )
        parser.add_argument(
            "--init",
            type=str | None,
            default=None,
            help="Checkpoint whose weights fit starts from, with a fresh optimiser; the model's schedules go on where "
            "it stood. As for --ckpt_path, which resumes a run: a name, run folder, file or id on the hub.",
        )
        parser.add_argument(
            "--test_after_fit", type=bool, default=True, help="Test the best checkpoint after training."
        )
        parser.add_argument(
            "--background_config",
            type=str | None,
            default=None,
            help="Configuration that trains the background of a model that needs one first: beside the file that says "
            "so, or from here.",
        )
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/ap50",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.add_lightning_class_args(ScenePictures, "pictures")

    # checkpoints

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with the checkpoint's model and data as the weakest of defaults."""
        if args is not None and not isinstance(args, list):
            super().parse_arguments(parser, args)
            return
        given = list(sys.argv[1:] if args is None else args)
        ZooParser.given = argv = arguments.arrange(given)
        self.started_from = _experiment(given[1:])
        argv, self.checkpoint = self._with_checkpoint(parser, argv)
        ZooParser.given = argv
        arguments.check(argv)
        self.config = parser.parse_args(argv)
        wish = self.config[self.config.subcommand].get("init")
        if wish and self.checkpoint is None:  # of a configuration
            argv, self.checkpoint = self._with_checkpoint(parser, [*argv, _INIT, wish])
            self.config = parser.parse_args(argv)
        if self.init is not None:
            self.config[self.config.subcommand].init = self.init["checkpoint"]
        runs = self.config[self.config.subcommand].runs
        if not is_writable(Path(runs)):
            raise UsageError(f"--runs {runs}: no folder can be made there")
        self._agree(argv)
        if self.checkpoint is None and self.config.subcommand == "fit":
            self._begin(parser, argv)
        if self.checkpoint is not None:
            self._report_differences()

    def _agree(self, argv: list[str], again: bool = False) -> None:
        """Settle what model and data have in common; refuse what does not go together before anything is built."""
        config = self.config[self.config.subcommand]
        fixed = None if self.checkpoint is None else self.record["init_args"]
        lines = agreement.agree(config, agreement.said_by(argv, fixed))
        if self.config.subcommand == "fit":
            lines += agreement.agree_on_monitor(config)
        for line in () if again else lines:
            rank_zero_info(line)

    def _begin(self, parser: LightningArgumentParser, argv: list[str]) -> None:
        """Train the background that a model needs, if the configuration says how."""

        def parse(argv: Sequence[str]) -> dict[str, Any]:
            config = parser.parse_args([*argv]).fit
            agreement.agree(config, agreement.said_by(argv))
            return yaml.safe_load(self._parser("fit").dump(config, skip_none=False, format="yaml"))

        try:
            more = curriculum.begin(argv, self.config.fit, parse)
        except curriculum.Done as done:
            print(f"zoo: {done}")
            sys.exit()
        except subprocess.CalledProcessError as error:
            sys.exit(f"zoo: phase 1 ended with {error.returncode}: {' '.join(map(str, error.cmd))}")
        if more:
            argv, self.checkpoint = self._with_checkpoint(parser, [*argv, *more])
            self.config = parser.parse_args(argv)
            self._agree(argv, again=True)

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's hyperparameters overrule the user's; they are defaults already."""

    def _with_checkpoint(self, parser: LightningArgumentParser, argv: list[str]) -> tuple[list[str], Path | None]:
        """Resolve --ckpt_path or --init, and put what the checkpoint says before all other arguments."""
        named = [i for i, arg in enumerate(argv) if arg.split("=")[0] in _CHECKPOINTS]
        if not named or not argv or argv[0] not in self.subcommands():
            known = {"-h", "--help", "--print_config", "--model.help", "--data.help", "--trainer.callbacks.help"}
            if argv and argv[0] in _EVALUATES and not known & {arg.split("=")[0] for arg in argv}:
                raise UsageError(arguments.no_checkpoint(argv))
            return argv, None
        at = named[0]
        flag, inline, value = argv[at].partition("=")
        if not inline and at + 1 == len(argv):
            raise UsageError(f"{flag} needs a value: a name, a run folder, a file, best or last")
        value = value if inline else argv[at + 1]
        rest = argv[:at] + argv[at + (1 if inline else 2) :]
        if value.lower() in ("null", "none", ""):
            return self._with_checkpoint(parser, rest)
        if len(named) > 1:
            raise UsageError(
                "--ckpt_path goes on with a run, --init starts one from weights: give one of them, and once"
            )
        self.fresh = flag == _INIT
        if self.fresh and argv[0] != "fit":
            raise UsageError(f"--init is where fit starts from; {argv[0]} takes --ckpt_path {value}")
        prefer = "last" if argv[0] == "fit" and not self.fresh else "best"
        path = self._newest(parser, rest, value) if value in _NEWEST else weights.find(value, prefer)
        self.record = weights.read_record(path)
        pairs = [*pairwise(options(rest))]
        asked = {part: next((b for a, b in pairs if a in (f"--{part}", f"--{part}.class_path")), "") for part in PARTS}
        config = self._resume_config(path, rest, asked) if argv[0] == "fit" and not self.fresh else {}
        self.fresh |= argv[0] == "fit" and path.suffix == ".safetensors"  # there is no run to go on with
        if self.fresh:
            self.started_from = (self.started_from[0], f"{self.started_from[1]} init={value}".strip())
            self.init = {"checkpoint": value, "step": self.record.get("step"), "sha256": self.record.get("sha256")}
        if "model" in config and "written_version" in self.record:  # the run's configuration is as old
            old = {"class": config["model"]["class_path"].split(".")[-1], "init_args": config["model"]["init_args"]}
            today = upgrade({**old, "format_version": self.record["written_version"]})
            config["model"] = {"class_path": today["class"], "init_args": today["init_args"]}
        own = trust.known_class("model", self.record["class"], path, asked["model"])
        trust.check_arguments("model", self.record["init_args"], path)
        model = config.setdefault("model", {"class_path": own, "init_args": {}})
        if model["class_path"].split(".")[-1] == self.record["class"]:  # the run's configuration may lack later options
            model["init_args"] = {**self.record["init_args"], **(model.get("init_args") or {})}
        data = self.record.get("data")
        if data and "data" not in config:
            trust.check_arguments("data", data["init_args"], path)
            kind = trust.known_class("data", data["class"], path, asked["data"])
            config["data"] = {"class_path": kind, "init_args": data["init_args"]}
        plain = json.loads(json.dumps(config))  # lists for tuples
        return [rest[0], "--config", yaml.safe_dump(plain), *rest[1:]], path  # as JSON has no infinite numbers

    @staticmethod
    def _resume_config(path: Path, argv: list[str], asked: dict[str, str]) -> dict[str, Any]:
        """A run that goes on does so under its own configuration, trainer and all, where it is at hand.

        Args:
            path: Of the checkpoint.
            argv: Where `--trust` may stand, without which the file has no say in what is imported.
            asked: Classes of model and data that the command line names.
        """
        saved = path.parent.parent / "config.yaml"
        if path.suffix == ".safetensors" or not saved.is_file():
            return {}
        config = yaml.safe_load(saved.read_text(encoding="utf-8"))
        if trust.FLAG not in argv:
            return trust.plain(config, saved, asked)
        config.pop("ckpt_path", None)
        return config

    def _newest(self, parser: LightningArgumentParser, argv: list[str], name: str) -> Path:
        """The newest best or last checkpoint: of this model and run name, if the arguments say which."""
        given = {arg.split("=")[0]: arg.partition("=")[2] or after for arg, after in pairwise([*argv, ""])}
        runs, run_name = given.get("--runs", "runs"), given.get("--run_name", "*")
        if given.keys() & {"--config", "-c", "--model"}:
            config = parser.parse_args(argv)[argv[0]]
            runs, run_name = config.runs, config.run_name or f"{config.model.class_path.split('.')[-1].lower()}_*"
        path = weights.newest(Path(runs).glob(f"{run_name}/version_*"), name)
        if path is None:
            raise weights.CheckpointError(f"no {name}.ckpt in {runs}/{run_name}/version_*: train, or name a checkpoint")
        return path

    def _report_differences(self) -> None:
        config = self.config[self.config.subcommand]
        if self.record["class"] != config.model.class_path.split(".")[-1]:
            raise UsageError(
                f"{self.checkpoint} holds {_a(self.record['class'])}, but the configuration asks for "
                f"{_a(config.model.class_path.split('.')[-1])}: leave out one of them"
            )
        rank_zero_info(f"checkpoint {self.checkpoint}")
        data = self.record.get("data") or {"class": None, "init_args": {}}
        for part, saved in (("model", self.record), ("data", data)):
            if config[part].class_path.split(".")[-1] != saved["class"]:
                continue
            now = config[part].init_args.as_dict() if config[part].get("init_args") else {}
            for key, old in saved["init_args"].items():
                if key in now and _plain(now[key]) != _plain(old):
                    rank_zero_info(f"  {part}.init_args.{key} is {now[key]!r} here, {old!r} in the checkpoint")

    # runs

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; weights that are no Lightning checkpoint are loaded at once."""
        shared = self.checkpoint is not None and (
            self.fresh or self.checkpoint.suffix == ".safetensors" or self.config.subcommand == "cluster"
        )
        if self.checkpoint is not None and not shared:
            config = self.config[self.config.subcommand]
            config.ckpt_path = str(self.checkpoint)
            config.weights_only = True  # a checkpoint is data: nothing in it is run
        super().instantiate_classes()
        if self.checkpoint is not None and not shared:
            self._refuse_other_shapes(self.checkpoint)
        if self.checkpoint is not None and shared:
            if self.fresh:
                self._refuse_other_shapes(self.checkpoint)
            weights.adopt(self.model, *weights.read(self.checkpoint), self.checkpoint)
            if self.fresh:
                rank_zero_info(f"starting from these weights, at the model's step {self.model.steps_trained}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with the zoo's loggers unless the configuration names others."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        own = config.trainer
        self._check_start()
        if config.get("out"):
            kwargs.setdefault("logger", False)
        elif own.logger in (None, True) and not own.fast_dev_run and not own.barebones:
            kwargs.setdefault("logger", list(self._loggers(config)))
        elif own.logger is False or own.barebones:
            self.save_config_callback = None  # there is no run folder to save it in
        plugins = self._get(self.config_init, "trainer")["plugins"] or []
        plugins = [*plugins] if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs.setdefault("plugins", [*plugins, WholeCheckpointIO()])
        if own.enable_model_summary is None:
            kwargs.setdefault("enable_model_summary", False)  # a line says as much
        trainer = super().instantiate_trainer(**kwargs)
        if self.subcommand == "fit" and not own.barebones:
            # before those that save: a checkpoint has what is known of the validation that it is saved after
            record = RunRecord(*self.started_from, seed=config.seed_everything, init=self.init)
            trainer.callbacks.insert(0, record)  # type: ignore[attr-defined]
        self._say_what_runs(trainer)
        return trainer

    def _say_what_runs(self, trainer: Trainer) -> None:
        """In two lines: what is to be done with which model, data and device, and the folder of the run."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        device = f"{trainer.num_devices} x {trainer.strategy.root_device.type}" if trainer.num_devices > 1 else ""
        about = f"{type(self.model).__name__} ({parameters:,} parameters) on {self.datamodule.name}"
        rank_zero_info(f"{self.subcommand}: {about}, {device or trainer.strategy.root_device.type}")
        if self.csv is not None:
            rank_zero_info(f"run folder: {self.csv.log_dir}")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Without the callbacks that go against the trainer's flags."""
        unwanted: tuple[type, ...] = ()
        if config.get("barebones"):  # for looking at speed alone
            unwanted = (Callback,)
        elif config.get("enable_checkpointing") is False:
            unwanted = (Checkpoint,)
        kept = [each for each in callbacks if not isinstance(each, unwanted)]
        defaults = [each for each in self.trainer_defaults["callbacks"] if not isinstance(each, unwanted)]
        shows = config.get("enable_progress_bar") is not False and not config.get("barebones")
        own = [*kept, *(config.get("callbacks") or [])]
        if shows and not any(isinstance(each, ProgressBar) for each in own):
            defaults.insert(0, StepProgress())  # its line ends before others print
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": defaults}
        try:
            return super()._instantiate_trainer(config, kept)
        except KeyError as error:
            if not str(error.args[0]).startswith("SLURM_"):
                raise
            raise UsageError(f"there is no {error.args[0]} in the environment: start trainer/slurm by srun") from None

    def _check_start(self) -> None:
        """Refuse what would be refused later, before data are made and a run has a folder."""
        _ = self.datamodule.name  # which data that are not there may not have
        for shape in (self.datamodule.train_image_shape, self.datamodule.image_shape):
            self.model.check_image(torch.zeros(1, *shape))
        if self.subcommand == "fit" and self.checkpoint is None and hasattr(self.model, "load_pretrained"):
            self.model.load_pretrained()

    def _loggers(self, config: Any) -> Iterator[Logger]:
        name = config.run_name or f"{type(self.model).__name__.lower()}_{self.datamodule.name}"
        self.csv = csv = MetricsCSV(config.runs, name)  # first: the trainer's log_dir is the first logger's
        yield csv
        mode = wandb_mode(config.wandb)
        if mode == "disabled":
            return
        try:
            from lightning.pytorch.loggers import WandbLogger

            _ = csv.experiment  # makes the folder, which should be empty then
            logger = WandbLogger(
                name=f"{name}/version_{csv.version}",
                project=wandb_project(config.wandb_project),
                group=name,
                # wandb's own process keeps the folder that it was started in
                save_dir=str(Path(csv.log_dir).absolute()),
                offline=mode == "offline",
                mode=mode,  # said again: wandb may have read its environment before Lightning sets it
            )
            logger._wandb_init.pop("anonymous", None)  # which W&B warns of, given or not
            yield logger
        except ModuleNotFoundError:
            rank_zero_warn("wandb is not installed: logging to CSV only")

    def _refuse_other_shapes(self, path: Path) -> None:
        """Before data are made: a checkpoint whose weights are not this model's."""
        own, state = self.model.state_dict(), weights.read(path)[1]
        unlike = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
        if unlike:
            shapes = f"{tuple(state[unlike[0]].shape)} there, {tuple(own[unlike[0]].shape)} here"
            raise weights.CheckpointError(
                f"the weights in {path} do not fit this model ({unlike[0]}: {shapes}){self._changes()}"
            )

    def _changes(self) -> str:
        """Which hyperparameters differ from the checkpoint's, with the fix."""
        now, then = dict(self.model.hparams), self.record.get("init_args", {})
        names = [key for key in then if key in now and _plain(now[key]) != _plain(then[key])]
        said = ", ".join(f"model.init_args.{key} is {now[key]!r} here, {then[key]!r} there" for key in names)
        return (
            f": {said}; leave these out, or train anew without {_INIT if self.fresh else '--ckpt_path'}"
            if names
            else ""
        )

    def _discard_empty_run(self) -> None:
        """Remove the folder of a run that failed before there was anything in it but its configuration."""
        folder = Path(self.csv.log_dir) if self.csv is not None else None
        if folder is None or not folder.is_dir() or getattr(rank_zero_only, "rank", 0) != 0:
            return
        if "wandb" in sys.modules and (run := sys.modules["wandb"].run) is not None:
            run.finish(exit_code=1)  # its process writes there
        content = [path for path in folder.rglob("*") if path.is_file() and "wandb" not in path.parts]
        if all(path.name in _OF_EVERY_RUN or not path.stat().st_size for path in content):
            shutil.rmtree(folder)
            for parent in list(folder.parents)[:2]:  # of runs of this name, and of all runs
                if parent.resolve() != Path.cwd() and not any(parent.iterdir()):
                    parent.rmdir()

    def after_fit(self) -> None:
        """Test the best checkpoint on the held-out scenes, or, where none was kept, the weights of the last step."""
        if not self.config["fit"].test_after_fit or self.trainer.interrupted or self.trainer.barebones:
            return
        best = best_checkpoint(self.trainer)
        path = best.best_model_path if best is not None and not self.config["fit"].trainer.fast_dev_run else ""
        if best is not None and path:
            score = "" if best.best_model_score is None else f", {best.monitor} {float(best.best_model_score):.4g}"
            rank_zero_info(f"testing the best checkpoint: step {best.best_step}{score}: {path}")
        else:
            rank_zero_info(f"no best checkpoint was kept: testing the weights of step {self.trainer.global_step}")
        options: dict[str, Any] = {"ckpt_path": path or None, "weights_only": True if path else None}
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False, **options)

    def test(self, model: LightningModule, **kwargs: Any) -> None:
        """Test without Lightning's own table: the zoo prints its own."""
        self.trainer.test(model, **{**kwargs, "verbose": False})

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Write the scenes of the test images to predictions.npz in the run folder."""
        self.trainer.predict(model, **{**kwargs, "return_predictions": False})

    def validate(self, model: LightningModule, **kwargs: Any) -> None:
        """Validate, likewise."""
        self.trainer.validate(model, **{**kwargs, "verbose": False})

    def cluster(self, model: ObjectModel, **kwargs: Any) -> None:
        """Cluster what the checkpoint finds."""
        cast(ZooTrainer, self.trainer).cluster(model, checkpoint=self.checkpoint, **kwargs)


def _experiment(argv: list[str]) -> tuple[str, str]:
    """Which configurations the arguments name, and what else they say that makes a difference to results."""
    configs, changes = [], []
    for key, value in pairwise([*options(argv), ""]):
        if key in ("--config", "-c"):
            configs += [name] if (name := configurations.name_of(value)) != _ONE_DEVICE else []
        elif key.startswith("--") and not key.startswith(_NO_CHANGE) and key not in (_START, _INIT):
            changes.append(f"{key.removeprefix('--')}={value}")
    return "+".join(configs), " ".join(changes)


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def _plain(value: Any) -> Any:
    """For comparison: YAML knows no tuples."""
    return json.loads(json.dumps(value, default=str))


def wandb_project(wish: str | None = None) -> str:
    """As wished; null: the environment variable WANDB_PROJECT, else the zoo's own."""
    return wish or os.environ.get("WANDB_PROJECT") or WANDB_PROJECT


def wandb_mode(wish: str = "auto") -> str:
    """Online, offline or disabled: as wished; auto: WANDB_MODE, else online only for those who have logged in."""
    if wish != "auto":
        return wish
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    try:
        import wandb
    except ModuleNotFoundError:
        return "disabled"
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except TypeError:  # releases before `prompt` came
        return "online" if wandb.api.api_key else "offline"


def main(args: list[str] | None = None) -> None:
    """Run a verb of the trainer."""
    quiet()
    try:
        cli = ZooCLI(args)
        if cli.csv is not None and Path(cli.csv.log_dir).is_dir():
            pages = [
                getattr(getattr(logger, "experiment", None), "url", None) for logger in cli.trainer.loggers[1:]
            ]  # of W&B online
            rank_zero_info(", ".join([f"run folder: {cli.csv.log_dir}", *filter(None, pages)]))
    except SIGTERMException:  # which Lightning lets end with 0
        print("zoo: ended by SIGTERM; `--ckpt_path last` goes on from the last checkpoint", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise
    except _FOR_USERS as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        sys.exit(f"zoo: {explain(error)}")
    except RuntimeError as error:
        if "loading state_dict" not in str(error) or os.environ.get("ZOO_TRACEBACK"):
            raise
        sys.exit(f"zoo: the checkpoint's weights do not fit this model: {' '.join(str(error).split())[:300]}")


def explain(error: Exception) -> str:
    """What an error says, in a line."""
    said = str(error).strip() or type(error).__name__
    if "Original Traceback" in said:  # of a process that loads data
        said = said.splitlines()[-1].partition(": ")[2]
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory does not do: lower --data.init_args.batch_size; {said.splitlines()[0]}"
    if monitored := re.search(r"monitor='([^']*)'.*returned metrics: (\[.*?\])", said, re.DOTALL):
        return MonitorCheck.explain(monitored[1], re.findall(r"'([^']+)'", monitored[2]))
    for wording, fix in _FIXES.items():
        said += f" ({fix})" if wording in said else ""
    return brief(said)
