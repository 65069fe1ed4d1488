"""CIFAR-10 in torchvision's layout. Its batches are pickles, and unpickling a file may call arbitrary functions.

torchvision reads them with pickle.load and relies on their md5. This unpickler allows only the names that a NumPy array
needs, so that any other file is refused.
"""

from __future__ import annotations

import io
import pickle  # only its parser is used: see ArraysOnly  # nosec B403
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.datasets.catalog import DatasetInfo
from shared.errors import DataError

RECONSTRUCT: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]  # it has no public name
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,  # written by NumPy 1, as in the original files
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and NumPy arrays; raises UnpicklingError for any other name in the file."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no array needs") from None


def read_batch(raw: bytes, path: Path, info: DatasetInfo) -> tuple[Tensor, Tensor]:
    """images (N,3,32,32) uint8 and labels (N) int64 of one batch file. Raises DataError if it is not one."""
    try:
        batch = ArraysOnly(io.BytesIO(raw), encoding="latin1").load()  # Python 2 wrote the bytes of arrays as text
        images, labels = batch["data"], np.asarray(batch["labels"])
    except Exception as error:  # a broken pickle may raise almost any exception
        raise DataError(f"{path} is not a batch of {info.name}: {error}") from error
    size = int(np.prod(info.shape))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (size,):
        raise DataError(f"{path}: the images are not rows of {size} bytes")
    if labels.shape != (len(images),) or labels.dtype.kind != "i":
        raise DataError(f"{path}: the labels of {len(images)} images are not as many integers")
    return torch.from_numpy(images.reshape(-1, *info.shape).copy()), torch.from_numpy(labels.astype(np.int64))
