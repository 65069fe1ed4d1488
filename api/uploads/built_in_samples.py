"""Sample images of the built-in datasets, read from the beginning of their files."""

from __future__ import annotations

import gzip
import importlib.util
import struct
from pathlib import Path
from typing import IO

import numpy as np

from api.uploads.pixels import Array
from api.uploads.samples import sheet
from shared.datasets.catalog import DatasetInfo
from shared.errors import NotFound

READ = 400  # examples: enough for eight of each of ten classes
IDX_HEADERS = (16, 8)  # bytes, of images and of labels


def built_in_sheet(info: DatasetInfo, data_dir: Path) -> bytes:
    """The sheet of a built-in dataset, a PNG. Raises NotFound if it has none, or its files cannot be read."""
    if not info.has_samples(data_dir):
        raise NotFound(f"there are no sample images of {info.name}: its files are missing, or not in a format for that")
    try:
        images, labels = _digits() if info.name == "digits" else _idx(info, data_dir)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise NotFound(f"the files of {info.name} cannot be read: {error}") from error
    return sheet(images, labels, len(info.classes), info.white)


def _digits() -> tuple[Array, Array]:
    """The first of scikit-learn's digits; its package is not imported, which would take a second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise OSError("scikit-learn is not installed")
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    rows = np.loadtxt(path, delimiter=",", max_rows=READ)
    return rows[:, :64].reshape(-1, 1, 8, 8), rows[:, 64].astype(np.int64)


def _idx(info: DatasetInfo, data_dir: Path) -> tuple[Array, Array]:
    """The first training images and labels of IDX files of bytes, plain or gzipped."""
    size = int(np.prod(info.shape))
    raw = []
    for name, header, each in zip(info.files[:2], IDX_HEADERS, (size, 1), strict=True):
        with _opened(data_dir / (info.folder or "") / name) as file:
            raw.append(np.frombuffer(file.read(header + READ * each), np.uint8, offset=header))
    return raw[0].reshape(-1, *info.shape), raw[1].astype(np.int64)


def _opened(path: Path) -> IO[bytes]:
    if path.is_file():
        return path.open("rb")
    return gzip.open(path.with_name(path.name + ".gz"))  # type: ignore[return-value]  # it reads bytes
