"""A trained model on images of any origin, and what it found as plain Python."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from datamodules import ImageError
from zoo.models import AIR, SPAIR
from zoo.scene import Scene

SMALL: dict[str, Any] = {"backbone_channels": 8, "encoder_hidden": [16], "decoder_hidden": [16], "what_dim": 4}


@pytest.fixture
def model() -> SPAIR:
    torch.manual_seed(0)
    return SPAIR(channels=1, **SMALL)


def test_it_sees_what_forward_sees_whatever_images_come_as(model: SPAIR, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 48, 60), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    expected = model.eval()(torch.from_numpy(pixels)[:, None] / 255)
    model.train()
    for images in (tmp_path, torch.from_numpy(pixels)[:, None], list(pixels), [Image.fromarray(p) for p in pixels]):
        scene = model.predict(images, batch_size=2)
        for name in ("boxes", "presence", "what", "reconstruction", "depth"):
            torch.testing.assert_close(getattr(scene, name), getattr(expected, name).detach())
    assert model.training  # as it was
    assert not scene.boxes.requires_grad
    scene.check(scene.image)


def test_images_become_the_models_channels_and_size_and_boxes_come_back_in_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AIR(channels=1, image_size=[20, 30], num_steps=2, cell_hidden=8, encoder_hidden=[8], decoder_hidden=[8])
    large, tall = Image.new("RGB", (300, 200), (200, 100, 0)), Image.new("L", (100, 200), 50)
    scene = model.predict([large, tall], fit="pad")
    assert scene.image.shape == (2, 1, 20, 30)
    assert scene.image[0].min() == pytest.approx((0.299 * 200 + 0.587 * 100) / 255, abs=1e-3)
    assert (scene.image[1, 0, 0] > 0).tolist() == [False] * 10 + [True] * 10 + [False] * 10
    # 200 x 300 to 20 x 30: a tenth; 200 x 100 to 20 x 10, ten columns from the left
    for b, shift in ((0, 0), (1, 10)):
        for found in scene.objects(0.0)[b]:
            box = scene.boxes[b, found["slot"]]
            expected = [(v - s) * 10 for v, s in zip(box.tolist(), [shift, 0] * 2, strict=True)]
            assert found["box"] == pytest.approx(expected, abs=1e-3)
    assert model.predict(large, image_size=(20, 30)).image.shape == (1, 1, 20, 30)
    with pytest.raises(ValueError, match="reads images of one size"):
        model.predict(large, image_size=40)


def test_objects_are_plain_python_above_the_threshold_the_likeliest_first() -> None:
    presence = torch.tensor([[0.2, 0.9, 0.5], [0.1, 0.0, 0.4]])
    boxes = torch.arange(24.0).view(2, 3, 4)
    what = torch.arange(12.0).view(2, 3, 2)
    category = torch.eye(5)[torch.tensor([[4, 2, 0], [1, 1, 1]])]
    image = torch.zeros(2, 1, 8, 8)
    scene = Scene(reconstruction=image, boxes=boxes, presence=presence, what=what, category=category)
    first, second = scene.objects()
    assert second == []
    assert [found["slot"] for found in first] == [1, 2]
    assert first[0] == {"box": [4, 5, 6, 7], "score": pytest.approx(0.9), "category": 2, "slot": 1}
    assert scene.objects(vectors=True)[0][0] == {**first[0], "what": [2, 3]}
    assert [found["box"] for found in scene.objects(clip=True)[0]] == [[4, 5, 6, 7], [8, 8, 8, 8]]  # 8 px are the edge
    assert [len(found) for found in scene.objects(0.05)] == [3, 2]
    without = Scene(reconstruction=image, boxes=boxes, presence=presence, what=what)
    assert without.objects()[0][0]["category"] is None


def test_boxes_end_at_the_edges_of_images_as_they_were_given_if_asked_to() -> None:
    """Padding is no part of them: 100 x 200 px lie in the middle third of 20 x 30."""
    torch.manual_seed(0)
    model = AIR(channels=1, image_size=[20, 30], num_steps=2, cell_hidden=8, encoder_hidden=[8], decoder_hidden=[8])
    scene = replace(model.predict(Image.new("L", (100, 200)), fit="pad"), boxes=torch.tensor([[[5.0, -3, 28, 9]] * 2]))
    assert scene.objects(0.0)[0][0]["box"] == pytest.approx([-50, -30, 180, 90])
    assert scene.objects(0.0, clip=True)[0][0]["box"] == pytest.approx([0, 0, 100, 90])


def test_of_objects_that_overlap_the_likeliest_is_left_if_asked_for() -> None:
    boxes = torch.tensor([[[0.0, 0, 4, 4], [1, 0, 5, 4], [6, 6, 8, 8], [0, 0, 4, 2]]])  # IoU 0.6, and 0.5 of the last
    scene = Scene(
        reconstruction=torch.zeros(1, 1, 8, 8), boxes=boxes, presence=torch.tensor([[0.8, 0.9, 0.6, 0.7]]), what=boxes
    )
    slots = {t: [found["slot"] for found in scene.objects(max_overlap=t)[0]] for t in (1.0, 0.7, 0.55, 0.3)}
    assert slots == {1.0: [1, 0, 3, 2], 0.7: [1, 0, 3, 2], 0.55: [1, 3, 2], 0.3: [1, 2]}
    assert scene.objects(0.95, max_overlap=0.3) == [[]]


def test_a_scene_says_what_is_in_it(model: SPAIR) -> None:
    scene = model.predict(torch.rand(3, 1, 24, 24))
    counts = (scene.presence >= 0.5).sum(1).tolist()
    head, *fields = repr(scene).splitlines()
    assert head == f"Prediction: {sum(counts)} objects in 3 images ({', '.join(map(str, counts))})"
    K, A = scene.what.shape[1:]
    assert any(line.startswith(f"  what: (3, {K}, {A}) float32 in [") for line in fields)
    assert not any("category" in line or "tensor" in line for line in fields)
    many = Scene(**{name: getattr(scene, name)[:1].expand(20, *getattr(scene, name).shape[1:]) for name in (
        "reconstruction", "boxes", "presence", "what")})  # fmt: skip
    assert "in 20 images (" in repr(many)
    assert repr(many).splitlines()[0].endswith(", ...)")
    assert "0 objects in 0 images" in repr(
        Scene(**{key: value[:0] for key, value in vars(many).items() if value is not None})
    )


def test_crops_are_what_lies_in_the_boxes(model: SPAIR) -> None:
    image = torch.rand(1, 1, 8, 8)
    boxes = torch.tensor([[[1.0, 2, 5, 6], [6, 6, 10, 10]]])
    scene = Scene(reconstruction=image, boxes=boxes, presence=torch.tensor([[0.9, 0.1]]), what=boxes)
    crops = scene.crops(size=4)
    torch.testing.assert_close(crops[0, 0, 0], image[0, 0, 2:6, 1:5])
    torch.testing.assert_close(crops[0, 1, 0, :2, :2], image[0, 0, 6:, 6:])
    assert crops[0, 1, 0, 2:].abs().max() == 0  # outside the image
    assert scene.crops(1 - image, (4, 6))[scene.presence >= 0.5].shape == (1, 1, 4, 6)
    found = model.predict(image.expand(2, 3, 48, 48) if image.shape[-1] == 48 else torch.rand(2, 3, 48, 48))
    torch.testing.assert_close(found.crops(size=8), Scene.crops(found, found.image, 8))


def test_what_cannot_be_predicted_is_explained(model: SPAIR, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"several sizes, 48 x 48 and 48 x 60: .* set image_size"):
        model.predict([torch.rand(1, 48, 48), torch.rand(1, 48, 60)])
    assert model.predict([torch.rand(1, 48, 48), torch.rand(1, 48, 60)], image_size=48).boxes.shape == (2, 16, 4)
    with pytest.raises(ImageError, match="no images to look at"):
        model.predict([])
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        model.predict(torch.rand(1, 48, 48), batch_size=0)
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        model.predict(tmp_path)


def test_every_checkpoint_predicts_pictures_of_any_size() -> None:
    picture = Image.effect_noise((120, 90), 80)
    for name in zoo.list_weights():
        model = zoo.load(name)
        scene = model.predict([picture, picture], image_size=None if "image_size" in model.hparams else (48, 64))
        assert scene.boxes.shape[0] == 2
        assert len(scene.objects(0.0)[0]) == scene.boxes.shape[1]
