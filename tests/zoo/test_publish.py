"""Checkpoints that come with the zoo, and what they say of themselves."""

from pathlib import Path

import pytest
import torch

import zoo
from zoo import publish, weights
from zoo.models import SPAIR

SMALL = {"channels": 1, "backbone_channels": 8, "encoder_hidden": [16], "decoder_hidden": [16], "what_dim": 4}
TRAINING = {"experiment": "quick/spair", "seed": 3, "max_steps": 7, "batch_size": 2, "revision": "0"}


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_is_tested_as_it_will_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half) -> None:
    torch.manual_seed(0)
    model = SPAIR(**SMALL)
    data = {"image_size": 48, "channels": 1, "source": "uci", "num_test": 6, "eval_batch_size": 3}
    model.data_record = {"class": "MultiMNISTDataModule", "name": "digits", "init_args": data}
    path = zoo.save(model, tmp_path / "mine", training=TRAINING)
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "zoo")
    publish.publish(path, "theirs", [({"trim_threshold": 0.9}, {"num_test": 4})], half=half)
    record = zoo.list_weights()["theirs"]
    assert record["training"] == TRAINING
    assert [result["options"] for result in record["results"]] == [{}, {"trim_threshold": 0.9, "num_test": 4}]
    shipped = tmp_path / "zoo" / "theirs.safetensors"
    assert record["metrics"] == publish.test(shipped, {}, {})["metrics"] == record["results"][0]["metrics"]
    rounded = any(not value.equal(model.get_parameter(name)) for name, value in zoo.load(shipped).named_parameters())
    assert rounded == half
