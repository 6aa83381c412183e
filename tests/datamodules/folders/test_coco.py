"""Annotations in COCO's format: each way to write them loads right, or is refused in one line that names what to do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_coco import ALL, NAMES, Variant, truth, write_images

from datamodules import DatasetCorruptError, ImageFolderDataModule


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "photos"
    write_images(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("datamodules.image_folder.rank_zero_info", lines.append)
    return lines


def load(folder: Path, data_dir: Path, **options: Any) -> dict[str, dict[str, torch.Tensor]]:
    data = ImageFolderDataModule(
        folder=str(folder),
        annotations="a.json",
        image_size=[60, 90],
        data_dir=str(data_dir),
        shares=[2, 1, 1],
        **options,
    )
    data.prepare_data()
    data.setup()
    return {
        dataset.files[i].name: dataset[i]  # type: ignore[attr-defined]
        for dataset in data.datasets.values()
        for i in range(len(dataset))
    }


def check_scenes(scenes: dict[str, dict[str, torch.Tensor]], variant: Variant, gone: tuple[str, ...] = ()) -> None:
    expected = {**truth(), **variant.differs}
    assert sorted(scenes) == [name for name in NAMES if name not in gone]
    for name, scene in scenes.items():
        valid = scene["valid"]
        found = list(zip(map(tuple, scene["boxes"][valid].tolist()), scene["labels"][valid].tolist(), strict=True))
        assert [label for _, label in found] == [label for _, label in expected[name]], name
        for (box, _), (true, _) in zip(found, expected[name], strict=True):
            assert box == pytest.approx(true, abs=0.01), name
        if variant.masks and not variant.differs:
            for i, (box, _) in enumerate(expected[name]):
                rows, columns = (scene["mask"] == i + 1).nonzero(as_tuple=True)
                assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box
        assert ("mask" in scene) == variant.masks or variant.differs


def test_there_are_many_variants_each_with_a_name_of_its_own() -> None:
    assert len({variant.name for variant in ALL}) >= 60


@pytest.mark.parametrize("variant", ALL, ids=[f"{i}-{variant.name}" for i, variant in enumerate(ALL)])
def test_annotations_load_right_or_are_refused_in_a_line(
    variant: Variant, images: Path, tmp_path: Path, said: list[str]
) -> None:
    (images / "a.json").write_bytes(variant.file)
    if variant.refused:
        with pytest.raises(DatasetCorruptError) as refusal:
            load(images, tmp_path)
        message = str(refusal.value)
        assert re.search(variant.refused, message), message
        assert "\n" not in message
        assert len(message) < 600
        assert not said
    if not variant.refused or variant.skippable:
        scenes = load(images, tmp_path / "again", skip_bad=bool(variant.refused))
        check_scenes(scenes, variant, variant.gone)
        assert variant.says in said[0], said[0]
    else:
        with pytest.raises(DatasetCorruptError, match=variant.refused):
            load(images, tmp_path, skip_bad=True)


@pytest.mark.parametrize(("seed", "count"), [(0, 800), pytest.param(1, 60000, marks=pytest.mark.slow)])
def test_no_mutation_of_annotations_crashes(tmp_path: Path, seed: int, count: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("mutate_coco.py")), str(tmp_path), str(seed), str(count)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == count
    assert min(outcomes[kind] for kind in ("refused", "skipped", "read")) > count / 20
