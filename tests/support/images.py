"""Small datasets in the real formats, generated: npz, IDX, zips of PNG and JPEG."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

IDX_TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def pixels(n: int, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_that_says(shape: tuple[int, ...], kind: str = "'|u1'", content: bytes = b"") -> bytes:
    """An array with a header that NumPy would not write."""
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


def small(n: int = 40, k: int = 4, **replaced: Any) -> dict[str, Any]:
    """x and y of `n` grey 6x6 images of `k` classes."""
    return {"x": pixels(n, 6, 6), "y": np.arange(n) % k, **replaced}


def idx(array: Any, packed: bool = False) -> bytes:
    array = np.asarray(array)
    kind = array.dtype.str[1:]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_TYPES[kind], array.ndim, *array.shape)
    raw = head + array.astype(f">{kind}").tobytes()
    return gzip.compress(raw) if packed else raw


def picture(array: Any, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(np.asarray(array))
    image.save(file, format, **options)
    return file.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def folders(n: int = 12, top: str = "", shape: tuple[int, ...] = (6, 6), classes: tuple[str, ...] = ("cats", "dogs")):
    """`n` PNGs per class, by path."""
    return {f"{top}{c}/{i}.png": picture(pixels(1, *shape, seed=i)[0]) for c in classes for i in range(n)}
