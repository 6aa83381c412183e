"""Programs that run without this package, and see what the model sees."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from zoo.commands import export as command
from zoo.models import SPAIR, ObjectModel
from zoo.scene import Scene
from zoo.sharing import export

RUN_ALONE = """
import sys
for name in ("lightning", "zoo", "datamodules", "torchmetrics", "torchvision"):
    sys.modules[name] = None
import torch
images = torch.load("images.pt")
torch.save(torch.export.load("program.pt2").module()(images), "seen.pt")
"""


def images_for(model: ObjectModel, count: int) -> Tensor:
    """Of noise, and of the model's own objects where it can imagine any; of the size that it was trained on."""
    assert model.data_record
    size = (model.hparams.get("image_size") or model.data_record["init_args"]["image_size"],) * 2
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(count, model.hp.channels, *size, generator=generator)
    own: Any = model
    if not hasattr(own, "generate"):
        return noise
    return torch.cat([noise[:1], own.generate(count - 1, size, generator, count=2).reconstruction])


def check(seen: dict[str, Tensor], scene: Scene, tolerance: float) -> None:
    expected = {name: value for name, value in vars(scene).items() if value is not None}
    assert set(seen) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("name", {record["class"]: name for name, record in zoo.list_weights().items()}.values())
def test_a_torch_program_sees_what_the_model_sees_without_lightning(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = zoo.load(name)
    images = images_for(model, 4)
    assert export.export(model, "program").name == "program.pt2"
    program = torch.export.load("program.pt2").module()
    with torch.no_grad():
        scene = model(images)  # the model still works, too
        check(program(images), scene, 1e-4)
        check(program(images[:1]), model(images[:1]), 1e-4)  # any number will do
    if name.startswith("spair"):
        torch.save(images, "images.pt")
        alone = subprocess.run([sys.executable, "-c", RUN_ALONE], capture_output=True, text=True, timeout=60)
        assert alone.returncode == 0, alone.stderr
        check(torch.load("seen.pt"), scene, 1e-4)


SEGFORMER = "ast-seg-clevrtex-synthetic-recipe"


@pytest.mark.parametrize(
    "name", ["spair-multimnist-recipe", "air-multimnist-recipe", pytest.param(SEGFORMER, marks=pytest.mark.slow)]
)
def test_an_onnx_program_sees_what_the_model_sees(name: str, tmp_path: Path, capsys) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = zoo.load(name)
    images = images_for(model, 4)
    arguments = ["--ckpt_path", name, "--format=onnx", "--out", str(tmp_path / "mine")]
    command.main(arguments)
    assert "mine.onnx, " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["mine.onnx"]
    session = runtime.InferenceSession(tmp_path / "mine.onnx", providers=["CPUExecutionProvider"])
    assert {value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())} == {"batch"}
    for part in (images, images[:1]):  # any number will do
        values = session.run(None, {"image": part.numpy()})
        outputs = zip(session.get_outputs(), values, strict=True)
        with torch.no_grad():
            check({output.name: torch.from_numpy(np.array(value)) for output, value in outputs}, model(part), 1e-3)
    assert '"class": "' in session.get_modelmeta().custom_metadata_map["zoo"]


def test_drawing_in_whole_images_is_the_same_function() -> None:
    model = zoo.load("spair-multimnist-recipe")
    images = images_for(model, 3)
    with torch.no_grad():
        usual = model(images)
        with export._whole_windows():
            whole = model(images)
        torch.testing.assert_close(whole.reconstruction, usual.reconstruction, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(images).reconstruction, usual.reconstruction)  # windows are back


class Unexportable(SPAIR):
    def forward(self, image: Tensor) -> Scene:
        return super().forward(image * 0.5 if image.sum() > 1 else image)


def test_a_program_for_one_number_of_images_takes_no_other(tmp_path: Path) -> None:
    path = export.export(SPAIR(channels=1, backbone_channels=4), tmp_path / "two", image_size=24, batch_size=2)
    program = torch.export.load(path).module()
    assert program(torch.rand(2, 1, 24, 24))["boxes"].shape == (2, 4, 4)
    with pytest.raises(Exception, match=r"(?i)shape|guard|size"):
        program(torch.rand(3, 1, 24, 24))


def test_what_cannot_be_exported_is_explained(tmp_path: Path) -> None:
    small: dict[str, Any] = {"channels": 1, "backbone_channels": 4}
    with pytest.raises(export.ExportError, match=r"Unexportable cannot be exported to torch: .*data-dependent"):
        export.export(Unexportable(**small), tmp_path / "a", image_size=48)
    with pytest.raises(ValueError, match="SPAIR takes images of any size: say for which it is exported, image_size"):
        export.export(SPAIR(**small), tmp_path / "a")
    with pytest.raises(ValueError, match="format='keras': must be one of torch, onnx"):
        export.export(SPAIR(**small), tmp_path / "a", "keras")  # type: ignore[arg-type]
    with pytest.raises(
        SystemExit, match="did you mean spair-coins-recipe or spair-multimnist-paper or spair-multimnist-recipe"
    ):
        command.main(["--ckpt_path=spair"])
    assert not list(tmp_path.iterdir())
