"""The data of a run: loaded, normalized, split."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from shared.datasets.catalog import DATASETS, DatasetInfo
from shared.errors import DataError
from shared.spec.job_spec import Fraction, GradientCheckSpec, JobSpec, WalkSpec
from worker.folder_cache import FolderCache, HeldFolder
from worker.trainer import seeds
from worker.trainer.data import cached, memmap
from worker.trainer.data.augment import Augmenter
from worker.trainer.data.batches import ShuffledBatches, TrainingBatches, training_batches
from worker.trainer.data.cached import Decoded
from worker.trainer.data.downloads import CheckStop
from worker.trainer.data.memmap import Images, MappedBatches, MappedDataset, NormalizedImages
from worker.trainer.data.normalization import Normalization
from worker.trainer.data.split_methods import RANDOM, STRATIFIED, TEST
from worker.trainer.data.splits import split, warnings_about

AnySpec = JobSpec | GradientCheckSpec | WalkSpec  # prepare() reads dataset, seed and batch_size of each


@dataclass(frozen=True)
class Data:
    """The data of a run. Images are normalized; those of the evaluation splits when they are first used, and then on
    the device, or copied there when read."""

    info: DatasetInfo
    device: torch.device
    normalization: Normalization
    train: TrainingBatches
    val_labels: Tensor
    test_labels: Tensor
    read_val: Callable[[], Images] | None  # None: the test split validates
    read_test: Callable[[], Images]
    validation_split: str  # one of split_methods
    streams: int  # the version of the random streams
    warnings: list[str]  # about the split, and the cache
    held: HeldFolder | None = None  # the folder in the cache that the images are mapped from

    @functools.cached_property
    def val_images(self) -> Images:
        return self.test_images if self.read_val is None else self.read_val()

    @functools.cached_property
    def test_images(self) -> Images:
        return self.read_test()


def prepare(
    spec: AnySpec,
    data_dir: Path,
    download: bool,
    device: torch.device,
    uploaded: Path | None = None,
    streams: int = seeds.STREAMS,
    check_stop: CheckStop = lambda: None,
    cache: FolderCache | None = None,
) -> Data:
    """Load, normalize and split the spec's dataset; `uploaded` is the folder of one that is not built in.

    `download` allows to fetch a built-in dataset, and calls `check_stop` meanwhile; `streams` is the version of the
    random streams. Raises DataError if files are missing or damaged, or no example can be held out; as
    `downloads.fetch_missing`.
    """
    if uploaded is not None:
        info = memmap.read_info(uploaded)
        if memmap.too_large(info):
            return prepare_mapped(spec, info, uploaded, device, streams, cache)
        normalization, warnings = cached.measured(spec.dataset, memmap.images(uploaded, info)[0], info.white, cache)
        loaded = Decoded(memmap.mapped_pixels(info, uploaded), normalization, warnings=warnings)
    else:
        if spec.dataset not in DATASETS:
            raise DataError(f"{spec.dataset} is not a built-in dataset, and no folder was given for it")
        info = DATASETS[spec.dataset]
        loaded = cached.decoded(info, data_dir, download, check_stop, cache)
    pixels, normalization = loaded.pixels, loaded.normalization
    fraction, labels = held_out_fraction(spec), pixels.train_labels
    train, val = split(labels, fraction, spec.seed, streams)
    order = ShuffledBatches(train, spec.batch_size, spec.seed, streams)
    test_labels = pixels.test_labels.to(device)

    def read_val() -> Tensor:
        return normalization.apply(pixels.train_images[val]).to(device)

    def read_test() -> Tensor:
        return normalization.apply(pixels.test_images).to(device)

    about_split = warnings_about(labels[train], labels[val] if fraction else None, fraction, info.classes)
    return Data(
        info=info,
        device=device,
        normalization=normalization,
        train=training_batches(pixels, normalization, order, device, augmenter(spec, normalization, device, streams)),
        val_labels=labels[val].to(device) if fraction else test_labels,
        test_labels=test_labels,
        read_val=read_val if fraction else None,
        read_test=read_test,
        validation_split=split_method(fraction, streams),
        streams=streams,
        warnings=[*about_split, *loaded.warnings],
        held=loaded.held,
    )


def prepare_mapped(
    spec: AnySpec,
    info: DatasetInfo,
    folder: Path,
    device: torch.device,
    streams: int = seeds.STREAMS,
    cache: FolderCache | None = None,
) -> Data:
    """As `prepare`, for a dataset that stays on disk: only its labels are in memory."""
    train_images, test_images = memmap.images(folder, info)
    train_labels, test_labels = memmap.labels(folder, info)
    normalization, warnings = cached.measured(spec.dataset, train_images, info.white, cache)
    fraction = held_out_fraction(spec)
    train, val = split(train_labels, fraction, spec.seed, streams)
    order = ShuffledBatches(train, spec.batch_size, spec.seed, streams)
    gathered = MappedDataset(train_images, train_labels, normalization)
    on_device = test_labels.to(device)
    about_split = warnings_about(train_labels[train], train_labels[val] if fraction else None, fraction, info.classes)
    return Data(
        info=info,
        device=device,
        normalization=normalization,
        train=MappedBatches(gathered, order, device, augmenter(spec, normalization, device, streams)),
        val_labels=train_labels[val].to(device) if fraction else on_device,
        test_labels=on_device,
        read_val=partial(NormalizedImages, train_images, val, normalization, device) if fraction else None,
        read_test=partial(NormalizedImages, test_images, None, normalization, device),
        validation_split=split_method(fraction, streams),
        streams=streams,
        warnings=[*about_split, *warnings],
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
