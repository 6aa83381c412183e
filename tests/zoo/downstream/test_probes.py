"""Probes: which slot goes with which object, and what can be read off it."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score

import zoo
from zoo.commands.probe import main
from zoo.downstream import probes
from zoo.downstream.probes import collect, fit_and_score, overlap
from zoo.scene import Scene


def scene_of(boxes: list[list[float]], mask: torch.Tensor | None = None) -> Scene:
    K = len(boxes)
    image = torch.zeros(1, 3, 8, 8)
    what = torch.arange(K, dtype=torch.float32)[None, :, None]
    return Scene(reconstruction=image, boxes=torch.tensor([boxes]), presence=torch.ones(1, K), what=what, mask=mask)


class Sees(torch.nn.Module):
    """Always the same."""

    device = torch.device("cpu")

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene = scene

    def see(self, batch) -> Scene:
        return self.scene


def batch_of(boxes: list[list[float]], valid: list[bool]) -> dict:
    image = torch.zeros(1, 3, 8, 8)
    image[:, 0, :4, :4], image[:, 2, 4:, 4:] = 1, 0.5
    return {"image": image, "boxes": torch.tensor([boxes]), "valid": torch.tensor([valid]),
            "labels": torch.tensor([[3, 5, 0]])}  # fmt: skip


def test_objects_go_with_the_slot_that_overlaps_them_most() -> None:
    """By hand: slot 1 is on object 0, slot 0 on none well enough, slot 2 on object 1; row 2 is padding."""
    scene = scene_of([[0, 0, 8, 8], [0, 0, 4, 3.0], [4, 4, 8, 8]])
    batch = batch_of([[0, 0, 4, 4], [4, 4, 8, 8], [0, 0, 0, 0.0]], [True, True, False])
    pairs = collect(Sees(scene), [batch])  # type: ignore[arg-type, list-item]
    assert pairs.objects == 2
    assert pairs.inputs["what"].flatten().tolist() == [1, 2]
    assert pairs.properties["class"].tolist() == [3, 5]
    assert pairs.properties["position"].tolist() == [[0.25, 0.25], [0.75, 0.75]]
    assert pairs.properties["size"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    torch.testing.assert_close(pairs.properties["color"], torch.tensor([[1.0, 0, 0], [0, 0, 0.5]]), atol=0.15, rtol=0)
    assert pairs.inputs["what+box"][0].tolist() == [1, 0, 0, 0.5, 0.375]
    absent = Scene(**{**vars(scene), "presence": torch.tensor([[1, 0.4, 1]])})
    assert collect(Sees(absent), [batch]).inputs["what"].flatten().tolist() == [2]  # type: ignore[arg-type, list-item]


def test_masks_overlap_as_counted_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    true, seen = (torch.randint(0, 4, (1, 8, 8), generator=generator) for _ in range(2))
    batch = {**batch_of([[0, 0, 4, 4.0]] * 3, [True] * 3), "mask": true}
    found = overlap(scene_of([[0, 0, 1, 1.0]] * 3, seen), batch, "masks")  # type: ignore[arg-type]
    for n in range(3):
        for k in range(3):
            a, b = true == n + 1, seen == k + 1
            assert float(found[0, n, k]) == pytest.approx(int((a & b).sum()) / int((a | b).sum()))
    with pytest.raises(ValueError, match="no masks: match by boxes"):
        overlap(scene_of([[0, 0, 1, 1.0]]), batch, "masks")  # type: ignore[arg-type]


def test_what_is_linear_is_read_by_a_linear_probe() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator)
    y = 5 + x @ torch.randn(6, 2, generator=generator)
    assert fit_and_score("linear", (x[:200], y[:200]), (x[200:], y[200:])) > 0.999
    labels = (x[:, 0] * x[:, 1] > 0).long()  # which no line parts
    linear, network = (
        fit_and_score(kind, (x[:300], labels[:300]), (x[300:], labels[300:])) for kind in ("linear", "mlp")
    )
    assert linear < 0.7
    assert network > linear


def test_scores_are_those_of_scikit_learn() -> None:
    """A probe of inputs without a bearing on the property predicts its mean or most frequent class."""
    x = torch.zeros(40, 2)
    y, z = torch.linspace(0, 1, 40)[:, None], torch.tensor([0] * 30 + [1] * 10)
    goal = y + 0.5
    assert fit_and_score("linear", (x, y), (x, goal)) == pytest.approx(r2_score(goal, y.mean().expand(40, 1)), abs=1e-4)
    assert fit_and_score("linear", (x, z), (x, z)) == accuracy_score(z, torch.zeros(40))


def test_the_command_writes_a_row_for_each_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uci_data, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    model = zoo.load("spair-multimnist-recipe")
    assert model.data_record is not None
    model.data_record = {**model.data_record, "init_args": dict(uci_data(num_train=64, num_test=32).hparams)}
    model.save_pretrained("mine")
    main(["--ckpt_path", "mine", "--num_scenes", "64"])
    written = json.loads(Path("probes.json").read_text())
    assert {row["property"] for row in written["rows"]} == {"class", "position", "size"}  # one channel has no colour
    assert {row["input"] for row in written["rows"]} == {"what", "what+box", "pixels", "random weights"}
    assert 0 < written["found"] <= 1
    score = {(row["property"], row["input"]): row["score"] for row in written["rows"] if row["probe"] == "linear"}
    assert score["position", "what+box"] > 0.9 > score["position", "what"]
    assert "objects found" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"zoo: .* objects were found"):
        main(["--ckpt_path", "mine", "--num_scenes", "1"])
    with pytest.raises(SystemExit, match="MultiMNISTDataModule has classes of one kind: leave out --label material"):
        main(["--ckpt_path", "mine", "--label", "material"])


def test_one_of_several_kinds_of_classes_is_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    model = zoo.load("gmair-fruit2d-synthetic-recipe")
    options = {"num_train": 40, "num_val": 1, "num_test": 20, "data_dir": str(tmp_path), "image_size": 64}
    model.data_record = {"class": "SetGameDataModule", "name": "cards", "init_args": options}
    model.save_pretrained("mine")
    monkeypatch.setattr(probes, "MIN_IOU", 0.1)  # it has never seen a card
    main(["--ckpt_path", "mine", "--num_scenes", "40", "--label", "color"])
    written = json.loads(Path("probes.json").read_text())
    assert written["data"].endswith("-color")
    kinds = {row["metric"]: row["property"] for row in written["rows"] if row["property"].startswith("col")}
    assert kinds == {"accuracy": "color (class)", "R2": "color"}
    with pytest.raises(SystemExit, match="label='suit': must be card, shape, color or number"):
        main(["--ckpt_path", "mine", "--label", "suit"])
