"""Trained checkpoints: data, not programs. A safetensors file with the weights, a JSON file with all else."""

import difflib
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import records, registry
from zoo.files import check_zip, write_json
from zoo.files import write_whole as write_whole
from zoo.sharing.former import FORMAT_VERSION, FormerRecordError, upgrade, upgrade_state

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.models.base import ObjectModel

SHIPPED = Path(__file__).parents[1] / "checkpoints"
LICENSE = "apache-2.0"  # of what lies there, as of the package
RECIPE = "recipe"  # the setting of a checkpoint whose record does not say that it is its paper's
_WAS_CALLED = {  # names until 0.1: they did not say that the settings are the zoo's own
    name: f"{name}-recipe"
    for name in (
        *("air-multimnist", "dair-multimnist", "discrete-air-multimnist", "discrete-air-multisprites"),
        *("spair-multimnist", "gmair-multimnist", "gmair-fruit2d-synthetic"),
        *("ast-seg-clevrtex-synthetic", "ast-seg-unet-clevrtex-synthetic"),
    )
}
_MOST_PARAMETERS = 10**9
HUB_WEIGHTS, HUB_RECORD = "model.safetensors", "config.json"  # as the Hugging Face hub names them
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_OF_THE_MODEL = (  # not facts about it
    *("format_version", "written_version", "class", "init_args", "data", "step", "parameters", "sha256"),
)


class CheckpointError(ValueError):
    """A checkpoint that is not there, is damaged, or is not one of this zoo's."""


def list_models() -> dict[str, str]:
    """Names of the models, each with a line about its paper."""
    return {name: entry.summary for name, entry in registry.models().items()}


def list_weights() -> dict[str, dict[str, Any]]:
    """Names of the trained checkpoints that come with the zoo, each with its record (see `read_record`).

    Its `setting` is `paper`, if the model was trained as its paper has it, or `recipe`, the zoo's own. Added to the
    record are `size`, bytes of the weights, and `license`, theirs, where the record does not name another.
    """
    defaults = {"license": LICENSE, "setting": RECIPE}
    return {
        path.stem: {
            **defaults,
            **_of_today(_read_json(path), path),
            "size": path.with_suffix(".safetensors").stat().st_size,
        }
        for path in sorted(SHIPPED.glob("*.json"))
    }


def load(source: str | os.PathLike[str], revision: str | None = None) -> "ObjectModel":
    """Rebuild a trained model; no code from the checkpoint is run.

    Args:
        source: A name from `list_weights()`; a run folder (its best checkpoint); a checkpoint file (.ckpt or
            .safetensors); `best` or `last`, of the newest run in `runs`; a folder of `save_pretrained`; an id on the
            Hugging Face hub, as in `user/name` or `user/name@revision`.
        revision: Branch, tag or commit of an id on the hub; a commit is always the same.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: There is no such checkpoint (the message lists the names), or it is damaged.
    """
    path = find(source, revision=revision)
    record, state = read(path)
    model = build_model(record, path)
    adopt(model, record, state, path)
    return model.eval()


def adopt(model: "ObjectModel", record: dict[str, Any], state: dict[str, "Tensor"], path: Path) -> None:
    """Put a checkpoint's weights into a model, and what it says of its training.

    Raises:
        CheckpointError: The weights do not fit the model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit the model: {error}") from error
    if "step" not in state:  # kept before it was a part of the weights
        model.steps_trained = record.get("step", 0)
    model.data_record = record.get("data")
    model.facts = {key: value for key, value in record.items() if key not in _OF_THE_MODEL}


def save(model: "ObjectModel", path: str | os.PathLike[str], *, half: bool = False, **facts: Any) -> Path:
    """Write PATH.safetensors and PATH.json, from which `load` rebuilds the model.

    Args:
        model: Any model of the zoo.
        path: Where, without a suffix.
        half: Keep parameters in half precision, in half the space; `load` makes them single again.
        **facts: What else the record should say, as JSON: metrics, how it was trained, ...

    Returns:
        The path of the safetensors file.

    Raises:
        ValueError: A parameter is too large for half precision.
    """
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    payload, record = pack(model, half=half, **facts)
    write_whole(base.with_name(base.name + ".safetensors"), payload)
    write_json(base.with_name(base.name + ".json"), record, indent=2)
    return base.with_name(base.name + ".safetensors")


def pack(model: "ObjectModel", *, half: bool = False, **facts: Any) -> tuple[bytes, dict[str, Any]]:
    """What a checkpoint consists of: the content of its safetensors file, and its record.

    Args:
        model: Any model of the zoo.
        half: Keep parameters in half precision.
        **facts: What else the record should say, as JSON; beside what is known of a model that was loaded.
    """
    from safetensors.torch import save as to_bytes

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:  # but not buffers, such as counts and variances of batch normalisation
        halves = {name: state[name].half() for name, _ in model.named_parameters()}
        if large := [name for name, value in halves.items() if not value.isfinite().all()]:
            raise ValueError(f"{', '.join(large)} cannot be kept in half precision: save with half=False")
        state |= halves
    payload = to_bytes(state, metadata={"format": "pt"})
    data = model.data_record and {**model.data_record, "init_args": _portable(model.data_record["init_args"])}
    record = {
        **_spelled(model.record()),
        "data": _spelled(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(payload).hexdigest(),
        **model.facts,
        **facts,
    }
    return payload, record


def find(source: str | os.PathLike[str], prefer: str = "best", revision: str | None = None) -> Path:
    """The checkpoint file that a name, run folder, path or id on the hub means; what is on the hub is downloaded.

    Args:
        source: A name from `list_weights()`, a run folder, or a file; `best` or `last`, of the newest run in `runs`.
            A folder of `save_pretrained`, or an id on the hub, as in `user/name` or `user/name@revision`.
        prefer: Which checkpoint of a run folder to take if it has both: "best" or "last".
        revision: Of an id on the hub.

    Raises:
        CheckpointError: There is none; the message lists what there is.
    """
    text = os.fspath(source)
    if text in _WAS_CALLED and not Path(text).exists():
        warnings.warn(
            f"{text} is called {_WAS_CALLED[text]} now, as it is a recipe of the zoo's, not its paper's setting",
            stacklevel=3,
        )
        text = _WAS_CALLED[text]
    shipped = SHIPPED / f"{text}.safetensors"
    path, hub_id = Path(text), _HUB_ID.fullmatch(text)
    if hub_id and not path.exists() and not path.parent.is_dir():
        return _download(hub_id[1], revision or hub_id[2])
    if revision is not None:
        raise CheckpointError(f"revision={revision!r} is for ids on the hub, as in user/name; {text!r} is none")
    if os.sep not in text and shipped.is_file():
        return shipped
    if text in ("best", "last") and not path.exists():
        found = newest(Path("runs").glob("*/version_*"), text)
        if found is None:
            raise CheckpointError(f"no {text}.ckpt in runs/*/version_*: train, or name a checkpoint")
        return found
    if path.is_dir():
        if (path / HUB_WEIGHTS).is_file():
            return path / HUB_WEIGHTS
        for folder in (path / "checkpoints", path):
            for name in sorted(("best.ckpt", "last.ckpt"), reverse=prefer == "last"):
                if (folder / name).is_file():
                    return folder / name
        raise CheckpointError(f"no best.ckpt or last.ckpt in {path} or {path / 'checkpoints'}, nor {HUB_WEIGHTS}")
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
    if path.is_file():
        return path
    names = [p.stem for p in sorted(SHIPPED.glob("*.safetensors"))]
    begun = [name for name in names if text and name.startswith(text)]  # as in `spair`, which is close to none
    close = begun or difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise CheckpointError(
        f"no checkpoint {text!r}: {hint}known names are {names}; "
        "a run folder, a .ckpt or a .safetensors file will do too, or user/name on the Hugging Face hub"
    )


def _download(repo_id: str, revision: str | None) -> Path:
    """The weights of a repository on the hub, in the cache of huggingface_hub, where they are kept."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=[HUB_WEIGHTS, HUB_RECORD])
    except Exception as error:  # the client raises a dozen kinds, for missing networks, repositories, revisions
        of = f" of revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"there is no file {repo_id}, and no checkpoint{of} came from the Hugging Face hub: {_why_none(error)}"
        ) from error
    path = Path(folder, HUB_WEIGHTS)
    for name in (HUB_WEIGHTS, HUB_RECORD):
        if not path.with_name(name).is_file():
            raise CheckpointError(f"{repo_id} on the Hugging Face hub has no {name}: it is no checkpoint of this zoo")
    if not _is_ours(_read_json(path.with_name(HUB_RECORD))):
        raise CheckpointError(
            f"{repo_id} on the Hugging Face hub is no checkpoint of this zoo: its {HUB_RECORD} names no format_version "
            "and class"
        )
    return path


def _why_none(error: Exception) -> str:
    """Why the hub's client returned nothing, and what to do."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and it is not in the cache; unset it, or load it once with a network"
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    unreached = ("TransportError", "ConnectionError", "Timeout")  # of the client's own HTTP library, whichever it is
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if isinstance(error, errors.LocalEntryNotFoundError) or kinds.intersection(unreached):
        return "the hub cannot be reached, and it is not in the cache; look at the network, or name a file"
    if isinstance(error, errors.GatedRepoError):
        return "access to it has to be asked for on its page, then: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "it has no such public repository (for private ones: hf auth login); known names are "
            f"{[p.stem for p in sorted(SHIPPED.glob('*.safetensors'))]}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def read(path: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    """Record and state of a checkpoint file.

    Raises:
        CheckpointError: The file is damaged or not one of this zoo's.
    """
    return (_read_safetensors if path.suffix == ".safetensors" else _read_lightning)(path)


def read_record(path: Path) -> dict[str, Any]:
    """What a checkpoint file says of itself: format_version, class, init_args, data, and more where it was `save`d.

    One of an earlier format version reads as it would be written today (`zoo.sharing.former`).
    """
    if path.suffix != ".safetensors":
        return _read_lightning(path)[0]
    file = _record_file(path)
    record = _read_json(file)
    if not _is_ours(record):
        raise CheckpointError(f"{path} is no checkpoint of this zoo: {file.name} names no format_version and class")
    return _checked(record, file)


def _checked(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """A record as of today, if it holds what it should."""
    try:
        records.check(record, records.CHECKPOINT, path)
        records.check_sizes(record["init_args"], path)
    except records.RecordError as error:
        raise CheckpointError(str(error)) from error
    return _of_today(record, path)


def _record_file(path: Path) -> Path:
    beside = path.with_suffix(".json")
    return path.with_name(HUB_RECORD) if path.name == HUB_WEIGHTS and not beside.is_file() else beside


def _is_ours(record: Any) -> bool:
    """Whether a JSON file's content is the record of a checkpoint; other libraries' have other fields."""
    return isinstance(record, dict) and record.keys() >= {"format_version", "class", "init_args"}


def _of_today(record: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        return upgrade(record)
    except FormerRecordError as error:
        raise CheckpointError(f"{path}: {error}") from error


def build_model(record: dict[str, Any], path: Path) -> "ObjectModel":
    """A model as the record describes it, with fresh weights.

    Raises:
        CheckpointError: The record names a model or hyperparameter that this version does not have.
    """
    version = record.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this version reads up to {FORMAT_VERSION}: update the package"
        )
    name = str(record.get("class"))
    known = registry.find_model(name)
    if known is None:
        raise CheckpointError(
            f"{path} holds a {name!r}; the models known here are {sorted(registry.models())}. A model of your own is "
            f"known once it is imported, or when the environment variable {registry.PLUGINS} names its module"
        )
    _check_parameters(known, record["init_args"], path)
    try:
        return known(**record["init_args"])
    except Exception as error:  # whatever values of a damaged record lead to
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} does not fit this version's {name}: {said}") from error


def _check_parameters(kind: type, init_args: dict[str, Any], path: Path) -> None:
    """Refuse a model that no memory holds, before its memory is asked for.

    Raises:
        CheckpointError: It would have more than a billion parameters.
    """
    import torch

    try:
        with torch.device("meta"):  # shapes alone
            count = sum(parameter.numel() for parameter in kind(**init_args).parameters())
    except Exception:  # of one's own model that reads values, or of damage, which the model itself names
        return
    if count > _MOST_PARAMETERS:
        raise CheckpointError(f"{path} is damaged: a model as it says would have {count:.0e} parameters")


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    record = read_record(path)
    written = _read_json(_record_file(path))
    payload = path.read_bytes()
    if record.get("sha256") != hashlib.sha256(payload).hexdigest():
        raise CheckpointError(f"{path} is damaged: its content is not what {path.stem}.json says; get it anew")
    try:
        state = from_bytes(payload)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); get it anew") from error
    return record, _state_of_today(written, state)


def _state_of_today(written: dict[str, Any], state: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    version = written["format_version"]
    earlier = isinstance(version, int) and version < FORMAT_VERSION
    return upgrade_state(written, state) if earlier else state


def _read_lightning(path: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    import torch

    try:
        check_zip(path)
        # weights_only: a restricted reader that builds tensors and plain containers and runs nothing
        content = torch.load(path, map_location="cpu", weights_only=True)
        written = content["zoo"]
        record, state = _checked(written, path), _state_of_today(written, content["state_dict"])
        step = int(state["step"]) if "step" in state else record.get("step", content["global_step"])
    except KeyError as error:
        if not isinstance(error.args[0], str):  # an instruction of pickles that the reader does not know
            raise CheckpointError(f"{path} cannot be read: damaged, or not a checkpoint") from error
        raise CheckpointError(f"{path} is a checkpoint, but not one of this zoo: it has no {error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # the reader raises half a dozen kinds for damaged files
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} cannot be read: damaged, or not a checkpoint ({said})") from error
    return {**record, "step": step, **_run_facts(path)}, state


def _run_facts(path: Path) -> dict[str, Any]:
    """What the run folder of a best checkpoint says of its training and test."""
    file = path.parent.parent / "run.json"
    if path.name != "best.ckpt" or not file.is_file():
        return {}
    try:
        run = _meant(records.read_run(file))
    except records.RecordError as error:
        warnings.warn(f"{error}; the checkpoint beside it is read without", stacklevel=2)
        return {}
    about = ("experiment", "changes", "init", "seed", "revision", "wall_s", "peak_memory_gb", "hardware", "torch")
    training = {key: run[key] for key in about if run.get(key) not in (None, "")}
    from zoo.evaluation import METRIC_NAMES
    from zoo.results.table import setting

    measured = run.get("metrics") or {}
    metrics = {key: measured[key] for key in METRIC_NAMES if measured.get(key) is not None}  # defined there
    kind = setting(run.get("experiment") or "", run.get("changes") or "")
    return {"setting": kind, "training": training} | ({"metrics": metrics} if metrics else {})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _meant(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: a checkpoint is a .safetensors file and a .json beside it") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


_INFINITIES = {".inf": math.inf, "-.inf": -math.inf}  # as YAML spells them; JSON has none


def _spelled(value: Any) -> Any:
    """Hyperparameters with infinite numbers as words: as nulls they would mean something else."""
    if isinstance(value, dict):
        return {key: _spelled(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(part) for part in value]
    return next((word for word, number in _INFINITIES.items() if value == number and isinstance(value, float)), value)


def _meant(value: Any) -> Any:
    """What `_spelled` wrote."""
    if isinstance(value, dict):
        return {key: _meant(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_meant(part) for part in value]
    return _INFINITIES.get(value, value) if isinstance(value, str) else value


def _portable(init_args: dict[str, Any]) -> dict[str, Any]:
    """Without what holds on one machine only."""
    return {k: v for k, v in init_args.items() if k not in ("data_dir", "num_workers")}


def newest(runs: Iterable[Path], name: str) -> Path | None:
    """The most recently written checkpoint called `name` (best, last) in the given run folders, or None."""
    files = [path for run in runs if (path := run / "checkpoints" / f"{name}.ckpt").is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
