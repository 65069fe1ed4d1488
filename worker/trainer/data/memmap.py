"""Datasets in folders of arrays, mapped into memory; those too large for it are read one batch at a time.

Both ways give the same batches in the same order, with the same bits: a batch is normalized as the whole would be.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.datasets.catalog import ARRAYS, FACTS, DatasetInfo
from shared.errors import DataError
from worker.trainer.data.batches import Augment, Batch, ShuffledBatches
from worker.trainer.data.normalization import Normalization
from worker.trainer.data.pixels import Pixels

SHARE_OF_MEMORY = 0.25  # for one dataset as float32; a larger one stays on disk
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
MAX_WORKERS = 4
WAIT_SECONDS = 300.0  # for one batch from a busy disk; without a limit, a loader worker that died would be waited for


class Images(Protocol):
    """Images (N,C,H,W) as evaluation and pictures read them: a tensor, or a memory map of a file."""

    @property
    def device(self) -> torch.device: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: slice | Tensor, /) -> Tensor: ...
    def split(self, split_size: int, /) -> Iterable[Tensor]: ...


# --- the files of a dataset -------------------------------------------------------------------------------------------


def read_info(folder: Path) -> DatasetInfo:
    """The description that the upload stored in the folder. Raises DataError if there is none."""
    try:
        return DatasetInfo.from_json(json.loads((folder / FACTS).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no dataset: {error}") from error


def open_array(
    path: Path, n: int, dtype: str, shape: tuple[int, ...], mode: Literal["r", "c"] = "r"
) -> np.memmap[Any, Any]:
    """A memory map of (n, *shape) values from an npy file; with mode `c`, what is written to it stays in this process.

    Raises DataError if the file has another shape or dtype.
    """
    try:
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if array.dtype != dtype or array.shape != (n, *shape):
        raise DataError(f"{path} is {array.shape} of {array.dtype}, and should be {(n, *shape)} of {dtype}")
    return array


def labels(folder: Path, info: DatasetInfo) -> tuple[Tensor, Tensor]:
    """Labels of the training and of the test split, (N) int64 each."""
    train = open_array(folder / ARRAYS[1], info.train_examples, "int64", ())
    test = open_array(folder / ARRAYS[3], info.test_examples, "int64", ())
    return torch.from_numpy(np.array(train)), torch.from_numpy(np.array(test))


def mapped_pixels(info: DatasetInfo, folder: Path) -> Pixels:
    """The dataset in `folder`, its images mapped: processes share their pages. Raises DataError if files do not match.

    The kernel is asked to read them in order now, since batches are drawn at random.
    """
    train_labels, test_labels = labels(folder, info)
    train_images, test_images = (stored.mapped() for stored in images(folder, info))
    return Pixels(train_images, train_labels, test_images, test_labels, info.white)


def images(folder: Path, info: DatasetInfo) -> tuple[StoredImages, StoredImages]:
    """Images of the training and of the test split."""
    return (
        StoredImages(folder / ARRAYS[0], info.train_examples, info.dtype, info.shape),
        StoredImages(folder / ARRAYS[2], info.test_examples, info.dtype, info.shape),
    )


def too_large(info: DatasetInfo) -> bool:
    """Whether the dataset as float32 would take more than `SHARE_OF_MEMORY` of this machine's memory."""
    examples = info.train_examples + info.test_examples
    return examples * int(np.prod(info.shape)) * 4 > SHARE_OF_MEMORY * memory_bytes()


def memory_bytes() -> int:
    """Bytes of RAM, or the memory limit of this container if it is lower."""
    total = int(psutil.virtual_memory().total)
    for path in CGROUP_LIMITS:
        try:
            limit = Path(path).read_text().strip()
        except OSError:
            continue
        if limit.isdecimal():  # else "max"
            total = min(total, int(limit))
    return total


# --- images that stay on disk -----------------------------------------------------------------------------------------


class StoredImages:
    """The images of one split in their file, before normalization. Pickled as a path, without the memory map."""

    def __init__(self, path: Path, n: int, dtype: str, shape: tuple[int, ...]) -> None:
        self.path, self.n, self.dtype, self.shape = path, n, dtype, (n, *shape)

    @functools.cached_property
    def array(self) -> np.memmap[Any, Any]:
        return open_array(self.path, self.n, self.dtype, self.shape[1:])

    def mapped(self) -> Tensor:
        """All of them, (N,C,H,W), as a map of the file. Raises DataError."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with contextlib.suppress(OSError), self.path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        return torch.from_numpy(open_array(self.path, self.n, self.dtype, self.shape[1:], "c"))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "array"}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """A copy in memory, (n,C,H,W)."""
        return torch.from_numpy(np.array(self.array[index if isinstance(index, slice) else index.numpy()]))

    def split(self, split_size: int) -> Iterator[Tensor]:
        for start in range(0, self.n, split_size):
            yield self[start : start + split_size]


class NormalizedImages:
    """The images of a split at the indices `chosen` (all if None), normalized and copied to the device when read."""

    def __init__(
        self, stored: StoredImages, chosen: Tensor | None, normalization: Normalization, device: torch.device
    ) -> None:
        self.stored, self.normalization, self._device = stored, normalization, device
        self.chosen = torch.arange(len(stored)) if chosen is None else chosen

    @property
    def device(self) -> torch.device:
        return self._device

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        chosen = self.chosen[index if isinstance(index, slice) else index.to(self.chosen.device)]
        return self.normalization.apply(self.stored[chosen]).to(self._device)

    def split(self, split_size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), split_size):
            yield self[start : start + split_size]


class MappedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Indexed by a tensor of indices: gathers a batch from the memory map and normalizes it."""

    def __init__(self, stored: StoredImages, labels: Tensor, normalization: Normalization) -> None:
        self.stored, self.labels, self.normalization = stored, labels, normalization

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.normalization.apply(self.stored[index]), self.labels.index_select(0, index)

    def __len__(self) -> int:
        return len(self.labels)


class MappedBatches:
    """The training split from a memory map: DataLoader workers gather batches ahead; this process draws the order."""

    def __init__(
        self, mapped: MappedDataset, order: ShuffledBatches, device: torch.device, augment: Augment | None = None
    ) -> None:
        self.order, self.device, self.augment = order, device, augment
        self.pinned = device.type == "cuda"
        self._loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            mapped,
            sampler=order,
            batch_size=None,  # the sampler yields whole batches
            num_workers=max(1, min(MAX_WORKERS, torch.get_num_threads())),
            multiprocessing_context="forkserver",  # a fork would copy locks of this process's threads, and CUDA's state
            persistent_workers=True,
            worker_init_fn=end_with_trainer,
            timeout=WAIT_SECONDS,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # else each iterator draws its base seed from the global stream
        )

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `first_batch` on, on the device: x (N,C,H,W) float32, labels (N) int64."""
        self.order.epoch, self.order.first_batch = epoch, first_batch
        for number, (x, labels) in enumerate(self._loader, first_batch):
            x = x.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            yield (x if self.augment is None else self.augment(x, epoch, number)), labels


def end_with_trainer(_worker: int) -> None:
    """End this DataLoader worker when its trainer ends.

    The worker's parent process is the fork server, which survives a trainer that was killed.
    """
    trainer = parent_process()
    assert trainer is not None

    def wait() -> None:
        connection.wait([trainer.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="orphan-guard", daemon=True).start()
