"""The README's model of one's own: everything that the zoo's have, from one file."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo import registry
from zoo.sharing import weights

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--data.init_args.num_train=64", "--data.init_args.num_val=8", "--data.init_args.num_test=8"]
SMALL += ["--data.init_args.batch_size=8", "--data.init_args.source=uci", "--wandb=disabled"]
SMALL += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
FEW = ["--trainer.max_steps=4", "--trainer.val_check_interval=2"]


def section() -> str:
    found = re.search(r"^## Add your model\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found, "the README has no section 'Add your model'"
    return found[1]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the README's file, to be imported from there; removed from memory afterwards."""
    name, code = re.findall(r"```python (\w+\.py)\n(.*?)```", section(), re.DOTALL)[0]
    (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(registry.PLUGINS, raising=False)
    yield tmp_path / name
    sys.modules.pop(Path(name).stem, None)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    from zoo.__main__ import main

    monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
    try:
        main()
    except SystemExit as stop:
        if stop.code:  # none for help
            raise


def test_the_file_is_short(own: Path) -> None:
    lines = own.read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.startswith(("import ", "from "))]
    assert len(code) <= 60
    assert len(lines) <= 80


def test_its_commands_run_in_order(own: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    Path("photos").mkdir()
    for i in range(3):
        Image.effect_noise((48, 48), 60).save(f"photos/{i}.png")
    (block,) = re.findall(r"```sh\n(.*?)```", section(), re.DOTALL)
    verbs, said = [], {}
    for program, *arguments in (shlex.split(line, comments=True) for line in block.splitlines()):
        if program == "export":
            monkeypatch.setenv(*arguments[0].split("=", 1))
            continue
        assert (program, *arguments[:2]) == ("python", "-m", "zoo")
        verb, rest = arguments[2], arguments[3:]
        if verb in ("fit", "test") and "--model.help" not in rest:
            rest += [*SMALL, *(FEW if verb == "fit" else [])]
        run(monkeypatch, verb, *rest)
        verbs.append(verb)
        said[" ".join([verb, *rest[:1]])] = capsys.readouterr().out
    assert {"list", "fit", "test", "predict", "show", "export"} <= {*verbs}
    assert re.search(r"  GridAutoencoder +Grid autoencoder: SPAIR", said["list"])
    assert "What each object costs" in said["fit --model.help"]
    folder = next(Path("runs").glob("gridautoencoder_*/version_0"))
    assert {"val_step0000004.png", "last.png", "test.png"} <= {path.name for path in folder.glob("pictures/*")}
    record = json.loads((folder / "run.json").read_text())
    assert record["model"] == "GridAutoencoder"
    assert {"ap50", "count_accuracy", "mse"} <= record["metrics"].keys()
    images = json.loads(Path("found/predictions.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["0.png", "1.png", "2.png"]
    assert Image.open("sheet.png").width > 500
    assert torch.export.load("best.pt2").module()(torch.rand(1, 1, 48, 48))["boxes"].shape == (1, 16, 4)


def test_it_needs_no_variable_where_it_is_named_or_imported(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path on the command line; and from Python, in a new process, once it is imported and not before."""
    dotted = f"{own.stem}.GridAutoencoder"
    data = ["--data=MultiMNISTDataModule", "--data.init_args.channels=1"]
    run(monkeypatch, "fit", "--model", dotted, *data, *SMALL, *FEW)
    (folder,) = Path("runs").glob("*/version_*")
    run(monkeypatch, "test", "--model", dotted, "--ckpt_path", str(folder), *SMALL)
    code = "import sys, zoo\nfrom zoo.sharing.weights import CheckpointError\ntry:\n    zoo.load('best')\n"
    code += "except CheckpointError as error:\n    assert 'ZOO_PLUGINS' in str(error)\nelse:\n    sys.exit('loaded')\n"
    code += f"assert '{own.stem}' not in sys.modules\nfrom {dotted.replace('.', ' import ')}\n"
    code += "assert type(zoo.load('best')) is GridAutoencoder"
    environment = {"PYTHONPATH": f"{own.parent}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_it_learns_to_draw(own: Path, monkeypatch: pytest.MonkeyPatch, uci_data) -> None:
    from lightning.pytorch import Trainer, seed_everything

    monkeypatch.setenv(registry.PLUGINS, own.stem)
    kind = registry.models()["GridAutoencoder"].load()
    seed_everything(0, verbose=False)
    model, data = kind(), uci_data(num_train=256, num_val=64)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=120, enable_checkpointing=False, num_sanity_val_steps=0, **quiet)
    (before,) = trainer.validate(model, data, verbose=False)
    trainer.fit(model, data)
    (after,) = trainer.validate(model, data, verbose=False)
    assert after["val/mse"] < 0.5 * before["val/mse"]
    path = zoo.save(model, "mine")
    again = zoo.load(path)
    image = torch.rand(2, 1, 48, 48)
    assert torch.equal(again(image).boxes, model.eval()(image).boxes)
    assert weights.read_record(path)["class"] == "GridAutoencoder"
