"""Built-in datasets as tensors, decoded from their files. Downloads what is missing, if that is allowed."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.datasets.catalog import DatasetInfo
from shared.errors import DataError
from worker.trainer.data import cifar, downloads
from worker.trainer.data.downloads import CheckStop
from worker.trainer.data.pixels import Pixels

IDX_UINT8 = 0x08  # a type byte of the IDX format


def load(info: DatasetInfo, data_dir: Path, download: bool, check_stop: CheckStop = lambda: None) -> Pixels:
    """A built-in dataset. Raises DataError if its files are missing (and not downloaded) or damaged; as
    `downloads.fetch_missing`."""
    if info.name == "digits":
        return load_digits()
    folder = _complete_folder(info, data_dir, download, check_stop)
    return load_cifar(info, folder) if info.name == "cifar10" else load_idx(info, folder)


def load_digits() -> Pixels:
    """scikit-learn's 1797 digits. Sorted by class, every tenth is a test image: 180, the same share of each class.

    Read from its file: importing scikit-learn takes a second, for which the start of every worker would wait. Raises
    DataError if it is not installed.
    """
    table = np.loadtxt(_digits_file(), delimiter=",")  # (1797,65)
    images = torch.from_numpy(table[:, :-1].astype(np.float32).reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    by_class = labels.argsort(stable=True)
    test = by_class[5::10].sort().values
    train = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, test, False).nonzero().squeeze(1)
    return Pixels(images[train], labels[train], images[test], labels[test], white=16.0)


def _digits_file() -> Path:
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("digits are a file of scikit-learn, which is not installed")
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"


def load_idx(info: DatasetInfo, folder: Path) -> Pixels:
    """MNIST, Fashion-MNIST or KMNIST from four IDX files, plain or gzipped. Raises DataError if one is damaged."""
    train_images, train_labels, test_images, test_labels = (read_idx(folder / name) for name in info.files)
    pixels = Pixels(train_images.unsqueeze(1), train_labels.long(), test_images.unsqueeze(1), test_labels.long(), 255.0)
    return _checked(pixels, info, folder)


def load_cifar(info: DatasetInfo, folder: Path) -> Pixels:
    """CIFAR-10 in torchvision's layout: five training batches, one test batch. Raises DataError if one is damaged."""
    *train, test = (cifar.read_batch(read_file(folder / name), folder / name, info) for name in info.files)
    train_images, train_labels = (torch.cat(tensors) for tensors in zip(*train, strict=True))
    return _checked(Pixels(train_images, train_labels, *test, white=255.0), info, folder)


def _checked(pixels: Pixels, info: DatasetInfo, folder: Path) -> Pixels:
    for images, labels in ((pixels.train_images, pixels.train_labels), (pixels.test_images, pixels.test_labels)):
        if len(images) != len(labels) or tuple(images.shape[1:]) != info.shape:
            raise DataError(f"{info.name} in {folder}: {tuple(images.shape)} images and {len(labels)} labels")
        if len(labels) == 0:
            raise DataError(f"{info.name} in {folder}: there are no images")
        if not 0 <= labels.min() <= labels.max() < len(info.classes):
            raise DataError(
                f"{info.name} in {folder}: labels from {labels.min()} to {labels.max()}, and there are "
                f"{len(info.classes)} classes"
            )
    return pixels


# --- files that may be downloaded -------------------------------------------------------------------------------------


def _complete_folder(info: DatasetInfo, data_dir: Path, download: bool, check_stop: CheckStop) -> Path:
    """The dataset's folder, with all of its files, downloaded if they are missing and that is allowed."""
    if missing := info.missing_files(data_dir):
        absent = [str(path) for path in missing]
        if not download:
            raise DataError(
                f"{missing[0].name} (or .gz) is missing in {missing[0].parent}; put the files there and set "
                "GRADQ_DATA_DIR, or allow the download with GRADQ_DOWNLOAD=true",
                missing=absent,
            )
        try:
            downloads.fetch_missing(info, data_dir, check_stop)
        except (DataError, downloads.MirrorAway) as error:
            raise type(error)(
                f"{missing[0].name} is missing in {missing[0].parent}: {error.detail}; "
                f"put the files into {missing[0].parent}",
                missing=absent,
            ) from None
    return data_dir / (info.folder or "")


def sources(info: DatasetInfo, data_dir: Path) -> list[Path]:
    """The files that `load` reads, if they are there: each plain or gzipped. Raises DataError as `load_digits`."""
    if info.name == "digits":
        return [_digits_file()]
    return [_plain_or_packed(data_dir / (info.folder or "") / name) for name in info.files]


def _plain_or_packed(path: Path) -> Path:
    return path if path.is_file() else path.with_name(path.name + ".gz")


def read_file(path: Path) -> bytes:
    """The bytes of `path`, or of `path`.gz decompressed. Raises DataError if neither can be read."""
    source = _plain_or_packed(path)
    try:
        return source.read_bytes() if source == path else gzip.decompress(source.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_idx(path: Path) -> Tensor:
    """The values of an IDX file of bytes, plain or gzipped: a uint8 tensor of the shape in the file's header.

    The format (http://yann.lecun.com/exdb/mnist): bytes 0, 0, type and ndim, ndim big-endian sizes, then the values.
    Raises DataError if the file is not one, or does not have the size that its header says.
    """
    raw = read_file(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != IDX_UINT8:
        raise DataError(f"{path} is not an IDX file of bytes")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise DataError(f"{path} is truncated: {len(raw)} bytes, and its header alone has {start}")
    shape = tuple(np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist())
    if len(raw) - start != int(np.prod(shape)):
        raise DataError(f"{path} holds {len(raw) - start} bytes of values, and its header says {shape}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())
