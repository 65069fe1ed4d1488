"""Folders in the cache: complete or not there, checked before use, bounded, and never removed while one is used."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support.disk import SmallDisk, why_no_disks

from worker import folder_cache
from worker.folder_cache import LOCK, MANIFEST, MUTEX, FolderCache, HeldFolder

CONTENT = {"images": b"images" * 1000, "labels": b"labels"}
FORK = multiprocessing.get_context("fork")


def writer(**files: bytes) -> Callable[[Path], dict[str, str]]:
    def write(folder: Path) -> dict[str, str]:
        for name, content in (files or CONTENT).items():
            (folder / name).write_bytes(content)
        return {}

    return write


def make(cache: FolderCache, name: str = "pets-1", size: int = 6006, **more: Any) -> HeldFolder:
    return cache.make(name, size, writer(), **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (LOCK, MANIFEST)}


def names(cache: FolderCache) -> list[str]:
    return sorted(path.name for path in cache.root.iterdir() if path.name != MUTEX)


def used_at(cache: FolderCache, name: str, seconds: float) -> None:
    os.utime(cache.root / name / LOCK, (seconds, seconds))


def found(cache: FolderCache, name: str = "pets-1") -> HeldFolder:
    held = cache.find(name)
    assert held is not None
    return held


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    return FolderCache(tmp_path / "cache", 1 << 20)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    seen: list[str] = []
    hashed = folder_cache._sha256

    def listen(path: Path) -> str:
        seen.append(path.name)
        return hashed(path)

    monkeypatch.setattr(folder_cache, "_sha256", listen)
    return seen


def test_what_was_made_is_found(cache: FolderCache) -> None:
    assert cache.find("pets-1") is None
    made = make(cache)
    assert contents(made.path) == CONTENT
    assert found(cache).path == made.path == cache.root / "pets-1"
    assert names(cache) == ["pets-1"]


def test_a_build_that_fails_leaves_nothing(cache: FolderCache) -> None:
    def write(folder: Path) -> dict[str, str]:
        (folder / "images").write_bytes(b"half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        cache.make("pets-1", 10, write)
    assert cache.find("pets-1") is None
    assert names(cache) == []


def test_other_versions_are_removed_and_other_names_stay(cache: FolderCache) -> None:
    for name in ("pets-1", "pets-measured-1", "birds-1"):
        make(cache, name).release()
    make(cache, "pets-2")
    assert names(cache) == ["birds-1", "pets-2", "pets-measured-1"]


# --- damage -----------------------------------------------------------------------------------------------------------


def cut(folder: Path) -> None:
    os.truncate(folder / "images", 5999)


def change(folder: Path) -> None:
    (folder / "images").write_bytes(b"imagEs" * 1000)


def change_in_place(folder: Path) -> None:
    """With the times of before: but for the time of the change itself, which no program sets."""
    before = (folder / "images").stat()
    with (folder / "images").open("r+b") as file:
        file.write(b"x")
    os.utime(folder / "images", ns=(before.st_atime_ns, before.st_mtime_ns))


def lose(folder: Path) -> None:
    (folder / "images").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 20)


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def lose_lock(folder: Path) -> None:
    (folder / LOCK).unlink()


@pytest.mark.parametrize(
    "damage", [cut, change, change_in_place, lose, lose_manifest, cut_manifest, empty_manifest, lose_lock]
)
def test_a_damaged_folder_is_removed_and_made_anew(cache: FolderCache, damage: Callable[[Path], None]) -> None:
    damage(make(cache).path)
    assert cache.find("pets-1") is None
    assert names(cache) == []
    assert contents(make(cache).path) == CONTENT


def test_a_file_whose_times_alone_changed_is_hashed_once(cache: FolderCache, reads: list[str]) -> None:
    path = make(cache).path
    os.utime(path / "images")
    reads.clear()
    found(cache)
    assert reads == ["images"]
    found(cache)
    assert reads == ["images"]


def test_after_a_boot_all_files_are_hashed_once(
    cache: FolderCache, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(cache)
    reads.clear()
    found(cache)
    assert reads == []
    monkeypatch.setattr(folder_cache, "_boot", lambda: "another")
    found(cache)
    found(cache)
    assert reads == ["images", "labels"]


def test_a_file_that_lost_its_content_with_the_power_is_noticed(
    cache: FolderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(cache).path
    change(path)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"]["images"]["stamp"] = folder_cache.stamp_of(path / "images")  # as the file system has it
    (path / MANIFEST).write_text(json.dumps(manifest))
    found(cache)
    monkeypatch.setattr(folder_cache, "_boot", lambda: "another")
    assert cache.find("pets-1") is None


def test_a_sha256_that_the_build_has_checked_is_not_computed_again(cache: FolderCache, reads: list[str]) -> None:
    def write(folder: Path) -> dict[str, str]:
        writer()(folder)
        return {"images": "0" * 64}

    made = cache.make("pets-1", 6006, write)
    assert reads == ["labels"]
    assert json.loads((made.path / MANIFEST).read_text())["files"]["images"]["sha256"] == "0" * 64


# --- several processes ------------------------------------------------------------------------------------------------


def _make_in_turn(cache: FolderCache, tag: bytes, pipe: Connection) -> None:
    """Build, wait until the other has built too, publish, say what there is, and hold it until told to end."""

    def write(folder: Path) -> dict[str, str]:
        (folder / "maker").write_bytes(tag)
        pipe.send("built")
        pipe.recv()
        return {}

    held = cache.make("pets-1", 10, write)
    pipe.send((str(held.path), (held.path / "maker").read_bytes()))
    pipe.recv()


def process(target: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=target, args=(*arguments, theirs), daemon=True)
    child.start()
    theirs.close()
    return child, ours


def received(pipe: Connection) -> Any:
    assert pipe.poll(20)
    return pipe.recv()


def test_of_two_writers_at_once_the_first_wins(cache: FolderCache) -> None:
    children = [process(_make_in_turn, cache, tag) for tag in (b"one", b"other")]
    for _, pipe in children:
        assert received(pipe) == "built"
    children[1][1].send("publish")
    second = received(children[1][1])
    children[0][1].send("publish")
    first = received(children[0][1])
    assert first == second == (str(cache.root / "pets-1"), b"other")
    assert names(cache) == ["pets-1"]
    for child, pipe in children:
        pipe.send("end")
        child.join(20)
        assert child.exitcode == 0


def _make_and_hold(cache: FolderCache, name: str, pipe: Connection) -> None:
    held = make(cache, name)
    pipe.send("made")
    pipe.recv()
    held.release()


def test_a_folder_that_another_process_uses_is_not_removed(cache: FolderCache) -> None:
    cache.most_bytes = 18_000
    child, pipe = process(_make_and_hold, cache, "pets-1")
    assert received(pipe) == "made"
    used_at(cache, "pets-1", 1)
    make(cache, "birds-1").release()
    used_at(cache, "birds-1", 2)
    make(cache, "dogs-1").release()
    assert names(cache) == ["dogs-1", "pets-1"], "the least recently used one that nobody uses"
    make(cache, "pets-2").release()
    assert "pets-1" in names(cache)
    child.kill()
    child.join(20)
    make(cache, "pets-3").release()
    assert "pets-1" not in names(cache), "the end of a process, of any kind, ends its use"


def _build_forever(cache: FolderCache, pipe: Connection) -> None:
    def write(folder: Path) -> dict[str, str]:
        (folder / "images").write_bytes(b"half")
        pipe.send("writes")
        signal.pause()
        return {}

    cache.make("pets-1", 10, write)


def test_what_a_killed_process_was_making_is_removed(cache: FolderCache) -> None:
    child, pipe = process(_build_forever, cache)
    assert received(pipe) == "writes"
    make(cache, "birds-1")
    assert len(names(cache)) == 2, "it is still being made"
    child.kill()
    child.join(20)
    make(cache, "dogs-1")
    assert names(cache) == ["birds-1", "dogs-1"]


def test_who_is_too_late_to_a_folder_that_is_damaged_replaces_it(cache: FolderCache) -> None:
    def write(folder: Path) -> dict[str, str]:
        cut(make(cache).path)
        return writer()(folder)

    assert contents(cache.make("pets-1", 6006, write).path) == CONTENT


def test_a_mutex_that_is_never_free_is_an_error(cache: FolderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_cache, "MUTEX_SECONDS", 0.0)
    make(cache)
    with cache._mutex(), pytest.raises(BlockingIOError, match="locked by another process"):
        make(cache, "birds-1")
    assert names(cache) == ["pets-1"]


def test_a_folder_is_used_without_locks_where_there_are_none_and_kept(
    cache: FolderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", none)
    cache.most_bytes = 8000
    make(cache).release()
    assert contents(found(cache).path) == CONTENT
    with pytest.raises(OSError, match="no room"):
        make(cache, "birds-1")  # whether somebody uses the other one cannot be known


# --- room -------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(cache: FolderCache) -> None:
    cache.most_bytes = 30_000
    for number, name in enumerate(("a-1", "b-1", "c-1"), 1):
        make(cache, name).release()
        used_at(cache, name, number)
    found(cache, "a-1").release()
    make(cache, "d-1", 12_000).release()
    assert names(cache) == ["a-1", "c-1", "d-1"]
    assert sum(folder_cache.size_of(cache.root / name) for name in names(cache)) <= cache.most_bytes


def test_what_does_not_fit_at_all_removes_nothing(cache: FolderCache) -> None:
    cache.most_bytes = 10_000
    make(cache, "a-1").release()
    with pytest.raises(OSError, match="no room"):
        make(cache, "b-1", 10_001)
    assert names(cache) == ["a-1"]


def test_a_build_that_writes_more_than_it_said_is_not_kept(cache: FolderCache) -> None:
    cache.most_bytes = 5000
    with pytest.raises(OSError, match="no room"):
        make(cache, "a-1", 100)
    assert names(cache) == []


def test_what_is_required_is_made_also_beyond_the_limit(cache: FolderCache) -> None:
    cache.most_bytes = 10_000
    make(cache, "a-1").release()
    kept = make(cache, "b-1")
    required = make(cache, "c-1", required=True)
    assert names(cache) == ["b-1", "c-1"]
    kept.release()
    required.release()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if (why := why_no_disks()) is not None:
        pytest.skip(why)
    disk = SmallDisk(tmp_path / "disk", 1)
    yield disk
    disk.unmount()


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(disk: SmallDisk) -> None:
    cache = FolderCache(disk.path / "cache", 1 << 30)
    make(cache, "a-1")
    disk.leave(2 << 12)
    with pytest.raises(OSError, match="no room for 100000 bytes"):
        make(cache, "b-1", 100_000)
    with pytest.raises(OSError, match="No space left on device"):
        make(cache, "b-1", 1)  # it is written, and not complete
    assert names(cache) == ["a-1"]
    assert contents(found(cache, "a-1").path) == CONTENT, "what is in use is kept"


def test_a_disk_that_is_nearly_full_is_given_room_by_what_nobody_uses(disk: SmallDisk) -> None:
    cache = FolderCache(disk.path / "cache", 1 << 30)
    make(cache, "a-1").release()
    disk.leave(4 << 12)
    make(cache, "b-1", 5 << 12)
    assert names(cache) == ["b-1"]


def test_a_disk_that_others_have_filled_costs_no_folder(disk: SmallDisk) -> None:
    cache = FolderCache(disk.path / "cache", 1 << 30)
    make(cache, "a-1").release()
    disk.leave(4 << 12)
    with pytest.raises(OSError, match="no room"):
        make(cache, "b-1", 1 << 19)
    assert names(cache) == ["a-1"]


def test_a_folder_that_may_not_be_written_can_be_used_and_not_added_to(cache: FolderCache) -> None:
    made = make(cache)
    (made.path / LOCK).chmod(0o444)
    for folder in (made.path, cache.root, cache.root.parent):
        folder.chmod(0o555)
    child, pipe = process(_use_as_nobody, cache.root)
    assert received(pipe) == (CONTENT, "PermissionError")
    child.join(20)


def _use_as_nobody(root: Path, pipe: Connection) -> None:
    """In a working folder: those above it may be closed to others."""
    os.chdir(root.parent)
    cache = FolderCache(Path(root.name), 1 << 20)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    read = contents(found(cache).path)
    try:
        make(cache, "birds-1")
    except OSError as error:
        pipe.send((read, type(error).__name__))
