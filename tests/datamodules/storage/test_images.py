"""Images of every origin are the same image; resizing can be undone; what is none is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageError
from datamodules.storage.images import (
    fit_boxes,
    fit_image,
    fit_mask,
    image_files,
    orientation,
    read_image,
    to_channels,
    to_images,
    turn_boxes,
    turn_mask,
    unfit_boxes,
    unfit_mask,
)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)


def test_files_arrays_tensors_and_pillow_images_are_the_same_image(tmp_path: Path, pixels: np.ndarray) -> None:
    path, expected = tmp_path / "a.png", torch.from_numpy(pixels).permute(2, 0, 1) / 255
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    sources = [Image.fromarray(pixels), pixels, pixels / 255, tensor, tensor / 255, pixels[None], [tensor]]
    for source in sources:
        (image,) = to_images(source)
        torch.testing.assert_close(image, expected)
    for source in (path, str(path), tmp_path):
        assert to_images(source) == [path]
    torch.testing.assert_close(read_image(path), expected)
    both = to_images([str(path), np.stack([pixels, pixels])])
    assert both[0] == path
    assert len(both) == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_kind_of_pixel_becomes_grey_or_colour_in_the_unit_range(tmp_path: Path, mode: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (8, 1))
    picture = Image.fromarray(ramp).convert("RGB" if mode == "P" else mode if mode != "I;16" else "L")
    if mode == "P":
        picture = picture.quantize(256)
    if mode == "I;16":
        picture = Image.fromarray(ramp.astype(np.uint16) * 257)
    path = tmp_path / f"a.{'tif' if mode in ('CMYK', 'YCbCr') else 'png'}"
    picture.save(path)
    image = read_image(path)
    assert image.shape == (1 if mode in ("1", "L", "LA", "I;16") else 3, 8, 16)
    if mode != "1":  # which has two values
        expected = torch.from_numpy(ramp / 255).float().expand_as(image)
        torch.testing.assert_close(image, expected, atol=0.03 if mode == "YCbCr" else 3e-3, rtol=0)


def test_what_is_transparent_is_black_and_photographs_stand_upright(tmp_path: Path) -> None:
    rgba = np.full((4, 4, 4), 255, np.uint8)
    rgba[:2, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").amax((0, 2)).tolist() == [0, 0, 1, 1]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the first column is shown as the first row
    sideways = np.zeros((16, 32), np.uint8)
    sideways[:, :16] = 255
    Image.fromarray(sideways).save(tmp_path / "b.jpg", exif=exif)
    image = read_image(tmp_path / "b.jpg")
    assert image.shape == (1, 32, 16)
    assert image[0, :14].min() > 0.9
    assert image[0, 18:].max() < 0.1


def test_grey_is_what_pillow_makes_of_colours(pixels: np.ndarray) -> None:
    (image,) = to_images(pixels)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    torch.testing.assert_close(to_channels(image, 1)[0] * 255, torch.from_numpy(grey.copy()).float(), atol=1, rtol=0)
    assert torch.equal(to_channels(image[:1], 3), image[:1].repeat(3, 1, 1))


def test_resizing_is_pillows_and_padding_keeps_proportions(pixels: np.ndarray) -> None:
    (image,) = to_images(pixels)
    stretched, place = fit_image(image, (5, 7))
    pillow = np.array(Image.fromarray(pixels).resize((7, 5), Image.Resampling.BILINEAR))
    torch.testing.assert_close(stretched * 255, torch.from_numpy(pillow).permute(2, 0, 1).float(), atol=1, rtol=0)
    assert place.scale == (2, 2)
    padded, place = fit_image(torch.ones(3, 10, 14), (20, 20), "pad")
    assert place[:4] == (0, 3, 14, 20)
    assert padded[0, :, 5].tolist() == [0] * 3 + [1] * 14 + [0] * 3
    with pytest.raises(ValueError, match="fit='squeeze': must be one of stretch, pad"):
        fit_image(image, (5, 5), "squeeze")  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_boxes_and_masks_follow_the_image_and_come_back(fit: str) -> None:
    mask = np.zeros((10, 14), np.uint8)
    mask[2:6, 3:9] = 1
    image, place = fit_image(torch.from_numpy(mask).float()[None], (40, 42), fit)  # type: ignore[arg-type]
    box = torch.tensor([3.0, 2, 9, 6])
    fitted = fit_boxes(box, place)
    torch.testing.assert_close(unfit_boxes(fitted, place), box)
    big = fit_mask(mask, (40, 42), fit)  # type: ignore[arg-type]
    rows, columns = np.nonzero(big)
    assert fitted.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    differing = (image[0] > 0.5) != torch.from_numpy(big > 0)
    assert differing.sum() <= 4  # interpolation rounds the corners
    assert (unfit_mask(big, place) == mask).all()


def test_what_is_no_image_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg"):
        with pytest.raises(ImageError, match=f"{name} cannot be read as an image"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"there is no file .*gone\.png"):
        read_image(tmp_path / "gone.png")
    empty = tmp_path / "empty"
    (empty / ".hidden").mkdir(parents=True)
    (empty / ".hidden" / "a.png").touch()
    with pytest.raises(FileNotFoundError, match=r"no images in .*empty: looked for .bmp"):
        image_files(empty)
    for wrong, message in (
        (torch.rand(2, 2), r"shape \(2, 2\): expected \(C, H, W\)"),
        (torch.rand(2, 4, 4), "1 or 3 channels, before height"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), "images of torch.int64"),
        (torch.full((1, 4, 4), 255.0), "got 255 to 255; divide"),
        (np.zeros((3, 8, 8)), "torch.from_numpy makes a tensor"),
        (7, "a int is no image"),
    ):
        with pytest.raises(ImageError, match=message):
            to_images(wrong)


@pytest.mark.parametrize("most", [1, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_grey_levels_of_portable_maps_are_shares_of_the_files_own_maximum(
    tmp_path: Path, most: int, plain: bool
) -> None:
    levels = np.linspace(0, most, 12).round().astype(np.int64).reshape(3, 4)
    path = tmp_path / "a.pgm"
    if plain:
        path.write_text(
            f"P2\n# a comment\n4 3\n{most}\n" + "\n".join(" ".join(map(str, row)) for row in levels.tolist())
        )
    else:
        path.write_bytes(f"P5 4 3 {most}\n".encode() + levels.astype(">u2" if most > 255 else "u1").tobytes())
    image = read_image(path)
    assert image.shape == (1, 3, 4)
    np.testing.assert_allclose(image[0].numpy(), levels / most, atol=0.5 / (255 if most < 256 else 65535) + 1e-6)
    (same,) = to_images(Image.open(path))
    assert torch.equal(same, image)


def test_twelve_bits_in_a_tiff_are_shares_of_twelve_bits(tmp_path: Path) -> None:
    levels = np.array([[0, 1000], [4095, 7]], np.uint16)
    bits = "".join(f"{v:012b}" for row in levels for v in row)
    Image.fromarray(levels).save(tmp_path / "whole.tif")
    packed = bytes(int(bits[i : i + 8], 2) for i in range(0, 48, 8))
    with Image.open(tmp_path / "whole.tif") as whole:
        tags, offset = whole.tag_v2, whole.tag_v2[273][0]
        assert tags[258] == (16,)
    data = bytearray((tmp_path / "whole.tif").read_bytes())
    start = int.from_bytes(data[4:8], "little")
    for i in range(int.from_bytes(data[start : start + 2], "little")):
        entry = start + 2 + 12 * i
        if int.from_bytes(data[entry : entry + 2], "little") == 258:
            data[entry + 8 : entry + 10] = (12).to_bytes(2, "little")
    data[offset : offset + 6] = packed
    (tmp_path / "deep.tif").write_bytes(bytes(data))
    np.testing.assert_allclose(read_image(tmp_path / "deep.tif")[0].numpy(), levels / 4095, atol=1e-6)
    np.testing.assert_allclose(read_image(tmp_path / "whole.tif")[0].numpy(), levels / 65535, atol=1e-6)


@pytest.mark.parametrize("how", range(1, 9))
def test_masks_and_boxes_are_turned_as_their_image(tmp_path: Path, how: int) -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[1:4, 2:9] = 255
    exif = Image.Exif()
    exif[0x0112] = how
    Image.fromarray(mask).save(tmp_path / "a.png", exif=exif)
    seen = (read_image(tmp_path / "a.png")[0].numpy() * 255).astype(np.uint8)
    with Image.open(tmp_path / "a.png") as picture:
        assert orientation(picture) == how
    assert (turn_mask(mask, how) == seen).all()
    rows, columns = np.nonzero(seen)
    box = turn_boxes(torch.tensor([2.0, 1, 9, 4]), (8, 12), how)
    assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_formats_that_run_programs_and_images_of_too_many_pixels_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n")
    with pytest.raises(ImageError, match=r"a\.png cannot be read as an image: cannot identify"):
        read_image(tmp_path / "a.png")
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 50_000
    with pytest.raises(ImageError, match=r"it has 13000 x 13000 pixels, more than 89478485 in all; .*ZOO_MAX_PIXELS"):
        read_image(tmp_path / "bomb.png")
    Image.new("L", (40, 30)).save(tmp_path / "small.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # is set back after the test
    for most, message in (("1199", "more than 1199 in all"), ("many", "must be a number of pixels")):
        monkeypatch.setenv("ZOO_MAX_PIXELS", most)
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / "small.png")
    monkeypatch.setenv("ZOO_MAX_PIXELS", "1200")
    assert read_image(tmp_path / "small.png").shape == (1, 30, 40)
