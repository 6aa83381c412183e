"""`python -m zoo speed`: rates, GFLOP and their share of the limit."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from zoo.commands import speed

ONCE = Namespace(batch_size=2, device="cpu", threads=None, rounds=1)


@pytest.mark.parametrize("precision", speed.PRECISIONS)
def test_shares_are_of_what_was_counted_and_timed(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # training, inference, product of matrices: a round to warm up, and one that counts
    times = iter([9.0, 9.0, 9.0, 0.5, 0.25, 1e-3])

    def seconds(function, device):  # type: ignore[no-untyped-def]
        function()
        return next(times)

    monkeypatch.setattr(speed, "_seconds", seconds)
    row = speed.measure("spair-coins-recipe", precision, ONCE)
    assert (row["class"], row["batch"], row["precision"]) == ("SPAIRRecipe", 2, precision)
    assert row["training_images_per_second"] == 4.0
    assert row["inference_images_per_second"] == 8.0
    assert row["limit_gflops"] == pytest.approx(2 * 1024**3 / 1e9 / 1e-3)
    assert row["share_of_limit"] == pytest.approx(row["training_gflop"] / 0.5 / row["limit_gflops"])


def test_gflop_of_a_step_are_three_times_those_of_the_products_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a linear layer: the product itself, and those of the gradients of weights and inputs."""
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 50), torch.nn.Linear(50, 10))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def losses(self, batch):  # type: ignore[no-untyped-def]
            return {"loss": self.layers(batch["image"]).square().sum()}

        def _total(self, terms):  # type: ignore[no-untyped-def]
            return terms["loss"]

        def forward(self, image):  # type: ignore[no-untyped-def]
            return self.layers(image)

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return {"optimizer": torch.optim.SGD(self.parameters(), 0.1)}

    monkeypatch.setattr(speed, "build", lambda name: (Model(), (1, 8, 8), 2))
    row = speed.measure("mine", "32-true", ONCE)
    forward = 2 * 2 * (64 * 50 + 50 * 10)
    first_inputs = 2 * 2 * 64 * 50  # images have no gradient
    assert row["training_gflop"] * 1e9 == pytest.approx(3 * forward - first_inputs)


@pytest.mark.slow  # processes of their own
def test_the_table_and_the_file_have_a_row_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    names = ["recipes/quick/spair", "spair-multimnist-recipe"]
    speed.main([*names, "--batch_size", "2", "--rounds", "1", "--threads", "1", "--out", str(out)])
    rows = json.loads(out.read_text())
    assert [row["model"] for row in rows] == names
    assert all(row["peak_mib"] > 0 < row["share_of_limit"] for row in rows)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["spair-multimnits"], "did you mean"),
        (["spair-multimnist-recipe", "--rounds", "0"], "--rounds must be at least 1"),
        (["spair-multimnist-recipe", "--out", "nowhere/speed.json"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_answered_in_a_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as said:
        speed.main(options)
    assert message in f"{said.value} {capsys.readouterr().err}"
