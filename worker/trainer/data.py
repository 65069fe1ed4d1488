"""Data sets as tensors: read, normalised, split."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.datasets import DATASETS, DatasetInfo
from shared.errors import DataError
from shared.spec import Fraction, JobSpec
from worker.trainer import seeds
from worker.trainer.augment import Augmenter
from worker.trainer.batches import ShuffledBatches, TrainingBatches, training_batches

IDX_UINT8 = 0x08  # the type byte of the IDX format: http://yann.lecun.com/exdb/mnist


@dataclass(frozen=True)
class Pixels:
    """A data set as it lies on disk. images (N,C,H,W) uint8 or float; labels (N) int64; values from 0 to `white`."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    white: float


@dataclass(frozen=True)
class Normalization:
    """Per channel, of pixels in [0, 1], over the training split."""

    mean: list[float]
    std: list[float]
    white: float

    def apply(self, images: Tensor) -> Tensor:
        """Pixels (N,C,H,W) from 0 to `white` -> float32 of mean 0 and standard deviation 1 on the training split."""
        mean = torch.tensor(self.mean).mul_(self.white).view(1, -1, 1, 1)
        std = torch.tensor(self.std).mul_(self.white).view(1, -1, 1, 1)
        return images.to(torch.float32, copy=True).sub_(mean).div_(std)


def measure(images: Tensor, white: float) -> Normalization:
    """Mean and standard deviation of each channel over all pixels of `images`, in float64."""
    channels = images.transpose(0, 1).flatten(1)  # (C, N*H*W)
    if images.dtype == torch.uint8:
        # 256 possible values: exact sums from their counts, without a float copy of the data
        counts = torch.stack([torch.bincount(c, minlength=256) for c in channels]).double()
        values = torch.arange(256, dtype=torch.float64) / white
        n = counts.sum(1)
        mean = (counts @ values) / n
        variance = (counts @ values.square()) / n - mean.square()
    else:
        scaled = channels.double() / white
        mean, variance = scaled.mean(1), scaled.var(1, unbiased=False)
    std = variance.clamp_min(0).sqrt().clamp_min(1e-8)  # a channel without contrast stays finite, rounding or not
    return Normalization(mean.tolist(), std.tolist(), white)


@dataclass(frozen=True)
class Data:
    """All that a run trains and is measured on; images normalised, evaluation splits on the device."""

    info: DatasetInfo
    device: torch.device
    normalization: Normalization
    train: TrainingBatches
    val_images: Tensor
    val_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def prepare(spec: JobSpec, data_dir: Path, download: bool, device: torch.device) -> Data:
    """Load, normalise and split the spec's data set. Raises DataError when its files are missing or broken."""
    info = DATASETS[spec.dataset]
    pixels = load(info, data_dir, download)
    normalization = measure(pixels.train_images, pixels.white)
    images = normalization.apply(pixels.train_images)
    test_images, test_labels = normalization.apply(pixels.test_images).to(device), pixels.test_labels.to(device)
    train, val = split(len(images), spec)
    order = ShuffledBatches(train, spec.batch_size, spec.seed)
    black = normalization.apply(torch.zeros(1, images.shape[1], 1, 1)).to(device)
    augment = Augmenter(spec.augment, spec.seed, black) if spec.augment else None
    if len(val):
        val_images, val_labels = images[val].to(device), pixels.train_labels[val].to(device)
    else:
        val_images, val_labels = test_images, test_labels
    return Data(
        info=info,
        device=device,
        normalization=normalization,
        train=training_batches(images, pixels.train_labels, order, device, augment),
        val_images=val_images,
        val_labels=val_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def split(n: int, spec: JobSpec) -> tuple[Tensor, Tensor]:
    """Indices of the training and the held-out examples; nothing is held out when the test split validates."""
    if not isinstance(spec.validation, Fraction):
        return torch.arange(n), torch.arange(0)
    shuffled = torch.randperm(n, generator=seeds.generator(spec.seed, "split"))
    held_out = round(n * spec.validation.fraction)
    return shuffled[held_out:].sort().values, shuffled[:held_out].sort().values


def load(info: DatasetInfo, data_dir: Path, download: bool) -> Pixels:
    return load_digits() if info.name == "digits" else load_mnist(info, data_dir, download)


def load_digits() -> Pixels:
    """scikit-learn's 1797 digits. Sorted by class, every tenth is a test image: 180, an equal share of each class."""
    from sklearn.datasets import load_digits as load_bunch

    bunch = load_bunch()
    images = torch.from_numpy(bunch.images.astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    by_class = labels.argsort(stable=True)
    test = by_class[5::10].sort().values
    train = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, test, False).nonzero().squeeze(1)
    return Pixels(images[train], labels[train], images[test], labels[test], white=16.0)


def load_mnist(info: DatasetInfo, data_dir: Path, download: bool) -> Pixels:
    if missing := info.missing_files(data_dir):
        if not download:
            raise DataError(
                f"{missing[0].name} (or .gz) is missing in {missing[0].parent}; put the files there and set "
                "GRADQ_DATA_DIR, or allow the download with GRADQ_DOWNLOAD=true",
                missing=[str(path) for path in missing],
            )
        _download(info, data_dir, missing)
    folder = data_dir / (info.folder or "")
    train_images, train_labels, test_images, test_labels = (read_idx(folder / name) for name in info.files)
    pixels = Pixels(train_images.unsqueeze(1), train_labels.long(), test_images.unsqueeze(1), test_labels.long(), 255.0)
    for images, labels in ((pixels.train_images, pixels.train_labels), (pixels.test_images, pixels.test_labels)):
        if len(images) != len(labels) or tuple(images.shape[1:]) != info.shape:
            raise DataError(f"{info.name} in {folder}: {tuple(images.shape)} images and {len(labels)} labels")
        if labels.max() >= len(info.classes):
            raise DataError(
                f"{info.name} in {folder}: a label {labels.max()}, and there are {len(info.classes)} classes"
            )
    return pixels


def _download(info: DatasetInfo, data_dir: Path, missing: list[Path]) -> None:
    from worker.trainer.vision import import_torchvision

    try:
        import_torchvision().datasets.MNIST(root=str(data_dir), download=True)
    except Exception as error:
        raise DataError(
            f"{missing[0].name} is missing in {missing[0].parent} and could not be downloaded: {error}",
            missing=[str(path) for path in missing],
        ) from error


def read_idx(path: Path) -> Tensor:
    """An IDX file of bytes, plain or gzipped (`path`.gz): magic 0 0 type ndim, big-endian sizes, then the values."""
    packed = path.with_name(path.name + ".gz")
    try:
        raw = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != IDX_UINT8:
        raise DataError(f"{path} is not an IDX file of bytes")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise DataError(f"{path} is cut short: {len(raw)} bytes, and its header alone has {start}")
    shape = tuple(np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist())
    if len(raw) - start != int(np.prod(shape)):
        raise DataError(f"{path} is cut short: {len(raw) - start} bytes of {shape}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())
