"""One picture for any model: what is in it, where its images come from, and what is said when there are none."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import __main__ as command_line
from zoo.commands import show
from zoo.models import SPAIR, ObjectModel, SPAIRRecipe
from zoo.pictures import draw as pictures
from zoo.pictures.sheet import GAP, LINE, MARGIN
from zoo.scene import Scene

TOP = 2 * LINE + GAP


class Painter(ObjectModel):
    """Finds what is bright in two categories, and draws squares as grey as the first element of `what`."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.asked: list[torch.Tensor] = []

    def scene(self, image: torch.Tensor) -> Scene:
        B, _, _, W = image.shape
        presence = (image.flatten(1).amax(1, keepdim=True) > 0.5).float().repeat(1, 2)
        what = torch.stack([torch.arange(2.0 * B).view(B, 2) / (2 * B), torch.zeros(B, 2)], -1)
        return Scene(
            reconstruction=image,
            boxes=torch.tensor([[4.0, 4, 12, 12], [20, 4, 24, 20]]).expand(B, 2, 4),
            presence=presence,
            what=what,
            category=torch.eye(3)[[2, 0]].expand(B, 2, 3),
            mask=(image[:, 0] > 0.5).long(),
            background=torch.linspace(0, 1, W).expand(image.shape),
        )

    def decode(self, what: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(what)
        alpha = torch.ones(*what.shape[:2], 8, 8)
        return what[..., :1, None, None].clamp(0, 1) * alpha[:, :, None], alpha


def scenes_of(count: int, occupied: list[int]) -> torch.Tensor:
    image = torch.zeros(count, 1, 32, 32)
    image[occupied, :, 4:12, 4:12] = 1.0
    return image


def test_a_sheet_has_a_row_for_whatever_the_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    sheet_of = pictures.sheet_of
    for module in (show, pictures):
        monkeypatch.setattr(module, "sheet_of", lambda rows, **more: titles.extend(rows) or sheet_of(rows, **more))
    model, image = Painter(), scenes_of(10, [1, 4, 5, 7])
    scene = model.scene(image)
    sheet = show.draw_sheet(model, {"image": image}, scene, num_images=3)
    assert titles[:3] == ["input", "reconstruction", "predicted boxes"]
    assert titles[3:5] == ["predicted masks", "background"]
    assert titles[5:7] == ["category 0: 4 found", "category 2: 4 found"]
    assert titles[7].startswith("what: component 1 (100% of variance)")
    assert not any("prior" in title for title in titles)  # it cannot generate
    columns = (3 * (128 + GAP) + GAP) // (52 + GAP)
    (asked,) = {tuple(what.shape) for what in model.asked}
    assert asked == (1, columns, 2)
    # along the component the population's spread is gone through, from end to end
    found = scene.what[scene.presence >= 0.5]
    spread = 2.5 * found[:, 0].std()
    ends = model.asked[0][0, [0, -1], 0].sort().values
    torch.testing.assert_close(ends, found[:, 0].mean() + torch.stack([-spread, spread]))
    # the first images shown are those with objects
    pixels = np.asarray(sheet)
    for c in range(3):
        left = MARGIN + c * (128 + GAP)
        assert pixels[TOP + 30, left + 30].tolist() == [255] * 3
    generating = SPAIR(channels=1, backbone_channels=4)
    show.draw_sheet(generating, {"image": image}, generating.eval()(image), threshold=1.0)
    assert titles[-1].startswith("drawn from the prior")
    assert titles[-2].startswith("predicted")  # nothing was found, so there are no objects to show


@pytest.mark.parametrize("name", zoo.list_weights())
def test_every_checkpoint_is_shown_on_a_folder_of_images(name: str, tmp_path: Path) -> None:
    model = zoo.load(name)
    size = (48, 48) if "image_size" not in model.hparams else (60, 60)
    (tmp_path / "in").mkdir()
    for i in range(3):
        pixels = np.zeros(size, np.uint8)
        pixels[10:24, 8 + 4 * i : 20 + 4 * i] = 255
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png")
    path = show.show(name, tmp_path / "out" / "sheet.png", images=tmp_path / "in", device="cpu")
    sheet = Image.open(path)
    assert 3 * 128 <= sheet.width <= 1920
    assert 3 * 128 < sheet.height <= 1400  # images, reconstructions, boxes
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]


def test_a_checkpoint_is_shown_on_its_own_data_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uci_data: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    model, data = SPAIRRecipe(channels=1, backbone_channels=4, initial_biases={"presence": 3.0}), uci_data()
    model.data_record = {"class": type(data).__name__, "name": data.name, "init_args": dict(data.hparams)}
    zoo.save(model, "mine")
    monkeypatch.setattr(
        sys, "argv", ["zoo", "show", "--ckpt_path=mine.safetensors", "--num_images=4", "--num_scenes=5"]
    )
    command_line.main()
    assert capsys.readouterr().out.strip() == "mine.png"
    sheet = np.asarray(Image.open("mine.png"))
    assert (sheet == np.array(pictures.TRUE_COLOR)).all(-1).any()  # true boxes are known
    data.setup("test")
    first = data.datasets["test"].batch([0])["image"][0, 0]
    shown = sheet[TOP : TOP + 144, MARGIN : MARGIN + 144].max(-1)[1::3, 1::3]
    bright = torch.from_numpy(
        (shown > 128) & (shown == sheet[TOP : TOP + 144, MARGIN : MARGIN + 144].min(-1)[1::3, 1::3])
    )
    assert (first[bright] > 0.4).all()
    assert bright.sum() > 10


def test_what_cannot_be_shown_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    zoo.save(SPAIR(channels=1, backbone_channels=4), "unknown")
    for options, message in (
        (["--ckpt_path=unknown.safetensors"], "does not say what it was trained on: give a folder of --images"),
        (
            ["--ckpt_path=spair"],
            "no checkpoint 'spair': did you mean spair-coins-recipe or spair-multimnist-paper or",
        ),
        (["--ckpt_path=spair-multimnist-recipe", "--images=nowhere"], "there is no folder or file nowhere"),
        (["--ckpt_path=spair-multimnist-recipe", "--num_images=0"], "num_images=0"),
    ):
        with pytest.raises(SystemExit, match=message):
            show.main(options)
    assert {path.name for path in tmp_path.iterdir()} == {"unknown.json", "unknown.safetensors"}


def test_images_that_cannot_be_shown_are_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    Image.effect_noise((48, 48), 80).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no image")
    Image.new("L", (4, 90)).save(tmp_path / "in" / "c.png")
    out = str(tmp_path / "sheet.png")
    arguments = ["--ckpt_path=spair-multimnist-recipe", "--images", str(tmp_path / "in"), "--device=cpu"]
    show.main([*arguments, "--out", out, "--image_size", "original"])
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "2 files skipped" in said.err
    assert f"{tmp_path}/in/b.png cannot be read" in said.err
    assert f"{tmp_path}/in/c.png: images of (90, 4) px are smaller than a cell" in said.err
    show.main([*arguments, "--out", out])  # in the size that it was trained at
    assert "1 files skipped" in capsys.readouterr().err
    show.main([*arguments[:1], "--images", str(tmp_path / "in" / "a.png"), "--out", out])  # one file
    assert "skipped" not in capsys.readouterr().err
    for picture in (tmp_path / "in" / "sheet.png", tmp_path / "in" / "a.png"):
        before = picture.read_bytes() if picture.exists() else None
        with pytest.raises(SystemExit, match=r"would be among the images of .*in, and seen by the next run"):
            show.main([*arguments, "--out", str(picture)])
        assert (picture.read_bytes() if picture.exists() else None) == before
    with pytest.raises(SystemExit, match=r"a\.png would be among"):  # nor is the image itself replaced
        show.main(
            [
                "--ckpt_path=spair-multimnist-recipe",
                "--images",
                str(tmp_path / "in/a.png"),
                "--out",
                f"{tmp_path}/in/a.png",
            ]
        )
