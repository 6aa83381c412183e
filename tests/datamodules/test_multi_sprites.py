import hashlib
import inspect
import math
import time

import numpy as np
import pytest
import scipy.stats
import torch

from datamodules import MultiSprites, MultiSpritesDataModule
from datamodules import multi_sprites as module
from datamodules.drawing import generated as shared
from datamodules.multi_sprites import SpriteParameters, coverage, generate

# Areas of the square, triangle and ellipse with a circle of radius 1 around them.
AREAS = np.array([2, 3 * math.sqrt(3) / 4, 0.55 * math.pi])


def scenes(split="train", **parameters):
    return generate(SpriteParameters(**{"num_train": 300, "num_val": 300, **parameters}), split)


def random_sprites(count: int, side: int):
    rng = np.random.default_rng(0)
    centres = side / 2 + rng.uniform(-0.5, 0.5, (count, 2))
    angles = np.where(np.arange(count) % 10, rng.uniform(0, 7, count), 0)  # and some upright ones
    return np.arange(count) % 3, centres, rng.uniform(3, side / 2 - 0.6, count), angles


def corners(sides: int, radius: float, angle: float):
    turns = [angle + 2 * math.pi * k / sides for k in range(sides)]
    return [(radius * math.cos(turn), radius * math.sin(turn)) for turn in turns]


def test_coverage_agrees_with_counting_points_inside():
    shapes, centres, radii, angles = random_sprites(60, 12)
    covered = coverage(shapes, centres, radii, angles, 12)
    points = (np.arange(12 * 40) + 0.5) / 40
    for shape, (cx, cy), radius, angle, shares in zip(shapes, centres, radii, angles, covered, strict=True):
        x, y = np.meshgrid(points - cx, points - cy)
        if shape == 2:
            along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            inside = (along / radius) ** 2 + (across / (0.55 * radius)) ** 2 <= 1
        else:
            inside, polygon = np.ones_like(x, dtype=bool), corners(4 - shape, radius, angle)
            for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                inside &= (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0
        assert np.abs(shares - inside.reshape(12, 40, 12, 40).mean((1, 3))).max() < 0.05


def test_coverage_adds_up_to_the_areas_of_the_shapes():
    shapes, centres, radii, angles = random_sprites(3000, 24)
    error = coverage(shapes, centres, radii, angles, 24).sum((1, 2)) / (AREAS[shapes] * radii**2) - 1
    regular = radii > 7
    assert np.abs(error).max() < 0.02
    assert np.abs(error[regular]).max() < 0.005
    assert np.square(error[regular]).mean() ** 0.5 < 0.0005


def test_drawn_areas_are_those_of_the_shapes_and_add_up_without_overlap():
    """In 8 bits, for one radius: the labels alone tell how bright an image is, unless sprites cover each other."""
    for overlap in (0.0, 1.0):
        content = scenes(sprite_radius=9, max_overlap=overlap, num_sprites=[0, 4])
        drawn = content["images"].double().sum((1, 2, 3)).numpy() / 255
        valid = np.arange(4) < content["counts"].numpy()[:, None]
        exact = (AREAS[content["labels"].numpy()] * 81 * valid).sum(1)
        assert set(content["counts"].tolist()) == {0, 1, 2, 3, 4}
        if overlap:
            assert (drawn < 0.95 * exact).mean() > 0.2
            assert (drawn <= 1.005 * exact).all()
        else:
            assert np.abs(drawn - exact).max() < 0.005 * 81 * 4


def test_positions_orientations_sizes_classes_and_counts_are_uniform():
    """All measured in the images: a sprite's area tells its radius, its moments tell its place and orientation."""
    content = scenes(num_sprites=1, num_train=2000)
    image, labels = content["images"][:, 0].double().numpy() / 255, content["labels"][:, 0].numpy()
    area = image.sum((1, 2))
    radius = np.sqrt(area / AREAS[labels])
    pixel = np.arange(64) + 0.5
    x, y = (image.sum(1) @ pixel) / area, (image.sum(2) @ pixel) / area
    samples = [(radius - 7) / 4, (x - radius) / (64 - 2 * radius), (y - radius) / (64 - 2 * radius)]
    dx, dy = pixel - x[:, None], pixel - y[:, None]
    xx, yy = (image.sum(1) * dx**2).sum(1), (image.sum(2) * dy**2).sum(1)
    xy = np.einsum("nyx,ny,nx->n", image, dy, dx)
    samples.append(0.5 + np.arctan2(2 * xy, xx - yy)[labels == 2] / (2 * np.pi))
    for sample in samples:
        assert scipy.stats.kstest(sample, "uniform").pvalue > 0.001
    for drawn, kinds in ((labels, 3), (scenes(num_train=2000)["counts"], 4)):
        assert scipy.stats.chisquare(np.bincount(drawn, minlength=kinds)).pvalue > 0.001


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.9])
def test_circles_stay_inside_and_keep_their_distance(limit):
    radii = np.random.default_rng(1).uniform(5, 9, (300, 5))
    counts = np.arange(300) % 6
    centres = shared.place(module._Circles((50, 60), radii, limit), counts, 5, np.random.default_rng(2))
    closest = math.inf
    for count, radius, centre in zip(counts, radii, centres, strict=True):
        for i in range(count):
            assert all(radius[i] <= centre[i]) and all(centre[i] <= [60 - radius[i], 50 - radius[i]])  # noqa: PT018
            for j in range(i):
                share = math.dist(centre[i], centre[j]) / (radius[i] + radius[j])
                assert share >= 1 - limit - 1e-9
                closest = min(closest, share)
    assert closest < 1 - limit + 0.1


def test_boxes_and_masks_agree_with_the_pixels():
    alone = scenes(num_sprites=1, masks=True)
    for image, box, mask in zip(alone["images"], alone["ink_boxes"], alone["masks"], strict=True):
        _, ys, xs = image.nonzero().unbind(1)
        assert box[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert torch.equal(mask, (image[0] > 127).byte())
    many = scenes(sprite_radius=9, masks=True)
    for i, count in enumerate(many["counts"].tolist()):
        assert not many["ink_boxes"][i, count:].any()
        assert set(many["masks"][i].unique().tolist()) == set(range(count + 1))
        for row in range(count):
            x1, y1, x2, y2 = many["ink_boxes"][i, row].tolist()
            mask = many["masks"][i] == row + 1
            assert mask.sum() == mask[y1:y2, x1:x2].sum() == pytest.approx(AREAS[many["labels"][i, row]] * 81, abs=20)


def test_the_same_seed_gives_the_same_scenes_for_good():
    """These bytes may change only together with `VERSION`, else stale caches would be taken for fresh ones."""
    few, many = scenes(num_train=100), scenes(num_train=600)
    assert all(torch.equal(few[key], many[key][:100]) for key in few)
    assert module.VERSION == 1
    digest = hashlib.sha256(few["images"].numpy().tobytes() + few["ink_boxes"].numpy().tobytes()).hexdigest()
    assert digest[:16] == "c83270470315d371"
    assert not torch.equal(few["images"], scenes(num_train=100, seed=1)["images"])
    assert not torch.equal(few["images"], scenes("val", num_val=100)["images"])


def test_grey_colour_and_several_brightnesses():
    assert set(scenes()["images"].flatten(1).amax(1).tolist()) == {0, 255}
    greys = scenes(sprite_colors=[[0.2] * 3, [0.6] * 3, [1.0] * 3], num_sprites=1)["images"]
    assert greys.shape == (300, 1, 64, 64)
    assert set(greys.flatten(1).amax(1).tolist()) == {51, 153, 255}
    coloured = scenes(channels=3, num_sprites=1)["images"]
    palette = {tuple(pixels.flatten(1).amax(1).tolist()) for pixels in coloured}
    assert palette == {(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)} - {(0, 0, 0), (255,) * 3}


def test_the_datamodule_describes_its_batches(monkeypatch):
    data = MultiSpritesDataModule(
        num_train=20, num_val=9, num_test=5, image_size=[50, 60], channels=3, masks=True, batch_size=16,
        eval_batch_size=4,
    )  # fmt: skip
    assert data.name.startswith("multisprites50x60-0to3-c3-n20")
    assert (data.num_classes, data.max_objects) == (3, 3)
    data.prepare_data()
    monkeypatch.setattr(module, "generate", None)  # from here on the cache has all
    data.setup()
    (train,), val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch["image"]) for batch in val] == [4, 4, 1]
    assert train.keys() == {"image", "boxes", "labels", "valid", "mask"}
    assert train["image"].shape == (16, *data.image_shape) == (16, 3, 50, 60)
    assert train["boxes"].shape == (16, data.max_objects, 4)
    assert train["mask"].shape == (16, 50, 60)
    for key, kind in (
        ("image", torch.float32),
        ("boxes", torch.float32),
        ("labels", torch.int64),
        ("valid", torch.bool),
    ):
        assert train[key].dtype == kind
    assert 0 == train["image"].min() < train["image"].max() == 1
    assert torch.equal(
        MultiSprites("val", num_val=9, image_size=[50, 60], channels=3, masks=True).images, data.datasets["val"].images
    )
    with pytest.raises(TypeError):
        MultiSprites("val", num_val=10)


def test_names_differ_where_scenes_differ():
    def name(**parameters):
        return MultiSpritesDataModule(**parameters).name

    assert name() == "multisprites64-0to3"
    variants = [
        {}, {"image_size": 60}, {"sprite_radius": 9}, {"num_sprites": [1, 3]}, {"max_overlap": 0.2}, {"channels": 3},
        {"sprite_colors": [[0.5] * 3]}, {"background_color": [0.5] * 3}, {"num_train": 100}, {"seed": 2},
    ]  # fmt: skip
    assert len({name(**variant) for variant in variants}) == len(variants)
    assert name(masks=True, sprite_radius=[7, 11], sprite_colors=[[1, 1, 1]], num_val=5) == name()


def test_defaults_and_parameters_of_dataset_and_datamodule_agree():
    signature = inspect.signature(MultiSpritesDataModule).parameters
    for name, field in SpriteParameters.__dataclass_fields__.items():
        assert signature[name].default == field.default
    described = inspect.getdoc(MultiSpritesDataModule)
    assert all(f"    {name}: " in described for name in signature)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"image_size": 20}, r"sprite_radius=\(7.0, 11.0\).*from 1 to 10 pixels"),
        ({"image_size": "64"}, "image_size='64'"),
        ({"sprite_radius": [9, 7]}, r"sprite_radius=\[9, 7\].*min <= max"),
        ({"sprite_radius": 0.5}, "sprite_radius.*from 1"),
        ({"sprite_radius": "9"}, "sprite_radius='9'"),
        ({"num_sprites": 0}, "num_sprites.*at least 1"),
        ({"num_sprites": [3, 1]}, "num_sprites.*min <= max"),
        ({"max_overlap": 1.5}, "max_overlap=1.5.*from 0 to 1"),
        ({"channels": 2}, "channels=2.*1 or 3"),
        ({"sprite_colors": [[1, 0, 0]]}, "sprite_colors.*grey"),
        ({"sprite_colors": []}, "sprite_colors"),
        ({"background_color": [1, 1]}, "background_color"),
        ({"num_train": 0}, "num_train=0"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_sprites": 30}, r"num_sprites=\[30, 30\]: \d+ sprites of radius 11 px.*raise image_size or max_overlap"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        MultiSpritesDataModule(**parameters)


def test_an_image_that_never_fits_says_so(monkeypatch):
    monkeypatch.setattr(shared, "RESTARTS", 2)
    layout = module._Circles((64, 64), np.full((10, 20), 11.0), 0.0)
    with pytest.raises(ValueError, match=r"20 sprites of radius 11 px fit on 64 x 64 px.*ask for fewer"):
        shared.place(layout, np.full(10, 20), 20, np.random.default_rng(0))


def test_generation_is_fast():
    """Over 10,000 images of the default a second on one core; the bound leaves room for a busy machine."""
    scenes(num_train=256)
    start = time.process_time()
    scenes(num_train=2048)
    assert 2048 / (time.process_time() - start) > 2000
