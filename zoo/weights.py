"""Trained checkpoints: data, not programs. A safetensors file with the weights, a JSON file with all else."""

import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.models.base import ObjectModel

SHIPPED = Path(__file__).parent / "checkpoints"


class CheckpointError(ValueError):
    """A checkpoint that is not there, is damaged, or is not one of this zoo's."""


def list_models() -> dict[str, str]:
    """Names of the models, each with a line about its paper."""
    return {name: entry.summary for name, entry in registry.models().items()}


def list_weights() -> dict[str, dict[str, Any]]:
    """Names of the trained checkpoints that come with the zoo, each with its record (see `read_record`)."""
    return {path.stem: _read_json(path) for path in sorted(SHIPPED.glob("*.json"))}


def load(source: str | os.PathLike[str]) -> "ObjectModel":
    """Rebuild a trained model; no code from the checkpoint is run.

    Args:
        source: A name from `list_weights()`; a run folder (its best checkpoint); a checkpoint file (.ckpt or
            .safetensors).

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: There is no such checkpoint (the message lists the names), or it is damaged.
    """
    path = find(source)
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
    model.data_record, model.loaded_step = record.get("data"), record.get("step", 0)


def save(model: "ObjectModel", path: str | os.PathLike[str], **facts: Any) -> Path:
    """Write PATH.safetensors and PATH.json, from which `load` rebuilds the model.

    Args:
        model: Any model of the zoo.
        path: Where, without a suffix.
        **facts: What else the record should say, as JSON: metrics, how it was trained, ...

    Returns:
        The path of the safetensors file.
    """
    from safetensors.torch import save as to_bytes

    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    payload = to_bytes(state, metadata={"format": "pt"})
    data = model.data_record and {**model.data_record, "init_args": _portable(model.data_record["init_args"])}
    record = {
        **model.record(),
        "data": data,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(payload).hexdigest(),
        **facts,
    }
    _write_whole(base.with_name(base.name + ".safetensors"), payload)
    _write_whole(base.with_name(base.name + ".json"), (json.dumps(record, indent=2) + "\n").encode())
    return base.with_name(base.name + ".safetensors")


def find(source: str | os.PathLike[str], prefer: str = "best") -> Path:
    """The checkpoint file that a name, run folder or path means.

    Args:
        source: A name from `list_weights()`, a run folder, or a file.
        prefer: Which checkpoint of a run folder to take if it has both: "best" or "last".

    Raises:
        CheckpointError: There is none; the message lists what there is.
    """
    text = os.fspath(source)
    shipped = SHIPPED / f"{text}.safetensors"
    if os.sep not in text and shipped.is_file():
        return shipped
    path = Path(text)
    if path.is_dir():
        for folder in (path / "checkpoints", path):
            for name in sorted(("best.ckpt", "last.ckpt"), reverse=prefer == "last"):
                if (folder / name).is_file():
                    return folder / name
        raise CheckpointError(f"no best.ckpt or last.ckpt in {path} or {path / 'checkpoints'}")
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
    if path.is_file():
        return path
    names = [p.stem for p in sorted(SHIPPED.glob("*.safetensors"))]
    close = difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise CheckpointError(
        f"no checkpoint {text!r}: {hint}known names are {names}; "
        "a run folder, a .ckpt or a .safetensors file will do too"
    )


def read(path: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    """Record and state of a checkpoint file.

    Raises:
        CheckpointError: The file is damaged or not one of this zoo's.
    """
    return (_read_safetensors if path.suffix == ".safetensors" else _read_lightning)(path)


def read_record(path: Path) -> dict[str, Any]:
    """What a checkpoint file says of itself: format_version, class, init_args, data, and more where it was `save`d."""
    return _read_json(path.with_suffix(".json")) if path.suffix == ".safetensors" else _read_lightning(path)[0]


def build_model(record: dict[str, Any], path: Path) -> "ObjectModel":
    """A model as the record describes it, with fresh weights.

    Raises:
        CheckpointError: The record names a model or hyperparameter that this version does not have.
    """
    from zoo.models.base import FORMAT_VERSION

    version = record.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this version reads up to {FORMAT_VERSION}: update the package"
        )
    name = record.get("class")
    if name not in registry.models():
        raise CheckpointError(f"{path} holds a {name!r}; the models known here are {sorted(registry.models())}")
    try:
        return registry.models()[name].load()(**record["init_args"])
    except TypeError as error:
        raise CheckpointError(f"{path} does not fit this version's {name}: {error}") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    record = read_record(path)
    payload = path.read_bytes()
    if record.get("sha256") != hashlib.sha256(payload).hexdigest():
        raise CheckpointError(f"{path} is damaged: its content is not what {path.stem}.json says; get it anew")
    try:
        return record, from_bytes(payload)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); get it anew") from error


def _read_lightning(path: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    import torch

    try:
        # weights_only: a restricted reader that builds tensors and plain containers and runs nothing
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {**content["zoo"], "step": content["global_step"]}, content["state_dict"]
    except KeyError as error:
        raise CheckpointError(f"{path} is a checkpoint, but not one of this zoo: it has no {error}") from error
    except Exception as error:  # the reader raises half a dozen kinds for damaged files
        raise CheckpointError(f"{path} cannot be read: damaged, or not a checkpoint ({error})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: a checkpoint is a .safetensors file and a .json beside it") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _portable(init_args: dict[str, Any]) -> dict[str, Any]:
    """Without what holds on one machine only."""
    return {k: v for k, v in init_args.items() if k not in ("data_dir", "num_workers")}


def _write_whole(path: Path, payload: bytes) -> None:
    """Write under a temporary name, then rename: no half-written file, whatever happens."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def newest(runs: Iterable[Path], name: str) -> Path | None:
    """The most recently written checkpoint called `name` (best, last) in the given run folders, or None."""
    files = [path for run in runs if (path := run / "checkpoints" / f"{name}.ckpt").is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
