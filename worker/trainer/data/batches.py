"""Batches of the training split, on the device, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Sampler

from worker.trainer import seeds
from worker.trainer.data.normalization import Normalization
from worker.trainer.data.pixels import Pixels

Augment = Callable[[Tensor, int, int], Tensor]  # x (N,C,H,W), epoch, batch -> x
Batch = tuple[Tensor, Tensor]  # x (N,C,H,W) float32, labels (N) int64

DEVICE_SHARE = 0.25  # of a GPU's free memory: data up to this size is copied there as a whole
WHOLE_BYTES = 1 << 24  # of normalized images, which are gathered fastest if they fit into the caches of a CPU
STAGES = 3  # pinned buffers: one is filled while another is copied and the third waits to be used


class ShuffledBatches(Sampler[Tensor]):
    """Yields each batch as one index tensor. The order of an epoch depends on (seed, epoch) alone, so that any batch
    can be drawn without the ones before it."""

    def __init__(self, indices: Tensor, batch_size: int, seed: int, streams: int = seeds.STREAMS) -> None:
        self.indices, self.batch_size, self.seed, self.streams = indices, batch_size, seed, streams
        self.epoch, self.first_batch = 1, 0

    def order(self, epoch: int) -> Tensor:
        """Indices of all training examples in the order of `epoch` (from 1), (N) int64."""
        generator = seeds.generator(self.seed, "shuffle", epoch, streams=self.streams)
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def sha256(self, epoch: int, before: str) -> str:
        """Hexadecimal sha256 over `before`, the hash of the epochs before, and the order of this epoch."""
        return hashlib.sha256(before.encode() + self.order(epoch).numpy().tobytes()).hexdigest()

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.order(self.epoch).split(self.batch_size)[self.first_batch :])

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)


class TrainingBatches(Protocol):
    """The training split as the loop reads it."""

    order: ShuffledBatches
    augment: Augment | None
    pinned: bool  # whether the data is copied to its device from page-locked memory

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `first_batch` on. The next batch may overwrite the tensors of this one."""


class ResidentBatches:
    """The training split in the memory of its device: one gather per batch, into the same tensors."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: ShuffledBatches,
        device: torch.device,
        augment: Augment | None = None,
    ) -> None:
        self.order, self.augment = order, augment
        self.pinned = device.type == "cuda"
        if self.pinned:
            images, labels = (t.pin_memory().to(device, non_blocking=True) for t in (images, labels))
        self.images, self.labels = images, labels
        size = min(order.batch_size, len(order.indices))
        self._x, self._labels = images.new_empty(size, *images.shape[1:]), labels.new_empty(size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        order = self.order.order(epoch).to(self.images.device)
        for number, index in enumerate(order.split(self.order.batch_size)[first_batch:], first_batch):
            if len(index) == len(self._labels):
                x = torch.index_select(self.images, 0, index, out=self._x)
                labels = torch.index_select(self.labels, 0, index, out=self._labels)
            else:  # the smaller batch at the end of an epoch
                x, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
            yield (x if self.augment is None else self.augment(x, epoch, number)), labels


class PixelBatches:
    """The training split in host memory as pixels, perhaps mapped from a file: each batch is gathered and normalized,
    into the same tensors. A byte is a quarter of a float to gather, which makes up for the arithmetic."""

    pinned = False

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: ShuffledBatches,
        normalization: Normalization,
        augment: Augment | None = None,
    ) -> None:
        self.images, self.labels, self.order = images, labels, order
        self.normalization, self.augment = normalization, augment
        size = min(order.batch_size, len(order.indices))
        self._pixels, self._labels = images.new_empty(size, *images.shape[1:]), labels.new_empty(size)
        self._x = torch.empty(self._pixels.shape)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        batches = self.order.order(epoch).split(self.order.batch_size)[first_batch:]
        for number, index in enumerate(batches, first_batch):
            if len(index) == len(self._labels):
                pixels = torch.index_select(self.images, 0, index, out=self._pixels)
                x = self.normalization.apply(pixels, out=self._x)
                labels = torch.index_select(self.labels, 0, index, out=self._labels)
            else:  # the smaller batch at the end of an epoch
                x = self.normalization.apply(self.images.index_select(0, index))
                labels = self.labels.index_select(0, index)
            yield (x if self.augment is None else self.augment(x, epoch, number)), labels


class StagedBatches:
    """The training split in host memory, if it is too large for the GPU: gathered into pinned buffers and copied on a
    separate CUDA stream, while the GPU computes on earlier batches."""

    pinned = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: ShuffledBatches,
        device: torch.device,
        augment: Augment | None = None,
    ) -> None:
        self.images, self.labels, self.order, self.device, self.augment = images, labels, order, device, augment
        size = min(order.batch_size, len(order.indices))
        self._stages = [
            (images.new_empty(size, *images.shape[1:]).pin_memory(), labels.new_empty(size).pin_memory())
            for _ in range(STAGES)
        ]

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        stream, done = torch.cuda.Stream(self.device), [torch.cuda.Event() for _ in range(STAGES)]
        batches = self.order.order(epoch).split(self.order.batch_size)[first_batch:]
        ahead: deque[tuple[Tensor, Tensor, torch.cuda.Event]] = deque()

        def send(turn: int) -> None:
            index, (x, labels), copied = batches[turn], self._stages[turn % STAGES], done[turn % STAGES]
            copied.synchronize()  # the buffer may be overwritten once its copy is done
            x, labels = x[: len(index)], labels[: len(index)]
            torch.index_select(self.images, 0, index, out=x)
            torch.index_select(self.labels, 0, index, out=labels)
            with torch.cuda.stream(stream):
                sent = x.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
                copied.record(stream)
            ahead.append((*sent, copied))

        for turn in range(min(STAGES - 1, len(batches))):
            send(turn)
        for turn in range(len(batches)):
            x, labels, copied = ahead.popleft()
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            for tensor in (x, labels):
                tensor.record_stream(current)  # else its memory could be reused while it is still read
            if turn + STAGES - 1 < len(batches):
                send(turn + STAGES - 1)
            yield (x if self.augment is None else self.augment(x, epoch, first_batch + turn)), labels


def training_batches(
    pixels: Pixels,
    normalization: Normalization,
    order: ShuffledBatches,
    device: torch.device,
    augment: Augment | None,
) -> TrainingBatches:
    """The training split, on the CPU as pixels if they are bytes and many, else normalized as a whole; on the device
    if it fits into `DEVICE_SHARE` of a GPU's free memory, else staged."""
    images, labels = pixels.train_images, pixels.train_labels
    if device.type == "cpu" and images.dtype == torch.uint8 and 4 * images.nbytes > WHOLE_BYTES:
        return PixelBatches(images, labels, order, normalization, augment)
    images = normalization.apply(images)
    if device.type == "cuda" and images.nbytes > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return StagedBatches(images, labels, order, device, augment)
    return ResidentBatches(images, labels, order, device, augment)
