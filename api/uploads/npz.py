"""Reads NumPy archives: x_train, y_train, x_test, y_test; or x and y. Members are streamed to files, which are mapped.

`np.load` is not used: it reads a whole member into memory and trusts the size in its header.
"""

from __future__ import annotations

import math
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from api.uploads.archive import entry_stream, user_entries
from api.uploads.budget import Budget, unpack
from api.uploads.labels import LONGEST_NAME, MOST_CLASSES
from api.uploads.pixels import Array, mapped
from shared.errors import UnusableUpload

SPLIT, WHOLE, NAMES = ("x_train", "y_train", "x_test", "y_test"), ("x", "y"), "classes"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # 3.0 is for structured types only
SUFFIX = ".npy"
WIDEST_NAME = 1 << 14  # bytes of one name at 4 per character, including padding to the longest name
BROKEN_STREAM = (zipfile.BadZipFile, zlib.error, EOFError, OSError)


def is_npz(archive: zipfile.ZipFile) -> bool:
    """Whether the zip has .npy files only, apart from those that a system adds when it packs a folder."""
    names = ["/".join(parts) for parts, _ in user_entries(archive)]
    return bool(names) and all(name.endswith(SUFFIX) and "/" not in name for name in names)


def read(archive: zipfile.ZipFile, scratch: Path, budget: Budget) -> dict[str, Array]:
    """The arrays by name, memory-mapped from files in `scratch`. Raises UnusableUpload."""
    entries = [entry for _, entry in user_entries(archive)]
    names = [entry.filename.removesuffix(SUFFIX) for entry in entries]
    found = set(names)
    if len(found) != len(names) or found - {NAMES} not in (set(SPLIT), set(WHOLE)):
        detail = (
            f"the archive contains {', '.join(sorted(names))[:200]}; it must contain {', '.join(SPLIT)}, or x and y, "
            f"and may contain {NAMES}, the names of the classes"
        )
        raise UnusableUpload("unknown_format", detail)
    return {
        name: _member(archive, entry, name, scratch / f"{name}.raw", budget)
        for name, entry in zip(names, entries, strict=True)
    }


def class_names(array: Array) -> list[str]:
    """The names in the array `classes`. Raises UnusableUpload."""
    if array.ndim != 1 or array.dtype.kind != "U":
        detail = f"{NAMES} is {array.dtype} of shape {array.shape}; it must be a list of strings"
        raise UnusableUpload("bad_labels", detail)
    if len(array) > MOST_CLASSES:  # before the conversion to strings: a small file can contain very many
        detail = f"{NAMES} has {len(array)} names; at most {MOST_CLASSES} classes are accepted"
        raise UnusableUpload("too_many_classes", detail)
    if array.dtype.itemsize > WIDEST_NAME:
        raise UnusableUpload(
            "bad_labels", f"{NAMES} has the type {array.dtype}; names have 1 to {LONGEST_NAME} characters"
        )
    codes = np.frombuffer(array.astype(array.dtype.newbyteorder("<")).tobytes(), "<u4")
    if codes.size and codes.max() > sys.maxunicode:  # Python's str with such a code raises in most operations
        raise UnusableUpload("bad_labels", f"{NAMES} contains the code {codes.max():#x}, which is not in Unicode")
    return [str(name) for name in array]


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, raw: Path, budget: Budget) -> Array:
    with entry_stream(archive, entry) as stream:
        shape, fortran, dtype = read_header(stream, name)
        if dtype.hasobject:
            detail = f"{name} contains Python objects, which are not unpickled; save it as numbers"
            raise UnusableUpload("object_array", detail)
        if dtype.kind not in ("buifU" if name == NAMES else "buif"):
            code = "bad_labels" if name.startswith("y") or name == NAMES else "bad_pixels"
            raise UnusableUpload(code, f"{name} has the type {dtype}; save it as integers or floats")
        if not shape or min(shape) < 0:
            raise UnusableUpload("bad_shape", f"{name} has the shape {shape}")
        size = unpack(stream, raw, budget, name)
    if size != math.prod(shape) * dtype.itemsize:
        detail = f"{name} has {size} bytes of data, which is not {shape} of {dtype}; is the file complete?"
        raise UnusableUpload("unreadable_file", detail)
    return mapped(raw, name, shape, dtype, order="F" if fortran else "C")


def read_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type of a .npy at the start of `stream`. NumPy parses the header as a literal and
    evaluates nothing. Raises UnusableUpload."""
    try:
        version = npy.read_magic(stream)
        shape, fortran, dtype = HEADERS[version](stream)
    except BROKEN_STREAM:
        raise  # `entry_stream` names the entry
    except Exception as error:  # NumPy's parser raises exceptions of many types
        raise UnusableUpload("unreadable_file", f"{name} is not an array in NumPy's format: {error}") from error
    return shape, fortran, dtype
