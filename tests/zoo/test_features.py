"""Objects as arrays: `model.features`, and its files."""

from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.features import first_objects


@pytest.fixture(scope="module")
def model():
    return zoo.load("spair-multimnist-recipe")


@pytest.fixture(scope="module")
def images(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = model.generate(3, (48, 48), generator, count=3).reconstruction
    drawn[1] = 0  # an empty scene
    return drawn


def test_objects_come_first_in_either_order() -> None:
    presence = torch.tensor([[0.6, 0.1, 0.9, 0.5], [0.0, 0.2, 0.1, 0.3]])
    index, valid = first_objects(presence, 0.5, "slots")
    assert index[0, :3].tolist() == [0, 2, 3]
    assert valid.tolist() == [[True, True, True, False], [False] * 4]
    assert first_objects(presence, 0.5, "presence")[0][0, :3].tolist() == [2, 0, 3]
    with pytest.raises(ValueError, match=r"order must be one of \['presence', 'slots'\]"):
        first_objects(presence, 0.5, "size")  # type: ignore[arg-type]


def test_features_are_the_objects_of_the_scene(model, images: torch.Tensor) -> None:
    features, objects = model.object_features(images), model.predict(images).objects(vectors=True)
    assert features.valid.sum(1).tolist() == [len(found) for found in objects]
    assert features.what.shape[:2] == features.valid.shape == features.boxes.shape[:2]
    assert not features.what[~features.valid].any()
    for row, found in enumerate(objects):
        for n, one in enumerate(found):
            assert features.what[row, n].tolist() == one["what"]
            assert features.boxes[row, n].tolist() == one["box"]
            assert float(features.presence[row, n]) == one["score"]


def test_boxes_are_in_the_pixels_of_the_images(model, images: torch.Tensor) -> None:
    large = torch.nn.functional.interpolate(images, scale_factor=2)
    seen = model.predict(large, image_size=48)
    features = model.object_features(large, image_size=48)
    assert features.valid.any()
    best = seen.boxes[0][seen.presence[0].argmax()]
    torch.testing.assert_close(features.boxes[0, 0], 2 * best)


def test_a_scene_without_objects_has_no_row(model) -> None:
    features = model.object_features(torch.zeros(2, 1, 48, 48))
    assert features.what.shape == (2, 0, 50)
    assert len(features.table()["image"]) == 0


def test_files_hold_what_the_arrays_do(model, images: torch.Tensor, tmp_path: Path) -> None:
    features = model.object_features(images)
    kept = np.load(features.save(tmp_path / "new" / "objects.npz"))
    np.testing.assert_array_equal(kept["what"], features.what.numpy())
    table = features.table()
    assert table["what"].shape == (int(features.valid.sum()), 50)
    assert set(table["image"].tolist()) <= {0, 2}
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(features.save(tmp_path / "objects.parquet"))
    np.testing.assert_array_equal(rows["what_7"].to_numpy(), table["what"][:, 7])
    np.testing.assert_array_equal(rows["x2"].to_numpy(), table["boxes"][:, 2])
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match=r"\.npz or \.parquet"):
        features.save(tmp_path / "objects.csv")
