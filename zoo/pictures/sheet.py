"""Sheets of pictures in rows, their titles to the left, and labelled boxes: what can be read on any ground."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GROUND, INK = (24, 24, 28), (225, 225, 225)
GAP = 4  # pixels between pictures
MARGIN = 124  # pixels to the left of the pictures, for the titles of rows
LINE = 18  # pixels of a line of text
_TALL = 1100  # pixels of a sheet that fits a screen
_FONT_SIZE = 13
Box = tuple[float, float, float, float]  # (x1, y1, x2, y2) in the pixels of a picture


def _font(size: int = _FONT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def wrap(text: str, width: int, size: int = _FONT_SIZE) -> list[str]:
    """Lines of a text that are at most `width` pixels wide, as far as its words are."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def sheet_of(rows: dict[str, list[Image.Image]], *, caption: str = "", columns: Sequence[str] = ()) -> Image.Image:
    """Rows of equally large pictures, each to the right of its title.

    Args:
        rows: Pictures by the titles of rows.
        caption: Above all of them, on one line.
        columns: Above the pictures of each column.

    Returns:
        An RGB picture.
    """
    first = next(iter(rows.values()))[0]
    count = max(len(row) for row in rows.values())
    head = LINE * (bool(caption) + bool(columns))
    width = MARGIN + count * (first.width + GAP) + GAP
    if caption:
        width = max(width, round(_font().getlength(caption)) + 2 * GAP)
    texts = {title: wrap(title, MARGIN - 2 * GAP) for title in rows}
    heights = {title: max(first.height, LINE * len(lines)) + GAP for title, lines in texts.items()}
    sheet = Image.new("RGB", (width, head + sum(heights.values()) + GAP), GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 1), caption, fill=INK, font=_font())
    for c, name in enumerate(columns):
        draw.text((MARGIN + c * (first.width + GAP), head - LINE + 1), name, fill=INK, font=_font())
    top = head + GAP
    for title, row in rows.items():
        for i, line in enumerate(texts[title]):
            draw.text((GAP, top + i * LINE), line, fill=INK, font=_font())
        for c, picture in enumerate(row):
            sheet.paste(picture, (MARGIN + c * (first.width + GAP), top))
        top += heights[title]
    return sheet


def arrange(parts: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other, in two columns where one were higher than a screen: those that are most alike."""
    total = sum(part.height for part in parts)
    cut = len(parts)
    if total > _TALL and len(parts) > 1:
        cut = min(range(1, len(parts)), key=lambda i: abs(2 * sum(part.height for part in parts[:i]) - total))
    columns = [column for column in (parts[:cut], parts[cut:]) if column]
    widths = [max(part.width for part in column) for column in columns]
    heights = [sum(part.height for part in column) for column in columns]
    sheet = Image.new("RGB", (sum(widths) + 4 * GAP * (len(columns) - 1), max(heights)), GROUND)
    left = 0
    for width, column in zip(widths, columns, strict=True):
        top = 0
        for part in column:
            sheet.paste(part, (left, top))
            top += part.height
        left += width + 4 * GAP
    return sheet


def draw_boxes(
    picture: Image.Image,
    boxes: Sequence[Box] | Tensor,
    colors: Sequence[tuple[int, ...]],
    labels: Sequence[str] = (),
    width: int = 1,
) -> None:
    """Outline boxes with their labels, in place.

    Outlines have a dark edge, labels stand on a dark plate: both are seen on any ground. A label is above its box, or
    below, or within; where it would lie on another it is left out, as that of the box that comes later.

    Args:
        picture: RGB.
        boxes: In its pixels.
        colors: Of each box.
        labels: Of each box, empty ones are not drawn; none at all: no labels.
        width: Of the outlines in pixels.
    """
    draw = ImageDraw.Draw(picture)
    corners = [
        (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        for x1, y1, x2, y2 in (boxes.tolist() if isinstance(boxes, Tensor) else boxes)
    ]
    for x1, y1, x2, y2 in corners:
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=1)
    for box, color in zip(corners, colors, strict=True):
        draw.rectangle(box, outline=color, width=width)
    taken: list[Box] = []
    for box, color, label in zip(corners, colors, labels, strict=False):
        place = _free_place(box, _extent(label), picture.size, taken) if label else None
        if place is not None:
            taken.append(place)
            draw.rectangle(place, fill=(0, 0, 0))
            draw.text((place[0] + 1, place[1]), label, fill=color, font=_font(11))


def presence_label(score: float, category: int | None = None) -> str:
    """What is written at an object: its category, if there are such, and its presence, unless that is as good as 1."""
    parts = ([] if category is None else [str(category)]) + [f"{score:.2f}"] * (score < 0.995)
    return ": ".join(parts)


def _extent(label: str) -> tuple[int, int]:
    """Width and height of a label's plate."""
    return round(_font(11).getlength(label)) + 2, 12


def _free_place(box: Box, extent: tuple[int, int], size: tuple[int, int], taken: Sequence[Box]) -> Box | None:
    """Where a label lies on no other: above its box, below it, or within it at the top or the bottom."""
    (x1, y1, x2, y2), (w, h) = box, extent
    for left in (x1, x2 - w):
        for top in (y1 - h - 1, y2 + 2, y1 + 1, y2 - h - 1):
            x = min(max(left, 0), max(0, size[0] - w))
            place = (x, top, x + w, top + h)
            inside = top >= 0 and top + h <= size[1]
            if inside and not any(
                place[0] < right and other_left < place[2] and place[1] < bottom and other_top < place[3]
                for other_left, other_top, right, bottom in taken
            ):
                return place
    return None
