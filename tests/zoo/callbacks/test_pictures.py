"""Sheets of pictures: which files come about, what is drawn, and that colours tell categories apart."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from zoo.callbacks import ScenePictures
from zoo.models import GMAIR, DiscreteAIR
from zoo.pictures import draw as pictures
from zoo.pictures import sheet as sheets
from zoo.pictures.draw import (
    CATEGORY_COLORS,
    PREDICTED_COLOR,
    TRUE_COLOR,
    category_color,
    draw_composed,
    draw_generated,
    draw_scenes,
)
from zoo.pictures.sheet import GAP, GROUND, INK, LINE, MARGIN, arrange, draw_boxes, presence_label, sheet_of, wrap
from zoo.scene import Scene

SMALL: dict[str, Any] = {"image_size": 48, "num_steps": 2, "num_categories": 5, "cell_hidden": 16, "patch_size": 10}
GMAIR_SMALL: dict[str, Any] = {"channels": 1, "anchor": 24.0, "num_categories": 3, "what_dim": 6, "glimpse_size": 8}
GMAIR_SMALL |= {"backbone_widths": [8, 16], "backbone_blocks": 1, "backbone_up": [], "head_hidden": [16]}
GMAIR_SMALL |= {"encoder_hidden": [20], "decoder_channels": [16, 16, 16, 8]}


def colours_in(sheet: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(np.asarray(sheet).reshape(-1, 3), axis=0).tolist()}


def scene_of_two(category: torch.Tensor | None) -> tuple[dict[str, torch.Tensor], Scene]:
    """One black image with an object, and a scene of two that are there and one that is not."""
    boxes = torch.tensor([[[2.0, 12, 12, 22], [30, 30, 40, 44], [20, 5, 28, 10]]])
    image = torch.zeros(1, 1, 48, 48)
    batch = {"image": image, "boxes": boxes[:, :1], "labels": torch.tensor([[7]]), "valid": torch.ones(1, 1).bool()}
    presence = torch.tensor([[1.0, 1.0, 0.4]])
    return batch, Scene(reconstruction=image, boxes=boxes, presence=presence, what=boxes, category=category)


def test_boxes_have_the_colours_of_their_categories() -> None:
    category = torch.eye(4)[torch.tensor([[3, 1, 2]])]
    colours = colours_in(draw_scenes(*scene_of_two(category)))
    assert {TRUE_COLOR, category_color(3), category_color(1)} <= colours
    assert not colours & {category_color(2), PREDICTED_COLOR}  # one is below the threshold, the other for no category
    colours = colours_in(draw_scenes(*scene_of_two(None)))
    assert {TRUE_COLOR, PREDICTED_COLOR} <= colours
    assert not colours & set(CATEGORY_COLORS[1:])


def test_masks_attention_and_background_have_rows_of_their_own() -> None:
    batch, scene = scene_of_two(None)
    plain = draw_scenes(batch, scene, scale=1)
    row, top = 48 + GAP, 2 * LINE + GAP
    mask = torch.zeros(1, 48, 48, dtype=torch.long)
    mask[0, :10, :20], mask[0, 30:, 30:] = 2, 3
    attention = torch.zeros(1, 3, 12, 12)
    attention[0, 0, 3, 5], attention[0, 1, 8, 8], attention[0, 2] = 1, 0.5, 1 / 144
    background = torch.full((1, 1, 48, 48), 0.2)
    background[..., 40:] = 0.4
    full = draw_scenes(batch, replace(scene, mask=mask, attention=attention, background=background), scale=1)
    pixels = np.asarray(full)
    assert full.height == top + 6 * row
    assert np.array_equal(pixels[: top + 3 * row], np.asarray(plain))
    masks, looks, behind = (pixels[top + k * row :, MARGIN:][:48, :48] for k in (3, 4, 5))
    assert tuple(masks[5, 5]) == category_color(1)
    assert tuple(masks[40, 40]) == category_color(2)
    assert tuple(masks[20, 40]) == (0, 0, 0)
    everywhere = np.array(category_color(2))
    assert np.array_equal(looks[0, 0], everywhere)
    assert np.array_equal(looks[3 * 4 + 1, 5 * 4 + 1], np.minimum(everywhere + category_color(0), 255))
    assert (behind[:, :40] == 51).all()
    assert (behind[:, 40:] == 102).all()
    flat = replace(scene, background=torch.full((1, 1, 48, 48), 0.2))
    assert np.array_equal(np.asarray(draw_scenes(batch, flat, scale=1)), np.asarray(plain))  # nothing to see
    true_mask = np.asarray(draw_scenes({**batch, "mask": mask}, scene, scale=1))[top + 3 * row :, MARGIN:]
    assert tuple(true_mask[5, 5]) == category_color(1)


def test_labels_never_lie_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of boxes in one place as many have labels as there is room for."""
    plates: list[tuple[float, ...]] = []
    place = sheets._free_place
    monkeypatch.setattr(sheets, "_free_place", lambda *given: plates.append(found := place(*given)) or found)
    rng = np.random.default_rng(0)
    for boxes, least in (
        ([(40.0, 40.0, 60.0, 60.0)] * 12, 3),
        ([(x, y, x + 9, y + 9) for x, y in rng.uniform(0, 110, (40, 2))], 15),
    ):
        plates.clear()
        picture = Image.new("RGB", (128, 128))
        draw_boxes(picture, boxes, [(255, 255, 255)] * len(boxes), ["8: 0.51"] * len(boxes))
        written = [plate for plate in plates if plate is not None]
        assert least <= len(written) < len(boxes)
        for (a, b, c, d), (e, f, g, h) in itertools.combinations(written, 2):
            assert c <= e or g <= a or d <= f or h <= b
        for left, top, right, bottom in written:
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 128


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_boxes_and_labels_are_seen_on_any_ground(ground: int) -> None:
    picture = Image.new("RGB", (64, 64), (ground,) * 3)
    draw_boxes(picture, torch.tensor([[10.0, 20, 40, 50]]), [TRUE_COLOR], ["7"])
    pixels = np.asarray(picture).astype(int)
    assert tuple(pixels[20, 25]) == tuple(pixels[49, 25]) == tuple(pixels[30, 39]) == TRUE_COLOR
    assert tuple(pixels[19, 25]) == (0, 0, 0)  # the dark edge
    plate = pixels[7:19, 10:17]
    assert plate.min() == 0
    assert plate.max() > 150


def test_a_presence_of_one_is_not_written() -> None:
    assert [presence_label(1.0), presence_label(0.994), presence_label(0.5, 3), presence_label(1.0, 3)] == [
        *("", "0.99", "3: 0.50", "3")
    ]


def test_sheets_have_their_titles_and_fit_a_screen() -> None:
    picture = Image.new("RGB", (60, 40), (255, 0, 0))
    long = "a title that needs more than one line of the margin"
    sheet = np.asarray(sheet_of({"one": [picture] * 2, long: [picture] * 2}, columns=["first", "second"]))
    lines = wrap(long, MARGIN - 2 * GAP)
    assert len(lines) > 1
    assert " ".join(lines) == long
    assert sheet.shape[0] == LINE + GAP + 40 + GAP + max(40, LINE * len(lines)) + GAP
    assert (sheet[LINE + GAP, MARGIN] == (255, 0, 0)).all()
    assert (sheet[LINE + GAP + 40 + GAP, MARGIN + 60 + GAP] == (255, 0, 0)).all()
    assert INK in colours_in(Image.fromarray(sheet[:, : MARGIN - GAP]))
    parts = [Image.new("RGB", (300, height), (0, 255, 0)) for height in (500, 300, 400, 300)]
    both = arrange(parts)
    assert both.size == (600 + 4 * GAP, 800)
    assert (np.asarray(both) == (0, 255, 0)).all(-1).sum() == 300 * 1500  # nothing lies on another
    assert arrange(parts[:2]).size == (300, 800)
    assert GROUND in colours_in(both)


def test_colours_are_far_apart_and_come_round_again() -> None:
    pairs = itertools.combinations((*CATEGORY_COLORS, TRUE_COLOR), 2)
    assert min(np.abs(np.subtract(a, b)).sum() for a, b in pairs) >= 70
    assert category_color(len(CATEGORY_COLORS) + 2) == CATEGORY_COLORS[2]


@pytest.mark.parametrize("attributes", [0, 2])
def test_composed_sheet_has_what_was_asked_for(attributes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DiscreteAIR(**SMALL, attribute_dim=attributes)
    asked: list[tuple[Any, ...]] = []
    compose = model.compose
    monkeypatch.setattr(model, "compose", lambda *args: asked.append(args) or compose(*args))
    height = draw_composed(model, 3, (48, 48)).height
    first, second, many, turned, *varied = asked
    assert torch.cat([first[0], second[0]]).flatten().tolist() == [0, 1, 2, 3, 4]  # wrapped at three in a row
    assert many[0].shape[1] > model.hp.num_steps
    assert (turned[2][..., 4].diff(dim=0) > 0).all()
    assert len(varied) == attributes
    for a, (_, values, *_) in enumerate(varied):
        assert values[:, 0, a].tolist() == [-2, 0, 2]
        assert values.count_nonzero() == 2 * model.hp.num_categories  # nothing else
    assert height == (4 + attributes) * (144 + GAP) + GAP
    for _, _, where, _ in asked:  # nobody touches another or the edge
        (x, y, w, h), n = where[0, :, :4].unbind(-1), where.shape[1]
        assert ((x > w / 2) & (x < 48 - w / 2) & (y > h / 2) & (y < 48 - h / 2)).all()
        apart = torch.maximum((x[:, None] - x).abs() / w, (y[:, None] - y).abs() / h)
        assert (apart + 2 * torch.eye(n) > 1).all()


def test_generated_scenes_are_repeatable_and_have_objects() -> None:
    class Uncounted:  # as SPAIR: the count is the prior's alone
        def generate(self, num_images: int, image_size: tuple[int, int], generator: torch.Generator) -> Scene:
            image = torch.rand(num_images, 3, *image_size, generator=generator)
            return Scene(reconstruction=image, boxes=image, presence=image, what=image)

    model = DiscreteAIR(**SMALL, initial_biases={"decoder": 3.0})
    for drawer in (model, Uncounted()):
        state = torch.get_rng_state()
        sheets = [np.asarray(draw_generated(drawer, 4, (48, 48))) for _ in range(2)]
        assert (sheets[0] == sheets[1]).all()
        assert torch.equal(state, torch.get_rng_state())  # pictures do not change what training draws
        assert sheets[0].shape == (144 + 2 * GAP, MARGIN + 4 * (144 + GAP) + GAP, 3)
        assert sheets[0][:, MARGIN:].max() > 128


def test_training_and_test_leave_their_sheets(tmp_path: Path, uci_data: Any) -> None:
    data = uci_data(image_size=48, channels=1)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        val_check_interval=1,
        callbacks=[ScenePictures(num_images=2)],
        logger=CSVLogger(tmp_path),
        **quiet,
    )
    model = DiscreteAIR(**SMALL)
    trainer.fit(model, data)
    assert trainer.log_dir is not None
    folder = Path(trainer.log_dir, "pictures")
    imagined = {"generated.png", "composed.png"}
    assert {path.name for path in folder.iterdir()} == {"val_step0000001.png", "last.png", *imagined}
    for name in imagined:
        (folder / name).unlink()
    last = (folder / "last.png").read_bytes()
    trainer.test(model, data, verbose=False)
    assert {path.name for path in folder.iterdir()} >= {"test.png", *imagined}
    assert (folder / "last.png").read_bytes() == last  # of the last validation


def test_single_objects_in_styles_and_images_drawn_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GMAIR(**GMAIR_SMALL).eval()
    rows_of: list[dict] = []
    monkeypatch.setattr(pictures, "sheet_of", lambda rows, **_: rows_of.append(rows))
    pictures.draw_styles(model, 3)
    (styles,) = rows_of
    assert [title.split(":")[0] for title in styles] == ["category 0", "category 1", "category 2"]
    cells = [[np.asarray(cell) for cell in row] for row in styles.values()]
    boxes = torch.tensor([[[1.0, 1, 13, 13]]])  # half the anchor
    for category, row in enumerate(cells):
        average = model.assemble(torch.tensor([[category]]), None, boxes, (14, 14)).reconstruction[0]
        assert np.array_equal(row[0], np.asarray(pictures.to_picture(average, 52 // 14)))
        assert len({cell.tobytes() for cell in row}) == 3
    image = torch.rand(2, 1, 48, 48)
    pictures.draw_varied(model, image)
    varied = [np.stack([np.asarray(cell) for cell in row]) for row in rows_of[1].values()]
    scale = varied[0].shape[1] // 48
    seen = (image, model(image).reconstruction, model.vary(image, category=0).reconstruction)
    for row, expected in zip(varied, seen, strict=False):
        assert np.array_equal(row, np.stack([np.asarray(pictures.to_picture(each, scale)) for each in expected]))
    assert len(varied) == 5
    assert not np.array_equal(varied[3], varied[1])
