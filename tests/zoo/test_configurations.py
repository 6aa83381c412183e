"""Configurations by name, from anywhere; and a wheel that has them."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from zoo import configurations
from zoo.__main__ import listing
from zoo.commands import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("spair", "spair.yaml"),
        ("recipes/quick/spair", "recipes/quick/spair.yaml"),
        ("recipes/quick/spair.yaml", "recipes/quick/spair.yaml"),
        ("configs/recipes/quick/spair.yaml", "recipes/quick/spair.yaml"),
        ("./configs/recipes/quick/spair.yaml", "recipes/quick/spair.yaml"),
        ("configs\\quick\\spair.yaml", "recipes/quick/spair.yaml"),
        ("experiments/gmair/fruit2d", "experiments/gmair/fruit2d.yaml"),
        ("quick/spair", "recipes/quick/spair.yaml"),
        ("configs/quick/spair.yaml", "recipes/quick/spair.yaml"),  # where it was
    ],
)
def test_a_name_works_anywhere(given: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert configurations.find(given) == ROOT / "configs" / file


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for own in ("spair", "recipes/quick/spair.yaml"):
        Path(own).parent.mkdir(parents=True, exist_ok=True)
        Path(own).write_text("model: SPAIR\n")
        assert configurations.find(own) == Path(own)


def test_all_are_listed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = {line.split()[0]: line for line in listing().partition("configurations")[2].splitlines()[1:]}
    files = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert listed.keys() == files
    assert "learns in ten minutes" in listed["recipes/quick/spair"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
def test_any_unicode_encoding_is_read(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As editors and shells of Windows write them."""
    text = "# naïve\n" + (ROOT / "configs/recipes/quick/spair.yaml").read_text()
    content = b"\xff\xfe" + text.encode("utf-16-le") if encoding.endswith("bom") else text.encode(encoding)
    (tmp_path / "mine.yaml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert configurations.read(Path("mine.yaml")) == text
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--config=mine.yaml", "--print_config"])
    assert not stop.value.code


def test_what_the_command_line_says_counts_wherever_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Options before their class, and before configurations that say otherwise."""
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_steps: 7\n")
    orders = (
        [
            "--trainer.max_steps=3",
            "--data.channels=1",
            "--config=recipes/quick/spair",
            f"--config={tmp_path / 'mine.yaml'}",
        ],
        ["--data.init_args.channels=1", "--trainer.max_steps=3", "--model=SPAIR", "--data=MultiMNISTDataModule"],
    )
    for options in orders:
        with pytest.raises(SystemExit) as stop:
            cli.main(["fit", *options, "--print_config"])
        assert not stop.value.code
        printed = capsys.readouterr().out
        assert "max_steps: 3" in printed
        assert "channels: 1" in printed


@pytest.mark.parametrize(
    ("configs", "known"),
    [
        (["recipes/quick/spair"], "recipes/quick/spair"),
        ([str(ROOT / "configs/recipes/quick/spair.yaml")], "recipes/quick/spair"),
        (["/home/me/configs/a/configs/spair/a.yaml", "quick/air"], "spair/a.yaml+recipes/quick/air"),
    ],
)
def test_runs_know_configurations_by_name(configs: list[str], known: str) -> None:
    arguments = [part for config in configs for part in ("--config", config)]
    assert cli._experiment(arguments) == (known, "")


@pytest.mark.parametrize(
    ("wish", "variable", "project"),
    [
        (None, None, "object-centric-zoo"),
        (None, "mine", "mine"),
        ("given", "mine", "given"),
        (None, "", cli.WANDB_PROJECT),
    ],
)
def test_the_project_is_the_variables_unless_one_is_given(
    wish: str | None, variable: str | None, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    assert cli.wandb_project(wish) == project


def test_the_packages_are_all_named() -> None:
    """In pyproject.toml, by name, since `configs` lies elsewhere."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [
        path.parent for part in ("zoo", "datamodules", "metrics") for path in ROOT.glob(f"{part}/**/__init__.py")
    ]
    assert {*named} == {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"zoo.configs"}


SMALL = [*(f"--data.init_args.{key}=8" for key in ("num_train", "num_val", "num_test", "batch_size"))]
SMALL += ["--data.init_args.source=uci", "--trainer.accelerator=cpu", "--wandb=disabled"]
FEW = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.enable_progress_bar=false"]
USE = """
import sys
from pathlib import Path

import zoo
from zoo.__main__ import main

assert Path(zoo.__file__).parent == Path(sys.argv[1]) / "zoo"
small, few = {small!r}, {few!r}
go_on = ["fit", "--ckpt_path=last", "--trainer.max_steps=3"]
for command in [["list"], ["fit", "--config", "recipes/quick/spair", *small, *few], go_on]:
    sys.argv = ["zoo", *command]
    main()
images = zoo.load("spair-multimnist-recipe").generate(4, (48, 48), count=3).reconstruction
print(len(zoo.load("last").predict(images).objects()), "images")
"""


def test_the_wheel_has_all_that_a_user_needs(tmp_path: Path) -> None:
    """Built and installed without network, by pip and the setuptools of [build-system]; used far from the clone."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("zoo", "datamodules", "metrics", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "-w", tmp_path, source], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 100e6
    shutil.rmtree(source)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("zoo/configs/")}
    assert held == {f"zoo/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("configs/**/*.yaml")}
    site, work = tmp_path / "site", tmp_path / "work"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True, timeout=300)
    work.mkdir()
    code = USE.format(small=SMALL, few=FEW)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code, str(site)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "recipes/quick/spair" in done.stdout
    assert "4 images" in done.stdout
    (run,) = work.glob("runs/*/version_1")
    assert '"experiment": "recipes/quick/spair"' in (run / "run.json").read_text()


def test_a_run_of_one_verb_leaves_all_verbs_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cli.ZooCLI.subcommands()
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config=spair", "--print_config"])
    assert cli.ZooCLI.subcommands() == before
    assert before.keys() >= {"fit", "test", "validate", "predict", "cluster"}


def test_aliases_of_aliases_and_lists_within_lists_are_refused() -> None:
    content: list = ["x"] * 9
    for _ in range(8):
        content = [content] * 9  # as YAML's aliases are read: the same list, 9 ** 9 values in all
    endless: dict = {"model": {}}
    endless["model"]["again"] = endless
    deep: list = []
    for _ in range(200):
        deep = [deep]
    for bad in (content, {"a": [content]}, endless, deep):
        with pytest.raises(configurations.ConfigurationError, match=r"bad\.yaml has more than 100000 values"):
            configurations.check_size(bad, "bad.yaml")
    shared = {"lr": 1, "layers": [3] * 1000}
    configurations.check_size({"model": shared, "data": [shared] * 50}, "fine.yaml")
