"""Every configuration under plain DDP: two processes train as one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "model" in yaml.safe_load(path.read_text()))
FAST = [ROOT / "configs" / "recipes" / "quick" / "ast_seg.yaml"]  # the background rests for some steps
Steps = list[dict[str, torch.Tensor | None]]


def train(configs: list[Path], folder: Path, processes: int) -> list[dict]:
    """Gradients and weights of each configuration, those of all processes, which have to agree about weights."""
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("helpers_ddp.py")), str(folder), str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, configs)], env=environment, capture_output=True, text=True, timeout=300 * len(configs)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for said in ("sync_dist", "find_unused_parameters"):
        assert said not in done.stderr
    results = []
    for number in range(len(configs)):
        first, *others = (torch.load(folder / f"{number}-{rank}.pt") for rank in range(processes))
        for other in others:
            assert all(torch.equal(value, other["weights"][name]) for name, value in first["weights"].items())
        results.append(first)
    return results


def compare(configs: list[Path], folder: Path) -> None:
    ones, twos = train(configs, folder / "one", 1), train(configs, folder / "two", 2)
    for config, one, two in zip(configs, ones, twos, strict=True):
        assert len(one["gradients"]) == len(two["gradients"]) == 3
        for alone, shared in zip(one["gradients"], two["gradients"], strict=True):
            # no gradient is no zeros: Adam would count a step
            without = {name for name, gradient in alone.items() if gradient is None}
            assert without == {name for name, gradient in shared.items() if gradient is None}, config
            known = [name for name, gradient in alone.items() if gradient is not None]
            size = torch.stack([alone[name].norm() for name in known]).norm()
            off = torch.stack([(alone[name] - shared[name]).norm() for name in known]).norm()
            assert off <= 1e-3 * size, (config, off / size)


def test_a_part_that_rests_has_no_gradient_under_plain_ddp(tmp_path: Path) -> None:
    compare(FAST, tmp_path)
    first, _, last = torch.load(tmp_path / "two" / "0-0.pt")["gradients"]
    assert any(gradient is None for gradient in first.values())
    assert all(gradient is not None for gradient in last.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [path for path in CONFIGS if path not in FAST], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_configuration_trains_in_two_processes_as_in_one(config: Path, tmp_path: Path) -> None:
    compare([config], tmp_path)
