"""The README does what it says."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

import zoo
from zoo import registry
from zoo.commands import cli, curriculum, publish
from zoo.results import ablations, tested
from zoo.results import table as results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CURRICULUM = "configs/recipes/quick/ast_seg.yaml"
SMALL = {
    "num_train": 64,
    "num_val": 8,
    "num_test": 8,
    "batch_size": 8,
    "source": "uci",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the README, in order."""
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out.strip()  # each ends by printing what it found
    if "scene" in names:
        assert names["scene"].boxes.shape == (4, 16, 4)


def test_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `python -m zoo` line, on small data and few steps."""
    from zoo.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    Path("photos").mkdir()
    for i in range(20):
        Image.effect_noise((48, 48), 60).save(f"photos/{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 48} for i in range(20)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [8, 9, 14, 18]} for i in range(20)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    Path("photos.json").write_text(json.dumps(content))
    options = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--wandb=disabled"]
    small = [f"--data.init_args.{key}={value}" for key, value in SMALL.items()]
    few = ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
    trained = 0
    for program, *arguments in commands():
        if program != "python" or arguments[:2] != ["-m", "zoo"] or CURRICULUM in arguments:
            continue
        verb, rest = arguments[2], arguments[3:]
        if verb in ("fit", "validate", "test", "cluster") or (verb == "predict" and "--images" not in rest):
            rest += options + (["--data.init_args.batch_size=4"] if "ImageFolderDataModule" in rest else small)
            rest += few if verb == "fit" else []
            trained += 1
        elif verb == "benchmark":
            rest += [*options[:2], "--wandb=disabled", *small, *few]
        monkeypatch.setattr(sys, "argv", ["zoo", verb, *rest])
        main()
    assert trained >= 7
    assert len(list(Path("runs").glob("*/version_*"))) == trained
    assert list(Path("runs").rglob("predictions.npz"))
    for path in (
        "found/predictions.json",
        "scored/results.json",
        "sheet.png",
        "spair-multimnist-recipe.onnx",
        "comparison/results.md",
    ):
        assert Path(path).is_file(), path


def test_the_curriculum_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command, on small data and few steps, each phase in this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setattr(curriculum, "_run", lambda command: cli.main(command[3:]))
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    small = [f"--data.init_args.{key}={value}" for key, value in SMALL.items() if key != "source"]
    few = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    (line,) = [arguments[2:] for _, *arguments in commands() if CURRICULUM in arguments]
    cli.main([*line, *small, *few, "--wandb=disabled"])
    for name in ("backgroundae*", "astsegrecipe"):
        (last,) = Path("runs").glob(f"{name}_*/version_0/checkpoints/last.ckpt")
        assert zoo.load(last).steps_trained == 2


def test_the_sweep_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command as W&B's agent fills it in, with the first or least value of each parameter."""
    from zoo.__main__ import main

    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```yaml sweep.yaml\n(.*?)```", README, re.DOTALL)
    sweep = yaml.safe_load(block)
    chosen = [f"--{key}={one.get('min') or one['values'][0]}" for key, one in sweep["parameters"].items()]
    environment, *command, arguments = sweep["command"]
    assert (environment, arguments) == ("${env}", "${args}")
    command = [part.replace("${program}", sweep["program"]) for part in command]
    assert command[:3] == ["python", "-m", "zoo"]
    command[command.index("online")] = "disabled"
    few = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    small = [f"--data.init_args.{key}={value}" for key, value in SMALL.items()]
    monkeypatch.setattr(sys, "argv", ["zoo", *command[3:], *chosen, *few, *small])
    main()
    (record,) = Path("runs").glob("*/version_0/run.json")
    assert sweep["metric"]["name"].split("/")[1] in json.loads(record.read_text())["metrics"]


def test_the_visit_is_short() -> None:
    visit, _ = README.split("\n# Reference\n")
    assert len(visit.split()) < 2500


def test_links_within_it_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_make_targets_that_it_names_are_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [arguments[0] for program, *arguments in commands() if program == "make"]
    assert named
    assert set(named) <= set(targets)


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith(("https://", "#")) or (ROOT / target).exists(), target


def test_every_model_has_a_row() -> None:
    for name, entry in registry.models().items():
        assert f"`{name}`" in README
        assert entry.module.split(".")[-1] + ".py" in README


def test_the_results_are_the_recorded_ones() -> None:
    shown = re.search(r"<!-- results: .*? -->\n(.*?)<!-- end of results -->", README, re.DOTALL)
    assert shown
    assert shown[1].strip() == publish.table()


def test_the_short_results_are_the_recorded_ones() -> None:
    shown = re.search(r"<!-- summary: .*? -->\n(.*?)<!-- end of summary -->", README, re.DOTALL)
    assert shown
    assert shown[1].strip() == publish.summary()


def test_the_runs_are_the_recorded_ones() -> None:
    shown = re.search(r"<!-- runs -->\n(.*?)<!-- end of runs -->", README, re.DOTALL)
    assert shown
    assert shown[1].strip() == results.table()


def test_the_worth_of_additions_is_the_recorded_one() -> None:
    shown = re.search(r"<!-- ablations -->\n(.*?)<!-- end of ablations -->", README, re.DOTALL)
    assert shown
    assert shown[1].strip() == ablations.table()


@pytest.mark.parametrize(("name", "table"), [("matrix", tested.matrix), ("shifts", tested.robustness)])
def test_what_checkpoints_do_elsewhere_is_the_recorded(name: str, table: Callable[[], str]) -> None:
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", README, re.DOTALL)
    assert shown
    assert shown[1].strip() == table()
