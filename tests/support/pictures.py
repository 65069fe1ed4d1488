"""Pictures of every kind that PNG and JPEG have, of one drawing: transparent, turned, deep, with palettes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

SIDE = 12
Transpose = Image.Transpose
STORED_AS = {  # how a camera that writes this orientation stores the drawing
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


def drawing(label: int, i: int, side: int = SIDE) -> Any:
    """Greys (side,side) uint8: a bright half on noise. 0: the upper half, 1: the left one."""
    rng = np.random.default_rng(97 * i + label)
    greys = rng.integers(20, 60, (side, side))
    half = greys[: side // 2] if label == 0 else greys[:, : side // 2]
    half += 150
    return greys.astype(np.uint8)


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def oriented(greys: Any, orientation: int, format: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(greys).transpose(STORED_AS[orientation])
    return saved(image, format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))


def png(samples: Any, colour: int, depth: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of (h,w,channels) samples of 8 or 16 bits with `extra` chunks: of the kinds that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = samples.shape
    rows = np.ascontiguousarray(samples.astype(">u2" if depth == 16 else "u1")).view(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packed = zlib.compress(np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes())
    chunks = [(b"IHDR", header), *extra, (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def bright(greys: Any) -> Any:
    """Whether each pixel is bright, (h,w), with some noise."""
    return (greys > 120) ^ (greys % 16 == 0)


def _cut_out(greys: Any) -> tuple[Any, Any]:
    """The mask (h,w) of the bright part, and the colours that are hidden where it is not: white."""
    mask = bright(greys)
    return mask, np.where(mask, greys, 255).astype(np.uint8)


def _rgba(greys: Any, soft: bool = False) -> bytes:
    mask, colours = _cut_out(greys)
    alpha = np.where(mask, np.where(soft & (greys % 2 == 0), 120, 255), 0).astype(np.uint8)
    return saved(Image.fromarray(np.stack([colours, colours, colours // 2, alpha], axis=2)))


def _la(greys: Any) -> bytes:
    mask, colours = _cut_out(greys)
    return saved(Image.fromarray(np.stack([colours, mask * np.uint8(255)], axis=2), "LA"))


def _palette(greys: Any, colours: list[int], **options: Any) -> bytes:
    image = Image.fromarray(bright(greys).astype(np.uint8), "P")
    image.putpalette(colours)
    return saved(image, **options)


def _grey_trns(greys: Any) -> bytes:
    return saved(Image.fromarray(_cut_out(greys)[1]), transparency=255)


def _rgb_trns(greys: Any) -> bytes:
    mask, colours = _cut_out(greys)
    colours = np.stack([colours, colours, np.where(mask, colours // 2, 255).astype(np.uint8)], axis=2)
    return saved(Image.fromarray(colours), transparency=(255, 255, 255))


def _more_bits(greys: Any, colour: int) -> bytes:
    """With a transparent colour 0x01FF, of which 8 bits count."""
    channels = 3 if colour == 2 else 1
    samples = np.stack([_cut_out(greys)[1]] * channels, axis=2)
    return png(samples, colour, 8, (b"tRNS", struct.pack(f">{channels}H", *[0x01FF] * channels)))


def _oriented_after_a_prefix(greys: Any) -> bytes:
    """With EXIF data in a PNG as in a JPEG, which Pillow reads."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.asarray(Image.fromarray(greys).transpose(STORED_AS[6]))
    return png(turned[..., None], 0, 8, (b"eXIf", b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")))


def _deep(greys: Any) -> Any:
    """(h,w) of 16 bits, with lower bits of their own."""
    return greys.astype(np.uint16) * 257 - greys % 7


def _deep_grey_trns(greys: Any) -> bytes:
    deep = _deep(_cut_out(greys)[1])
    deep[~bright(greys)] = 65_535
    return png(deep[..., None], 0, 16, (b"tRNS", struct.pack(">H", 65_535)))


def _deep_rgb_trns(greys: Any) -> bytes:
    deep = np.stack([_deep(greys)] * 3, axis=2)
    deep[~bright(greys)] = (65_535, 65_535, 65_534)
    return png(deep, 2, 16, (b"tRNS", struct.pack(">3H", 65_535, 65_535, 65_534)))


def _deep_alpha(greys: Any, channels: int) -> bytes:
    mask, colours = _cut_out(greys)
    samples = [_deep(colours)] * channels + [mask * np.uint16(65_535)]
    return png(np.stack(samples, axis=2), 4 if channels == 1 else 6, 16)


KINDS: dict[str, Callable[[Any], bytes]] = {
    "grey": lambda greys: saved(Image.fromarray(greys)),
    "one bit": lambda greys: saved(Image.fromarray(bright(greys))),
    "RGB": lambda greys: saved(Image.fromarray(np.stack([greys, greys // 2, 255 - greys], axis=2))),
    "RGBA": _rgba,
    "RGBA, half transparent": lambda greys: _rgba(greys, soft=True),
    "LA": _la,
    "palette": lambda greys: _palette(greys, [40, 0, 0, 200, 190, 30]),
    "palette of greys": lambda greys: _palette(greys, [40, 40, 40, 200, 200, 200]),
    "palette with one transparent colour": lambda greys: _palette(greys, [255, 255, 255, 200, 90, 20], transparency=0),
    "palette with alphas": lambda greys: _palette(greys, [255, 255, 255, 9, 200, 0], transparency=b"\x10\xc8"),
    "palette of greys with transparency": lambda greys: _palette(greys, [255] * 3 + [200] * 3, transparency=0),
    "grey with tRNS": _grey_trns,
    "RGB with tRNS": _rgb_trns,
    "grey with a tRNS of more bits": lambda greys: _more_bits(greys, 0),
    "RGB with a tRNS of more bits": lambda greys: _more_bits(greys, 2),
    "16-bit grey": lambda greys: saved(Image.fromarray(_deep(greys))),
    "dark 16-bit grey": lambda greys: saved(Image.fromarray(greys.astype(np.uint16))),
    "16-bit grey with tRNS": _deep_grey_trns,
    "16-bit RGB": lambda greys: png(np.stack([_deep(greys), _deep(greys // 2), _deep(greys)], axis=2), 2, 16),
    "16-bit RGB with tRNS": _deep_rgb_trns,
    "16-bit LA": lambda greys: _deep_alpha(greys, 1),
    "16-bit RGBA": lambda greys: _deep_alpha(greys, 3),
    "JPEG": lambda greys: saved(Image.fromarray(greys), "JPEG", quality=95),
    "colour JPEG": lambda greys: saved(Image.fromarray(np.stack([greys, greys // 2, greys], axis=2)), "JPEG"),
    "CMYK JPEG": lambda greys: saved(Image.fromarray(np.stack([greys] * 3, axis=2)).convert("CMYK"), "JPEG"),
    **{f"PNG, orientation {o}": lambda greys, o=o: oriented(greys, o) for o in STORED_AS},
    "PNG, orientation 6 after a prefix": _oriented_after_a_prefix,
    **{f"JPEG, orientation {o}": lambda greys, o=o: oriented(greys, o, "JPEG") for o in STORED_AS},
}


def class_folders(kind: str, n: int, side: int = SIDE) -> dict[str, bytes]:
    """`n` pictures of each of two classes, by path."""
    suffix = "jpg" if "JPEG" in kind else "png"
    return {f"{c}/{i}.{suffix}": KINDS[kind](drawing(label, i, side)) for label, c in enumerate("ab") for i in range(n)}
