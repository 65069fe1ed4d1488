"""CIFAR-10 in torchvision's layout. Its batches are pickles, and whoever unpickles a file lets it call what it likes.

torchvision reads them with pickle.load and trusts their md5. Here only what makes a NumPy array is let through, so a
file from anywhere can at worst be refused.
"""

from __future__ import annotations

import io
import pickle  # for its parser alone: see ArraysOnly  # nosec B403
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.datasets.catalog import DatasetInfo
from shared.errors import DataError

RECONSTRUCT: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]  # has no public name
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,  # as NumPy 1 wrote it, and the original files with it
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """Dicts, lists, strings, numbers and NumPy arrays; any other name in the file ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs") from None


def read_batch(raw: bytes, path: Path, info: DatasetInfo) -> tuple[Tensor, Tensor]:
    """images (N,3,32,32) uint8, labels (N) int64"""
    try:
        batch = ArraysOnly(io.BytesIO(raw), encoding="latin1").load()  # Python 2 wrote the bytes of arrays as text
        images, labels = batch["data"], np.asarray(batch["labels"])
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(f"{path} is not a batch of {info.name}: {error}") from error
    size = int(np.prod(info.shape))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (size,):
        raise DataError(f"{path}: its data are not rows of {size} bytes")
    if labels.shape != (len(images),) or labels.dtype.kind != "i":
        raise DataError(f"{path}: {len(images)} images, and its labels are not as many whole numbers")
    return torch.from_numpy(images.reshape(-1, *info.shape).copy()), torch.from_numpy(labels.astype(np.int64))
