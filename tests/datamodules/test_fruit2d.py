import hashlib
import inspect
import math
import time

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.ops import box_iou

from datamodules import Fruit2D, Fruit2DDataModule
from datamodules import fruit2d as module
from datamodules.drawing.fruits import FRUITS, drop, paint, settle
from datamodules.fruit2d import FruitParameters, generate, piles

LARGEST = 48


def parameters(**changes):
    return FruitParameters(**{"source": "synthetic", "num_train": 256, "num_val": 256, **changes})


@pytest.fixture(scope="module")
def scenes():
    return generate(parameters(num_train=3072, masks=True), "train")


@pytest.fixture(scope="module")
def rest():
    """Radii and centres of the fruits of 256 piles, image by image."""
    counts = np.arange(256) % 31 + 6
    labels, centres = piles(parameters(), counts, np.random.default_rng(0))
    radii = LARGEST / 2 * 6 ** (labels / 8 - 1)
    return [(r[:count], c[:count]) for r, c, count in zip(radii, centres, counts, strict=True)]


def test_piles_lie_in_the_container_and_hardly_overlap(rest):
    depths = []
    for radii, centres in rest:
        assert (centres >= radii[:, None] - 1e-4).all()
        assert (centres <= 128 - radii[:, None] + 1e-4).all()
        for i in range(len(radii)):
            for j in range(i):
                depth = radii[i] + radii[j] - math.dist(centres[i], centres[j])
                depths.append(depth / (2 * min(radii[i], radii[j])))
    touching = [depth for depth in depths if depth > -0.05]
    assert len(touching) > 1.2 * sum(len(radii) for radii, _ in rest)  # they stack
    assert max(depths) < 0.05
    assert np.mean([depth > 0.02 for depth in touching]) < 0.001


def test_fruits_rest_on_the_floor_or_on_others_and_do_not_roll(rest):
    supported, stable = [], []
    for radii, centres in rest:
        for i, (radius, (x, y)) in enumerate(zip(radii, centres, strict=True)):
            below, left, right = 128 - y - radius < 0.3, x - radius < 0.3, 128 - x - radius < 0.3
            on_floor = below
            for j, (other, (x2, y2)) in enumerate(zip(radii, centres, strict=True)):
                if i != j and math.dist((x, y), (x2, y2)) < radius + other + 0.3:
                    below, left, right = below or y2 > y, left or x2 < x, right or x2 > x
            supported.append(below)
            stable.append(on_floor or (below and left and right))
    assert np.mean(supported) > 0.997
    assert np.mean(stable) > 0.96


def test_discs_fall_straight_until_they_touch():
    radii = np.random.default_rng(0).uniform(4, 20, (20, 12))
    for r, c in zip(radii, drop(radii, (100, 90), np.random.default_rng(1)), strict=True):
        for i in range(12):
            gaps = [math.dist(c[i], c[j]) - r[i] - r[j] for j in range(i)]
            assert min([*gaps, 100 - c[i, 1] - r[i]]) == pytest.approx(0, abs=1e-9)


def test_a_pile_does_not_depend_on_other_images_or_on_absent_discs():
    radii = np.random.default_rng(0).uniform(4, 20, (70, 10))
    centres = drop(radii, (128, 128), np.random.default_rng(1))
    present = np.arange(10) < np.arange(70)[:, None] % 11
    together = settle(centres, radii, present, (128, 128), 2.0)
    for image, count in ((3, 3), (69, 3), (65, 10)):
        alone = settle(centres[[image], :count], radii[[image], :count], present[[image], :count], (128, 128), 2.0)
        np.testing.assert_array_equal(together[image, :count], alone[0])


def test_statistics_of_the_paper(scenes):
    """9 kinds, 6 times as large, 31 times as many; and the number of fruits uniform from 6 to 36."""
    labels, counts = scenes["labels"].numpy(), scenes["counts"].numpy()
    valid = np.arange(36) < counts[:, None]
    areas = np.array([np.bincount(mask, minlength=37)[1:] for mask in scenes["masks"].flatten(1).numpy()])
    diameters = np.sqrt([4 / math.pi * np.median(areas[valid & (labels == kind)]) for kind in range(9)])
    np.testing.assert_allclose(diameters, LARGEST * 6 ** (np.arange(9) / 8 - 1), rtol=0.02)
    assert diameters[8] / diameters[0] == pytest.approx(6, rel=0.02)
    frequency = np.bincount(labels[valid], minlength=9)
    assert frequency[0] / frequency[8] == pytest.approx(31, rel=0.15)
    expected = 31.0 ** (-np.arange(9) / 8)
    assert scipy.stats.chisquare(frequency, expected / expected.sum() * frequency.sum()).pvalue > 0.001
    assert scipy.stats.chisquare(np.bincount(counts)[6:]).pvalue > 0.001
    assert counts.mean() == pytest.approx(21, abs=0.5)


def test_boxes_overlap_a_little(scenes):
    """Discs that touch have boxes that overlap at their corners: IoU of 0.04 on average, and never much."""
    overlaps = []
    for boxes, count in zip(scenes["ink_boxes"][:300].float(), scenes["counts"].tolist(), strict=False):
        iou = box_iou(boxes[:count], boxes[:count]).triu(1)
        overlaps.append(iou[iou > 0])
    overlaps = torch.cat(overlaps)
    assert 0.03 < overlaps.mean() < 0.05
    assert overlaps.max() < 0.15


def drawn(background, centres, labels, angles, canvas=(64, 70), largest=50.0):
    present = np.ones(labels.shape, bool)
    return paint(centres, labels, present, angles, largest, canvas, (background,) * 3)


def test_alpha_is_the_share_of_a_pixel_within_the_disc():
    """Alpha is what black and white backgrounds tell apart; compared with counting points inside."""
    rng = np.random.default_rng(0)
    labels = np.arange(27)[:, None] % 9
    centres, angles = 32 + rng.uniform(-5, 5, (27, 1, 2)), rng.uniform(0, 7, (27, 1))
    black, mask, boxes = drawn(0.0, centres, labels, angles)
    white, _, _ = drawn(1.0, centres, labels, angles)
    alpha = 1 - (white.astype(float) - black)[:, 0] / 255
    y, x = ((np.indices((64 * 16, 70 * 16)) + 0.5) / 16)[:, None]
    for i, label in enumerate(labels[:, 0]):
        radius = 25 * 6 ** (label / 8 - 1)
        inside = np.hypot(x - centres[i, 0, 0], y - centres[i, 0, 1]) < radius
        exact = inside.reshape(64, 16, 70, 16).mean((1, 3))
        assert np.abs(alpha[i] - exact).max() < 0.08
        assert alpha[i].sum() == pytest.approx(math.pi * radius**2, rel=0.01)
        np.testing.assert_array_equal(mask[i], alpha[i] > 0.5)
        rows, columns = np.nonzero(alpha[i] > 1e-9)
        assert boxes[i, 0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_fruits_are_painted_over_one_another_the_smaller_in_front():
    """Each pixel is a mixture of the fruits painted alone, by a loop over fruits and images."""
    rng = np.random.default_rng(1)
    labels, centres = rng.integers(0, 9, (6, 8)), rng.uniform(26, 38, (6, 8, 2))
    labels[0] = 4
    angles = rng.uniform(0, 7, (6, 8))
    image, mask, _ = drawn(0.2, centres, labels, angles)
    for i in range(6):
        expected, owner = np.full((3, 64, 70), 51.0), np.zeros((64, 70))
        for slot in sorted(range(8), key=lambda slot: (-labels[i, slot], slot)):
            one = (centres[i : i + 1, slot : slot + 1], labels[i : i + 1, slot : slot + 1])
            black, covered, _ = drawn(0.0, *one, angles[i : i + 1, slot : slot + 1])
            white, _, _ = drawn(1.0, *one, angles[i : i + 1, slot : slot + 1])
            expected = black[0] + (white[0].astype(float) - black[0]) / 255 * expected
            owner[covered[0] > 0] = slot + 1
        assert np.abs(image[i] - expected).max() < 6  # each layer is rounded down
        np.testing.assert_array_equal(mask[i], owner)


def test_kinds_differ_in_colour_and_are_textured():
    """The kind is told by the mean colour alone, whatever the angle; and no fruit is of one colour."""
    rng = np.random.default_rng(0)
    labels, angles = np.arange(180)[:, None] % 9, rng.uniform(0, 2 * math.pi, (180, 1))
    centres = 32 + rng.uniform(-1, 1, (180, 1, 2))
    images, masks, _ = drawn(0.0, centres, labels, angles)
    inside = [image[:, mask > 0] / 255 for image, mask in zip(images, masks, strict=True)]
    colours = np.array([pixels.mean(1) for pixels in inside])
    means = np.array([colours[labels[:, 0] == kind].mean(0) for kind in range(9)])
    nearest = np.linalg.norm(colours[:, None] - means, axis=2).argmin(1)
    assert (nearest == labels[:, 0]).all()
    assert min(pixels.std(1).max() for pixels in inside) > 0.1
    assert len({fruit.name for fruit in FRUITS}) == 9


def test_fruits_turn():
    """A quarter turn clockwise moves a strawberry's leaves, the only green, from the top to the right."""
    images, _, _ = drawn(0.0, np.full((2, 1, 2), 32.0), np.full((2, 1), 2), np.array([[0.0], [math.pi / 2]]))
    upright, turned = (np.argwhere(image[1] > image[0]).mean(0) - 31.5 for image in images.astype(int))
    assert upright == pytest.approx([-5, 0], abs=0.8)
    assert turned == pytest.approx([0, 5], abs=0.8)


def test_masks_and_boxes_of_scenes_agree(scenes):
    for i in range(100):
        count = int(scenes["counts"][i])
        mask = scenes["masks"][i]
        assert set(mask.unique().tolist()) <= set(range(count + 1))
        assert not scenes["ink_boxes"][i, count:].any()
        for row in range(count):
            x1, y1, x2, y2 = scenes["ink_boxes"][i, row].tolist()
            own = mask == row + 1
            radius = LARGEST / 2 * 6 ** (int(scenes["labels"][i, row]) / 8 - 1)
            assert own.sum() == own[y1:y2, x1:x2].sum()
            assert own.sum() == pytest.approx(math.pi * radius**2, rel=0.12)


def test_the_same_seed_gives_the_same_scenes_for_good():
    """These bytes may change only together with `VERSION`, else stale caches would be taken for fresh ones."""
    few, many = generate(parameters(num_train=20), "train"), generate(parameters(num_train=300), "train")
    assert all(torch.equal(few[key], many[key][:20]) for key in few)
    assert module.VERSION == 1
    digest = hashlib.sha256(few["ink_boxes"].numpy().tobytes() + few["labels"].numpy().tobytes()).hexdigest()
    assert digest[:16] == "8c82c8f96164dc16"
    mean = few["images"].double().mean((0, 2, 3))  # the last bits of sine and cosine may differ between machines
    assert mean.tolist() == pytest.approx([34.5757, 24.5957, 13.1376], abs=1e-3)
    assert not torch.equal(few["labels"], generate(parameters(num_train=20, seed=1), "train")["labels"])
    assert not torch.equal(few["labels"], generate(parameters(num_val=20), "val")["labels"])


def test_the_datamodule_describes_its_batches(monkeypatch):
    options = {"source": "synthetic", "image_size": [64, 80], "num_train": 20, "num_val": 9, "num_test": 5}
    data = Fruit2DDataModule(**options, masks=True, batch_size=16, eval_batch_size=4, num_fruits=[0, 12])
    assert data.name == "fruit2d-synthetic64x80-0to12-n20"
    assert (data.num_classes, data.max_objects) == (9, 12)
    data.prepare_data()
    monkeypatch.setattr(module, "generate", None)  # from here on the cache has all
    data.setup()
    (train,), val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch["image"]) for batch in val] == [4, 4, 1]
    assert train.keys() == {"image", "boxes", "labels", "valid", "mask"}
    assert train["image"].shape == (16, *data.image_shape) == (16, 3, 64, 80)
    assert train["boxes"].shape == (16, data.max_objects, 4)
    assert train["mask"].shape == (16, 64, 80)
    assert train["mask"].flatten(1).amax(1).tolist() == train["valid"].sum(1).tolist()
    assert 0 == train["image"].min() < train["image"].max() <= 1
    again = Fruit2D("val", **options, num_fruits=(0, 12), masks=True)
    assert torch.equal(again.images, data.datasets["val"].images)
    with pytest.raises(TypeError):
        Fruit2D("val", **{**options, "seed": 3})


def test_names_differ_where_scenes_differ_and_say_which_are_synthetic():
    def name(**changes):
        return Fruit2DDataModule(**changes).name

    assert (name(), name(source="synthetic")) == ("fruit2d128", "fruit2d-synthetic128")
    variants = [
        {}, {"image_size": 64}, {"num_fruits": 5}, {"largest_diameter": 40}, {"background_color": [0.1] * 3},
        {"num_train": 9}, {"seed": 2},
    ]  # fmt: skip
    names = {name(source="synthetic", **variant) for variant in variants}
    assert len(names) == len(variants)
    assert all("synthetic" in each for each in names)
    assert len({name(), name(image_size=64), name(val_fraction=0.2)}) == 3
    assert name(num_train=9) == name()
    assert name(source="synthetic", masks=True, num_fruits=[6, 36]) == "fruit2d-synthetic128"


def test_defaults_and_parameters_of_dataset_and_datamodule_agree():
    signature = inspect.signature(Fruit2DDataModule).parameters
    for name, field in FruitParameters.__dataclass_fields__.items():
        assert not field.init or signature[name].default == field.default
    described = inspect.getdoc(Fruit2DDataModule)
    assert all(f"    {name}: " in described for name in signature)
    assert all(fruit.name in described for fruit in FRUITS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "auto"}, "source='auto'.*published, synthetic"),
        ({"source": "published", "masks": True}, "masks=True.*published"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"image_size": "64"}, "image_size='64'"),
        ({"num_fruits": 0}, "num_fruits.*at least 1"),
        ({"num_fruits": [9, 5]}, "num_fruits.*min <= max"),
        ({"num_fruits": 60}, r"num_fruits=\(60, 60\).*at most 56 fruits with largest_diameter=48"),
        ({"largest_diameter": 140}, "largest_diameter=140.*from 12 to 128"),
        ({"largest_diameter": "9"}, "largest_diameter='9'"),
        ({"background_color": [2, 0, 0]}, "background_color"),
        ({"num_train": 0}, "num_train=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_parameters_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Fruit2DDataModule(**{"source": "synthetic", **changes})


def test_piles_that_never_fit_say_so(monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    monkeypatch.setattr(module, "FULL", 3.0)
    with pytest.raises(ValueError, match=r"100 fruits up to 48 px.*ask for fewer, or lower largest_diameter"):
        piles(parameters(num_fruits=100), np.full(8, 100), np.random.default_rng(0))


def test_generation_is_fast():
    """Over 600 images of 128x128 a second on one core; the bound leaves room for a busy machine."""
    start = time.process_time()
    generate(parameters(num_train=512), "train")
    assert 512 / (time.process_time() - start) > 200
