"""Generated data on disk: one safetensors file with a manifest, rebuilt whenever it is not what was asked for."""

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.errors import CacheError

try:
    import fcntl
except ImportError:  # not a POSIX system: unique temporary names and an atomic replace have to do
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
FIX = "free some space there, or set ZOO_DATA (or `data_dir`) to a folder that can be written"


def data_folder(data_dir: str | None) -> Path:
    """The folder of all data: `data_dir`, else the environment variable ZOO_DATA, else `data` in the working folder."""
    return Path(data_dir or os.environ.get("ZOO_DATA") or "data").expanduser()


def cache_folder(data_dir: Path) -> Path:
    """Where generated data go: `data_dir/cache`, or the user's cache folder where `data_dir` is read-only.

    Args:
        data_dir: The data folder; need not exist yet.

    Returns:
        `data_dir/cache` if it can be written or made, else `object-centric-zoo` in XDG_CACHE_HOME or ~/.cache.
    """
    folder = data_dir / "cache"
    if is_writable(folder):
        return folder
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "object-centric-zoo"


def is_writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or in the nearest folder above it where it does not exist yet."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    # A superuser may write anywhere, so that os.access alone would not respect a folder marked as read-only.
    return nearest.is_dir() and os.access(nearest, os.W_OK) and bool(nearest.stat().st_mode & WRITE_BITS)


def cached(
    folder: Path, name: str, manifest: Mapping[str, Any], build: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Load `folder/name.safetensors`, or build it where it is absent, damaged or made from another manifest.

    Several processes may ask at once: one builds, the others wait for it. The file appears whole or not at all.

    Args:
        folder: Cache folder, made if need be.
        name: File name without its suffix.
        manifest: All that the content depends on (parameters, source, version), as JSON values.
        build: Makes the content; called only if the file does not serve.

    Returns:
        The tensors, memory-mapped from the file.

    Raises:
        CacheError: The folder or the file cannot be written.
    """
    path = folder / f"{name}.safetensors"
    if (content := _read(path, manifest)) is not None:
        return content
    with locked(folder / f".{name}.lock"):
        if (content := _read(path, manifest, quiet=True)) is None:  # nobody else made it meanwhile
            _write(path, manifest, build())
            content = _read(path, manifest)
    if content is None:
        raise CacheError(f"{path} does not hold what was just written to it: the disk may be faulty; {FIX}")
    return content


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if need be; the system releases it if the process dies.

    Without effect where the system has no locks, or, with a warning, the file system.

    Args:
        path: The lock file; it stays behind, empty.

    Raises:
        CacheError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise CacheError(f"cannot write the folder {path.parent}: {error}; {FIX}") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems
                log.warning("%s cannot be locked (%s): let one process alone prepare the data first", path, error)
        yield  # closing the file unlocks it


def _read(path: Path, manifest: Mapping[str, Any], *, quiet: bool = False) -> dict[str, Tensor] | None:
    """The content of a file that is whole and was made from `manifest`, else None with the reason logged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stale = metadata.get("manifest") != _canonical(manifest)
            content = {} if stale else {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"it cannot be read ({error})"
    else:
        if not stale and metadata.get("sha256") == _sha256(content):
            return content
        reason = "it was made from other parameters or by another version" if stale else "its checksum is wrong"
    if not quiet:
        log.warning("rebuilding %s: %s", path, reason)
    return None


def _write(path: Path, manifest: Mapping[str, Any], content: dict[str, Tensor]) -> None:
    metadata = {"manifest": _canonical(manifest), "sha256": _sha256(content)}
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise CacheError(f"cannot write the cache folder {path.parent}: {error}; {FIX}") from error
    try:
        save_file(content, temporary, metadata)
        os.chmod(temporary, 0o644)  # noqa: PTH101 - mkstemp gives 0600, which hides the file from a group's members
        os.replace(temporary, path)  # noqa: PTH105
    except (OSError, SafetensorError) as error:
        raise CacheError(f"cannot write {path}: {error}; {FIX}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _canonical(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True)


def _sha256(content: Mapping[str, Tensor]) -> str:
    """Digest of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(content.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
