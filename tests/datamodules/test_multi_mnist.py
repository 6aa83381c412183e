import functools
import hashlib
import inspect
import itertools
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from datamodules import MultiMNIST, MultiMNISTDataModule
from datamodules import multi_mnist as module
from datamodules.base import Split
from datamodules.drawing.digits import DigitSource
from datamodules.drawing.generated import paint
from datamodules.multi_mnist import SceneParameters, generate

UCI = functools.partial(MultiMNIST, source="uci")


def scenes(split: Split = "train", **parameters):
    source = DigitSource("uci", None)
    return generate(SceneParameters(**{"num_train": 300, **parameters}), source.load(split), split)


def test_the_same_seed_gives_the_same_scenes_for_good():
    """These bytes may change only together with `VERSION`, else stale caches would be taken for fresh ones."""
    few, many = scenes(num_train=100), scenes(num_train=600)
    assert all(torch.equal(few[key], many[key][:100]) for key in few)
    assert module.VERSION == 1
    digest = hashlib.sha256(few["images"].numpy().tobytes() + few["ink_boxes"].numpy().tobytes()).hexdigest()
    assert digest[:16] == "c28d1b3ddf2072cc"


def test_scenes_depend_on_seed_and_split():
    images = [scenes(num_train=50)["images"], scenes(num_train=50, seed=1)["images"]]
    images.append(scenes("val", num_val=50)["images"])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(images, 2))


def test_ink_boxes_are_tight_around_the_lit_pixels_of_single_digits():
    content = scenes(num_digits=1)
    for image, box, tile in zip(content["images"].tolist(), content["ink_boxes"], content["tile_boxes"], strict=True):
        lit = [(x, y) for y in range(48) for x in range(48) if image[0][y][x] > 0]
        xs, ys = [x for x, _ in lit], [y for _, y in lit]
        x1, y1, x2, y2 = box[0].tolist()
        assert [min(xs), min(ys), max(xs) + 1, max(ys) + 1] == [x1, y1, x2, y2]
        assert max(x2 - x1, y2 - y1) == 12
        tx1, ty1, tx2, ty2 = tile[0].tolist()
        assert tx2 - tx1 == ty2 - ty1 == 14
        assert tx1 <= x1 < x2 <= tx2
        assert ty1 <= y1 < y2 <= ty2


AIR = {
    "image_size": 50, "digit_size": 28, "digit_scale": [1.3, 0.1], "crop_digits": False, "num_digits": [0, 2],
    "max_overlap": math.inf, "composition": "sum", "channels": 1,
}  # fmt: skip


def test_the_scenes_of_air_are_sums_of_whole_digits_at_random_scales():
    content = scenes(**AIR, num_train=3000)
    tiles, counts = content["tile_boxes"].int(), content["counts"]
    # As many objects as were drawn, though images that are too bright are drawn anew.
    assert np.abs(np.bincount(counts) - 1000).max() < 5 * (3000 / 3 * 2 / 3) ** 0.5
    valid = torch.arange(2) < counts[:, None]
    width, height = (tiles[..., 2:] - tiles[..., :2])[valid].unbind(1)
    assert torch.equal(width, height)
    width = tiles[counts == 1, 0, 2] - tiles[counts == 1, 0, 0]  # of two, large ones are drawn anew more often
    sides = np.floor(28 / scipy.stats.truncnorm(-3, 3, 1.3, 0.1).rvs(100_000, random_state=0))
    assert width.float().mean().item() == pytest.approx(sides.mean(), abs=0.15)
    assert width.float().std().item() == pytest.approx(sides.std(), abs=0.1)
    assert (tiles[valid][:, :2] >= 0).all()
    assert (tiles[valid][:, 2:] <= 50).all()
    # Of each image with one digit: its tile is one of the source's whole images, resized by PyTorch.
    digits = DigitSource("uci", None).load("train")
    for i in (counts == 1).nonzero().flatten()[:20].tolist():
        x1, y1, x2, y2 = tiles[i, 0].tolist()
        candidates = torch.from_numpy(digits.images[digits.labels == int(content["labels"][i, 0])]).float()
        resized = F.interpolate(candidates[:, None], [y2 - y1, x2 - x1], mode="bilinear", antialias=True)
        image = content["images"][i].float()
        assert (resized - image[:, y1:y2, x1:x2]).abs().amax((1, 2, 3)).min() <= 1
        assert image.sum() == image[:, y1:y2, x1:x2].sum()
        ys, xs = image[0].nonzero().unbind(1)
        assert content["ink_boxes"][i, 0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    # Digits may share pixels, where they are not painted over each other.
    first, second = content["ink_boxes"][counts == 2].unbind(1)
    overlap = torch.minimum(first, second)[:, 2:] > torch.maximum(first, second)[:, :2]
    assert 0.05 < overlap.all(1).float().mean() < 0.6


def test_scaled_digits_can_be_painted_cropped_and_kept_apart():
    content = scenes(
        image_size=60, digit_scale=[1, 0.15], num_digits=4, max_overlap=20, num_train=60, crop_size=40,
        crops_per_image=2, masks=True,
    )  # fmt: skip
    sides = set()
    for image, count, boxes, tiles in zip(
        *(content[key] for key in ("images", "counts", "ink_boxes", "tile_boxes")), strict=True
    ):
        covered = torch.zeros(40, 40, dtype=torch.bool)
        for (x1, y1, x2, y2), tile in zip(boxes[:count].tolist(), tiles[:count].tolist(), strict=True):
            covered[y1:y2, x1:x2] = True
            sides |= {max(tile[2] - tile[0], tile[3] - tile[1])}
            assert tile[0] <= x1 <= x2 <= tile[2] and tile[1] <= y1 <= y2 <= tile[3]  # noqa: PT018
        assert not image[0][~covered].any()
    assert {12, 13, 14, 15, 16} <= sides
    full = scenes(image_size=60, digit_scale=[1, 0.15], num_digits=4, max_overlap=20, num_train=60)
    most = 0
    for boxes in full["tile_boxes"].tolist():
        earlier: list[tuple[int, int]] = []
        for x1, y1, x2, y2 in boxes:
            pixels = {(x, y) for x in range(x1, x2) for y in range(y1, y2)}
            most = max(most, sum(pixel in pixels for pixel in earlier))
            earlier += pixels
    assert 16 <= most <= 20


GMAIR = {"image_size": 128, "num_digits": [1, 10], "crop_digits": False, "max_overlap": 1764}


@pytest.mark.parametrize("composition", ["sum", "paint"])
@pytest.mark.parametrize(
    "parameters",
    [
        GMAIR,
        {**GMAIR, "max_overlap": math.inf, "masks": True},
        {"image_size": 64, "num_digits": [1, 10]},
        {"image_size": 64, "num_digits": [1, 10], "digit_scale": [1, 0.1], "crop_size": 40, "num_train": 64},
        {"image_size": 128, "num_digits": [1, 5], "max_overlap": math.inf},
        {"image_size": [40, 200], "num_digits": [0, 12], "digit_size": 8, "max_overlap": 0},
        {"image_size": 400, "num_digits": [0, 90], "digit_size": 6, "max_overlap": math.inf, "num_train": 256},
        {"image_size": 48, "num_digits": 9, "num_train": 64},
    ],
    ids=str,
)
def test_slots_that_belong_to_no_image_are_nothing_special(parameters, composition):
    """Where few images are drawn anew, and among many slots, some are empty in all."""
    content = scenes(**parameters, composition=composition)
    images, boxes, counts = content["images"], content["ink_boxes"].tolist(), content["counts"]
    number = parameters["num_digits"]
    low, high = number if isinstance(number, list) else (number, number)
    if "crop_size" not in parameters:  # as many digits as were drawn
        assert low <= counts.min() <= counts.max() <= high
        spread = ((high - low + 1) ** 2 - 1) / 12
        assert abs(counts.float().mean() - (low + high) / 2) <= 5 * (spread / len(counts)) ** 0.5
    for image, own, count in zip(images, boxes, counts.tolist(), strict=True):
        inside = torch.zeros(image.shape[1:], dtype=torch.bool)
        for x1, y1, x2, y2 in own[:count]:
            assert x1 < x2
            assert y1 < y2
            assert image[:, y1:y2, x1:x2].any()
            inside[y1:y2, x1:x2] = True
        assert not image[:, ~inside].any()
        assert not any(any(box) for box in own[count:])


def test_digits_that_are_always_too_bright_say_so(monkeypatch):
    monkeypatch.setattr(module, "RESTARTS", 3)
    with pytest.raises(ValueError, match=r"composition='sum': 5 digits overlap so often on 20 x 20 px.*'paint'"):
        scenes(image_size=20, num_digits=5, max_overlap=math.inf, composition="sum")


@pytest.mark.parametrize("limit", [0, 30, 98])
def test_each_tile_shares_at_most_max_overlap_pixels_with_all_earlier_ones_together(limit):
    content = scenes(num_digits=[3, 6], max_overlap=limit, num_train=150)
    most = 0
    for boxes, count in zip(content["tile_boxes"].tolist(), content["counts"].tolist(), strict=True):
        earlier: list[tuple[int, int]] = []
        for x1, y1, x2, y2 in boxes[:count]:
            pixels = {(x, y) for x in range(x1, x2) for y in range(y1, y2)}
            shared = sum(pixel in pixels for pixel in earlier)
            assert shared <= limit
            most = max(most, shared)
            earlier += pixels
    assert most >= 0.8 * limit


def test_counts_positions_classes_and_colours_are_uniform():
    content = scenes(num_digits=[0, 4], num_train=5000)
    counts = np.bincount(content["counts"], minlength=5)
    assert np.abs(counts - 1000).max() < 5 * (5000 * 0.2 * 0.8) ** 0.5
    corners = scenes(num_digits=1, num_train=5000)["tile_boxes"][:, 0, :2]
    for axis in (0, 1):
        frequency = np.bincount(corners[:, axis], minlength=35)
        assert len(frequency) == 35
        assert np.abs(frequency - 5000 / 35).max() < 5 * (5000 / 35) ** 0.5
    labels = np.bincount(scenes(num_digits=1, num_train=5000)["labels"][:, 0], minlength=10)
    assert np.abs(labels - 500).max() < 5 * (5000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("second", [True, False])  # whether any image has a second digit
@pytest.mark.parametrize("additive", [False, True])
def test_painting_agrees_with_a_loop_over_pixels(additive, second):
    """8-bit floor(alpha * colour + (1 - alpha) * current), digit after digit; the mask is the last with alpha > 1/2."""
    parameters = SceneParameters(
        image_size=[20, 24], digit_size=8, num_digits=3, max_overlap=60, masks=True,
        digit_colors=[[1, 0, 0], [0.2, 0.9, 0.6]], background_color=[0.1, 0.5, 1],
    )  # fmt: skip
    rng = np.random.default_rng(3)
    tiles = rng.integers(0, 256, (5, 8, 8), dtype=np.uint8)
    corners = np.stack([rng.integers(0, 17, (6, 3)), rng.integers(0, 13, (6, 3))], axis=2)
    chosen, colours = rng.integers(0, 5, (6, 3)), rng.integers(0, 2, (6, 3))
    present = np.arange(3) < np.array([0, 1, 2, 3, 3, 3])[:, None]
    present[:, 1] &= second
    images, masks = paint(parameters, tiles[chosen], corners, colours, present, additive)
    for n in range(6):
        image, mask = np.empty((3, 20, 24), int), np.zeros((20, 24), int)
        for c, part in enumerate(parameters.background_color):
            image[c] = round(part * 255)
        for slot in range(3):
            for dy, dx in itertools.product(range(8), range(8)) if present[n, slot] else ():
                x, y = corners[n, slot] + (dx, dy)
                alpha = int(tiles[chosen[n, slot], dy, dx])
                for c in range(3):
                    colour = round(parameters.digit_colors[colours[n, slot]][c] * 255)
                    if additive:
                        image[c, y, x] += alpha * colour // 255
                    else:
                        image[c, y, x] = (alpha * colour + (255 - alpha) * image[c, y, x]) // 255
                if alpha / 255 > 0.5:
                    mask[y, x] = slot + 1
        assert np.array_equal(images[n], image)
        assert np.array_equal(masks[n], mask)


def test_crops_are_windows_of_the_full_images_and_keep_what_is_visible():
    full = scenes(num_digits=1, image_size=60, num_train=40)
    cut = scenes(num_digits=1, image_size=60, num_train=40, crop_size=[30, 36], crops_per_image=3, masks=True)
    assert cut["images"].shape == (120, 1, 30, 36)
    empty = sliver = 0
    for i in range(120):
        image, whole = cut["images"][i, 0], full["images"][i // 3, 0]
        lit = (image > 0).nonzero()
        assert bool(cut["counts"][i]) == bool(len(lit))
        assert torch.equal(cut["masks"][i], (image > 127).byte())
        if not len(lit):
            empty += 1
            assert not cut["ink_boxes"][i].any()
            assert cut["labels"][i] == 0
            continue
        offsets = [
            (x, y) for y in range(31) for x in range(25) if torch.equal(whole[y : y + 30, x : x + 36], image)
        ]  # fmt: skip
        for key in ("ink_boxes", "tile_boxes"):
            x1, y1, x2, y2 = full[key][i // 3, 0].tolist()
            clipped = [[max(x1 - x, 0), max(y1 - y, 0), min(x2 - x, 36), min(y2 - y, 30)] for x, y in offsets]
            assert cut[key][i, 0].tolist() in clipped
            sliver += clipped[0][2] - clipped[0][0] < 12
        assert cut["labels"][i] == full["labels"][i // 3]
    assert empty > 5
    assert sliver > 5


def test_rows_of_crops_are_packed_and_masks_follow_them():
    parameters = {"num_digits": 6, "image_size": 60, "crop_size": 30, "masks": True, "num_train": 50}
    content = scenes(**parameters, digit_colors=((1, 0, 0), (0, 1, 0), (0, 0, 1)), max_overlap=0)
    boxes, counts, masks = content["ink_boxes"], content["counts"], content["masks"]
    assert len(set(counts.tolist())) > 3
    for i in range(len(masks)):
        count = int(counts[i])
        for row in range(6):
            x1, y1, x2, y2 = boxes[i, row].tolist()
            inside = torch.zeros(30, 30, dtype=torch.bool)
            inside[y1:y2, x1:x2] = True
            assert bool(inside.any()) == (row < count)
            assert not (masks[i] == row + 1)[~inside].any()
            # without overlap, what is bright in a box is this digit, and has one colour
            bright = content["images"][i].amax(0)
            assert torch.equal(masks[i][inside] == row + 1, bright[inside] > 127)
            assert (content["images"][i][:, inside].sum(1) > 0).sum() <= 1


def test_a_batch_is_its_rows_stacked_and_the_batch_holds_what_it_promises(tmp_path):
    data = UCI("val", num_val=40, masks=True, target="sum", num_digits=[0, 3], box_convention="tile")
    batch = next(iter(DataLoader(data, 16)))  # PyTorch's default collation of rows
    fast = data.batch(range(16))
    assert batch.keys() == fast.keys() == {"image", "boxes", "labels", "valid", "mask", "target"}
    tight = UCI("val", num_val=40, num_digits=[0, 3]).batch(range(16))  # the same scenes, with both kinds of boxes
    assert torch.equal(tight["tile_boxes"], fast["boxes"])
    inside = (tight["boxes"][..., :2] >= fast["boxes"][..., :2]) & (tight["boxes"][..., 2:] <= fast["boxes"][..., 2:])
    assert inside.all()
    assert not torch.equal(tight["boxes"], fast["boxes"])
    for key in batch:
        assert batch[key].dtype == fast[key].dtype
        assert torch.equal(batch[key], fast[key])
    assert fast["image"].shape == (16, 3, 48, 48)
    assert fast["image"].dtype == torch.float32
    assert fast["image"].amax() <= 1
    assert torch.equal(fast["image"] * 255, (fast["image"] * 255).round())
    assert not fast["boxes"][~fast["valid"]].any()
    assert ((fast["boxes"][..., 2] - fast["boxes"][..., 0])[fast["valid"]] == 14).all()
    for labels, valid, target in zip(fast["labels"], fast["valid"], fast["target"], strict=True):
        assert target == sum(int(label) for label, real in zip(labels, valid, strict=True) if real)
    assert torch.equal(data[-1]["image"], data[39]["image"])
    with pytest.raises(IndexError):
        data[40]


def test_the_datamodule_describes_its_batches():
    data = MultiMNISTDataModule(
        source="uci", num_train=20, num_val=9, image_size=[50, 60], digit_size=20, num_digits=[0, 2], crop_size=32,
        channels=1, batch_size=16, eval_batch_size=4,
    )  # fmt: skip
    assert data.train_image_shape == (1, 32, 32)
    assert data.image_shape == (1, 50, 60)
    assert (data.num_classes, data.max_objects) == (10, 2)
    assert data.name == "multimnist50x60-0to2-d20-crop32x4-c1-n20-uci-ink"
    data.prepare_data()
    data.setup()
    train, val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch["image"]) for batch in train] == [16] * 5
    assert [len(batch["image"]) for batch in val] == [4, 4, 1]
    assert train[0]["image"].shape[1:] == data.train_image_shape
    assert val[0]["image"].shape[1:] == data.image_shape
    assert val[0]["boxes"].shape == (4, data.max_objects, 4)


def test_names_differ_where_scenes_differ():
    def name(**parameters):
        return MultiMNISTDataModule(source="uci", **parameters).name

    assert name() == "multimnist48-1to5-uci-ink"
    variants = [
        {}, {"image_size": 84}, {"num_digits": 5}, {"num_digits": [0, 2]}, {"digit_size": 16}, {"max_overlap": 40},
        {"channels": 1}, {"background_color": [0, 0, 1]}, {"digit_colors": [[1, 0, 0]]}, {"crop_size": 32},
        {"crop_size": 32, "crops_per_image": 2}, {"digit_scale": 1.1}, {"digit_scale": [1.1, 0.1]},
        {"crop_digits": False}, {"composition": "sum"}, {"max_overlap": math.inf}, {"num_train": 1000}, {"seed": 1},
        {"box_convention": "tile"},
    ]  # fmt: skip
    assert len({name(**variant) for variant in variants}) == len(variants)
    assert name(masks=True, target="sum", num_digits=[1, 5], digit_colors=[[1, 1, 1]]) == name()


def test_the_cache_is_used_and_follows_the_parameters(monkeypatch):
    first = UCI("val", num_val=30)
    made = []
    monkeypatch.setattr(module, "generate", lambda *args: made.append(args) or generate(*args))
    assert torch.equal(UCI("val", num_val=30, num_train=5, box_convention="tile").images, first.images)
    assert not made  # neither matters to validation images
    UCI("val", num_val=30, seed=1)
    monkeypatch.setattr(module, "VERSION", 2)
    UCI("val", num_val=30)
    assert len(made) == 2


def test_defaults_and_parameters_of_dataset_and_datamodule_agree():
    signature = inspect.signature(MultiMNISTDataModule).parameters
    for name, field in SceneParameters.__dataclass_fields__.items():
        assert signature[name].default == field.default
    for name, parameter in inspect.signature(MultiMNIST).parameters.items():
        if name in signature:
            assert signature[name].default == parameter.default
    described = inspect.getdoc(MultiMNISTDataModule)
    assert all(f"    {name}: " in described for name in signature)


def test_mnist_scenes(mnist_root):
    data = MultiMNISTDataModule(data_dir=str(mnist_root), num_train=64, num_val=64, num_test=64, num_digits=1)
    assert "-mnist" in data.name
    data.setup()
    for dataset in data.datasets.values():
        batch = dataset.batch(range(64))
        sides = (batch["boxes"][..., 2:] - batch["boxes"][..., :2]).squeeze(1)
        assert (sides.amax(1) == 12).all()
        ink = batch["image"][:, 0].sum((1, 2)) / sides.prod(1)
        assert 0.2 < ink.mean() < 0.7
    assert not (mnist_root / "cache").exists() or os.access(mnist_root, os.W_OK)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"image_size": 0}, "digit_size=14"),
        ({"image_size": [48, 48, 3]}, r"image_size=\[48, 48, 3\].*height"),
        ({"image_size": "48"}, "image_size='48'"),
        ({"digit_size": 50}, "digit_size=50.*48"),
        ({"digit_size": 14.5}, "digit_size=14.5.*whole"),
        ({"digit_scale": [1, 0.4]}, "digit_scale=.*3 standard deviations"),
        ({"digit_scale": [1.3, -0.1]}, "digit_scale"),
        ({"digit_scale": "1.3"}, "digit_scale='1.3'.*mean"),
        ({"digit_size": 40, "digit_scale": [1.3, 0.2]}, "digit_size=40.*divided by any digit_scale"),
        ({"composition": "max"}, "composition='max'.*paint, sum"),
        ({"composition": "sum", "background_color": [0, 0, 1]}, "background_color.*black"),
        ({"num_digits": [5, 1]}, r"num_digits=\[5, 1\].*min <= max"),
        ({"num_digits": 0}, "num_digits"),
        ({"max_overlap": -1}, "max_overlap=-1"),
        ({"channels": 4}, "channels=4.*1 or 3"),
        ({"channels": 1, "digit_colors": [[1, 0, 0]]}, "digit_colors.*grey"),
        ({"digit_colors": []}, "digit_colors"),
        ({"digit_colors": ["red"]}, "digit_colors.*red, green and blue"),
        ({"background_color": [0, 0, 255]}, r"background_color=\[0, 0, 255\].*\[0, 1\]"),
        ({"crop_size": 49}, "crop_size.*48"),
        ({"crops_per_image": 0}, "crops_per_image=0"),
        ({"num_val": 0}, "num_val=0"),
        ({"seed": -1}, "seed=-1"),
        ({"source": "emnist"}, "source='emnist'.*auto, mnist, uci"),
        ({"box_convention": "tight"}, "box_convention='tight'.*ink or tile"),
        ({"target": "product"}, "target='product'.*sum"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        MultiMNISTDataModule(**parameters)


def test_more_digits_than_fit_say_how_many_do():
    """Without overlap 9 tiles of 16 pixels fill 48 x 48 only as a grid, which chance does not find."""
    with pytest.raises(ValueError, match=r"num_digits=\[20, 20\]: ([4-9]) digits of 16 px") as error:
        SceneParameters(num_digits=20, digit_size=16, max_overlap=0)
    found = int(str(error.value).split(": ")[1].split()[0])
    SceneParameters(num_digits=found, digit_size=16, max_overlap=0)


def test_the_large_scenes_of_the_transfer_experiment_fit():
    content = scenes("test", num_test=20, image_size=128, digit_size=28, num_digits=[1, 10])
    assert content["counts"].max() > 7
    crowded = scenes("test", num_test=20, image_size=84, num_digits=20)
    assert (crowded["counts"] == 20).all()


def test_another_process_with_other_threads_makes_the_same_scenes():
    code = (
        "import hashlib; from datamodules import MultiMNIST; d = MultiMNIST('val', source='uci', num_val=50);"
        "print(hashlib.sha256(d.images.numpy().tobytes()).hexdigest())"
    )
    here = hashlib.sha256(UCI("val", num_val=50).images.numpy().tobytes()).hexdigest()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "ZOO_DATA": os.environ["ZOO_DATA"] + "2",
    }
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split() == [here]


def test_generation_is_fast():
    """At least 5,000 images of the default a second on one core; the bound leaves room for a busy machine."""
    parameters, digits = SceneParameters(num_train=4096), DigitSource("uci", None).load("train")
    generate(parameters, digits, "train")
    start = time.process_time()
    generate(parameters, digits, "train")
    assert 4096 / (time.process_time() - start) > 5000
