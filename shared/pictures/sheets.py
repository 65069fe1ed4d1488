"""Sheets of images and tables of numbers as pictures: test images, confusion matrix, weights of the first layer.

Drawn with numpy and Pillow: matplotlib takes 60 ms per picture.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.pictures.drawing import Array, Drawing, FirstLayer, ShownImages
from shared.plain_text import refusal

Picture = Image.Image
Colour = tuple[int, int, int]
Words = tuple[str, Colour]  # one line of a caption

COLUMNS = 10
TILE, GAP, MARGIN = 88, 14, 22
NARROWEST = 640
TEXT_SIZE, TITLE_SIZE, LINE = 13, 16, 17
PAPER: Colour = (255, 255, 255)
INK: Colour = (42, 42, 42)
FAINT: Colour = (120, 120, 120)
RED: Colour = (200, 16, 46)
BLUE: Colour = (31, 95, 168)


# --- test images ------------------------------------------------------------------------------------------------------


def predictions(drawing: Drawing) -> Picture:
    """Test images of all classes, with true and predicted labels, in red where they differ."""
    total = int(drawing.matrix.sum())
    share = int(np.trace(drawing.matrix)) / total
    title = f"test images, true → predicted: {share:.2%} right over all {total}"
    return _sheet(drawing.predictions, title, _captions(drawing.predictions, drawing.classes))


def mistakes(drawing: Drawing) -> Picture:
    """The wrongly labelled test images with the highest confidence."""
    total = int(drawing.matrix.sum())
    wrong = total - int(np.trace(drawing.matrix))
    shown = drawing.mistakes
    if not wrong:
        return _message(f"no mistakes: all {total} test images are labelled correctly")
    number = "1 mistake" if wrong == 1 else f"{wrong} mistakes"
    surest = f"; the {len(shown.true)} surest" if wrong > len(shown.true) else ""
    title = f"{number} on {total} test images{surest}: true → predicted, with the model's confidence"
    captions = [
        [*lines, (f"{sure:.1%}", FAINT)]
        for lines, sure in zip(_captions(shown, drawing.classes), shown.confidence, strict=True)
    ]
    return _sheet(shown, title, captions)


def _captions(shown: ShownImages, classes: Sequence[str]) -> list[list[Words]]:
    """One line if all names have at most three letters, else one line per name."""
    classes = drawable(classes)
    short = max(map(len, classes)) <= 3
    captions: list[list[Words]] = []
    for t, p in zip(shown.true, shown.predicted, strict=True):
        colour = INK if t == p else RED
        if short:
            captions.append([(f"{classes[t]} → {classes[p]}", colour)])
        else:
            captions.append([(classes[t], colour), (f"→ {classes[p]}", colour)])
    return captions


def _sheet(shown: ShownImages, title: str, captions: list[list[Words]]) -> Picture:
    return _tiles([_as_picture(image) for image in with_colours(shown.images)], title, captions)


def with_colours(images: Array) -> Array:
    """(N,H,W,C) of one or three channels -> (N,H,W,3)"""
    return np.broadcast_to(images, (*images.shape[:3], 3))


def reduced(pixels: Array) -> Array:
    """(H,W,C) uint8 of one or three channels -> the same, at most TILE wide and high: what a sheet shows of it."""
    height, width, channels = pixels.shape
    longest = max(height, width)
    if longest <= TILE:
        return pixels
    size = max(1, round(width * TILE / longest)), max(1, round(height * TILE / longest))
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    return np.asarray(picture.resize(size, Image.Resampling.BOX)).reshape(size[1], size[0], channels)


def _as_picture(pixels: Array) -> Picture:
    """(H,W,3) uint8 -> a picture about TILE wide, enlarged by a whole factor so that pixels stay square."""
    pixels = reduced(pixels)
    height, width = pixels.shape[:2]
    scale = round(TILE / max(height, width))
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)


def _tiles(pictures: list[Picture], title: str, captions: list[list[Words]], foot: int = 0) -> Picture:
    """Rows of pictures, each under its caption, with `foot` free dots at the bottom of the page."""
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    wide = max(TILE, *(picture.width for picture in pictures)) + GAP
    lines = max(map(len, captions))
    tall = max(picture.height for picture in pictures) + lines * LINE + GAP
    width = max(columns * wide - GAP + 2 * MARGIN, NARROWEST)
    heading = wrapped(title, width - 2 * MARGIN)
    top = MARGIN + len(heading) * (TITLE_SIZE + 6) + 6
    page, draw = _page(width, top + rows * tall - GAP + MARGIN + foot)
    _heading(draw, heading)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(i, columns)
        x, y = MARGIN + column * wide, top + row * tall
        for j, (text, colour) in enumerate(caption):
            middle = (x + (wide - GAP) / 2, y + (j + lines - len(caption)) * LINE)
            draw.text(middle, shortened(text, wide - 4), colour, font(TEXT_SIZE), anchor="ma")
        page.paste(picture, (x + (wide - GAP - picture.width) // 2, y + lines * LINE + 2))
    return page


def _message(text: str) -> Picture:
    page, draw = _page(NARROWEST, 120)
    draw.text((NARROWEST / 2, 60), text, INK, font(TITLE_SIZE), anchor="mm")
    return page


# --- confusion matrix -------------------------------------------------------------------------------------------------

WRITTEN_FROM = 30  # dots per cell: a count does not fit into less
NAMED_FROM = 9  # dots per cell: names would overlap in less
LARGEST = 2200  # dots of all cells together, so that no picture is wider or taller than 2400


def confusion_matrix(matrix: Array, classes: Sequence[str]) -> Picture:
    """Counts (K,K), rows true, columns predicted. Blue: right, red: wrong; darker for a larger share of the row."""
    n, classes = len(classes), drawable(classes)
    cell = max(1, min(130, max(4, (560 if n <= 10 else 900) // n), LARGEST // n))
    name_size = min(TEXT_SIZE, cell - 1)
    names = [shortened(name, 150, name_size) for name in classes] if cell >= NAMED_FROM else [""] * n
    widest = max(font(name_size).getlength(name) for name in names)
    left = MARGIN + LINE + 8 + round(widest)
    upright = widest > cell - 4  # the names of the columns are then rotated
    heading_lines = wrapped(
        "test images by true (row) and predicted (column) label", max(left + n * cell, NARROWEST) - MARGIN
    )
    heading = MARGIN + len(heading_lines) * (TITLE_SIZE + 6)
    top = heading + LINE + 12 + (round(widest) if upright else LINE)
    page, draw = _page(max(left + n * cell + MARGIN, NARROWEST), max(top + n * cell + MARGIN + LINE + 6, 420))
    _heading(draw, heading_lines)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    depth = np.sqrt(shares)[..., None]  # the root, so that one mistake in a hundred is visible
    full = np.where(np.eye(n, dtype=bool)[..., None], BLUE, RED)
    colours = (255 + (full - 255) * depth).round().astype(np.uint8)
    cells = np.repeat(np.repeat(colours, cell, axis=0), cell, axis=1)
    if cell >= NAMED_FROM:
        cells[::cell] = cells[:, ::cell] = 232
    page.paste(Image.fromarray(cells), (left, top))
    draw.rectangle((left, top, left + n * cell, top + n * cell), outline=(200, 200, 200))
    for i, name in enumerate(names):
        middle = i * cell + cell / 2
        draw.text((left - 6, top + middle), name, INK, font(name_size), anchor="rm")
        if upright:
            _upright(page, name, left + round(middle), top - 6, name_size)
        else:
            draw.text((left + middle, top - 6), name, INK, font(name_size), anchor="ms")
    draw.text((left + n * cell / 2, heading + 4), "predicted", FAINT, font(TEXT_SIZE), anchor="ma")
    _upright(page, "true", MARGIN + LINE // 2, top + n * cell // 2, TEXT_SIZE, FAINT, centred=True)
    if cell >= WRITTEN_FROM:
        for row, column in zip(*matrix.nonzero(), strict=True):
            count = str(matrix[row, column])
            size = next((s for s in (15, 12, 10, 8) if font(s).getlength(count) <= cell - 4), 7)
            colour = PAPER if depth[row, column, 0] > 0.7 else INK
            place = left + column * cell + cell / 2, top + row * cell + cell / 2
            draw.text(place, count, colour, font(size), anchor="mm")
    foot = "blue: right, red: wrong; deeper: a larger share of the row"
    draw.text((left, top + n * cell + 8), foot, FAINT, font(TEXT_SIZE))
    return page


def _upright(
    page: Picture, text: str, x: int, bottom: int, size: int, colour: Colour = INK, centred: bool = False
) -> None:
    """Draw text rotated by 90°, centred on the column x, from `bottom` upwards."""
    if not text:
        return
    strip = Image.new("L", (round(font(size).getlength(text)) + 1, size + 5))  # the opacity of each dot
    ImageDraw.Draw(strip).text((0, strip.height // 2), text, 255, font(size), anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    page.paste(colour, (x - turned.width // 2, bottom - turned.height // (2 if centred else 1)), turned)


# --- first layer ------------------------------------------------------------------------------------------------------


def first_layer(layer: FirstLayer, classes: Sequence[str]) -> Picture:
    """The weights of each unit of the first layer as an image, all on one scale around 0."""
    shown, units = len(layer.images), layer.units
    of = f"all {units} units" if units <= shown else f"the first {shown} of {units} units"
    names = drawable(classes) if layer.is_last else [str(i) for i in range(units)]
    captions: list[list[Words]] = [[(name, INK)] for name in names[:shown]]
    page = _tiles(
        [_as_picture(image) for image in layer.images], f"weights of the first layer, {of}", captions, foot=40
    )
    _scale(page, layer.largest, layer.is_grey)
    return page


def diverging(shades: Array) -> Array:
    """Values (…) from -1 to 1 -> colours (…,3) uint8 from blue over white to red."""
    far = np.where(shades[..., None] < 0, BLUE, RED)
    return (255 + (far - 255) * np.abs(shades)[..., None]).round().astype(np.uint8)


def _scale(page: Picture, largest: float, grey: bool) -> None:
    """The colour scale at the bottom of the page."""
    width, height, left, top = 240, 12, MARGIN, page.height - MARGIN - 22
    ramp = np.linspace(-1, 1, width)
    shades = np.repeat(((ramp[:, None] + 1) * 127.5).round().astype(np.uint8), 3, axis=1) if grey else diverging(ramp)
    page.paste(Image.fromarray(np.ascontiguousarray(np.broadcast_to(shades, (height, width, 3)))), (left, top))
    draw = ImageDraw.Draw(page)
    draw.rectangle((left, top, left + width, top + height), outline=(200, 200, 200))
    for place, text, anchor in ((0, f"−{largest:.3g}", "la"), (width // 2, "0", "ma"), (width, f"{largest:.3g}", "ra")):
        draw.text((left + place, top + height + 3), text, FAINT, font(TEXT_SIZE), anchor=anchor)
    note = "each channel by itself: red, green, blue" if grey else ""
    draw.text((left + width + 14, top - 2), note, FAINT, font(TEXT_SIZE))


# --- pages and fonts --------------------------------------------------------------------------------------------------


def _page(width: int, height: int) -> tuple[Picture, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (width, height), PAPER)
    return page, ImageDraw.Draw(page)


def _heading(draw: ImageDraw.ImageDraw, lines: list[str]) -> None:
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN - 6 + i * (TITLE_SIZE + 6)), line, INK, font(TITLE_SIZE))


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib's data, which has arrows and most alphabets."""
    return ImageFont.truetype(_font_file(), size)


def _font_file() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@functools.cache
def _letters() -> frozenset[int]:
    """The code points for which the font has a glyph."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file())).get_charmap())


def drawable(classes: Sequence[str]) -> list[str]:
    """The classes' names; for a name that is not plain text, or has a letter that the font lacks (Chinese, for
    example), the class's number."""
    return [
        name if refusal(name) is None and _letters().issuperset(map(ord, name)) else str(i)
        for i, name in enumerate(classes)
    ]


def shortened(text: str, width: float, size: int = TEXT_SIZE) -> str:
    """The text, shortened with `…` to at most `width` dots."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrapped(text: str, width: float) -> list[str]:
    """The lines of a title of at most `width` dots each."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(TITLE_SIZE).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
