"""A worker claims no job while the store or its disk takes no files, and continues by itself once a probe succeeds."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.disk import SmallDisk, why_no_disks
from support.postgres import part_missing
from support.waiting import wait_for

from shared.artifacts import ArtifactStore
from shared.errors import StoreUnavailable
from worker import pauses
from worker.pauses import LONGEST_PAUSE_SECONDS
from worker.storage_watch import StorageProber, StorageWatch


@pytest.fixture
def watch(tmp_path: Path) -> StorageWatch:
    return StorageWatch(ArtifactStore(f"file://{tmp_path}/store"), tmp_path / "runs")


def test_an_outage_lasts_until_a_probe_of_store_and_disk_succeeds(
    watch: StorageWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch.outage is None
    watch.report("disk_full", "no room")
    assert watch.outage == "disk_full"

    def away(self: ArtifactStore) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(ArtifactStore, "probe", away)
        assert not watch.probe()
        assert watch.outage == "store_unavailable"
    assert watch.probe()
    assert watch.outage is None
    assert list(watch.runs.iterdir()) == [], "the probe leaves its file"


def test_the_pauses_between_probes_grow_and_start_anew_after_a_calm_time(
    watch: StorageWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.report("store_unavailable", "away")
    assert [watch.next_pause() for _ in range(6)] == [1, 2, 4, 8, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    assert watch.probe()
    watch.report("store_unavailable", "a large file does not fit, although the probe did")
    assert watch.next_pause() == LONGEST_PAUSE_SECONDS
    monkeypatch.setattr(pauses, "CALM_SECONDS", -1.0)
    watch.report("store_unavailable", "away")
    assert watch.next_pause() == 1


def test_what_is_reported_during_a_probe_is_not_forgotten(watch: StorageWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArtifactStore, "probe", lambda self: watch.report("store_unavailable", "away again"))
    watch.probe()
    assert watch.outage == "store_unavailable"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if (why := why_no_disks()) is not None:
        part_missing(why)
    disk = SmallDisk(tmp_path / "disk", 1)
    yield disk
    disk.unmount()


@pytest.mark.parametrize("full", ["store", "runs"])
def test_a_full_disk_of_either_place_is_seen_by_the_probe(disk: SmallDisk, tmp_path: Path, full: str) -> None:
    place = {"store": tmp_path / "store", "runs": tmp_path / "runs", full: disk.path / full}
    watch = StorageWatch(ArtifactStore(f"file://{place['store']}"), place["runs"])
    assert watch.probe()
    disk.fill()
    assert not watch.probe()
    assert watch.outage == {"store": "store_unavailable", "runs": "disk_full"}[full]
    disk.free()
    assert watch.probe()


@pytest.mark.parametrize("place", ["reported", "cache"])
def test_other_folders_of_this_worker_are_probed_too(disk: SmallDisk, tmp_path: Path, place: str) -> None:
    folder = disk.path / place
    folder.mkdir()
    watch = StorageWatch(ArtifactStore(f"file://{tmp_path}/store"), tmp_path / "runs", disk.path / "cache")
    disk.fill()
    if place == "reported":
        watch.report("disk_full", "no room for kmnist", folder)
    assert not watch.probe()
    assert watch.outage == "disk_full"
    disk.free()
    assert watch.probe()
    assert list(folder.iterdir()) == []
    disk.fill()
    assert watch.probe() == (place == "reported"), "a reported folder is forgotten once it took a file"


def test_a_reported_folder_that_is_read_only_keeps_no_job_waiting(disk: SmallDisk, watch: StorageWatch) -> None:
    watch.report("disk_full", "no room for kmnist", disk.path)
    assert disk.try_to_protect()
    assert watch.probe()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENXIO])
def test_a_disk_of_the_run_folders_that_is_broken_is_seen_by_the_probe(
    watch: StorageWatch, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def broken(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", broken)
        assert not watch.probe()
        assert watch.outage == "disk_full"
    assert watch.probe()


def test_the_prober_probes_until_the_outage_is_over_and_says_so_once(
    watch: StorageWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "FIRST_PAUSE_SECONDS", 0.01)
    failures: list[Callable[[], None]] = [_full, _unknown, _full]

    def probe(self: ArtifactStore) -> None:
        if failures:
            failures.pop(0)()

    monkeypatch.setattr(ArtifactStore, "probe", probe)
    recovered: list[threading.Thread] = []
    prober = StorageProber(watch, lambda: recovered.append(threading.current_thread()))
    prober.start()
    try:
        watch.report("store_unavailable", "away")
        wait_for(lambda: recovered, 30, "the end of the outage")
        assert (failures, watch.outage, recovered) == ([], None, [prober])
    finally:
        prober.stop()
    wait_for(lambda: not prober.is_alive(), 30, "the end of the thread")


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unknown() -> None:
    raise RuntimeError("of a library")
