"""Model and data given by name meet: they agree on channels and image size, or are refused before data are made."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image

import zoo
from datamodules import ImageFolderDataModule, MultiMNISTDataModule, SceneDataModule
from zoo import registry
from zoo.commands.agreement import AgreementError, Said, agree, said_by
from zoo.commands.cli import main

ROOT = Path(__file__).resolve().parents[3]
QUICK = str(ROOT / "configs" / "recipes" / "quick" / "spair.yaml")
QUIET = ["--wandb=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.accelerator=cpu"]
STEP = [*QUIET, "--trainer.max_steps=1", "--trainer.val_check_interval=1", "--pictures.num_images=1"]
# what makes networks small, and no word of channels or sizes
SMALL: dict[str, dict[str, Any]] = {
    "AIR": {"cell_hidden": 8, "encoder_hidden": [8], "decoder_hidden": [8]},
    "ASTSeg": {
        "backbone": "unet", "unet_channels": [4, 8, 8], "encoder_layers": 0, "what_dim": 4, "background_form": "simple",
        "background_width": 0.1, "glimpse_size": 8,
    },
    "BackgroundAE": {"form": "simple", "width": 0.1},
    "DiscreteAIR": {"cell_hidden": 8, "encoder_hidden": [8], "template_hidden": [8], "attribute_hidden": [8]},
    "GMAIR": {
        "backbone_widths": [8, 8, 8], "backbone_blocks": 1, "backbone_up": [8], "head_hidden": [8], "what_dim": 8,
        "encoder_hidden": [8], "decoder_channels": [8, 8, 8, 8], "glimpse_size": 8,
    },
    "SPAIR": {"backbone_channels": 8, "encoder_hidden": [8], "decoder_hidden": [8], "what_dim": 4},
    "SPAIRRecipe": {"backbone_channels": 8, "encoder_hidden": [8], "decoder_hidden": [8], "what_dim": 4},
}  # fmt: skip
SMALL["DAIR"] = SMALL["AIR"]
SMALL |= {name: SMALL[name.removesuffix("Recipe")] for name in registry.models() if name.endswith("Recipe")}
# few scenes, from what is at hand
FEW: dict[str, dict[str, Any]] = {
    "CLEVRDataModule": {},
    "CLEVRTEXDataModule": {"source": "synthetic"},
    "Fruit2DDataModule": {"source": "synthetic"},
    "MultiMNISTDataModule": {"source": "uci"},
    "ObjectsRoomDataModule": {"num_test": 3, "num_val": 2},
    "SetGameDataModule": {},
    "ShapeStacksDataModule": {},
    "SpaceInvadersDataModule": {"source": "synthetic", "crop_size": None},
    "ImageFolderDataModule": {"folder": "photos"},
    "PictureDataModule": {"picture": "picture.png"},
}
PAIRS = [(model, data) for model in sorted(registry.models()) for data in sorted(registry.datamodules())]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(own_folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    Image.fromarray(pixels).save(own_folder / "picture.png")
    return write_photos(own_folder / "photos")


def write_photos(folder: Path, count: int = 30, mode: str = "RGB") -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).convert(mode)
        pixels.resize((64, 48)).save(folder / f"{i:02}.png")
    return folder


def defaults(name: str, **given: Any) -> Namespace:
    """What the parser makes of a class's name."""
    entry = {**registry.models(), **registry.datamodules()}[name]
    parameters = inspect.signature(entry.load()).parameters.values()
    args = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return Namespace(class_path=name, init_args=Namespace(**{**args, **given}))


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_every_model_takes_the_images_of_every_data_set(model: str, data: str, photos: Path) -> None:
    """By name alone, to the first thing that looks at images: a second for all."""
    config = Namespace(model=defaults(model, **SMALL.get(model, {})), data=defaults(data, **FEW.get(data, {})))
    if data == "SpaceInvadersDataModule" and model.startswith(("ASTSeg", "BackgroundAE")):
        with pytest.raises(
            AgreementError, match=r"reads images whose image_size is .* has always \[210, 160\]: choose"
        ):
            agree(config, Said())
        return
    agree(config, Said())
    source = registry.datamodules()[data].load()(**dict(config.data.init_args))
    built = registry.models()[model].load()(**dict(config.model.init_args))
    assert isinstance(source, SceneDataModule)
    for shape in (source.image_shape, source.train_image_shape):
        built.check_image(torch.zeros(1, *shape))
    size = config.model.init_args.get("image_size")
    if size is not None:
        assert source.image_shape[1:] == ((size, size) if isinstance(size, int) else tuple(size))


def make_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small stand-ins of published files, as the tests of their data sets make them."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "datamodules"))
    import test_clevr
    import test_objects_room
    import test_shapestacks
    from helpers_tfrecord import example, frame, write_records

    monkeypatch.setenv("ZOO_DATA", str(folder / "data"))
    clevr = (frame(example(test_clevr.make_scene(number))) for number in range(10))
    write_records(folder / "data" / "clevr_with_masks" / test_clevr.FILE, clevr)
    test_objects_room.root.__wrapped__(folder)
    test_shapestacks.root.__wrapped__(folder)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(registry.models()))
def test_every_model_trains_on_every_data_set_by_name(
    model: str, photos: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_files(own_folder, monkeypatch)
    for name, entry in registry.datamodules().items():
        if name == "SpaceInvadersDataModule" and model.startswith(("ASTSeg", "BackgroundAE")):
            continue  # refused, as a test above has it: its frames are no squares
        known = inspect.signature(entry.load()).parameters
        few = {key: 3 for key in ("num_train", "num_val", "num_test") if key in known} | {"batch_size": 2}
        few |= FEW.get(name, {})
        options = [f"--data.{key}={json.dumps(value).strip(chr(34))}" for key, value in few.items()]
        options += [f"--model.{key}={json.dumps(value).strip(chr(34))}" for key, value in SMALL[model].items()]
        before = set(Path("runs").glob("*/version_*"))
        main(["fit", "--model", model, "--data", name, *options, *STEP])
        (run,) = set(Path("runs").glob("*/version_*")) - before
        assert zoo.load(run / "checkpoints" / "last.ckpt").steps_trained == 1
        assert "metrics" in json.loads((run / "run.json").read_text())


def fit(*options: str) -> dict[str, Any]:
    """Train for a step; returns the run's configuration."""
    before = set(Path("runs").glob("*/version_*"))
    main(["fit", *options, *STEP])
    (run,) = set(Path("runs").glob("*/version_*")) - before
    return yaml.safe_load((run / "config.yaml").read_text())


def shapes(config: dict[str, Any]) -> list[Any]:
    """(channels, image size) of the model, then of the data."""
    args = [config[part]["init_args"] for part in ("model", "data")]
    return [args[i].get(key) for i in range(2) for key in ("channels", "image_size")]


SMALL_AIR = ["--model=AIR", *(f"--model.{key}={value}" for key, value in SMALL["AIR"].items())]
DIGITS = ["--data=MultiMNISTDataModule", "--data.source=uci", "--data.num_train=8", "--data.num_val=3"]
DIGITS += ["--data.num_test=3", "--data.batch_size=4"]


def test_the_model_follows_the_data_and_says_so(caplog) -> None:
    with caplog.at_level("INFO"):
        config = fit(*SMALL_AIR, *DIGITS, "--data.image_size=[40, 56]")
    assert shapes(config) == [3, [40, 56], 3, [40, 56]]
    assert "AIR follows the data: channels 3" in caplog.text
    assert "AIR follows the data: image_size [40, 56]" in caplog.text


def test_the_data_follow_a_model_that_was_told(caplog) -> None:
    with caplog.at_level("INFO"):
        config = fit(*SMALL_AIR, *DIGITS, "--model.init_args.image_size=52", "--model.channels", "1")
    assert shapes(config) == [1, 52, 1, 52]
    assert "MultiMNISTDataModule follows the model: image_size 52" in caplog.text


def test_other_data_on_the_command_line_begin_anew(photos: Path, caplog) -> None:
    """The configuration's channels were its data's."""
    with caplog.at_level("INFO"):
        config = fit("--config", QUICK, "--data=ImageFolderDataModule", "--data.folder=photos")
    assert shapes(config) == [3, None, 3, 48]
    assert config["data"]["init_args"]["eval_batch_size"] == 100  # how they are loaded is kept
    assert "30 images of 64x48, colour; the model sees 48x48x3" in caplog.text
    said = "no data.init_args.image_size is given: 48x48, that of the configuration's MultiMNISTDataModule"
    assert said in caplog.text


@pytest.mark.parametrize(
    ("options", "expected", "sees"),  # as in `shapes`
    [
        ([], [3, None, 3, 128], "128x128x3"),
        (["--data.image_size=[24, 36]"], [3, None, 3, [24, 36]], "36x24x3"),
        (["--data.channels=1"], [1, None, 1, 128], "128x128x1"),
        (["--model.channels=1"], [1, None, 1, 128], "128x128x1"),
        (["--model=AIR"], [3, 50, 3, 50], "50x50x3"),
        (["--model=ASTSeg", "--model.backbone=unet"], [3, 128, 3, 128], "128x128x3"),
    ],
)
def test_what_ones_own_images_are_to_a_model(
    options: list[str], expected: list[Any], sees: str, photos: Path, caplog
) -> None:
    arguments = ["--model=SPAIR", "--data=ImageFolderDataModule", "--data.folder=photos", *options]
    config, lines = settled(*arguments)
    assert shapes(config) == expected
    assert lines[-1] == f"30 images of 64x48, colour; the model sees {sees}"


def settled(*arguments: str) -> tuple[dict[str, Any], list[str]]:
    """What the parser and `agree` make of arguments."""
    said = said_by(["fit", *arguments])
    args = {part: {} for part in ("model", "data")}
    for argument in arguments:
        key, value = argument.removeprefix("--").split("=", 1)
        part, _, name = key.partition(".")
        if name:
            args[part][name] = yaml.safe_load(value)
    config = Namespace(**{part: defaults(said.classes[part], **args[part]) for part in args})
    lines = agree(config, said)
    return yaml.safe_load(json.dumps(config.as_dict())), lines


def test_images_without_colour_make_a_model_without_colour(own_folder: Path) -> None:
    write_photos(own_folder / "scans", 6, "L")
    config, lines = settled("--model=SPAIR", "--data=ImageFolderDataModule", "--data.folder=scans")
    assert lines[-1] == "6 images of 64x48, grey; the model sees 128x128x1"
    assert shapes(config)[::2] == [1, 1]


CONTRADICTIONS = [
    (
        ["--model=AIR", "--model.image_size=40", "--data=MultiMNISTDataModule", "--data.image_size=48"],
        r"model\.init_args\.image_size is 40, but data\.init_args\.image_size is 48: make them alike",
    ),
    (
        ["--model=SPAIR", "--model.channels=1", "--data=MultiSpritesDataModule", "--data.init_args.channels=3"],
        r"model\.init_args\.channels is 1, but data\.init_args\.channels is 3",
    ),
    (
        ["--model=SPAIR", "--model.channels=1", "--data=CLEVRDataModule"],
        r"model\.init_args\.channels is 1, but CLEVRDataModule has always 3: leave model\.init_args\.channels out",
    ),
    (
        ["--model=BackgroundAE", "--data=MultiMNISTDataModule", "--data.image_size=48"],
        r"model\.init_args\.image_size can be 64 or 128, but data\.init_args\.image_size is 48",
    ),
    (
        ["--model=BackgroundAE", "--data=MultiMNISTDataModule", "--data.image_size=[64, 128]"],
        r"image_size can be 64 or 128, but data\.init_args\.image_size is \[64, 128\]",
    ),
    (
        ["--model=ASTSeg", "--data=MultiSpritesDataModule", "--data.channels=1"],
        r"model\.init_args\.channels can be 3, but data\.init_args\.channels is 1",
    ),
    (
        ["--model=AIR", "--data=MultiMNISTDataModule", "--data.crop_size=32"],
        r"AIR reads images of one size, but MultiMNISTDataModule has 32x32 for training and 48x48 for evaluation",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), CONTRADICTIONS)
def test_contradictions_are_refused_before_data_are_made(arguments: list[str], message: str, monkeypatch) -> None:
    monkeypatch.setattr(SceneDataModule, "prepare_data", lambda _: pytest.fail("data were made"))
    for data in (MultiMNISTDataModule, ImageFolderDataModule):
        monkeypatch.setattr(data, "make_dataset", lambda *_: pytest.fail("data were made"))
    with pytest.raises(SystemExit, match=message) as ended:
        main(["fit", *arguments, *STEP])
    assert str(ended.value).startswith("zoo: ")
    assert not Path("runs").exists()


def test_a_trained_model_is_followed_by_other_data(caplog) -> None:
    few = ["--data.num_test=3", "--data.num_val=3", "--data.num_train=4"]
    with caplog.at_level("INFO"):
        main(["test", "--ckpt_path=air-multimnist-recipe", "--data=MultiSpritesDataModule", *few, *QUIET])
        main(["test", "--ckpt_path=spair-multimnist-recipe", *DIGITS, *QUIET])
    assert "MultiSpritesDataModule follows the model: image_size 50" in caplog.text
    (run,) = Path("runs").glob("air_*/version_0")
    assert shapes(yaml.safe_load((run / "config.yaml").read_text())) == [1, 50, 1, 50]
    with pytest.raises(SystemExit, match=r"channels is 1, but data\.init_args\.channels is 3"):
        main(["test", "--ckpt_path=spair-multimnist-recipe", "--data.channels=3", *QUIET])


def test_without_annotations_checkpoints_are_chosen_by_the_loss(photos: Path, caplog) -> None:
    small = [f"--model.{key}={value}" for key, value in SMALL["SPAIR"].items()]
    paper = str(ROOT / "configs" / "spair.yaml")
    own = ["--data=ImageFolderDataModule", "--data.folder=photos"]
    with caplog.at_level("INFO"):
        config = fit("--config", paper, *own, *small)
    assert (
        "without annotations there is no val/ap50: the best checkpoint is the one of the least val/loss" in caplog.text
    )
    assert [config["checkpoint"][key] for key in ("monitor", "mode")] == ["val/loss", "min"]
    config = fit("--config", paper, *own, *small, "--checkpoint.monitor=val/mse", "--checkpoint.mode=min")
    assert config["checkpoint"]["monitor"] == "val/mse"


def test_what_was_said_of_which_class() -> None:
    digits = json.dumps(
        {
            "model": {"class_path": "zoo.models.SPAIR", "init_args": {"channels": 1, "lr": 1}},
            "data": {"class_path": "MultiMNISTDataModule", "init_args": {"channels": 1, "image_size": 84}},
        }
    )
    said = said_by(["fit", "--config", digits])
    assert said.values == {"model": {"channels": 1}, "data": {"channels": 1, "image_size": 84}}
    assert said.replaced is None
    said = said_by(["fit", "--config", digits, "--data.channels", "null", "--model.init_args.channels=3"])
    assert said.values == {"model": {"channels": 3}, "data": {"channels": 1, "image_size": 84}}
    said = said_by(["fit", "--config", digits, "--data=MultiSpritesDataModule", "--data.image_size=32"])
    assert said.values == {"model": {}, "data": {"image_size": 32}}
    assert said.replaced == {"class": "MultiMNISTDataModule", "init_args": {"channels": 1, "image_size": 84}}
    said = said_by(["fit", "--config", digits, "--model", "AIR", "--data", "datamodules.MultiMNISTDataModule"])
    assert said.values == {"model": {}, "data": {"channels": 1, "image_size": 84}}
    assert said_by(["fit", "--data=CLEVRDataModule", "--data.init_args.crop=9"]).own == {"crop"}
    fixed = said_by(["test", "--config", digits, "--data=CLEVRDataModule"], fixed={"channels": 1, "lr": 1})
    assert fixed.values == {"model": {"channels": 1}, "data": {}}


def test_two_parts_that_were_told_nothing_are_left_as_they_are_where_they_agree() -> None:
    config = Namespace(model=defaults("SPAIR"), data=defaults("MultiMNISTDataModule"))
    assert agree(config, Said()) == []
    assert (config.model.init_args.channels, config.data.init_args.channels) == (3, 3)
    config = Namespace(model=defaults("SPAIR", channels=1), data=defaults("MultiMNISTDataModule"))
    with pytest.raises(AgreementError):
        agree(config, Said(values={"model": {"channels": 1}, "data": {"channels": 3}}))
