"""Mistakes on the command line: each is answered with one line that names the cause and the fix, and leaves nothing."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo import configurations
from zoo.__main__ import main

QUICK = "recipes/quick/spair"
SPAIR = configurations.find(QUICK).read_text(encoding="utf-8")
BASE = ["--wandb=disabled", "--trainer.accelerator=cpu", "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
BASE += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = [*(f"--data.init_args.{key}=8" for key in ("num_train", "num_val", "num_test", "batch_size"))]
SMALL += ["--data.init_args.source=uci"]
FIT = ["fit", "--config", QUICK, *SMALL, *BASE]
BY_NAME = ["fit", "--model=SPAIR", *BASE]
FOLDER = [*BY_NAME, "--data=ImageFolderDataModule", "--data.init_args.batch_size=2"]
GO_ON = ["fit", "--ckpt_path=trained"]

MISTAKES = [
    # verbs
    (["fitt", "--config", QUICK], "no verb 'fitt', did you mean 'fit'?"),
    (["train"], "no verb 'train'; There are fit, validate, test"),
    (["--config", QUICK], "a verb comes first, as in `python -m zoo fit --config"),
    # options
    ([*FIT, "--trainer.max_step=3"], "no option --trainer.max_step, did you mean --trainer.max_steps?"),
    ([*FIT, "--trainer.maxsteps=3"], "did you mean --trainer.max_steps?"),
    ([*FIT, "--trainer.max_step", "3"], "did you mean --trainer.max_steps?"),
    ([*FIT, "--wandb_proj=x"], "no option --wandb_proj, did you mean --wandb_project?"),
    ([*FIT, "--trainr.max_steps=3"], "did you mean --trainer.max_steps?"),
    ([*FIT, "--learning_rate=1e-3"], "no option --learning_rate, did you mean --model.init_args.lr?"),
    ([*FIT, "--lr=1e-3"], "did you mean --model.init_args.lr?"),
    ([*FIT, "--epochs=3"], "did you mean --trainer.max_epochs?"),
    ([*FIT, "--gpus=1"], "did you mean --trainer.devices?"),
    ([*FIT, "--batch_size=3"], "did you mean --data.init_args.batch_size?"),
    ([*FIT, "--print_confg"], "did you mean --print_config?"),
    ([*FIT, "-config=x"], "-config: options begin with two dashes, as in --config"),
    ([*FIT, "extra"], "'extra' belongs to no option"),
    # parameters and their owners
    (
        [*FIT, "--model.init_args.importance_flor=3"],
        "SPAIRRecipe has no parameter 'importance_flor', did you mean 'importance_floor'?",
    ),
    (
        [*FIT, "--model.importance_flor=3"],
        "SPAIRRecipe has no parameter 'importance_flor', did you mean 'importance_floor'?",
    ),
    ([*FIT, "--model.init_args.learning_rate=1"], "SPAIRRecipe has no parameter 'learning_rate', did you mean 'lr'?"),
    (
        [*FIT, "--data.init_args.digitsize=14"],
        "MultiMNISTDataModule has no parameter 'digitsize', did you mean 'digit_s",
    ),
    ([*FIT, "--data.synthetic=true"], "MultiMNISTDataModule has no parameter 'synthetic'"),
    ([*FIT, "--model.image_size=48"], "SPAIRRecipe has no parameter 'image_size'"),
    ([*FIT, "--data=CLEVRTEXDataModule", "--data.digit_size=14"], "CLEVRTEXDataModule has no parameter 'digit_size'"),
    ([*BY_NAME, "--data.folder=photos"], "--data.folder is for a data set, and none is named: --data ImageFolderData"),
    ([*BY_NAME, "--data=CLEVRDataModule", "--data.root=x"], "CLEVRDataModule has no parameter 'root'"),
    ([*FOLDER, "--data.folder=photos", "--data.split=train"], "ImageFolderDataModule has no parameter 'split'"),
    (FOLDER, "ImageFolderDataModule needs --data.init_args.folder"),
    # classes
    ([*FIT, "--model=SPIAR"], "no model 'SPIAR', did you mean 'SPAIR'"),
    ([*FIT, "--model=spair"], "no model 'spair', did you mean 'SPAIR'"),
    ([*FIT, "--data=MNIST"], "no data set 'MNIST', did you mean 'MultiMNISTDataModule'"),
    ([*FIT, "--trainer.callbacks=EarlyStop"], "no class 'EarlyStop', did you mean 'EarlyStopping'"),
    (["fit", "--model.help", "SPIAR"], "no model 'SPIAR', did you mean 'SPAIR'"),
    ([*FIT, "--model"], "--model needs a value: AIR, "),
    (["fit"], "fit needs data and model: --config spair, say"),
    (["fit", "--model=SPAIR"], "fit needs data"),
    (["fit", "--data=MultiMNISTDataModule"], "fit needs model"),
    # values
    ([*FIT, "--model.init_args.lr=fast"], "--model.init_args.lr fast: expected a number or a list"),
    ([*FIT, "--model.init_args.backbone_strides=3"], "--model.init_args.backbone_strides 3: expected a list"),
    ([*FIT, "--trainer.max_steps=many"], "--trainer.max_steps many: expected a whole number"),
    ([*FIT, "--trainer.max_steps=-5"], "`max_steps` must be"),
    ([*FIT, "--trainer.precision=17"], "--trainer.precision 17: expected one of 64, 32, 16"),
    ([*FIT, "--trainer.accelerator=gpux"], "gpux"),
    ([*FIT, "--trainer.strategy=dpp"], "strategy='dpp'"),
    ([*FIT, "--trainer.fast_dev_run=maybe"], "--trainer.fast_dev_run maybe: expected"),
    ([*FIT, "--trainer.limit_val_batches=2.5"], "2.5 for limit_val_batches"),
    ([*FIT, "--seed_everything=-1"], "(--seed_everything)"),
    ([*FIT, "--wandb=off"], "--wandb off: expected one of auto, online, offline, disabled"),
    ([*FIT, "--checkpoint.mode=up"], "(--checkpoint.mode)"),
    ([*FIT, "--checkpoint.monitor=val/foo"], "no metric 'val/foo' (--checkpoint.monitor)"),
    ([*FIT, "--checkpoint.monitor=ap50"], "did you mean val/ap50?"),
    ([*FIT, "--trainer.num_sanity_val_steps=0", "--checkpoint.monitor=val/foo"], "no metric 'val/foo'"),
    ([*FIT, "--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/nope"], "'val/nope' (EarlyStopping)"),
    ([*FIT, "--model.init_args.channels=2"], "channels must be one of [1, 3], got 2"),
    ([*FIT, "--data.init_args.source=svhn"], "--data.init_args.source svhn: expected one of auto, mnist, uci"),
    ([*FIT, "--data.init_args.batch_size=0"], "batch_size=0: must be at least 1"),
    ([*FIT, "--data.init_args.image_size=[48]"], "image_size=[48]: must be"),
    ([*BY_NAME, "--data=CLEVRTEXDataModule", "--data.variant=foo"], "variant='foo': must be one of full, outd"),
    ([*FIT, "--runs=text.txt"], "--runs text.txt: no folder can be made there"),
    # configurations
    (["fit", "--config=spiar"], "no configuration of that name: did you mean spair?"),
    (["fit", "--config=fruit2d"], "did you mean experiments/gmair/fruit2d?"),
    (["fit", "--config=nowhere.yaml"], "no file nowhere.yaml, and no configuration of that name: `python -m zoo list`"),
    (["fit", "--config"], "--config needs a value: a YAML file, or a name"),
    (["fit", "--config=photos"], "photos is a folder: --config takes a YAML file"),
    (["fit", "--config=text.txt"], "text.txt holds the text 'hello', expected sections"),
    (["fit", "--config=list.yaml"], "list.yaml holds a list, expected sections"),
    (["fit", "--config=empty.yaml"], "empty.yaml is empty"),
    (["fit", "--config=broken.yaml"], "broken.yaml, line 2 is no YAML"),
    (["fit", "--config=tab.yaml"], "tab.yaml, line 2 is no YAML: .*indent by spaces, not tabs"),
    (["fit", "--config=latin.yaml"], "latin.yaml is no text in UTF-8"),
    (["fit", "--config=section.yaml"], "there is no 'modle', did you mean 'model'?"),
    (["fit", "--config", QUICK, "--config=trainer.yaml"], "did you mean --trainer.max_steps?"),
    (["fit", "--config=parameter.yaml"], "parameter.yaml: SPAIR has no parameter 'learning_rate', did you mean 'lr'?"),
    (["fit", "--config=beside.yaml"], "beside.yaml: data has a 'channels' beside class_path: .*belong into init_args"),
    # checkpoints
    *(
        ([verb, "--config", QUICK, *SMALL, *BASE[:2]], f"{verb} needs --ckpt_path: a name")
        for verb in ("validate", "test", "predict", "cluster")
    ),
    (["test"], "test needs --ckpt_path"),
    (["test", "spair-multimnist-recipe"], "test needs --ckpt_path spair-multimnist-recipe, say"),
    (["test", "--checkpoint=spair-multimnist-recipe"], "test needs --ckpt_path, not --checkpoint"),
    ([*FIT, "--ckpt_path"], "--ckpt_path needs a value"),
    ([*FIT, "--ckpt_path=spair-multimnits"], "did you mean spair-multimnist-paper or spair-multimnist-recipe"),
    ([*FIT, "--ckpt_path=text.txt"], "text.txt cannot be read: damaged, or not a checkpoint"),
    ([*FIT, "--ckpt_path=other.ckpt"], "other.ckpt is a checkpoint, but not one of this zoo: it has no 'zoo'"),
    ([*FIT, "--ckpt_path=photos"], "no best.ckpt or last.ckpt in photos"),
    (
        [*FIT, "--ckpt_path=foreign"],
        "foreign/model.safetensors is no checkpoint of this zoo: config.json names no format_version and class",
    ),
    ([*FIT, "--ckpt_path=air-multimnist-recipe"], "holds an AIR, but the configuration asks for a SPAIR"),
    ([*GO_ON, "--model=AIR"], "holds a SPAIRRecipe, but the configuration asks for an AIR"),
    (
        [*GO_ON, "--model.what_dim=7"],
        "what_dim is 7 here, 50 there; leave these out, or train anew",
    ),
    (
        [*GO_ON, "--model.importance_flor=7"],
        "SPAIRRecipe has no parameter 'importance_flor', did you mean 'importance_floor'?",
    ),
    ([*GO_ON, "--data.foo=7"], "MultiMNISTDataModule has no parameter 'foo'"),
    (["test", "--ckpt_path=trained", "--trainer.max_step=3"], "did you mean --trainer.max_steps?"),
    # folders of images
    ([*FOLDER, "--data.folder=nowhere"], "there is no folder nowhere"),
    ([*FOLDER, "--data.folder=empty"], "no images in empty"),
    ([*FOLDER, "--data.folder=half"], "half has a folder train, but not val and test"),
    ([*FOLDER, "--data.folder=damaged"], r"damaged/\d.png.* cannot be read.*skip_bad"),
    # other verbs
    (["show"], "show needs --ckpt_path; --help says more"),
    (["show", "--ckp=spair-multimnist-recipe"], "show needs --ckpt_path, not --ckp"),
    (["show", "--ckpt_path=nothing"], "no checkpoint 'nothing'"),
    (
        ["predict", "--ckpt_path=spair-multimnist-recipe", "--image=photos"],
        "no option --image here; `predict --images FOL",
    ),
    (["predict", "--ckpt_path=spair-multimnist-recipe", "--images=photos", "--thresh=1"], "did you mean --threshold?"),
    (["export", "--ckpt_path=spair-multimnist-recipe", "--format=tflite"], "--format: invalid choice: 'tflite'"),
    (["benchmark"], "benchmark needs --configs"),
    (["benchmark", "--config=recipes/quick/spair"], "benchmark needs --configs, not --config"),
    (["benchmark", "--configs=nowhere.yaml"], "no file nowhere.yaml"),
    (["dashboard", "--wanb=offline"], "dashboard has no option --wanb, did you mean --wandb?"),
    (["page", "--port=99999999"], "port must be 0-65535"),
]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to be wrong about, and a run to go on with."""
    folder = tmp_path_factory.mktemp("mistakes")
    texts = {
        "text.txt": "hello",
        "list.yaml": "- a\n- b\n",
        "empty.yaml": "# nothing\n",
        "broken.yaml": "model: [1, 2\ndata: }",
        "tab.yaml": "model:\n\tclass_path: SPAIR\n",
        "section.yaml": "modle:\n  class_path: SPAIR\n",
        "trainer.yaml": "trainer:\n  max_step: 3\n",
        "parameter.yaml": "model:\n  class_path: SPAIR\n  init_args:\n    learning_rate: 1\n",
        "beside.yaml": "model: SPAIR\ndata:\n  class_path: MultiMNISTDataModule\n  channels: 1\n",
        "foreign/config.json": '{"model_type": "bert"}',
        "foreign/model.safetensors": "x",
    }
    for name in ("foreign", "photos", "empty", "half/train", "damaged"):
        (folder / name).mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.yaml").write_text("# ä\nmodel: SPAIR\n", encoding="latin-1")
    for i in range(6):
        for name in ("photos", "half/train", "damaged"):
            Image.effect_noise((64, 64), 60).save(folder / name / f"{i}.png")
    for i in range(2, 6):
        (folder / "damaged" / f"{i}.png").write_text("none")
    torch.save({"state_dict": {}}, folder / "other.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["zoo", *FIT, "--test_after_fit=false"])
        main()
    (run,) = (folder / "runs").glob("*/version_0")
    shutil.move(run, folder / "trained")
    shutil.rmtree(folder / "runs")
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: None if isinstance(value, list) else value)
def test_a_mistake_is_answered_in_a_line_and_leaves_nothing(
    arguments: list[str], said: str, material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(material)
    monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
    before, parts = files(material), {*Path(os.environ["ZOO_DATA"]).rglob("*.part")}
    with pytest.raises(SystemExit) as stop:
        main()
    line = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.strip()
    assert stop.value.code  # neither None nor 0
    assert line.startswith("zoo: ")
    assert "\n" not in line
    assert len(line) < 900
    assert said in line or re.search(said, line), line
    left = files(material) - before
    trained = any("sanity" in argument for argument in arguments)  # till the first validation, which is kept
    assert trained or not left, left
    assert {*Path(os.environ["ZOO_DATA"]).rglob("*.part")} == parts
    shutil.rmtree(material / "runs", ignore_errors=True)
