"""Scores against the number of objects, of models whose scores are known beforehand."""

from dataclasses import replace

import pytest
import torch

import zoo
from zoo.baselines.conn_comp import ConnComp
from zoo.downstream import crowding
from zoo.results import figures

DIGITS = {"class": "MultiMNISTDataModule", "init_args": {"channels": 1, "source": "uci", "crop_size": 24}}


@pytest.fixture
def data(tmp_path):
    return {**DIGITS, "init_args": {**DIGITS["init_args"], "data_dir": str(tmp_path)}}


def test_what_is_found_and_counted_is_scored(data):
    module = crowding.scenes(data, 84, 7, 60)
    module.setup("test")
    batches = list(module.test_dataloader())
    assert [len(batch["image"]) for batch in batches] == [50, 10]
    assert batches[0]["image"].shape[-2:] == (84, 84)  # whole, though trained on crops
    assert all((batch["valid"].sum(1) == 7).all() for batch in batches)

    def truth(batch):
        scene = ConnComp()(batch["image"])
        return replace(scene, boxes=batch["boxes"], presence=batch["valid"].float(), what=batch["boxes"])

    def without_one_in_every_second_image(batch):
        scene = truth(batch)
        presence = scene.presence.clone()
        presence[::2, 0] = 0
        return replace(scene, presence=presence)

    def with_two_more_nowhere(batch):
        scene = truth(batch)
        more = scene.presence.new_full((len(scene.presence), 2), 0.6)
        boxes = torch.cat([scene.boxes, scene.boxes[:, :2] * 0 + 200], 1)
        return replace(scene, boxes=boxes, presence=torch.cat([scene.presence, more], 1))

    assert crowding.score(truth, iter(batches)) == (1, 0, 0)
    precision, error, wrong = crowding.score(without_one_in_every_second_image, iter(batches))
    assert precision == pytest.approx(1, abs=0.1)
    assert (error, wrong) == (0.5, 0.5)
    assert crowding.score(with_two_more_nowhere, iter(batches)) == (1, 2, 1)  # false ones come last


def test_points_are_such_as_may_be_recorded(data, tmp_path, monkeypatch):
    monkeypatch.setitem(crowding.SCENES, "spair/3", (84, (2, 12)))
    model = zoo.load("spair-multimnist-recipe")
    points = [*crowding.points("spair/3", "SPAIR", model, data, 4), *crowding.points("spair/3", "C", None, data, 4)]
    figures.add(points, tmp_path / "figures.csv")
    assert len(figures.read("spair/3", tmp_path / "figures.csv")) == 2 * 2 * 3
    ours, theirs = points[0], points[6]
    said = zoo.list_weights()["spair-multimnist-recipe"]
    assert (ours["setting"], ours["steps"], ours["seed"]) == ("recipe", said["step"], said["training"]["seed"])
    assert ours["x"] == 2
    assert (theirs["setting"], theirs["steps"], theirs["seed"]) == ("baseline", "", "")
    assert ours["data"] == theirs["data"]
    with pytest.raises(ValueError, match="for checkpoints of MultiMNIST, not of"):
        crowding.scenes({"class": "Fruit2DDataModule", "init_args": {}}, 84, 2, 4)
