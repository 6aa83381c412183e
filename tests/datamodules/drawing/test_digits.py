import gzip
import hashlib
import http.server
import socket
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
import torch.nn.functional as F
import torchvision.datasets

from datamodules import DatasetCorruptError, DatasetNotFoundError
from datamodules.base import SPLITS
from datamodules.drawing import digits as module
from datamodules.drawing.digits import find_source, make_tiles


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, train: int = 300, test: int = 100) -> Path:
    """Files in MNIST's format whose images are told apart by their first pixels."""
    rng = np.random.default_rng(0)
    for part, count, offset in (("train", train, 0), ("t10k", test, train)):
        images = rng.integers(0, 256, (count, 28, 28))
        images[:, 0, 0], images[:, 0, 1] = divmod(np.arange(count) + offset, 256)
        labels = rng.permutation(np.r_[np.arange(count - 30) % 10, np.zeros(30)])
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return root


@pytest.mark.parametrize("kind", ["uci", "mnist"])
def test_splits_share_no_digit_and_balance_classes(tmp_path, kind):
    source = find_source(kind, write_mnist(tmp_path) if kind == "mnist" else tmp_path)
    seen: set[int] = set()
    for split in SPLITS:
        digits = source.load(split)
        assert len(set(np.bincount(digits.labels, minlength=10))) == 1
        assert not seen & set(digits.instances)
        seen |= set(digits.instances)
        if kind == "mnist":  # the number written in the pixels is the number of the instance
            assert np.array_equal(digits.images[:, 0, :2].astype(int) @ [256, 1], digits.instances)
            assert all((digits.instances >= 300) == (split == "test"))
        else:
            bunch = sklearn.datasets.load_digits()
            assert np.array_equal(digits.labels, bunch.target[digits.instances])
            assert np.abs(digits.images / 255 - bunch.images[digits.instances] / 16).max() <= 0.5 / 255 + 1e-9
    train, val = (len(source.load(split).labels) for split in ("train", "val"))
    assert train / (train + val) == pytest.approx(0.9 if kind == "mnist" else 0.8 / 0.9, abs=0.02)


def test_mnist_is_named_after_its_size(tmp_path, mnist_root):
    assert find_source("mnist", write_mnist(tmp_path)).name == "mnist400"
    real = find_source("auto", mnist_root)
    assert real.kind == "mnist"
    reference = torchvision.datasets.MNIST(str(mnist_root), train=False)
    test = real.load("test")
    assert len(test.images) > 1000
    first = test.instances.min()  # of the training file's length or beyond
    index = test.instances - (int(first) // 500 * 500 if real.name == "mnist10k" else 60_000)
    assert np.array_equal(reference.targets.numpy()[index], test.labels)
    assert np.array_equal(reference.data.numpy()[index], test.images)


@pytest.mark.parametrize("size", [7, 14, 28, 37])
def test_tiles_agree_with_interpolate_digit_by_digit(size):
    """Of each digit the crop to its ink, resized by PyTorch, lies in the middle of its tile."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for image in images:
        y1, x1 = rng.integers(0, 10, 2)
        y2, x2 = rng.integers(18, 29, 2)  # not narrower: torch 2.15's antialiasing is wrong for outputs 1 pixel wide
        image[:y1] = image[y2:] = 0
        image[:, :x1] = image[:, x2:] = 0
    long = round(size * 12 / 14)
    for image, tile in zip(images, make_tiles(images, size), strict=True):
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        crop = torch.tensor(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], dtype=torch.float64)
        shape = [round(side * long / max(crop.shape)) for side in crop.shape]
        wanted = F.interpolate(crop[None, None], size=shape, mode="bilinear", antialias=True)[0, 0].numpy()
        assert max(shape) == long
        top, left = ((size - side) // 2 for side in shape)
        assert np.abs(tile[top : top + shape[0], left : left + shape[1]] - wanted).max() <= 0.5 + 1e-3
        assert tile.astype(int).sum() == tile[top : top + shape[0], left : left + shape[1]].astype(int).sum()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("train-images-idx3-ubyte", lambda content: content[:-1]),
        ("t10k-images-idx3-ubyte", lambda content: content[:10]),
        ("train-labels-idx1-ubyte", lambda content: b""),
        ("t10k-labels-idx1-ubyte", lambda content: b"\x1f\x8b" + content[2:]),
        ("t10k-labels-idx1-ubyte", lambda content: content[:-1] + b"\x0a"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, damage):
    path = write_mnist(tmp_path) / "MNIST" / "raw" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetCorruptError, match=file.split("-")[0]):
        [find_source("mnist", tmp_path).load(split) for split in SPLITS]


@pytest.fixture
def silent_server():
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.mark.parametrize("network", ["refuses", "is silent", "may not write"])
def test_without_network_it_fails_fast_and_leaves_nothing(tmp_path, monkeypatch, silent_server, network):
    mirror = silent_server if network == "is silent" else "http://127.0.0.1:9/"
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror] * 2)
    monkeypatch.setattr(module, "DOWNLOAD_TIMEOUT", 0.2)
    root = tmp_path / "data"
    root.mkdir(0o555 if network == "may not write" else 0o755)
    start = time.monotonic()
    with pytest.raises(DatasetNotFoundError, match=rf"{root}.*ZOO_DATA.*source: uci"):
        find_source("mnist", root)
    with pytest.warns(UserWarning, match="UCI"):
        assert find_source("auto", root).name == "uci"
    assert time.monotonic() - start < 5
    assert not [path for path in root.rglob("*") if path.is_dir() or path.stat().st_size]
    assert socket.getdefaulttimeout() is None


def test_mnist_is_downloaded_and_checked(tmp_path, monkeypatch):
    origin = write_mnist(tmp_path / "origin") / "MNIST" / "raw"
    resources = []
    for path in sorted(origin.iterdir()):
        packed = gzip.compress(path.read_bytes())
        (tmp_path / f"{path.name}.gz").write_bytes(packed)
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path), **kwargs)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(urllib.request, "_opener", None)  # which keeps the proxies of its first use
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", [*resources[:3], (resources[3][0], "0" * 32)])
        with pytest.raises(DatasetNotFoundError):
            find_source("mnist", tmp_path / "got")
        assert not (tmp_path / "got" / "MNIST").exists()
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
        source = find_source("auto", tmp_path / "got")
        server.shutdown()
    assert source.name == "mnist400"
    assert source.fingerprint == find_source("mnist", tmp_path / "origin").fingerprint


def test_an_unknown_source_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"source='emnist'.*auto, mnist, uci"):
        find_source("emnist", tmp_path)
