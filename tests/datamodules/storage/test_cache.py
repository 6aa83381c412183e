import logging
import multiprocessing
import os
import resource
import signal
import stat
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.errors import CacheError
from datamodules.storage import cache
from datamodules.storage.cache import cache_folder, cached, data_folder

MANIFEST = {"seed": 1, "sizes": [3, 4], "version": 1}


def build() -> dict[str, Tensor]:
    return {"a": torch.arange(5000, dtype=torch.int16).view(50, 100), "b": torch.zeros(0, 3, dtype=torch.uint8)}


def refuse() -> dict[str, Tensor]:
    raise AssertionError("built although the cache serves")


def same(content: dict[str, Tensor]) -> bool:
    return content.keys() == build().keys() and all(torch.equal(content[k], v) for k, v in build().items())


def test_the_second_call_reads_what_the_first_one_wrote(tmp_path):
    assert same(cached(tmp_path / "new" / "folder", "x", MANIFEST, build))
    assert same(cached(tmp_path / "new" / "folder", "x", dict(reversed(MANIFEST.items())), refuse))


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "emptied", "not safetensors", "stale"])
def test_a_file_that_does_not_serve_is_rebuilt_with_a_log_line(tmp_path, caplog, damage):
    cached(tmp_path, "x", MANIFEST, build)
    path = tmp_path / "x.safetensors"
    content = bytearray(path.read_bytes())
    manifest = MANIFEST
    if damage == "truncated":
        del content[-100:]
    elif damage == "bit flipped":
        content[-77] ^= 1
    elif damage == "emptied":
        content.clear()
    elif damage == "not safetensors":
        content[:8] = b"\xff" * 8
    else:
        manifest = {**MANIFEST, "version": 2}
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "datamodules"):
        assert same(cached(tmp_path, "x", manifest, build))
    assert "rebuilding" in caplog.text
    assert str(path) in caplog.text
    assert same(cached(tmp_path, "x", manifest, refuse))


def _worker(folder: Path, started: Event) -> None:
    def slow() -> dict[str, Tensor]:
        with (folder / "builds").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return build()

    started.wait()
    raise SystemExit(0 if same(cached(folder, "x", MANIFEST, slow)) else 1)


def test_of_several_processes_one_builds_and_the_others_wait(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    workers = [context.Process(target=_worker, args=(tmp_path, started)) for _ in range(3)]
    for worker in workers:
        worker.start()
    started.set()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "x"
    assert not list(tmp_path.glob(".*.tmp"))


def _write_on_a_full_disk(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        cached(folder, "x", MANIFEST, build)
    except CacheError as error:
        raise SystemExit(0 if str(folder) in str(error) and "ZOO_DATA" in str(error) else 2) from None
    raise SystemExit(1)


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path):
    worker = multiprocessing.get_context("fork").Process(target=_write_on_a_full_disk, args=(tmp_path,))
    worker.start()
    worker.join(20)
    assert worker.exitcode == 0
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size > 0]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file.*ZOO_DATA"):
        cached(tmp_path / "file" / "cache", "x", MANIFEST, build)


def test_a_failing_build_leaves_nothing_behind(tmp_path):
    with pytest.raises(AssertionError):
        cached(tmp_path, "x", MANIFEST, refuse)
    assert not list(tmp_path.glob("*.safetensors"))
    assert same(cached(tmp_path, "x", MANIFEST, build))  # the lock is free again


def test_a_read_only_data_folder_is_left_alone(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    assert cache_folder(folder) == folder / "cache"
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert cache_folder(folder) == Path(os.environ["XDG_CACHE_HOME"]) / "object-centric-zoo"


def test_data_folder(monkeypatch):
    monkeypatch.setenv("ZOO_DATA", "/somewhere")
    assert data_folder(None) == Path("/somewhere")
    assert data_folder("/else") == Path("/else")
    monkeypatch.delenv("ZOO_DATA")
    assert data_folder(None) == Path("data")


def test_missing_locks_are_told(tmp_path, monkeypatch, caplog):
    def flock(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(cache.fcntl, "flock", flock)
    assert same(cached(tmp_path, "x", MANIFEST, build))
    assert "cannot be locked (no locks available)" in caplog.text
