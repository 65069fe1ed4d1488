"""Uploaded datasets: their files as tensors where they fit into memory, else read through maps, a batch at a time.

Both ways give the same batches in the same order, and the same bits: a batch is normalised as the whole would be.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.datasets.catalog import ARRAYS, FACTS, DatasetInfo
from shared.errors import DataError
from worker.trainer.data.batches import Augment, Batch, ShuffledBatches
from worker.trainer.data.normalization import Normalization

SHARE_OF_MEMORY = 0.25  # that one dataset may take as float32; a larger one stays on disk
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
MAX_WORKERS = 4
WAIT_SECONDS = 300.0  # for one batch, from a disk that is busy; a worker that died would otherwise be waited for


class Images(Protocol):
    """What evaluation and pictures ask of images: a tensor has it, and a map of a file."""

    @property
    def device(self) -> torch.device: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: slice | Tensor, /) -> Tensor: ...
    def split(self, split_size: int, /) -> Iterable[Tensor]: ...


# --- what lies in the folder ------------------------------------------------------------------------------------------


def facts(folder: Path) -> DatasetInfo:
    try:
        return DatasetInfo.from_json(json.loads((folder / FACTS).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no dataset that was uploaded: {error}") from error


def open_array(path: Path, n: int, dtype: str, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if array.dtype != dtype or array.shape != (n, *shape):
        raise DataError(f"{path} is {array.shape} of {array.dtype}, and should be {(n, *shape)} of {dtype}")
    return array


def labels(folder: Path, info: DatasetInfo) -> tuple[Tensor, Tensor]:
    """Of the training and of the test split, (N) int64."""
    train = open_array(folder / ARRAYS[1], info.train_examples, "int64", ())
    test = open_array(folder / ARRAYS[3], info.test_examples, "int64", ())
    return torch.from_numpy(np.array(train)), torch.from_numpy(np.array(test))


def images(folder: Path, info: DatasetInfo) -> tuple[Stored, Stored]:
    return (
        Stored(folder / ARRAYS[0], info.train_examples, info.dtype, info.shape),
        Stored(folder / ARRAYS[2], info.test_examples, info.dtype, info.shape),
    )


def too_large(info: DatasetInfo) -> bool:
    """Whether the dataset, decoded to float32, would take more than its share of this machine's memory."""
    examples = info.train_examples + info.test_examples
    return examples * int(np.prod(info.shape)) * 4 > SHARE_OF_MEMORY * memory_bytes()


def memory_bytes() -> int:
    """RAM, or the limit of this container where it is lower."""
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


class Stored:
    """The images of one split in their file, pixels as they were stored. Crosses to other processes as a path."""

    def __init__(self, path: Path, n: int, dtype: str, shape: tuple[int, ...]) -> None:
        self.path, self.n, self.kind, self.shape = path, n, dtype, (n, *shape)

    @functools.cached_property
    def array(self) -> np.memmap[Any, Any]:
        return open_array(self.path, self.n, self.kind, self.shape[1:])

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


class Normalised:
    """Those images of a split that `chosen` names, normalised and on the device as they are asked for."""

    def __init__(
        self, stored: Stored, chosen: Tensor | None, normalization: Normalization, device: torch.device
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


class Mapped(Dataset[tuple[Tensor, Tensor]]):
    """Indexed by a whole tensor of indices: gathers from the map and normalises that batch alone."""

    def __init__(self, stored: Stored, labels: Tensor, normalization: Normalization) -> None:
        self.stored, self.labels, self.normalization = stored, labels, normalization

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.normalization.apply(self.stored[index]), self.labels.index_select(0, index)

    def __len__(self) -> int:
        return len(self.labels)


class MappedBatches:
    """The training split through workers that gather batches ahead of the loop; the order is drawn in this process."""

    def __init__(
        self, mapped: Mapped, order: ShuffledBatches, device: torch.device, augment: Augment | None = None
    ) -> None:
        self.order, self.device, self.augment = order, device, augment
        self.pinned = device.type == "cuda"
        self._loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            mapped,
            sampler=order,
            batch_size=None,  # the sampler yields whole batches
            num_workers=max(1, min(MAX_WORKERS, torch.get_num_threads())),
            multiprocessing_context="forkserver",  # a fork would copy the threads' locks of this process, and CUDA
            persistent_workers=True,
            worker_init_fn=end_with_trainer,
            timeout=WAIT_SECONDS,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # each iterator draws a base seed: not from the global stream
        )

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `first_batch` on, on the device: x (N,C,H,W) float32, labels (N) int64."""
        self.order.epoch, self.order.first_batch = epoch, first_batch
        for number, (x, labels) in enumerate(self._loader, first_batch):
            x = x.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            yield (x if self.augment is None else self.augment(x, epoch, number)), labels


def end_with_trainer(_worker: int) -> None:
    """A worker's parent is the fork server, which outlives a trainer that was killed: only this tells the worker."""
    trainer = parent_process()
    assert trainer is not None

    def wait() -> None:
        connection.wait([trainer.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="orphan-guard", daemon=True).start()
