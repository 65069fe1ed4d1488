"""Validation of image arrays, by shape, range and type, and conversion to the stored form, (N,C,H,W)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap

from api.uploads.budget import Budget
from api.uploads.fields import MAX_SIDE
from shared.errors import UnusableUpload

Array = np.ndarray[Any, Any]
CHANNELS = (1, 3)
CHUNK_BYTES = 16 << 20
MAX_EXAMPLES = 10_000_000  # their labels alone are 80 MB
FLOAT32_MAX = float(np.finfo(np.float32).max)
HIGHEST = 65_535  # white at 16 bits, the deepest that image formats have
ROUNDING = 1e-3  # floats in [0, 1] may exceed 1 by this much, after resizing and colour conversions


def mapped(
    path: Path, name: str, shape: tuple[int, ...], dtype: Any, offset: int = 0, order: Literal["C", "F"] = "C"
) -> Array:
    """Memory map of the values in the file from `offset`. Raises UnusableUpload for a shape that no array can have."""
    try:
        if 0 in shape:  # an empty file cannot be mapped
            return np.empty(shape, dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
    except (ValueError, TypeError, OverflowError) as error:  # too many dimensions, or a product beyond 64 bits
        raise UnusableUpload("bad_shape", f"{name} has the shape {str(shape)[:200]}: {error}") from error


@dataclass(frozen=True)
class Scale:
    """How pixels are stored: bytes unchanged, all other types as float32; values are from 0 to `white`."""

    dtype: Literal["uint8", "float32"]
    white: float


def as_nchw(images: Array, name: str) -> Array:
    """A view of shape (N,C,H,W) of an array (N,H,W), (N,H,W,C) or (N,C,H,W). Raises UnusableUpload."""
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[-1] in CHANNELS:
        images = np.moveaxis(images, -1, 1)
    elif images.ndim != 4 or shape[1] not in CHANNELS:
        hint = "reshape it to (N, height, width)" if images.ndim == 2 else "convert it to grey or RGB"
        detail = f"{name} has the shape {shape}; images are (N,H,W), (N,H,W,C) or (N,C,H,W) with C = 1 or 3: {hint}"
        raise UnusableUpload("bad_shape", detail)
    height, width = images.shape[2:]
    if min(height, width) == 0:
        raise UnusableUpload("bad_shape", f"{name} has the shape {shape}: images without pixels")
    if max(height, width) > MAX_SIDE:
        detail = f"{name}: {width}x{height} pixels; at most {MAX_SIDE}x{MAX_SIDE} are accepted. Make them smaller"
        raise UnusableUpload("image_too_large", detail)
    if len(images) > MAX_EXAMPLES:
        raise UnusableUpload("too_many_examples", f"{name}: {len(images)} images; at most {MAX_EXAMPLES} are accepted")
    return images


def examine(images: dict[str, Array]) -> Scale:
    """The scale of an upload's arrays, given by name, from one pass over all pixels. Raises UnusableUpload."""
    kinds = {array.dtype.kind for array in images.values()}
    if not kinds <= set("buif"):
        name = next(name for name, array in images.items() if array.dtype.kind not in "buif")
        raise UnusableUpload("bad_pixels", f"{name} has the type {images[name].dtype}; pixels are integers or floats")
    if kinds == {"b"}:
        return Scale("uint8", 1.0)
    if all(array.dtype == np.uint8 for array in images.values()):
        return Scale("uint8", 255.0)
    lowest, highest = np.inf, -np.inf
    for name, array in images.items():
        low, high = extremes(array, name)
        lowest, highest = min(lowest, low), max(highest, high)
    if lowest < 0 or highest > HIGHEST:  # predictions take images in [0, white], which would be out of this range
        found = f"pixels are from 0 to 1, to 255 or to {HIGHEST}; these are from {lowest:.9g} to {highest:.9g}"
        step = "undo their normalization (gradq normalizes by itself), or scale them to [0, 1] before the upload"
        raise UnusableUpload("bad_pixels", f"{found}; {step}")
    if "f" in kinds and highest <= 1 + ROUNDING:
        return Scale("float32", 1.0)
    if highest > 255:
        return Scale("float32", float(HIGHEST))
    return Scale("float32" if "f" in kinds else "uint8", 255.0)


def extremes(array: Array, name: str) -> tuple[float, float]:
    """The smallest and the largest value. Raises UnusableUpload for NaN, infinities and numbers beyond float32."""
    lowest, highest = np.inf, -np.inf
    for start, rows in chunks(array):
        low, high = float(rows.min()), float(rows.max())  # NaN if any value is NaN
        if not max(abs(low), abs(high)) <= FLOAT32_MAX:
            wrong = ~(np.abs(rows.astype(np.float64)) <= FLOAT32_MAX)
            first = start + int(wrong.reshape(len(rows), -1).any(1).argmax())
            detail = f"{name}[{first}] contains NaN, an infinity or a number beyond float32; replace it first"
            raise UnusableUpload("not_finite", detail)
        lowest, highest = min(lowest, low), max(highest, high)
    return lowest, highest


def chunks(array: Array) -> Iterator[tuple[int, Array]]:
    """Yields (first index, rows) in chunks of about 16 MiB."""
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]


def create(path: Path, n: int, shape: tuple[int, ...], scale: Scale, budget: Budget) -> Array:
    """A new, memory-mapped .npy file for `n` images of `shape`. Raises UnusableUpload over the budget."""
    budget.spend(n * int(np.prod(shape, dtype=np.int64)) * np.dtype(scale.dtype).itemsize, "the decoded images")
    return open_memmap(path, mode="w+", dtype=np.dtype(scale.dtype), shape=(n, *shape))


def copy(images: Array, chosen: Array | None, path: Path, scale: Scale, budget: Budget) -> None:
    """Write the images with the indices `chosen`, or all of them if it is None.

    Values that exceed white by rounding are clipped to it, as the exported model clips its input.
    """
    n = len(images) if chosen is None else len(chosen)
    target = create(path, n, images.shape[1:], scale, budget)
    if chosen is None:
        for start, rows in chunks(images):
            target[start : start + len(rows)] = _within(rows, scale)
    else:
        for start, indices in index_chunks(chosen, images):
            target[start : start + len(indices)] = _within(images[indices], scale)


def _within(rows: Array, scale: Scale) -> Array:
    return np.minimum(rows, scale.white) if scale.dtype == "float32" else rows


def index_chunks(chosen: Array, images: Array) -> Iterator[tuple[int, Array]]:
    step = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(chosen), step):
        yield start, chosen[start : start + step]
