"""Folders and repositories of trained models; checkpoints of every past format."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from huggingface_hub import HfApi, errors

import zoo
from zoo.evaluation import METRIC_NAMES
from zoo.models import SPAIR
from zoo.sharing import weights

KEPT = Path(__file__).with_name("kept")
ANSWER: Any = Mock()
REVISIONS = ("a" * 40, "b" * 40)


@pytest.mark.parametrize(
    "source", ["spair_format1.safetensors", "spair_format1.json", "spair_hub_format1", "spair_recipe_format1.json"]
)
def test_a_checkpoint_of_format_1_loads_forever_and_sees_what_it_saw(source: str) -> None:
    """The files are never to be written anew: what no longer reads them breaks everybody's checkpoints."""
    model = zoo.load(KEPT / source)
    assert json.loads((KEPT / "spair_format1.json").read_text())["format_version"] == 1
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(36.0), indexing="ij")
    scene = model(((x * 0.37).sin() * (y * 0.23).cos() * 0.5 + 0.5)[None, None])
    kind = "spair_recipe" if "recipe" in source else "spair"
    expected = json.loads((KEPT / f"{kind}_format1.expected.json").read_text())
    for name in ("boxes", "presence", "what", "depth"):
        torch.testing.assert_close(
            getattr(scene, name).flatten(), torch.tensor(expected[name]), atol=2e-4, rtol=1e-4, msg=name
        )
    assert scene.reconstruction.mean().item() == pytest.approx(expected["reconstruction_mean"], abs=1e-4)
    assert (model.steps_trained, model.facts["metrics"]) == (12, {"ap50": 0.25})


def front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


@pytest.mark.parametrize("name", zoo.list_weights())
def test_a_saved_folder_holds_the_model_and_says_what_it_is(name: str, tmp_path: Path) -> None:
    model, record = zoo.load(name), weights.read_record(weights.find(name))
    record.pop("written_version", None)
    folder = model.save_pretrained(tmp_path / "mine")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    again = zoo.load(folder)
    assert type(again) is type(model)
    assert dict(again.hparams) == dict(model.hparams)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    written = weights.read_record(folder / "model.safetensors")
    assert {**written, "init_args": written["init_args"] | record["init_args"]} == written
    content = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()  # another, if kept in halves here
    assert {**written, "init_args": record["init_args"]} == {**record, "sha256": content}  # nothing is lost on the way
    header, text = front_matter(folder)
    assert header["library_name"] == "object-centric-zoo"
    assert header["license"] == "apache-2.0"
    (result,) = header["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]} == {
        name: value for name, value in record["metrics"].items() if name in METRIC_NAMES
    }
    assert result["dataset"]["name"] == record["data"]["name"]
    for part in (zoo.list_models()[record["class"]], 'zoo.load("mine")', str(record["step"]), '"max_grad_norm": '):
        assert part in text, part
    for heading in ("Use", "Intended use", "Metrics", "Training", "Data", "Configuration"):
        assert f"## {heading}\n" in text


def test_a_model_without_data_or_results_has_a_card_too(tmp_path: Path) -> None:
    model = SPAIR(channels=1, backbone_channels=4)
    header, text = front_matter(model.save_pretrained(tmp_path, weights_license="mit", training={"seed": 5}))
    assert "model-index" not in header
    assert header["license"] == "mit"
    assert "unknown data" in text
    assert "| seed | 5 |" in text
    assert zoo.load(tmp_path).facts == {"training": {"seed": 5}}


def test_the_card_of_a_run_has_its_metrics_and_how_it_was_trained(tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "runs" / "spair" / "version_0"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(weights.CheckpointError, match=r"no best\.ckpt in runs/\*/version_\*: train, or name"):
        zoo.load("best")
    (run / "checkpoints").mkdir(parents=True)
    model = SPAIR(channels=1, backbone_channels=4)
    model.steps_trained = 77
    content = {"zoo": model.record(), "state_dict": model.state_dict(), "global_step": 0}  # of a trainer that tested
    torch.save(content, run / "checkpoints" / "best.ckpt")
    about = {"experiment": "recipes/quick/spair", "seed": 3, "hardware": "an abacus", "wall_s": 60.0}
    about |= {"model": "SPAIRRecipe", "data": "digits", "steps": 77}
    (run / "run.json").write_text(json.dumps({**about, "metrics": {"ap50": 0.5, "kl_what": 3.0}}))
    loaded = zoo.load(run)
    assert loaded.facts["metrics"] == {"ap50": 0.5}
    assert zoo.load("best").facts == loaded.facts  # of the newest run
    _, text = front_matter(loaded.save_pretrained(tmp_path / "out"))
    assert "| ap50 | 0.5 |" in text
    assert "| hardware | an abacus |" in text
    assert "| steps | 77 |" in text


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache without a network: user/spair with two revisions, the second of which is main."""
    folder = tmp_path / "hub" / "models--user--spair"
    for what_dim, revision in enumerate(REVISIONS, 3):
        model = SPAIR(channels=1, backbone_channels=4, what_dim=what_dim)
        model.save_pretrained(folder / "snapshots" / revision)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISIONS[1])
    (folder / "refs" / "v1").write_text(REVISIONS[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def test_an_id_on_the_hub_is_loaded_at_a_revision(hub: Path) -> None:
    assert zoo.load("user/spair").hp.what_dim == 4
    assert zoo.load("user/spair", revision=REVISIONS[0]).hp.what_dim == 3
    assert zoo.load("user/spair", "v1").hp.what_dim == 3
    assert zoo.load("user/spair@v1").hp.what_dim == 3
    assert weights.read_record(weights.find("user/spair@v1"))["class"] == "SPAIR"  # as --ckpt_path has it
    Path("user").mkdir()
    shutil.copytree(hub / "snapshots" / REVISIONS[0], "user/spair")
    assert zoo.load("user/spair").hp.what_dim == 3  # what is here comes first


def test_what_the_hub_does_not_have_is_explained(hub: Path) -> None:
    with pytest.raises(
        weights.CheckpointError, match=r"no file user/none, and no checkpoint came .* HF_HUB_OFFLINE is"
    ):
        zoo.load("user/none")
    with pytest.raises(weights.CheckpointError, match=r"no checkpoint of revision 'v9' came"):
        zoo.load("user/spair", revision="v9")
    with pytest.raises(weights.CheckpointError, match=r"revision='v1' is for ids on the hub"):
        zoo.load("spair-multimnist-recipe", revision="v1")
    for name in ("model.safetensors", "config.json"):
        (hub / "snapshots" / REVISIONS[0] / name).rename(hub / name)
        with pytest.raises(
            weights.CheckpointError, match=rf"user/spair on the Hugging Face hub has no {name}: it is no"
        ):
            zoo.load("user/spair", revision="v1")
        (hub / name).rename(hub / "snapshots" / REVISIONS[0] / name)


@pytest.mark.parametrize("content", ['{"model_type": "bert", "hidden_size": 768}', "[1, 2]"])
def test_what_others_have_saved_is_not_called_damaged(hub: Path, content: str) -> None:
    """Most repositories on the hub have a model.safetensors and a config.json."""
    folder = hub / "snapshots" / REVISIONS[1]
    (folder / "config.json").write_text(content)
    with pytest.raises(
        weights.CheckpointError, match=r"^user/spair on the Hugging Face hub is no checkpoint of this zoo"
    ):
        zoo.load("user/spair")
    with pytest.raises(weights.CheckpointError, match=r"model\.safetensors is no checkpoint of this zoo: config\.json"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (errors.LocalEntryNotFoundError("a long story\nof lines"), None, "the hub cannot be reached.*name a file"),
        (RuntimeError("?"), ConnectionError("no route"), "the hub cannot be reached"),
        (errors.RevisionNotFoundError("404", response=ANSWER), None, "it has no such revision"),
        (
            errors.RepositoryNotFoundError("401", response=ANSWER),
            None,
            "it has no such public repository.*hf auth login.*spair",
        ),
        (errors.GatedRepoError("403", response=ANSWER), None, "access to it has to be asked for"),
        (RuntimeError("\n  disk full\nand more"), None, "disk full"),
    ],
)
def test_why_the_hub_has_nothing_is_said_in_a_line(
    hub: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: Exception | None, said: str
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error from cause

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(weights.CheckpointError, match=rf"from the Hugging Face hub: {said}") as caught:
        zoo.load("user/spair")
    assert "\n" not in str(caught.value)


def test_pushing_uploads_what_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def upload(self: HfApi, **options: Any) -> str:
        calls.append(("upload", options))
        shutil.copytree(options["folder_path"], tmp_path / "there")
        return "https://huggingface.co/user/mine/tree/trial"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **options: calls.append((repo, options)))
    monkeypatch.setattr(HfApi, "create_branch", lambda self, repo, **options: calls.append((repo, options)))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = SPAIR(channels=1, backbone_channels=4)
    where = model.push_to_hub("user/mine", private=True, revision="trial", metrics={"ap50": 0.5})
    assert where == "https://huggingface.co/user/mine/tree/trial"
    (_, made), (_, branch), (_, uploaded) = calls
    assert made == {"private": True, "exist_ok": True}
    assert branch["branch"] == uploaded["revision"] == "trial"
    assert uploaded["repo_id"] == "user/mine"
    assert not Path(uploaded["folder_path"]).exists()  # it was a temporary one
    assert zoo.load(tmp_path / "there").facts["metrics"] == {"ap50": 0.5}
    assert 'zoo.load("user/mine")' in (tmp_path / "there" / "README.md").read_text()
