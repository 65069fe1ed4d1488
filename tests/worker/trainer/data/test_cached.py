"""Decoded datasets and measured figures in the host's cache: the same bits, made once, never in a job's way."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.disk import SmallDisk, why_no_disks
from support.images import idx, npz, pixels, small

from api.uploads.fields import UploadFields
from api.uploads.ingest import ingest
from shared.datasets.catalog import ARRAYS, DATASETS, IDX_FILES, DatasetInfo
from shared.spec.job_spec import JobSpec
from worker.folder_cache import MUTEX, FolderCache
from worker.trainer.data import built_in, cached, datasets, memmap, normalization
from worker.trainer.data.batches import PixelBatches
from worker.trainer.data.memmap import MappedBatches
from worker.trainer.job import run_job
from worker.trainer.run import Run

CPU = torch.device("cpu")
MNIST = DATASETS["mnist"]
NAME = "ds_" + "1" * 32


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    return FolderCache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small MNIST, gzipped."""
    return mnist_files(tmp_path / "data")


def mnist_files(folder: Path, n: int = 40, seed: int = 0) -> Path:
    place = folder / str(MNIST.folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in IDX_FILES:
        array = pixels(n, 28, 28, seed=seed) if "images" in name else (np.arange(n) % 10).astype(np.uint8)
        (place / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
    return folder


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets that were decoded, and those whose figures were measured."""
    seen: list[str] = []
    load, measure = built_in.load, normalization.measure

    def listen(info: DatasetInfo, *arguments: Any) -> Any:
        seen.append(info.name)
        return load(info, *arguments)

    def listen_too(*arguments: Any) -> Any:
        seen.append("measured")
        return measure(*arguments)

    monkeypatch.setattr(built_in, "load", listen)
    monkeypatch.setattr(cached, "measure", listen_too)
    return seen


def prepared(data: Path, cache: FolderCache | None, **fields: Any) -> datasets.Data:
    spec = JobSpec.parse({"seed": 7, "dataset": "mnist", "batch_size": 16, **fields})
    return datasets.prepare(spec, data, False, CPU, cache=cache)


def same(one: datasets.Data, other: datasets.Data) -> bool:
    batches = zip(one.train.epoch(1), other.train.epoch(1), strict=True)
    return (
        one.normalization == other.normalization
        and one.info == other.info
        and all(torch.equal(x, y) and torch.equal(a, b) for (x, a), (y, b) in batches)
        and torch.equal(one.val_images[:], other.val_images[:])
        and torch.equal(one.val_labels, other.val_labels)
        and torch.equal(one.test_images[:], other.test_images[:])
        and torch.equal(one.test_labels, other.test_labels)
    )


def entries(cache: FolderCache) -> list[Path]:
    return [path for path in cache.root.iterdir() if path.name != MUTEX]


# --- built in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"validation": "test"}, {"dataset": "digits"}], ids=str)
def test_from_the_cache_come_the_same_bits(data: Path, cache: FolderCache, decodes: list[str], fields) -> None:
    plain, first, second = (prepared(data, where, **fields) for where in (None, cache, cache))
    assert decodes == [plain.info.name, "measured"] * 2
    assert same(plain, first)
    assert same(plain, second)
    assert first.held is not None
    assert second.held is not None
    assert first.warnings == second.warnings == plain.warnings


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist", "cifar10"])
def test_each_built_in_dataset_has_a_folder_of_its_own(tmp_path: Path, cache: FolderCache, decodes, name: str) -> None:
    info = DATASETS[name]
    place = tmp_path / str(info.folder)
    place.mkdir(parents=True)
    for file in info.files:
        if name == "cifar10":
            content = {"data": pixels(30, 3072), "labels": [i % 10 for i in range(30)]}
            (place / file).write_bytes(pickle.dumps(content, 3))
        else:
            (place / file).write_bytes(
                idx(pixels(30, 28, 28) if "images" in file else (np.arange(30) % 10).astype(np.uint8))
            )
    plain, first, second = (prepared(tmp_path, where, dataset=name) for where in (None, cache, cache))
    assert decodes == [name, "measured"] * 2
    assert same(plain, first)
    assert same(plain, second)
    assert [path.name.rpartition("-")[0] for path in entries(cache)] == [name]


@pytest.mark.parametrize("fields", [{}, {"augment": [{"type": "shift", "pixels": 1}]}, {"batch_size": 9}], ids=str)
def test_batches_of_bytes_have_the_bits_of_batches_of_floats(
    data: Path, cache: FolderCache, monkeypatch, fields
) -> None:
    floats = prepared(data, None, **fields)
    monkeypatch.setattr("worker.trainer.data.batches.WHOLE_BYTES", 0)
    for where in (None, cache, cache):
        bytes_ = prepared(data, where, **fields)
        assert isinstance(bytes_.train, PixelBatches)
        assert same(floats, bytes_)
        for (x, labels), (y, others) in zip(floats.train.epoch(2, 1), bytes_.train.epoch(2, 1), strict=True):
            assert torch.equal(x, y)
            assert torch.equal(labels, others)


def test_a_training_ends_with_the_same_weights_with_and_without_a_cache(
    data: Path, cache, tmp_path, monkeypatch
) -> None:
    spec = JobSpec.parse({"seed": 7, "dataset": "mnist", "epochs": 3, "batch_size": 8, "gradients": "manual"})
    results = []
    for whole, where in ((1 << 24, None), (0, None), (0, cache), (0, cache)):
        monkeypatch.setattr("worker.trainer.data.batches.WHOLE_BYTES", whole)
        run = Run(tmp_path / f"run-{len(results)}")
        options = {"data_dir": data, "download": False, "threads": 1, "cache": where}
        results.append(run_job(spec, run, lambda _: None, **options))
    first = results[0]
    for result in results[1:]:
        for key in ("weights_sha256", "data_order_sha256", "train_loss", "val_loss", "test_loss", "gradient_check"):
            assert result[key] == first[key], key


def test_a_source_file_that_changed_is_decoded_again_and_the_old_folder_removed(data: Path, cache, decodes) -> None:
    prepared(data, cache)
    before = entries(cache)
    mnist_files(data, seed=1)
    decodes.clear()
    changed = prepared(data, cache)
    assert decodes == ["mnist", "measured"]
    assert same(changed, prepared(data, None))
    assert len(entries(cache)) == 1
    assert entries(cache) != before


def test_a_source_file_that_changed_in_place_with_its_times_is_noticed(data: Path, cache, decodes) -> None:
    path = data / str(MNIST.folder) / f"{IDX_FILES[1]}.gz"
    prepared(data, cache)
    before = path.stat()
    content = gzip.compress(idx((np.arange(40) % 9).astype(np.uint8)), 1)
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    decodes.clear()
    prepared(data, cache)
    assert decodes == ["mnist", "measured"]


def test_files_that_change_while_they_are_read_are_not_cached(data: Path, cache, monkeypatch) -> None:
    load = built_in.load

    def change(*arguments: Any) -> Any:
        read = load(*arguments)
        mnist_files(data, seed=1)
        return read

    monkeypatch.setattr(built_in, "load", change)
    prepared(data, cache)
    assert not cache.root.exists()


def test_an_array_that_was_cut_is_made_anew(data: Path, cache: FolderCache, decodes: list[str]) -> None:
    prepared(data, cache)
    [folder] = entries(cache)
    os.truncate(folder / ARRAYS[0], 500)
    decodes.clear()
    assert same(prepared(data, cache), prepared(data, None))
    assert decodes == ["mnist", "measured"] * 2
    decodes.clear()
    prepared(data, cache)
    assert decodes == []


def test_missing_files_are_an_error_as_without_a_cache(tmp_path: Path, cache: FolderCache) -> None:
    with pytest.raises(datasets.DataError, match="GRADQ_DOWNLOAD"):
        prepared(tmp_path / "nothing", cache)


def _train_on(data: Path, cache: FolderCache, pipe: Any) -> None:
    pipe.recv()
    torch.set_num_threads(1)
    first = next(prepared(data, cache).train.epoch(1))
    pipe.send((first[0].numpy().tobytes(), len(list(cache.root.glob("mnist-*")))))


def test_processes_that_decode_at_the_same_time_get_the_same_and_leave_one_folder(data: Path, cache) -> None:
    spawn = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(2):
        ours, theirs = spawn.Pipe()
        child = spawn.Process(target=_train_on, args=(data, cache, theirs), daemon=True)
        child.start()
        pipes.append((child, ours))
    for _, pipe in pipes:
        pipe.send("go")
    found = set()
    for child, pipe in pipes:
        assert pipe.poll(60)
        found.add(pipe.recv())
        child.join(20)
    assert len(found) == 1
    assert len(entries(cache)) == 1
    assert same(prepared(data, cache), prepared(data, None))


# --- a cache that takes no files --------------------------------------------------------------------------------------


def test_on_a_full_disk_the_job_runs_and_says_why_it_decodes(tmp_path: Path, data: Path) -> None:
    if (why := why_no_disks()) is not None:
        pytest.skip(why)
    disk = SmallDisk(tmp_path / "disk", 1)
    try:
        disk.leave(4 << 12)
        full = FolderCache(disk.path / "cache", 1 << 30)
        loaded = prepared(data, full)
        assert [warning for warning in loaded.warnings if "not cached on this host" in warning] != []
        assert loaded.held is None
        assert same(loaded, prepared(data, None))
        assert entries(full) == []
    finally:
        disk.unmount()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS])
def test_whatever_keeps_the_cache_from_being_written_the_job_runs(data: Path, cache, monkeypatch, number: int) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "save", fail)
    loaded = prepared(data, cache)
    assert os.strerror(number) in loaded.warnings[-1]
    assert same(loaded, prepared(data, None))
    assert entries(cache) == []


def test_a_cache_that_is_a_file_or_too_small_is_done_without(tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (FolderCache(tmp_path / "file", 1 << 30), FolderCache(tmp_path / "small", 1000)):
        assert "not cached on this host" in prepared(data, cache).warnings[-1]


# --- uploads ----------------------------------------------------------------------------------------------------------


def uploaded(folder: Path, **fields: Any) -> tuple[Path, JobSpec]:
    path, target = folder / "upload", folder / "dataset"
    path.write_bytes(npz(**small(200, **fields)))
    info, _ = ingest({"file": path}, UploadFields(), "pets", target, 1 << 30)
    return target, JobSpec.parse({"seed": 7, "batch_size": 16, "dataset": NAME}, lambda _: info)


@pytest.mark.parametrize("share", [0.25, 0.0])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_an_upload_is_measured_once(tmp_path: Path, cache, decodes, monkeypatch, share: float, kind: Any) -> None:
    monkeypatch.setattr(memmap, "SHARE_OF_MEMORY", share)
    monkeypatch.setattr("worker.trainer.data.batches.WHOLE_BYTES", 0)
    folder, spec = uploaded(tmp_path, x=pixels(200, 6, 6).astype(kind))
    plain, first, second = (
        datasets.prepare(spec, tmp_path, False, CPU, folder, cache=where) for where in (None, cache, cache)
    )
    assert decodes == ["measured"] * 2
    assert isinstance(plain.train, MappedBatches) is (share == 0)
    assert same(plain, first)
    assert same(plain, second)
    np.save(folder / ARRAYS[0], np.load(folder / ARRAYS[0]) // 2)
    changed = datasets.prepare(spec, tmp_path, False, CPU, folder, cache=cache)
    assert decodes == ["measured"] * 3
    assert changed.normalization != plain.normalization
    assert [path.name.rpartition("-")[0] for path in entries(cache)] == [f"{NAME}-measured"]


def test_figures_that_cannot_be_cached_are_measured(tmp_path: Path) -> None:
    folder, spec = uploaded(tmp_path)
    (tmp_path / "file").write_text("")
    unusable = FolderCache(tmp_path / "file", 1 << 30)
    loaded = datasets.prepare(spec, tmp_path, False, CPU, folder, cache=unusable)
    assert loaded.normalization == datasets.prepare(spec, tmp_path, False, CPU, folder).normalization
    assert "takes no files" in loaded.warnings[-1]


def test_what_a_job_writes_into_its_images_changes_no_file(tmp_path: Path) -> None:
    folder, _ = uploaded(tmp_path)
    info = memmap.read_info(folder)
    mapped = memmap.mapped_pixels(info, folder).train_images
    before = mapped.clone()
    mapped.zero_()
    assert torch.equal(memmap.mapped_pixels(info, folder).train_images, before)
