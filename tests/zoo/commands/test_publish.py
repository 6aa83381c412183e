"""Checkpoints that come with the zoo, and what they say of themselves."""

import json
import re
from pathlib import Path

import pytest
import torch

import zoo
from zoo.commands import publish
from zoo.models import SPAIRRecipe
from zoo.sharing import weights

SMALL = {"channels": 1, "backbone_channels": 8, "encoder_hidden": [16], "decoder_hidden": [16], "what_dim": 4}
TRAINING = {"experiment": "recipes/quick/spair", "seed": 3, "max_steps": 7, "batch_size": 2, "revision": "0"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SPAIRRecipe:
    torch.manual_seed(0)
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "zoo")
    model = SPAIRRecipe(**SMALL)
    data = {"image_size": 48, "channels": 1, "source": "uci", "num_test": 6, "eval_batch_size": 3}
    model.data_record = {"class": "MultiMNISTDataModule", "name": "digits", "init_args": data}
    return model


def test_a_run_is_published_with_what_it_says_of_its_training(tmp_path: Path, model: SPAIRRecipe) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    model.steps_trained = 7
    content = {"zoo": model.record(), "state_dict": model.state_dict(), "global_step": 7}
    torch.save(content, run / "checkpoints" / "best.ckpt")
    with pytest.raises(weights.CheckpointError, match=r"does not say how it was trained.*run\.json"):
        publish.publish(run, "mine", [])
    about = {**TRAINING, "model": "SPAIRRecipe", "data": "digits", "steps": 7}
    (run / "run.json").write_text(json.dumps({**about, "metrics": {"ap50": -1.0}}))
    publish.publish(run, "mine", [])
    record = zoo.list_weights()["mine"]
    assert record["step"] == 7
    assert record["training"] == {key: TRAINING[key] for key in ("experiment", "seed", "revision")}
    assert record["setting"] == "recipe"
    assert record["metrics"] == record["results"][0]["metrics"]  # as measured now
    assert record["metrics"]["ap50"] >= 0


@pytest.mark.parametrize("half", [False, True])
def test_a_checkpoint_is_tested_as_it_will_be_loaded(tmp_path: Path, model: SPAIRRecipe, half: bool) -> None:
    path = zoo.save(model, tmp_path / "mine", training=TRAINING)
    publish.publish(path, "theirs", [({"trim_threshold": 0.9}, {"num_test": 4})], half=half)
    record = zoo.list_weights()["theirs"]
    assert record["training"] == TRAINING
    assert [result["options"] for result in record["results"]] == [{}, {"trim_threshold": 0.9, "num_test": 4}]
    shipped = tmp_path / "zoo" / "theirs.safetensors"
    assert record["metrics"] == publish.test(shipped, {}, {})["metrics"] == record["results"][0]["metrics"]
    rounded = any(not value.equal(model.get_parameter(name)) for name, value in zoo.load(shipped).named_parameters())
    assert rounded == half


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "mine"], "zoo: .*nowhere"),
        (["spair-multimnist-recipe", "mine", "--also", "trim_threshold"], "--also trim_threshold: must be KEY=VALUE"),
    ],
)
def test_a_mistake_is_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        publish.main(arguments)
    text = f"{stop.value.code}{capsys.readouterr().err}"
    assert re.search(said, text)
    assert text.strip().count("\n") == 0
