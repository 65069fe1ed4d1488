"""Validation of image arrays, by shape, range and type, and conversion to the stored form, (N,C,H,W)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap

from api.uploads.budget import Budget
from api.uploads.fields import HIGHEST, MAX_SIDE
from shared.errors import FieldError, InvalidUpload, UnusableUpload
from shared.inference import ROUNDING

Array = np.ndarray[Any, Any]
CHANNELS = (1, 3)
CHUNK_BYTES = 16 << 20
MAX_EXAMPLES = 10_000_000  # their labels alone are 80 MB
FLOAT32_MAX = float(np.finfo(np.float32).max)
SMALL = 16  # whole numbers up to this are taken for a scale of their own, as scikit-learn's digits from 0 to 16
DIM = 0.5  # share of white: if no pixel is brighter, the upload is warned of


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
    """How pixels are stored, and which number is white and why: values are from 0 to `white`."""

    dtype: Literal["uint8", "float32"]
    white: float
    reason: str
    warnings: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Range:
    """What the numbers of one array are: their bounds, and whether all are whole."""

    lowest: float
    highest: float
    whole: bool

    @property
    def white(self) -> float | None:
        """The smallest usual white that no number exceeds, whatever their type; None if all are 0."""
        if self.highest == 0:
            return None
        if self.highest <= 1 + ROUNDING:
            return 1.0
        if self.whole and self.highest <= SMALL:
            return self.highest
        return 255.0 if self.highest <= 255 else float(HIGHEST)


def examine(images: dict[str, Array], white: float | None) -> Scale:
    """The one scale of an upload's arrays, given by name, from one pass over all pixels. `white`: the upload's field.

    Raises UnusableUpload, and InvalidUpload for pixels above `white`.
    """
    for name, array in images.items():
        if array.dtype.kind not in "buif":
            raise UnusableUpload("bad_pixels", f"{name} has the type {array.dtype}; pixels are integers or floats")
    ranges = {name: range_of(array, name) for name, array in images.items()}
    lowest, highest = min(r.lowest for r in ranges.values()), max(r.highest for r in ranges.values())
    if lowest < 0 or highest > HIGHEST:  # predictions take images in [0, white], which would be out of this range
        found = f"pixels are from 0 to 1, to 255 or to {HIGHEST}; these are from {lowest:.9g} to {highest:.9g}"
        step = "undo their normalization (gradq normalizes by itself), or scale them to [0, 1] before the upload"
        raise UnusableUpload("bad_pixels", f"{found}; {step}")
    whole_types = all(array.dtype.kind in "bui" for array in images.values())
    is_declared = white is not None
    if white is None:
        white, reason = _inferred(ranges, whole_types)
    else:
        brightest = max(ranges, key=lambda name: ranges[name].highest)
        if highest > white + (0 if whole_types else ROUNDING):
            detail = f"{brightest} has pixels up to {highest:.9g}; white is the largest number that a pixel can have"
            raise InvalidUpload([FieldError("/white", "conflict", detail)])
        reason = f"the upload declares that white is {white:g}"
    warnings = _doubts(white, {name: r.highest for name, r in ranges.items()}, is_declared)
    return Scale("uint8" if whole_types and highest <= 255 else "float32", white, reason, warnings)


def _inferred(ranges: dict[str, Range], whole_types: bool) -> tuple[float, str]:
    """White and the reason. Raises UnusableUpload if the arrays have different scales."""
    whites = {name: r.white for name, r in ranges.items() if r.white is not None}
    if not whites:
        return (255.0 if whole_types else 1.0), "all pixels are 0, so their type decides"
    highest = max(r.highest for r in ranges.values())
    known = {255.0 if 1 < white <= SMALL else white for white in whites.values()}  # of small numbers one scale
    small = {name for name, white in whites.items() if 1 < white <= SMALL}
    if len(known) > 1 or small not in (set(), set(whites)):
        found = ", ".join(f"{name} to {ranges[name].highest:.9g}" for name in whites)
        step = "bring both to one scale, or declare the number that is white in both with the field 'white'"
        detail = f"the pixels have different scales: those of {found}; {step}"
        raise UnusableUpload("bad_pixels", detail)
    if small:
        return highest, f"the pixels are whole numbers from 0 to {highest:g}, so the highest is taken as white"
    (white,) = known
    if white == 1:
        return white, "no pixel exceeds 1"
    return white, f"the highest pixel is {highest:.9g}, and {white:g} is the smallest usual white that is not below it"


def _doubts(white: float, highest: dict[str, float], is_declared: bool) -> tuple[str, ...]:
    """Warnings about the brightest pixel of each array."""
    if max(highest.values()) < DIM * white:
        return (f"{dim(max(highest.values()), white)}; if they are, upload with another 'white'",)
    if dark := [name for name in highest if highest[name] < DIM * white]:
        name, brightest = dark[0], max(highest, key=highest.__getitem__)
        detail = f"the brightest pixel of {name} is {highest[name]:.9g}, that of {brightest} {highest[brightest]:.9g}"
        return (f"{detail}, and white is {white:g}: if they have different scales, bring both to one",)
    if not is_declared and 1 < white <= SMALL:
        detail = f"white is taken to be {white:g}, the highest pixel; if the images are dark and white is 255, upload"
        return (f"{detail} them with the field 'white'",)
    return ()


def dim(highest: float, white: float) -> str:
    """What to say of images whose brightest pixel is less than `DIM` of white."""
    return (
        f"the brightest pixel is {highest:.9g} and white is {white:g}: pictures and drawings that a model is sent can "
        "be much brighter than what it learnt"
    )


def range_of(array: Array, name: str) -> Range:
    """The bounds of the values, and whether they are whole. Raises UnusableUpload for NaN, infinities and numbers
    beyond float32."""
    lowest, highest, whole = np.inf, -np.inf, True
    for start, rows in chunks(array):
        low, high = float(rows.min()), float(rows.max())  # NaN if any value is NaN
        if not max(abs(low), abs(high)) <= FLOAT32_MAX:
            wrong = ~(np.abs(rows.astype(np.float64)) <= FLOAT32_MAX)
            first = start + int(wrong.reshape(len(rows), -1).any(1).argmax())
            detail = f"{name}[{first}] contains NaN, an infinity or a number beyond float32; replace it first"
            raise UnusableUpload("not_finite", detail)
        lowest, highest = min(lowest, low), max(highest, high)
        if whole and rows.dtype.kind == "f" and highest <= SMALL:  # it matters for small numbers alone
            whole = bool((rows == np.rint(rows)).all())
    return Range(lowest, highest, whole)


def chunks(array: Array) -> Iterator[tuple[int, Array]]:
    """Yields (first index, rows) in chunks of about 16 MiB."""
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]


def create(path: Path, n: int, shape: tuple[int, ...], scale: Scale, budget: Budget) -> Array:
    """A new, memory-mapped .npy file for `n` images of `shape`. Raises UnusableUpload over the budget."""
    budget.spend(n * int(np.prod(shape, dtype=np.int64)) * np.dtype(scale.dtype).itemsize, "the decoded images")
    array: Array = open_memmap(path, mode="w+", dtype=np.dtype(scale.dtype), shape=(n, *shape))
    _reserve(path)
    return array


def _reserve(path: Path) -> None:
    """Give all blocks of a file to it now. Raises OSError if the disk has no room: else a write to the mapped memory
    would end the process with SIGBUS."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


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
