import csv
import inspect
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch.utils.data import DataLoader

from datamodules import CLEVRTEX, CLEVRTEXDataModule
from datamodules import clevrtex_published as module
from datamodules.clevrtex import CLEVRTEXParameters
from datamodules.drawing.solids import scenes as solids
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError
from zoo.commands.cli import main
from zoo.models import BackgroundAE

pytestmark = pytest.mark.filterwarnings("ignore:.*images, 50000 were published:UserWarning")

SHAPES = ("cube", "cylinder", "monkey", "sphere")
MATERIALS = ("Asphalt", "Marble", "Wood")
SIZES = ("small", "medium", "large")


def stem(folder: Path, variant: str, index: int) -> Path:
    return folder / f"clevrtex_{variant}" / str(index // 1000) / f"CLEVRTEX_{variant}_{index:06d}"


def write_scene(folder: Path, variant: str, index: int) -> None:
    """Noise, with up to 10 rectangles for objects, some of them outside of the crop or hidden."""
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (240, 320, 4), dtype=np.uint8)
    image[..., 3] = 255
    mask, objects = np.zeros((240, 320), np.uint8), []
    for number in range(1, int(rng.integers(3, 11)) + 1):
        x, y, w, h = rng.integers((0, 0, 5, 5), (300, 220, 90, 70))
        mask[y : y + h, x : x + w] = number
        kinds = module.SHAPES[variant], MATERIALS, SIZES
        shape, material, size = (kind[rng.integers(len(kind))] for kind in kinds)
        objects.append({"shape": shape, "material": material, "size": size, "color": "red", "index": number})
    path = stem(folder, variant, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(f"{path}.png")
    flat = Image.fromarray(mask)
    flat.putpalette([255 - i for i in range(256) for _ in range(3)])  # what converts it to colours gets none of the ids
    flat.save(f"{path}_flat.png")
    path.with_suffix(".json").write_text(json.dumps({"num_objects": len(objects), "objects": objects}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in range(20):
        write_scene(tmp_path / "published", "full", index)
    return tmp_path / "published"


def expected(folder: Path, variant: str, index: int, side: int):
    """One scene as the benchmark's program reads it, its ids renumbered by a loop."""
    path = stem(folder, variant, index)
    box = (64, 24, 256, 216)
    image = Image.open(f"{path}.png").crop(box).resize((side, side), Image.Resampling.BILINEAR)
    flat = np.array(Image.open(f"{path}_flat.png").crop(box).resize((side, side), Image.Resampling.NEAREST))
    rows, mask = [], np.zeros_like(flat, np.int64)
    for number, entry in enumerate(json.loads(path.with_suffix(".json").read_text())["objects"], 1):
        ys, xs = np.nonzero(flat == number)
        if len(ys):
            rows.append((entry, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]))
            mask[flat == number] = len(rows)
    return np.array(image)[..., :3], mask, rows


@pytest.mark.parametrize("side", [128, 64])
def test_scenes_are_those_of_the_benchmarks_program(root, side):
    data = CLEVRTEX("train", root=str(root), image_size=side)
    batch = data.batch(range(len(data)))
    vanished = 0
    for index in range(4, 20):
        image, mask, rows = expected(root, "full", index, side)
        assert torch.equal((batch["image"][index - 4] * 255).round().byte().permute(1, 2, 0), torch.as_tensor(image))
        assert torch.equal(batch["mask"][index - 4], torch.as_tensor(mask))
        assert batch["valid"][index - 4].tolist() == [True] * len(rows) + [False] * (10 - len(rows))
        assert batch["boxes"][index - 4, : len(rows)].tolist() == [box for _, box in rows]
        assert not batch["boxes"][index - 4, len(rows) :].any()
        assert batch["labels"][index - 4, : len(rows)].tolist() == [SHAPES.index(row["shape"]) for row, _ in rows]
        vanished += len(json.loads(stem(root, "full", index).with_suffix(".json").read_text())["objects"]) - len(rows)
    assert vanished > 5
    assert batch["image"].dtype == torch.float32
    assert batch["image"].max() <= 1


def test_splits_are_the_benchmarks_and_outd_is_for_testing(root):
    sizes = {split: len(CLEVRTEX(split, root=str(root))) for split in ("train", "val", "test")}
    assert sizes == {"train": 16, "val": 2, "test": 2}
    for split, index in (("test", 1), ("val", 2), ("train", 4)):
        image = expected(root, "full", index, 128)[0]
        first = CLEVRTEX(split, root=str(root))[1 if split == "test" else 0]["image"]
        assert torch.equal((first * 255).round().byte().permute(1, 2, 0), torch.as_tensor(image))
    assert len(CLEVRTEX("train", root=str(root), num_train=5)) == 5
    for index in range(3):
        write_scene(root, "outd", index)
    data = CLEVRTEXDataModule(variant="outd", root=str(root), batch_size=2)
    data.prepare_data()
    data.setup()
    assert [len(batch["image"]) for batch in data.test_dataloader()] == [2, 1]
    with pytest.raises(ValueError, match=r"split='train'.*'outd' are for testing"):
        data.setup("fit")
    for index in range(3):
        write_scene(root, "camo", index)
    with pytest.raises(ValueError, match=r"holds 3 images: too few for a split 'val'"):
        CLEVRTEX("val", root=str(root), variant="camo")


def test_labels_are_shapes_materials_or_sizes(root):
    for label, names in (("shape", SHAPES), ("material", MATERIALS), ("size", SIZES)):
        data = CLEVRTEXDataModule(root=str(root / "clevrtex_full"), label=label, batch_size=16)
        assert (data.class_names, data.num_classes) == (names, len(names))
        (batch,) = list(data.train_dataloader())
        names_drawn = sorted(names[i] for i in batch["labels"][batch["valid"]].tolist())
        rows = [row for index in range(4, 20) for row, _ in expected(root, "full", index, 128)[2]]
        assert names_drawn == sorted(row[label] for row in rows)


def test_what_was_converted_outlasts_the_files(root):
    before = CLEVRTEXDataModule(root=str(root), label="material")
    before.prepare_data()
    shutil.rmtree(root / "clevrtex_full")
    after = CLEVRTEXDataModule(root=str(root), label="material")
    after.prepare_data()
    assert after.name == before.name == "clevrtex-full-128-material-20images"
    assert after.class_names == MATERIALS
    for split in ("train", "val", "test"):
        assert torch.equal(after.datasets[split][0]["image"], before.datasets[split][0]["image"])
    with pytest.raises(DatasetNotFoundError, match="no images of CLEVRTEX 'full'"):
        CLEVRTEX("train", root=str(root), image_size=64)
    (root / "clevrtex_full").mkdir()  # as after unpacking that was cut short
    assert len(CLEVRTEX("train", root=str(root))) == 16


def test_each_folder_has_a_conversion_of_its_own(root, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(root / "clevrtex_full", other / "clevrtex_full")
    for ending in (".png", "_flat.png", ".json"):
        last, first = (Path(f"{stem(other, 'full', index)}{ending}") for index in (19, 18))
        last.write_bytes(first.read_bytes())
    both = [CLEVRTEX("train", root=str(folder)) for folder in (root, other)]
    assert not torch.equal(both[0][15]["image"], both[1][15]["image"])
    shutil.rmtree(root)
    assert torch.equal(CLEVRTEX("train", root=str(root))[15]["image"], both[0][15]["image"])
    with pytest.raises(DatasetNotFoundError, match="nowhere"):
        CLEVRTEX("train", root=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("ending", [".png", "_flat.png", ".json"])
def test_changed_files_are_read_again(root, ending, caplog):
    CLEVRTEX("train", root=str(root))
    with Path(f"{stem(root, 'full', 11)}{ending}").open("ab") as file:
        file.write(b" ")
    with caplog.at_level("WARNING", "datamodules"):
        CLEVRTEX("train", root=str(root))
    assert "made with other source" in caplog.text


def test_folders_may_be_links(root, tmp_path):
    (root / "clevrtex_full" / "0").rename(tmp_path / "elsewhere")
    (root / "clevrtex_full" / "0").symlink_to(tmp_path / "elsewhere")
    assert len(CLEVRTEX("train", root=str(root))) == 16


def test_a_part_of_the_data_warns(root):
    with pytest.warns(UserWarning, match="holds 20 images, 50000 were published"):
        CLEVRTEX("test", root=str(root))


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "bits":
        path.write_bytes(content[:60] + bytes(100) + content[160:])
    elif kind == "mode":
        Image.open(path).convert("RGB").save(path)
    elif kind == "size":
        Image.open(path).resize((160, 120)).save(path)
    elif kind == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text().replace(*kind.split("->")))


@pytest.mark.parametrize(
    ("ending", "kind", "message"),
    [
        (".png", "cut", r"_000007\.png is damaged.*unpack it again"),
        (".png", "bits", r"_000007\.png is damaged"),
        (".png", "size", r"_000007_flat\.png has \(240, 320\) pixels and .*000007\.png \(120, 160\)"),
        (".png", "gone", r"images up to index 19, but not 7: an archive is missing"),
        ("_flat.png", "cut", r"_000007_flat\.png is damaged"),
        ("_flat.png", "mode", r"_000007_flat\.png.*its mode is RGB, expected P or L"),
        ("_flat.png", "gone", r"_000007\.png is there without CLEVRTEX_full_000007_flat\.png"),
        (".json", "gone", r"without CLEVRTEX_full_000007\.json; unpack its archives again"),
        (".json", "cut", r"_000007\.json is damaged \(JSONDecodeError"),
        (".json", '"material"->"stuff"', r"_000007\.json is damaged \(KeyError: 'material'\)"),
        (".json", '"objects": [->"objects": 3, "rest": [', r"_000007\.json is damaged \(TypeError"),
        (".json", '"objects": [->"objects": [], "rest": [', r"_flat\.png has an object \d+, .*json tells of 0"),
        (".json", '"shape": "->"shape": "un', r"000007\.json tells of the shape 'un\w+', expected one of cube, cyl"),
        (".json", '"size": "->"size": "very', r"tells of the size 'very\w+', expected one of small, medium, large"),
    ],
)
def test_damaged_files_are_named_and_their_repair_is_enough(root, ending, kind, message):
    path = Path(f"{stem(root, 'full', 7)}{ending}")
    before = path.read_bytes()
    damage(path, kind)
    with pytest.raises(DatasetCorruptError, match=message):
        CLEVRTEX("train", root=str(root))
    path.write_bytes(before)
    assert len(CLEVRTEX("train", root=str(root))) == 16


def test_wrong_layouts_say_what_was_found_and_what_was_expected(root, tmp_path):
    (root / "clevrtex_camo" / "images").mkdir(parents=True)
    for folder, found in ((tmp_path / "nowhere", "nothing"), (root, "images")):
        with pytest.raises(DatasetNotFoundError) as error:
            CLEVRTEX("test", root=str(folder), variant="camo")
        message = str(error.value)
        assert f"holds {found};" in message
        assert "clevrtex_camo/0/CLEVRTEX_camo_000000.png" in message.replace(os.sep, "/")
        assert all(word in message for word in (module.PAGE, "download: true", "source: synthetic", "`root`"))
    with pytest.raises(DatasetNotFoundError, match="clevrtex_camo, clevrtex_full"):
        CLEVRTEX("test", root=str(root), variant="vbg")
    shutil.copytree(root / "clevrtex_full" / "0", root / "clevrtex_full" / "copy")
    with pytest.raises(DatasetCorruptError, match="are the same image; remove one"):
        CLEVRTEX("test", root=str(root))


@pytest.fixture
def server(root, tmp_path, monkeypatch):
    """The five archives of `full`, on the second of two mirrors."""
    folder = tmp_path / "server"
    folder.mkdir()
    for number, name in enumerate(module.ARCHIVES["full"]):
        with tarfile.open(folder / name, "w:gz") as tar:
            for index in range(4 * number, 4 * number + 4):
                for ending in (".png", "_flat.png", ".json"):
                    path = f"{stem(root, 'full', index)}{ending}"
                    tar.add(path, Path(path).relative_to(root).as_posix())
    monkeypatch.setattr(module, "MIRRORS", ((tmp_path / "down").as_uri() + "/", folder.as_uri() + "/"))
    return folder


def test_archives_are_downloaded_and_a_failed_download_goes_on(root, server, tmp_path):
    content = (server / "clevrtex_full_part4.tar.gz").read_bytes()
    (server / "clevrtex_full_part4.tar.gz").unlink()
    to = tmp_path / "to"
    with pytest.raises(DatasetNotFoundError, match=r"part4.*part4.*Download its archives from.*source: synthetic"):
        CLEVRTEX("train", root=str(to), download=True)
    assert not (to / "clevrtex_full").exists()
    for number in (1, 2, 3):  # not needed again
        (server / f"clevrtex_full_part{number}.tar.gz").unlink()
    (server / "clevrtex_full_part4.tar.gz").write_bytes(content)
    data = CLEVRTEX("train", root=str(to), download=True)
    assert torch.equal(data[15]["mask"], torch.as_tensor(expected(root, "full", 19, 128)[1]))
    assert [path.name for path in to.iterdir() if not path.name.endswith(".lock")] == ["clevrtex_full"]
    assert [path.name for path in (to / "clevrtex_full").iterdir()] == ["0"]


def test_an_archive_that_lacks_images_does_not_become_the_data(root, server, tmp_path):
    right = (server / "clevrtex_full_part2.tar.gz").rename(server / "kept")
    shutil.copy(server / "clevrtex_full_part1.tar.gz", server / "clevrtex_full_part2.tar.gz")
    with pytest.raises(DatasetCorruptError, match=r"index 19, but not 4 to 7: an archive is missing.*next attempt"):
        CLEVRTEX("train", root=str(tmp_path / "to"), download=True)
    assert not (tmp_path / "to" / "clevrtex_full").exists()
    right.rename(server / "clevrtex_full_part2.tar.gz")
    left = tmp_path / "to" / ".clevrtex_full.part" / ".unpacking.x" / "0"  # by a process that was killed
    left.mkdir(parents=True)
    shutil.copy(f"{stem(root, 'full', 3)}.png", left)
    assert len(CLEVRTEX("train", root=str(tmp_path / "to"), download=True)) == 16


def test_what_was_converted_is_not_downloaded_again(server, tmp_path):
    to = tmp_path / "to"
    CLEVRTEX("train", root=str(to), download=True)
    shutil.rmtree(to / "clevrtex_full")
    shutil.rmtree(server)
    assert len(CLEVRTEX("train", root=str(to), download=True)) == 16
    with pytest.raises(DatasetNotFoundError, match="part1"):
        CLEVRTEX("train", root=str(to), download=True, image_size=64)


SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "clevrtex_sample"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no sample of rendered scenes")
@pytest.mark.parametrize(("variant", "images"), [("full", 15), ("outd", 30), ("camo", 3)])
def test_rendered_scenes_of_that_layout_are_read(variant, images):
    data = CLEVRTEX("test", root=str(SAMPLE), variant=variant)
    batch = data.batch(range(len(data)))
    assert len(batch["image"]) == images
    assert batch["valid"].sum(1).min() >= 1
    for index in range(images):
        _, mask, rows = expected(SAMPLE, variant, index, 128)
        assert torch.equal(batch["mask"][index], torch.as_tensor(mask))
        names = [module.SHAPES[variant][i] for i in batch["labels"][index, : len(rows)].tolist()]
        assert names == [row["shape"] for row, _ in rows]


def synthetic(**parameters) -> CLEVRTEXDataModule:
    small = {"image_size": 16, "num_train": 12, "num_val": 5, "num_test": 4, "batch_size": 4}
    return CLEVRTEXDataModule(source="synthetic", **{**small, **parameters})


def test_synthetic_scenes_are_drawn_once_and_only_those_of_the_stage(monkeypatch):
    drawn = []
    scenes = solids.scenes
    monkeypatch.setattr(solids, "scenes", lambda **own: drawn.append(own["split"]) or scenes(**own))
    data = synthetic(num_objects=[2, 4])
    data.trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    data.trainer.state.fn = TrainerFn.TESTING
    data.prepare_data()
    assert drawn == ["test"]
    data.setup("fit")
    assert drawn == ["test", "train", "val"]
    again = synthetic(num_objects=[2, 4], label="material")
    again.prepare_data()
    assert len(drawn) == 3
    assert (again.num_classes, again.max_objects, again.image_shape) == (len(solids.FULL), 4, (3, 16, 16))
    train, val = next(iter(data.train_dataloader())), list(again.val_dataloader())
    assert [len(batch["image"]) for batch in val] == [4, 1]
    assert train.keys() == {"image", "boxes", "labels", "valid", "mask"}
    shapes = {"image": (4, 3, 16, 16), "boxes": (4, 4, 4), "labels": (4, 4), "valid": (4, 4), "mask": (4, 16, 16)}
    assert {key: tuple(value.shape) for key, value in train.items()} == shapes
    assert train["labels"].max() < data.num_classes == 4


def test_a_killed_drawing_goes_on(monkeypatch, tmp_path):
    whole = synthetic(num_train=262)
    whole.setup("fit")
    scenes, starts = solids.scenes, []

    def killed(**own):
        starts.append(own["start"])
        for number, scene in enumerate(scenes(**own), own["start"]):
            if number == 258 and len(starts) == 1:
                raise KeyboardInterrupt
            yield scene

    monkeypatch.setattr(solids, "scenes", killed)
    with pytest.raises(KeyboardInterrupt):
        synthetic(num_train=262, data_dir=str(tmp_path / "other")).make_dataset("train")
    resumed = synthetic(num_train=262, data_dir=str(tmp_path / "other")).make_dataset("train")
    assert starts[1] >= 256
    for key, value in resumed.batch(range(262)).items():
        assert torch.equal(value, whole.datasets["train"].batch(range(262))[key])


def test_further_variants_are_tested_on_at_once():
    data = synthetic(image_size=64, label="material", test_also=["outd", "camo"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with torch.no_grad():
        trainer.test(BackgroundAE(image_size=64, width=0.25), data, verbose=False)
    loaders = data.test_dataloader()
    assert list(loaders) == ["full", "outd", "camo"]
    for name, loader in loaders.items():
        alone = synthetic(image_size=64, label="material", variant=name)
        assert alone.parameters.variant == name
        alone.setup("test")
        assert torch.equal(next(iter(loader))["image"], next(iter(alone.test_dataloader()))["image"])
        assert alone.num_classes <= data.num_classes
        assert f"test/miou/{name}" in trainer.callback_metrics
    assert trainer.callback_metrics["test/mse"] == trainer.callback_metrics["test/mse/full"]
    assert isinstance(data.val_dataloader(), DataLoader)  # it is chosen by the variant that is trained on
    assert isinstance(synthetic().test_dataloader(), DataLoader)


def test_names_tell_the_data_apart(root):
    assert CLEVRTEXParameters().name == "clevrtex-full-128"
    assert CLEVRTEXParameters(source="synthetic", variant="outd", image_size=64).name == "clevrtex-synthetic-outd-64"
    variants = [
        {}, {"variant": "camo"}, {"image_size": 64}, {"image_size": [64, 48]}, {"num_objects": [3, 6]},
        {"num_train": 50}, {"num_test": 50}, {"label": "size"}, {"seed": 2}, {"source": "published"},
    ]  # fmt: skip
    names = {CLEVRTEXParameters(**{"source": "synthetic", **variant}).name for variant in variants}
    assert len(names) == len(variants)
    same = CLEVRTEXParameters(source="synthetic", num_train=10_000, num_val=7, num_test=1_000, num_objects=[3, 10])
    assert same.name == "clevrtex-synthetic-full-128"


def test_defaults_and_parameters_of_dataset_and_datamodule_agree():
    signature = inspect.signature(CLEVRTEXDataModule).parameters
    for name, field in CLEVRTEXParameters.__dataclass_fields__.items():
        assert signature[name].default == field.default
    described = inspect.getdoc(CLEVRTEXDataModule)
    assert all(f"    {name}: " in described for name in signature)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"source": "web"}, "source='web': must be published or synthetic"),
        ({"variant": "ood"}, "variant='ood': must be one of full, outd, camo, pbg, vbg, grassbg"),
        ({"image_size": 0}, "image_size=0"),
        ({"label": "colour"}, "label='colour': must be shape, material or size"),
        ({"num_objects": [3, 11], "source": "synthetic"}, r"num_objects=\[3, 11\].*max <= 10"),
        ({"num_objects": 4}, r"num_objects=\(4, 4\): must be left out with source='published'"),
        ({"num_train": 0}, "num_train=0: must be at least 1 or null"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"test_also": ["full"]}, "test_also=.'full'.: must be of outd, .* each once"),
        ({"test_also": ["ood"]}, "test_also=.'ood'.: must be of outd, camo"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        CLEVRTEXDataModule(**parameters)
    with pytest.raises(ValueError, match=r"split='training': must be one of train, val, test"):
        CLEVRTEX("training")


def test_further_variants_are_named_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--data.init_args.test_also=[outd,camo]", "--data.init_args.num_test=4", "--wandb=disabled"]
    common += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.precision=32"]
    for verb in ("test", "predict"):
        main([verb, "--ckpt_path=ast-seg-unet-clevrtex-synthetic-recipe", *common])
    tested, predicted = sorted(tmp_path.glob("runs/*/version_*"))
    (row,) = csv.DictReader((tested / "metrics.csv").read_text().splitlines())
    assert {"test/miou", "test/miou/full", "test/miou/outd", "test/miou/camo"} <= row.keys()
    assert row["test/miou"] == row["test/miou/full"]
    assert len({row[f"test/mse/{variant}"] for variant in ("full", "outd", "camo")}) == 3
    files = {path.name for path in predicted.glob("*.npz")}
    assert files == {f"predictions-{variant}.npz" for variant in ("full", "outd", "camo")}
