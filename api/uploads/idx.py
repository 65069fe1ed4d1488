"""Reads MNIST's IDX format: two zero bytes, a type, a number of dimensions, big-endian sizes, then the values."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from api.uploads.pixels import Array, mapped
from shared.errors import UnusableUpload

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def looks_like(path: Path) -> bool:
    """Whether the file begins as IDX does: two zero bytes, a known type, 1 to 4 dimensions."""
    with path.open("rb") as file:
        start = file.read(4)
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in TYPES and 1 <= start[3] <= 4


def read(path: Path, name: str) -> Array:
    """The values of a file that `looks_like` accepts, as an array, memory-mapped. Raises UnusableUpload."""
    with path.open("rb") as file:
        _, _, kind, ndim = file.read(4)
        sizes = file.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise UnusableUpload("unreadable_file", f"the header of {name} is truncated")
    shape, dtype, start = struct.unpack(f">{ndim}I", sizes), np.dtype(TYPES[kind]), 4 + 4 * ndim
    there, wanted = path.stat().st_size - start, math.prod(shape) * dtype.itemsize
    if there != wanted:
        detail = f"{name} has {there} bytes of data; its header says {shape} of {dtype}, which is {wanted} bytes"
        raise UnusableUpload("unreadable_file", detail)
    return mapped(path, name, shape, dtype, offset=start)
