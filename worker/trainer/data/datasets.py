"""Datasets as tensors: read, normalized, split."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.datasets.catalog import DATASETS, DatasetInfo
from shared.errors import DataError
from shared.spec.job_spec import Fraction, GradientCheckSpec, JobSpec, WalkSpec
from worker.trainer import seeds
from worker.trainer.data import cifar, downloads, memmap
from worker.trainer.data.augment import Augmenter
from worker.trainer.data.batches import ShuffledBatches, TrainingBatches, training_batches
from worker.trainer.data.downloads import CheckStop
from worker.trainer.data.memmap import Images, MappedBatches, MappedDataset, NormalizedImages
from worker.trainer.data.normalization import Normalization, measure
from worker.trainer.data.split_methods import RANDOM, STRATIFIED, TEST
from worker.trainer.data.splits import split, warnings_about

AnySpec = JobSpec | GradientCheckSpec | WalkSpec  # prepare() reads dataset, seed and batch_size of each
IDX_UINT8 = 0x08  # a type byte of the IDX format


@dataclass(frozen=True)
class Pixels:
    """A dataset before normalization. images (N,C,H,W) uint8 or float, from 0 to `white`; labels (N) int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    white: float


@dataclass(frozen=True)
class Data:
    """The data of a run. Images are normalized; evaluation splits are on the device, or copied there when read."""

    info: DatasetInfo
    device: torch.device
    normalization: Normalization
    train: TrainingBatches
    val_images: Images
    val_labels: Tensor
    test_images: Images
    test_labels: Tensor
    validation_split: str  # one of split_methods
    streams: int  # the version of the random streams
    warnings: list[str]  # about the split


def prepare(
    spec: AnySpec,
    data_dir: Path,
    download: bool,
    device: torch.device,
    uploaded: Path | None = None,
    streams: int = seeds.STREAMS,
    check_stop: CheckStop = lambda: None,
) -> Data:
    """Load, normalize and split the spec's dataset; `uploaded` is the folder of one that is not built in.

    `download` allows to fetch a built-in dataset, and calls `check_stop` meanwhile; `streams` is the version of the
    random streams. Raises DataError if files are missing or damaged, or no example can be held out; as
    `downloads.fetch_missing`.
    """
    if uploaded is not None:
        info = memmap.read_info(uploaded)
        if memmap.too_large(info):
            return prepare_mapped(spec, info, uploaded, device, streams)
        pixels = load_uploaded(info, uploaded)
    else:
        if spec.dataset not in DATASETS:
            raise DataError(f"{spec.dataset} is not a built-in dataset, and no folder was given for it")
        info = DATASETS[spec.dataset]
        pixels = load(info, data_dir, download, check_stop)
    normalization = measure(pixels.train_images, pixels.white)
    images = normalization.apply(pixels.train_images)
    test_images, test_labels = normalization.apply(pixels.test_images).to(device), pixels.test_labels.to(device)
    fraction, labels = held_out_fraction(spec), pixels.train_labels
    train, val = split(labels, fraction, spec.seed, streams)
    order = ShuffledBatches(train, spec.batch_size, spec.seed, streams)
    if fraction:
        val_images, val_labels = images[val].to(device), labels[val].to(device)
    else:
        val_images, val_labels = test_images, test_labels
    return Data(
        info=info,
        device=device,
        normalization=normalization,
        train=training_batches(images, labels, order, device, augmenter(spec, normalization, device, streams)),
        val_images=val_images,
        val_labels=val_labels,
        test_images=test_images,
        test_labels=test_labels,
        validation_split=split_method(fraction, streams),
        streams=streams,
        warnings=warnings_about(labels[train], labels[val] if fraction else None, fraction, info.classes),
    )


def prepare_mapped(
    spec: AnySpec, info: DatasetInfo, folder: Path, device: torch.device, streams: int = seeds.STREAMS
) -> Data:
    """As `prepare`, for a dataset that stays on disk: only its labels are in memory."""
    train_images, test_images = memmap.images(folder, info)
    train_labels, test_labels = memmap.labels(folder, info)
    normalization = measure(train_images, info.white)
    fraction = held_out_fraction(spec)
    train, val = split(train_labels, fraction, spec.seed, streams)
    order = ShuffledBatches(train, spec.batch_size, spec.seed, streams)
    gathered = MappedDataset(train_images, train_labels, normalization)
    test = NormalizedImages(test_images, None, normalization, device), test_labels.to(device)
    held_out = NormalizedImages(train_images, val, normalization, device), train_labels[val].to(device)
    val_images, val_labels = held_out if fraction else test
    return Data(
        info=info,
        device=device,
        normalization=normalization,
        train=MappedBatches(gathered, order, device, augmenter(spec, normalization, device, streams)),
        val_images=val_images,
        val_labels=val_labels,
        test_images=test[0],
        test_labels=test[1],
        validation_split=split_method(fraction, streams),
        streams=streams,
        warnings=warnings_about(train_labels[train], train_labels[val] if fraction else None, fraction, info.classes),
    )


def held_out_fraction(spec: AnySpec) -> float:
    """The share of the training split held out for validation: 0 if the test split is used, or nothing is validated."""
    return spec.validation.fraction if isinstance(spec, JobSpec) and isinstance(spec.validation, Fraction) else 0.0


def split_method(fraction: float, streams: int) -> str:
    """How the validation split was chosen, as results say it."""
    if not fraction:
        return TEST
    return RANDOM if streams == seeds.LOW_BITS else STRATIFIED


def augmenter(spec: AnySpec, normalization: Normalization, device: torch.device, streams: int) -> Augmenter | None:
    """The spec's augmentations; None if it has none, as in gradient checks and walks."""
    if not isinstance(spec, JobSpec) or not spec.augment:
        return None
    black = normalization.apply(torch.zeros(1, len(normalization.mean), 1, 1))
    return Augmenter(spec.augment, spec.seed, black.to(device), streams)


def load(info: DatasetInfo, data_dir: Path, download: bool, check_stop: CheckStop = lambda: None) -> Pixels:
    """A built-in dataset. Raises DataError if its files are missing (and not downloaded) or damaged; as
    `downloads.fetch_missing`."""
    if info.name == "digits":
        return load_digits()
    folder = _complete_folder(info, data_dir, download, check_stop)
    return load_cifar(info, folder) if info.name == "cifar10" else load_idx(info, folder)


def load_uploaded(info: DatasetInfo, folder: Path) -> Pixels:
    """An uploaded dataset, read into memory. Raises DataError if its files do not match `info`."""
    train_images, test_images = (stored[:] for stored in memmap.images(folder, info))
    train_labels, test_labels = memmap.labels(folder, info)
    return Pixels(train_images, train_labels, test_images, test_labels, info.white)


def load_digits() -> Pixels:
    """scikit-learn's 1797 digits. Sorted by class, every tenth is a test image: 180, the same share of each class.

    Read from its file: importing scikit-learn takes a second, for which the start of every worker would wait. Raises
    DataError if it is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("digits are a file of scikit-learn, which is not installed")
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")  # (1797,65)
    images = torch.from_numpy(table[:, :-1].astype(np.float32).reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    by_class = labels.argsort(stable=True)
    test = by_class[5::10].sort().values
    train = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, test, False).nonzero().squeeze(1)
    return Pixels(images[train], labels[train], images[test], labels[test], white=16.0)


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


def read_file(path: Path) -> bytes:
    """The bytes of `path`, or of `path`.gz decompressed. Raises DataError if neither can be read."""
    packed = path.with_name(path.name + ".gz")
    try:
        return path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
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
