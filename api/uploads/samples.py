"""The sheet of sample images of a dataset: a PNG with the first images of each class, one class per row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from api.uploads.pixels import Array
from shared.datasets.catalog import SAMPLES

COLUMNS, MAX_ROWS = 8, 20
MAX_TILE = 64  # pixels
GAP, BACKGROUND = 2, 128


def write(folder: Path, images: Array, labels: Array, classes: int, white: float) -> None:
    """Write the sheet of these training images into `folder`."""
    (folder / SAMPLES).write_bytes(sheet(images, labels, classes, white))


def sheet(images: Array, labels: Array, classes: int, white: float) -> bytes:
    """A PNG of the first `COLUMNS` images of each of the first `MAX_ROWS` classes.

    images (N,C,H,W) from 0 to `white`, of 1 or 3 channels; labels (N). Larger images are reduced to `MAX_TILE` pixels.
    """
    channels, height, width = images.shape[1:]
    scale = min(1.0, MAX_TILE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    rows = min(classes, MAX_ROWS)
    mode = "L" if channels == 1 else "RGB"
    background = (BACKGROUND,) * channels
    picture = Image.new(mode, (COLUMNS * (size[0] + GAP) - GAP, rows * (size[1] + GAP) - GAP), background)
    for row in range(rows):
        for column, index in enumerate(np.flatnonzero(labels == row)[:COLUMNS]):
            picture.paste(
                _tile(np.asarray(images[index]), white, size), (column * (size[0] + GAP), row * (size[1] + GAP))
            )
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _tile(image: Array, white: float, size: tuple[int, int]) -> Image.Image:
    """An image (C,H,W) as Pillow has it, of (width, height) `size`."""
    values = np.rint(image.astype(np.float64) * (255 / white)).clip(0, 255).astype(np.uint8)
    tile = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    return tile if tile.size == size else tile.resize(size, Image.Resampling.BOX)
