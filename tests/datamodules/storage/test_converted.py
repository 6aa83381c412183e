import json
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules import CacheError, DatasetCorruptError
from datamodules.storage import converted as module
from datamodules.storage.converted import (
    ConvertedScenes,
    boxes_from_mask,
    centre_crop,
    converted,
    fingerprint,
    pack_scene,
    pair_of_sides,
    resize_bilinear,
    resize_nearest,
    scene_fields,
)

PARAMETERS = {"size": [6, 5], "version": 1}
SOURCE = {"bytes": 77}
FIELDS = {**scene_fields((6, 5), 3, ["shape"]), "unstable": ((), "uint8")}
SCENES = 552


def scene(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    mask = np.zeros((6, 5), int)
    mask[1:3, 1:4], mask[4:, 2:] = 1 + number % 2, 5
    packed = pack_scene(rng.integers(0, 256, (6, 5, 3), np.uint8), mask, 3, shape=np.array([0, 1, 2, 3, 2]))
    return {**packed, "unstable": np.array(number % 2, np.uint8)}


def read(start: int) -> Iterator[dict[str, np.ndarray]]:
    yield from map(scene, range(start, SCENES))


def refuse(start: int) -> Iterator[dict[str, np.ndarray]]:
    raise AssertionError("converted although it has been")
    yield


def convert(folder: Path, reader=read, source=SOURCE, **parameters) -> Path:
    return converted(folder, "x-6", {**PARAMETERS, **parameters}, source, FIELDS, reader, SCENES)


def check_content(path: Path) -> None:
    arrays = {key: np.load(path / f"{key}.npy") for key in FIELDS}
    assert {key: (value.shape, str(value.dtype)) for key, value in arrays.items()} == {
        key: ((SCENES, *shape), dtype) for key, (shape, dtype) in FIELDS.items()
    }
    for number in range(0, SCENES, 7):
        assert all(np.array_equal(arrays[key][number], value) for key, value in scene(number).items())


def test_converts_once(tmp_path, caplog):
    path = convert(tmp_path / "new" / "cache")
    check_content(path)
    assert [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")] == [path.name]
    with caplog.at_level(logging.WARNING, "datamodules"):
        assert convert(tmp_path / "new" / "cache", refuse) == path
        assert convert(tmp_path / "new" / "cache", refuse, source=None) == path  # the published files were deleted
    assert not caplog.text
    assert convert(tmp_path / "new" / "cache", version=2) != path  # another conversion, beside it


def test_what_does_not_serve_is_converted_anew(tmp_path, caplog):
    path = convert(tmp_path)
    other = {"bytes": 78}
    for damage in ("other files", "cut short", "no manifest"):
        if damage == "cut short":
            os.truncate(path / "masks.npy", 500)
        elif damage == "no manifest":
            (path / "manifest.json").unlink()
        with caplog.at_level(logging.WARNING, "datamodules"):
            assert convert(tmp_path, source=other) == path
        check_content(path)
        assert f"converting {path} anew" in caplog.text
        caplog.clear()
        assert convert(tmp_path, refuse, source=other) == path


def test_no_byte_of_a_converted_data_set_changes_unnoticed(tmp_path):
    """Each byte of the small files and headers, and many of the others: an error in a line, or converted anew."""
    rng, noticed = np.random.default_rng(0), 0
    whole = convert(tmp_path / "whole")
    for file in sorted(whole.iterdir()):
        content = file.read_bytes()
        places = {*rng.integers(0, len(content), 12).tolist(), *range(0, 128, 11), len(content) - 1}
        for place in sorted(place for place in places if place < len(content)):
            changed = bytearray(content)
            changed[place] ^= 1 << rng.integers(8)
            file.write_bytes(changed)
            try:
                harmless = json.loads(changed) == json.loads(content)  # white space
            except ValueError:
                harmless = False
            if harmless:
                ConvertedScenes(whole)
                continue
            with pytest.raises(CacheError, match=r"is damaged \([^\n]*\Z"):
                ConvertedScenes(whole)
            noticed += 1
        file.write_bytes(content)
    assert noticed > 150
    ConvertedScenes(whole)


def test_checksums_are_of_the_scenes_that_are_opened_and_go_on_where_a_conversion_does(tmp_path, monkeypatch):
    a_scene = sum(128 + value.nbytes for value in scene(0).values())  # with headers
    monkeypatch.setattr(module, "CHECKPOINT", 100 * a_scene)

    def broken(start: int) -> Iterator[dict[str, np.ndarray]]:
        yield from map(scene, range(start, 250))
        raise DatasetCorruptError("record 250 is damaged")

    with pytest.raises(DatasetCorruptError, match="record 250"):
        convert(tmp_path, broken)
    path = convert(tmp_path)  # from the middle of a checksum's scenes
    manifest = module.read_manifest(path)
    raw = np.load(path / "images.npy")
    assert manifest["block"] == 100
    assert manifest["checksums"]["images"] == [zlib.crc32(raw[i : i + 100]) for i in range(0, SCENES, 100)]
    with (path / "images.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    ConvertedScenes(path, 0, 500)  # the rest is not looked at
    with pytest.raises(CacheError, match=r"images\.npy is damaged \(scenes 500 to 551 have another checksum"):
        ConvertedScenes(path, 480)
    (path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(CacheError, match=r"manifest\.json is damaged"):
        ConvertedScenes(path)


def test_a_data_set_without_checksums_is_converted_anew(tmp_path, caplog):
    path = convert(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"], manifest["checksums"], manifest["block"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert convert(tmp_path) == path
    assert "has no digest" in caplog.text
    ConvertedScenes(path)


def _killed(folder: Path, started: multiprocessing.synchronize.Event) -> None:
    def slow(start: int) -> Iterator[dict[str, np.ndarray]]:
        for number in range(SCENES):
            if number == 290:
                started.set()
                time.sleep(30)
            yield scene(number)

    convert(folder, slow)


def test_a_killed_conversion_goes_on_where_it_was_saved(tmp_path, monkeypatch):
    a_scene = sum(128 + value.nbytes for value in scene(0).values())  # with headers
    monkeypatch.setattr(module, "CHECKPOINT", 100 * a_scene)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    worker = context.Process(target=_killed, args=(tmp_path, started))
    worker.start()
    assert started.wait(20)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(20)
    (part,) = tmp_path.glob("x-6-*")
    assert part.name.endswith(".part")
    starts = []

    def rest(start: int) -> Iterator[dict[str, np.ndarray]]:
        starts.append(start)
        return read(start)

    check_content(convert(tmp_path, rest))
    assert starts == [200]
    assert not part.exists()


def test_an_error_of_the_reader_keeps_what_there_is(tmp_path):
    starts = []

    def broken(start: int) -> Iterator[dict[str, np.ndarray]]:
        starts.append(start)
        for number in range(start, SCENES):
            if number == 300 and len(starts) == 1:
                raise DatasetCorruptError("record 300 is damaged")
            yield scene(number)

    with pytest.raises(DatasetCorruptError, match="record 300"):
        convert(tmp_path, broken)
    check_content(convert(tmp_path, broken))
    assert starts == [0, 300]
    # but not for other files, nor after the part was damaged
    starts.clear()
    with pytest.raises(DatasetCorruptError):
        convert(tmp_path, broken, source={"bytes": 1})
    (part,) = tmp_path.glob("*.part")
    with pytest.raises(AssertionError):
        convert(tmp_path, refuse, source={"bytes": 2})  # nothing can be read: the part is left alone
    assert (part / "images.npy").stat().st_size > 300 * 90
    os.truncate(part / "images.npy", 1000)
    check_content(convert(tmp_path, broken, source={"bytes": 1}))
    assert starts == [0, 0]
    with pytest.raises(DatasetCorruptError, match="hold no scene"):
        converted(tmp_path, "empty", {}, {}, FIELDS, lambda start: iter(()))
    assert not list(tmp_path.glob("empty*"))


def _asks(folder: Path, go: multiprocessing.synchronize.Event) -> None:
    def counted(start: int) -> Iterator[dict[str, np.ndarray]]:
        with (folder / "conversions").open("a") as file:
            file.write("x")
        return read(start)

    go.wait()
    check_content(convert(folder, counted))


def test_of_several_processes_one_converts_and_the_others_wait(tmp_path):
    context = multiprocessing.get_context("fork")
    go = context.Event()
    workers = [context.Process(target=_asks, args=(tmp_path, go)) for _ in range(3)]
    for worker in workers:
        worker.start()
    go.set()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "conversions").read_text() == "x"


def _converts_on_a_full_disk(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        convert(folder)
    except CacheError as error:
        raise SystemExit(0 if str(folder) in str(error) and "ZOO_DATA" in str(error) else 2) from None
    raise SystemExit(1)


def test_a_full_disk_is_an_error_after_which_it_goes_on(tmp_path, monkeypatch):
    worker = multiprocessing.get_context("fork").Process(target=_converts_on_a_full_disk, args=(tmp_path,))
    worker.start()
    worker.join(20)
    assert worker.exitcode == 0
    check_content(convert(tmp_path))
    with pytest.raises(CacheError, match=r"needs .* GB more, the disk has .* ZOO_DATA"):
        converted(tmp_path, "big", {}, {}, FIELDS, read, 10**14)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file.*ZOO_DATA"):
        convert(tmp_path / "file" / "cache")


def test_batches(tmp_path):
    path = convert(tmp_path)
    scenes = ConvertedScenes(path, 100, 110, max_objects=4, label="shape", target="unstable")
    assert len(scenes) == 10
    batch = scenes.batch([3, 0])
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert shapes == {
        "image": ((2, 3, 6, 5), torch.float32),
        "boxes": ((2, 4, 4), torch.float32),
        "valid": ((2, 4), torch.bool),
        "labels": ((2, 4), torch.int64),
        "mask": ((2, 6, 5), torch.int64),
        "target": ((2,), torch.int64),
    }
    for row, number in enumerate((103, 100)):
        expected = scene(number)
        assert torch.equal(batch["image"][row], torch.tensor(expected["images"]) / 255)
        assert batch["mask"][row].tolist() == expected["masks"].tolist()
        assert batch["boxes"][row].tolist() == [[1, 1, 4, 3], [2, 4, 5, 6], [0] * 4, [0] * 4]
        assert batch["valid"][row].tolist() == [True, True, False, False]
        assert batch["labels"][row].tolist() == [number % 2, 2, 0, 0]  # of the objects 1 or 2, and 5
        assert batch["target"][row] == number % 2
    assert torch.equal(scenes[3]["image"], batch["image"][0])
    assert "labels" not in ConvertedScenes(path).batch([0])
    assert len(ConvertedScenes(path)) == SCENES
    with pytest.raises(ValueError, match=rf"holds {SCENES} scenes: none from 9999"):
        ConvertedScenes(path, 9999)
    batch["image"].zero_()
    batch["mask"].zero_()
    check_content(path)
    travels = pickle.dumps(scenes)  # to workers that are spawned
    assert len(travels) < 2000
    assert torch.equal(pickle.loads(travels).batch([3])["mask"], scenes.batch([3])["mask"])


def test_objects_are_numbered_and_boxed_by_what_is_visible():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((12, 17), int)
        for number in rng.permutation(np.arange(1, 9)):
            y, x = rng.integers(0, 9), rng.integers(0, 13)
            mask[y : y + rng.integers(1, 5), x : x + rng.integers(1, 6)] = number
        packed = pack_scene(np.zeros((12, 17, 3), np.uint8), mask, 8, shape=np.arange(10, 18))
        ids = [number for number in range(1, 9) if (mask == number).any()]
        assert packed["counts"] == len(ids)
        for row, number in enumerate(ids):
            assert np.array_equal(packed["masks"] == row + 1, mask == number)
            ys, xs = np.nonzero(mask == number)
            assert packed["boxes"][row].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert packed["shape"][row] == 9 + number
        assert not packed["boxes"][len(ids) :].any()
    empty = pack_scene(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int), 3)
    assert empty["counts"] == 0
    assert boxes_from_mask(np.zeros((4, 4), int), 0).shape == (0, 4)
    with pytest.raises(ValueError, match="4 objects in a scene, expected at most 3"):
        pack_scene(np.zeros((2, 2, 3), np.uint8), np.array([[1, 2], [3, 4]]), 3)


@pytest.mark.parametrize(("old", "new"), [((196, 196), (64, 64)), ((192, 192), (128, 128)), ((13, 40), (29, 7))])
def test_resizing_is_that_of_the_published_programs(old, new):
    array = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    nearest = Image.fromarray(array).resize(new[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(resize_nearest(array, new), np.asarray(nearest))
    torch_nearest = F.interpolate(torch.tensor(array).permute(2, 0, 1)[None].float(), size=new, mode="nearest")
    assert np.array_equal(resize_nearest(array, new, corners=True), torch_nearest[0].permute(1, 2, 0).byte().numpy())
    assert resize_bilinear(array, new).shape == (*new, 3)
    assert np.array_equal(resize_bilinear(array, old), array)
    antialiased = F.interpolate(
        torch.tensor(array).permute(2, 0, 1)[None].double(), size=new, mode="bilinear", antialias=True
    )
    assert np.abs(resize_bilinear(array, new) - antialiased[0].permute(1, 2, 0).numpy()).max() <= 1.01


def test_crops_and_sizes():
    image = np.arange(240 * 320).reshape(240, 320)
    assert np.array_equal(centre_crop(image, 192), image[24:216, 64:256])  # the ClevrTex benchmark's
    assert centre_crop(image, None) is image
    with pytest.raises(ValueError, match="crop=241: images have 240 x 320 pixels"):
        centre_crop(image, 241)
    assert pair_of_sides(64) == (64, 64)
    assert pair_of_sides([64, 96]) == (64, 96)
    for wrong in (0, [1, 2, 3], [1.5, 2], 5000, "64"):
        with pytest.raises(ValueError, match=r"image_size=.*: must be a whole number or \[height, width\]"):
            pair_of_sides(wrong)


def test_a_fingerprint_sees_a_change_at_either_end(tmp_path):
    content = bytearray(300_000)
    prints = []
    for change in (None, 5, 299_999):
        if change is not None:
            content[change] ^= 1
        (tmp_path / "file").write_bytes(content)
        prints.append(fingerprint(tmp_path / "file")["sha256_of_ends"])
    (tmp_path / "file").write_bytes(content[:-1])
    assert fingerprint(tmp_path / "file")["bytes"] == 299_999
    assert len(set(prints)) == 3
