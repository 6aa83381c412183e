import json
import math
import pickle
import random
import re
from pathlib import Path

import pytest
import torch
import yaml

import zoo
from zoo import registry
from zoo.commands.cli import ZooCLI
from zoo.models import SPAIR, ASTSeg
from zoo.sharing import weights

SMALL = {"channels": 1, "backbone_channels": 8, "encoder_hidden": [16], "decoder_hidden": [16], "what_dim": 4}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return zoo.save(SPAIR(**SMALL), tmp_path / "copy", metrics={"ap50": 0.5})


def test_every_checkpoint_that_comes_with_the_zoo_loads_and_says_what_it_is() -> None:
    assert zoo.list_weights()
    for name, record in zoo.list_weights().items():
        model = zoo.load(name)
        assert type(model).__name__ == record["class"]
        assert sum(p.numel() for p in model.parameters()) == record["parameters"]
        assert record["metrics"], name
        assert record["data"]["name"]
        assert "data_dir" not in record["data"]["init_args"]
        assert model.steps_trained == record["step"] > 0  # schedules stand where training ended
        size = (weights.SHIPPED / f"{name}.safetensors").stat().st_size
        assert size < 16e6
    assert set(zoo.list_models()) >= {"SPAIR"}


def test_the_data_of_each_checkpoint_are_made_anew_from_its_record() -> None:
    """An infinite `max_overlap` was once written as null, which is another data set."""
    digits = re.compile(r"-(mnist10k|mnist|uci)(?=-|$)")  # whichever are at hand
    for name, record in zoo.list_weights().items():
        saved = record["data"]
        data = registry.datamodules()[saved["class"]].load()(**saved["init_args"])
        assert digits.sub("", data.name) == digits.sub("", saved["name"]), name


def test_infinite_hyperparameters_are_kept(tmp_path: Path) -> None:
    model = SPAIR(**SMALL)
    overlap = {"max_overlap": math.inf, "digit_scale": [1.3, -math.inf], "source": "auto"}
    model.data_record = {"class": "MultiMNISTDataModule", "name": "x", "init_args": overlap}
    path = zoo.save(model, tmp_path / "copy")
    assert '"max_overlap": ".inf"' in path.with_suffix(".json").read_text()  # which is JSON
    assert zoo.load(path).data_record["init_args"] == overlap
    assert zoo.load(zoo.load(path).save_pretrained(tmp_path / "hub")).data_record["init_args"] == overlap


def test_half_precision_keeps_parameters_to_three_digits_in_half_the_space(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ASTSeg(pretrained=False, segformer="nvidia/mit-b0", image_size=64, encoder_layers=1, encoder_dropout=0.0)
    buffers = [name for name, _ in model.named_buffers() if "running" in name and name in model.state_dict()]
    assert buffers
    for name in buffers:
        model.get_buffer(name).uniform_(0.5, 1e6)  # variances of large activations
    whole, half = zoo.save(model, tmp_path / "whole"), zoo.save(model, tmp_path / "half", half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded = zoo.load(half)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    for name, value in loaded.named_parameters():
        torch.testing.assert_close(value, model.get_parameter(name), rtol=1e-3, atol=1e-6)
    assert all(loaded.get_buffer(name).equal(model.get_buffer(name)) for name in buffers)
    model.background_activation.data.fill_(1e5)
    with pytest.raises(ValueError, match="background_activation cannot be kept in half precision"):
        zoo.save(model, tmp_path / "large", half=True)
    assert not (tmp_path / "large.safetensors").exists()


def test_unknown_names_list_the_known_and_the_close_ones() -> None:
    with pytest.raises(weights.CheckpointError, match="did you mean spair-multimnist-paper or spair-multimnist-recipe"):
        zoo.load("spair-multimnits")


def test_names_that_did_not_say_recipe_go_on_loading_and_say_what_they_are_called_now() -> None:
    for name in ("air-multimnist", "spair-multimnist", "ast-seg-unet-clevrtex-synthetic"):
        with pytest.warns(UserWarning, match=f"{name} is called {name}-recipe now, as it is a recipe"):
            assert weights.find(name) == weights.find(f"{name}-recipe")


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(weights.CheckpointError, match=r"no best\.ckpt or last\.ckpt"):
        zoo.load(tmp_path)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(weights.CheckpointError, match="damaged"):
        zoo.load(saved)


def test_a_missing_record_is_refused(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    with pytest.raises(weights.CheckpointError, match="missing"):
        zoo.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99.*update the package"),
        ({"class": "Exit"}, "holds a 'Exit'"),
        ({"init_args": {"wings": 2}}, "does not fit this version's SPAIR.*wings"),
        ({"init_args": {**SMALL, "what_dim": 5}}, "weights in .* do not fit the model"),
    ],
)
def test_records_that_do_not_fit_are_refused(saved: Path, change: dict, message: str) -> None:
    record = json.loads(saved.with_suffix(".json").read_text())
    saved.with_suffix(".json").write_text(json.dumps({**record, **change}))
    with pytest.raises(weights.CheckpointError, match=message):
        zoo.load(saved)


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_loading_runs_no_code_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(Attack()))
    torch.save({"zoo": Attack(), "state_dict": {}}, tmp_path / "worse.ckpt")
    for name in ("bad.ckpt", "worse.ckpt"):
        with pytest.raises(weights.CheckpointError, match="cannot be read"):
            zoo.load(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_no_damage_to_a_checkpoint_of_a_run_gives_other_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = SPAIR(**SMALL), tmp_path / "last.ckpt"
    state = {"zoo": model.record(), "state_dict": model.state_dict(), "global_step": 7}
    torch.save(state, path)
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            record, weights_read = weights.read(path)
        except weights.CheckpointError as error:
            refused += "\n" not in str(error)
            continue
        assert record["init_args"] == model.record()["init_args"]
        assert all(torch.equal(weights_read[name], value) for name, value in model.state_dict().items())
    assert refused > 75  # the rest was between the entries, where nothing is read


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(weights.CheckpointError, match="not one of this zoo: it has no"):
        zoo.load(tmp_path / "other.ckpt")


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rest(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        zoo.save(SPAIR(**SMALL), saved.with_suffix(""))
    assert saved.read_bytes() == before
    assert {path.name for path in saved.parent.iterdir()} == {"copy.safetensors", "copy.json"}


def test_checkpoints_older_than_a_hyperparameter_go_on_doing_what_they_did(saved: Path, tmp_path: Path) -> None:
    """Colours faded at patches' edges before `color_edge`: such records, in whatever way they are read, say so."""
    for name, record in zoo.list_weights().items():
        if record["class"] in ("SPAIR", "GMAIR") and "color_edge" not in record["init_args"]:
            assert zoo.load(name).hp.color_edge == "zeros"
    assert zoo.load("gmair-fruit2d-synthetic-recipe").hp.color_edge == "zeros"
    assert SPAIR(**SMALL).hp.color_edge == zoo.load(saved).hp.color_edge == "repeat"
    beside = saved.with_suffix(".json")
    record = json.loads(beside.read_text())
    del record["init_args"]["color_edge"]
    record["format_version"] = 1
    beside.write_text(json.dumps(record))
    old = zoo.load(saved)
    assert (old.hp.color_edge, old.record()["init_args"]["color_edge"]) == ("zeros", "zeros")

    run = tmp_path / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    content = {"zoo": record, "global_step": 3, "state_dict": old.state_dict()}
    torch.save(content, run / "checkpoints" / "last.ckpt")
    assert zoo.load(run).hp.color_edge == "zeros"
    model = {"class_path": "SPAIR", "init_args": {**SMALL, "lr": 0.5}}  # a run's own configuration, as old
    (run / "config.yaml").write_text(json.dumps({"model": model}))
    for verb in ("fit", "test"):
        arguments, _ = object.__new__(ZooCLI)._with_checkpoint(None, [verb, "--ckpt_path", str(run)])  # type: ignore[arg-type]
        asked = yaml.safe_load(arguments[arguments.index("--config") + 1])["model"]["init_args"]
        assert asked["color_edge"] == "zeros"
        assert asked["lr"] == (0.5 if verb == "fit" else record["init_args"]["lr"])
