"""What this host's cache has of datasets: the built-in ones decoded, and the figures measured of uploaded ones.

A decoded dataset is a folder like that of an uploaded one, with its normalization beside the arrays. Trainers map the
arrays, so that all of a host share the pages. Folders are named after size, times and inode of the files that they were
made from. Without a cache, or if it takes no files, each job decodes and measures for itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from shared.datasets.catalog import ARRAYS, FACTS, DatasetInfo
from shared.errors import DataError
from worker.folder_cache import FolderCache, HeldFolder, stamp_of
from worker.trainer.data import built_in, memmap
from worker.trainer.data.downloads import CheckStop
from worker.trainer.data.memmap import StoredImages
from worker.trainer.data.normalization import Normalization, measure
from worker.trainer.data.pixels import Pixels

NORMALIZATION = "normalization.json"
FIGURES_BYTES = 4096  # of a folder, besides its arrays
LAYOUT = 1  # to be increased when decoding, measuring or the files change


@dataclass(frozen=True)
class Decoded:
    """A dataset in memory, or mapped from the folder `held`. `warnings`: why it is not in the cache."""

    pixels: Pixels
    normalization: Normalization
    held: HeldFolder | None = None
    warnings: tuple[str, ...] = ()


def decoded(
    info: DatasetInfo, data_dir: Path, download: bool, check_stop: CheckStop, cache: FolderCache | None
) -> Decoded:
    """A built-in dataset from the cache, else as `built_in.load`, which may raise, and then put there."""
    before = None if cache is None else _version(built_in.sources(info, data_dir))
    if cache is not None and before is not None and (found := _find(cache, f"{info.name}-{before}")) is not None:
        return found
    pixels = built_in.load(info, data_dir, download, check_stop)
    fresh = Decoded(pixels, measure(pixels.train_images, pixels.white))
    version = None if cache is None else _version(built_in.sources(info, data_dir))
    if cache is None or version is None or before not in (None, version):  # or they were changed while they were read
        return fresh
    arrays = (pixels.train_images, pixels.train_labels, pixels.test_images, pixels.test_labels)

    def write(folder: Path) -> dict[str, str]:
        for name, array in zip(ARRAYS, arrays, strict=True):
            np.save(folder / name, array.numpy())
        counts = replace(info, train_examples=len(pixels.train_labels), test_examples=len(pixels.test_labels))
        (folder / FACTS).write_text(json.dumps(counts.to_json()))
        _write_figures(folder, fresh.normalization)
        return {}

    size = sum(array.nbytes for array in arrays) + FIGURES_BYTES
    try:
        return _mapped(cache.make(f"{info.name}-{version}", size, write))
    except (OSError, DataError) as error:
        return replace(fresh, warnings=(f"{info.name} is not cached on this host, so each job decodes it: {error}",))


def measured(
    dataset: str, images: StoredImages, white: float, cache: FolderCache | None
) -> tuple[Normalization, tuple[str, ...]]:
    """The normalization of an uploaded dataset with these training images, from the cache, else measured and put there;
    and why it is not in the cache."""
    version = None if cache is None else _version([images.path], white)
    if cache is None or version is None:
        return measure(images, white), ()
    name = f"{dataset}-measured-{version}"
    try:
        if (held := cache.find(name)) is not None:
            return _read_figures(held.path), ()
    except (OSError, DataError):
        pass  # measured below
    normalization = measure(images, white)

    def write(folder: Path) -> dict[str, str]:
        _write_figures(folder, normalization)
        return {}

    try:
        cache.make(name, FIGURES_BYTES, write).release()
    except OSError as error:
        return normalization, (f"{dataset} is measured for each job, since this host's cache takes no files: {error}",)
    return normalization, ()


def _find(cache: FolderCache, name: str) -> Decoded | None:
    try:
        held = cache.find(name)
        return None if held is None else _mapped(held)
    except (OSError, DataError):
        return None


def _mapped(held: HeldFolder) -> Decoded:
    """Raises DataError if an array cannot be read."""
    pixels = memmap.mapped_pixels(memmap.read_info(held.path), held.path)
    return Decoded(pixels, _read_figures(held.path), held)


def _write_figures(folder: Path, normalization: Normalization) -> None:
    (folder / NORMALIZATION).write_text(json.dumps(asdict(normalization)))  # Python's JSON has all bits of a float


def _read_figures(folder: Path) -> Normalization:
    try:
        return Normalization(**json.loads((folder / NORMALIZATION).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / NORMALIZATION} cannot be read: {error}") from error


def _version(sources: Sequence[Path], *parameters: float) -> str | None:
    """A name for what these files hold now; None if one of them is missing."""
    try:
        stamps = [[path.name, *stamp_of(path)] for path in sources]
    except OSError:
        return None
    return hashlib.sha256(json.dumps([LAYOUT, stamps, parameters]).encode()).hexdigest()[:16]
