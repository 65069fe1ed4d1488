"""Decodes PNG and JPEG with Pillow: for uploads and for predictions alike, and as `inference.read_png` does alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from api.uploads.pixels import Array
from shared import inference

FORMATS = ("PNG", "JPEG")
BAND_ROWS = 256  # of a picture that are converted at once: Pillow's bytes are copied several times
MAX_DEEP_PIXELS = 1 << 20  # of a PNG that Pillow does not read completely: as floats it has some 100 bytes per pixel
DEPTH_AT, COLOUR_AT = 24, 25  # bytes of a PNG's header


def decode(content: bytes, check_size: Callable[[int, int], None]) -> Array:
    """The picture as it is meant to be shown: (H,W,C), where C = 1 to 4 is grey or RGB, with or without alpha.

    uint16 for 16-bit grey, else uint8; other samples of 16 bits are reduced to their upper 8. A palette of greys is
    grey. `check_size` is called with the stored width and height before anything is decoded, and may raise. Raises
    whatever Pillow's decoders raise, and inference.Refused.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        check_size(*image.size)
        if image.format == "PNG" and _has_deep_transparent_colour(image, content):
            if image.width * image.height > MAX_DEEP_PIXELS:
                what = f"{image.width}x{image.height} pixels of 16 bits per colour with a transparent colour"
                raise inference.Refused(f"{what}; at most {MAX_DEEP_PIXELS} are accepted. Save it with 8 bits")
            return np.rint(inference.read_png(content) * 255).astype(np.uint8)  # Pillow has lost the lower bits
        palette = bytes(image.palette.palette) if image.mode == "P" and image.palette is not None else b""
        image.load()
        pixels = _from_png(image, content, palette) if image.format == "PNG" else _array(image)
        return inference.turned(pixels, inference.orientation_of(image.info.get("exif", b"")))


def _has_deep_transparent_colour(image: Image.Image, content: bytes) -> bool:
    return (content[DEPTH_AT], content[COLOUR_AT]) == (16, inference.RGB) and b"tRNS" in content


def _array(image: Image.Image) -> Array:
    """A picture without palette and 16 bits: bytes (H,W,C)."""
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        rows = pixels[top : top + BAND_ROWS]
        rows[:] = np.asarray(image.crop((0, top, image.width, top + len(rows)))).reshape(rows.shape)
    return pixels


def _from_png(image: Image.Image, content: bytes, palette: bytes) -> Array:
    """With the transparency that the chunk tRNS gives, which Pillow reads and does not apply."""
    depth, colour = content[DEPTH_AT], content[COLOUR_AT]
    transparent = image.info.get("transparency")
    if image.mode == "P":
        table = np.frombuffer(palette, np.uint8)
        return inference.coloured(np.asarray(image), table[: len(table) // 3 * 3].reshape(-1, 3), _alphas(transparent))
    if image.mode.startswith("I"):  # 16-bit grey
        pixels = np.asarray(image).astype(np.uint16)[..., None]
    else:
        pixels = _array(image)
        if colour == inference.GREY_ALPHA:
            pixels = pixels[..., [0, -1]]  # with 16 bits Pillow makes it RGBA
    if transparent is None or colour not in (inference.GREY, inference.RGB):
        return pixels
    if colour == inference.GREY:  # given in the depth of the file; Pillow spreads less than 8 bits to 255
        spread = 255 // (2**depth - 1) if depth < 8 else 1
        clear = np.array([(int(transparent) & (2**depth - 1)) * spread])  # of 1 bit, Pillow gives 255 for 1
    else:
        clear = np.array(transparent) & (2**depth - 1)
    most = pixels.dtype.type(np.iinfo(pixels.dtype).max)
    out = np.empty((*pixels.shape[:2], pixels.shape[2] + 1), pixels.dtype)
    for top in range(0, len(pixels), BAND_ROWS):
        rows = pixels[top : top + BAND_ROWS]
        out[top : top + BAND_ROWS, :, :-1] = rows
        out[top : top + BAND_ROWS, :, -1] = (rows != clear).any(2) * most
    return out


def _alphas(transparent: Any) -> bytes | None:
    """The content of tRNS: Pillow gives the number of a colour instead, if that is the only transparent one."""
    return b"\xff" * transparent + b"\0" if isinstance(transparent, int) else transparent
