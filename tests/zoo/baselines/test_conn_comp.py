"""Connected components against a flood fill, one pixel after another."""

import pytest
import torch

from zoo.baselines.conn_comp import THRESHOLDS, ConnComp


def flood(solid: list[list[bool]]) -> list[set[tuple[int, int]]]:
    """Components in the order of their first pixels."""
    left = {(i, j) for i, row in enumerate(solid) for j, on in enumerate(row) if on}
    found = []
    while left:
        component, front = set(), [min(left)]
        while front:
            i, j = front.pop()
            if (i, j) in left:
                left.remove((i, j))
                component.add((i, j))
                front += [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        found.append(component)
    return found


def test_components_are_those_of_a_flood_fill():
    image = torch.rand(6, 3, 9, 11, generator=torch.Generator().manual_seed(0)) ** 2
    image[2] = 0.0  # nothing is in it
    image[3] = 1.0  # one component
    scene = ConnComp(0.4, (0.1, 0.0, 0.0))(image)
    scene.check(image)
    solid = (image - torch.tensor([0.1, 0, 0]).view(3, 1, 1)).abs().mean(1) >= 0.4
    for b in range(6):
        components = flood(solid[b].tolist())
        assert int(scene.presence[b].sum()) == len(components)
        for k, component in enumerate(components):
            assert scene.presence[b, k] == 1
            ys, xs = zip(*component, strict=True)
            assert scene.boxes[b, k].tolist() == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
            assert {tuple(at) for at in (scene.mask[b] == k + 1).nonzero().tolist()} == component
    assert scene.presence[2].sum() == 0
    assert scene.boxes[3, 0].tolist() == [0, 0, 11, 9]


def test_images_without_a_pixel_of_an_object_have_no_slots():
    scene = ConnComp()(torch.zeros(2, 1, 5, 5))
    scene.check(torch.zeros(2, 1, 5, 5))
    assert scene.boxes.shape == (2, 0, 4)
    assert (scene.mask == 0).all()


def test_the_threshold_is_the_best_on_training_scenes():
    image = torch.full((1, 1, 8, 8), 0.3)  # dim noise that joins two bright squares
    image[0, 0, 1:3, 1:3] = image[0, 0, 5:7, 5:7] = 0.9
    boxes = torch.tensor([[[1.0, 1, 3, 3], [5, 5, 7, 7]]])
    batch = {"image": image, "boxes": boxes, "valid": torch.ones(1, 2, dtype=torch.bool)}
    best = ConnComp.tuned(batch)
    assert best.threshold in THRESHOLDS
    assert 0.3 < best.threshold <= 0.9
    assert ConnComp(best.threshold)(image).presence.tolist() == [[1, 1]]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="threshold must be in"):
        ConnComp(0)
    with pytest.raises(ValueError, match="background_color has 3 channels, images have 1"):
        ConnComp(0.5, (0, 0, 0))(torch.zeros(1, 1, 4, 4))
