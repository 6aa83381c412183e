"""Baselines whose objects are learned with the task."""

import pytest
import torch

from zoo.baselines.encoders import ConnCompEncoder, ConvNet, TrueBB
from zoo.layers.glimpses import extract_glimpses


@pytest.fixture
def batch(uci_data):
    return uci_data(num_digits=3).make_dataset("train").batch(range(6))


def test_true_boxes_are_read_one_by_one(batch) -> None:
    torch.manual_seed(0)
    truebb = TrueBB(1, what_dim=7)
    scene = truebb.see(batch)
    assert scene.boxes is batch["boxes"]
    assert scene.presence.bool().equal(batch["valid"])
    alone = extract_glimpses(batch["image"][2:3], batch["boxes"][2:3, 1:2], 14)
    torch.testing.assert_close(scene.what[2, 1], truebb.encoder(alone.flatten())[:7])
    with pytest.raises(ValueError, match="true boxes, which these data lack"):
        truebb.see({"image": batch["image"]})


def test_the_threshold_is_chosen_on_training_scenes(uci_data, batch) -> None:
    torch.manual_seed(0)
    found = ConnCompEncoder(1, what_dim=7)
    data = uci_data(num_digits=1)
    found.fit(data)
    scene = found.see(data.make_dataset("val").batch(range(8)))
    assert (scene.presence.sum(1) >= 1).all()
    assert 0 < float(found.threshold) <= 1
    assert ConnCompEncoder(1).load_state_dict(ConnCompEncoder(1).state_dict())  # the threshold is part of the weights
    assert "threshold" in found.state_dict()


def test_images_without_components_have_an_absent_object() -> None:
    scene = ConnCompEncoder(1, what_dim=7).see({"image": torch.zeros(2, 1, 48, 48)})
    assert scene.presence.shape == (2, 1)
    assert not scene.presence.any()
    assert scene.what.isfinite().all()


def test_each_cell_is_an_object() -> None:
    torch.manual_seed(0)
    net = ConvNet(1, what_dim=7, backbone_channels=8)
    image = torch.rand(2, 1, 48, 48)
    scene = net.see({"image": image})
    assert scene.what.shape == (2, 16, 7)
    assert scene.boxes[0, 6].tolist() == [24, 12, 36, 24]  # row 1, column 2
    torch.testing.assert_close(scene.what[1, 6], net.backbone(image)[1, :, 1, 2])
    scene.check(image)
