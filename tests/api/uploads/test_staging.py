"""The folders of uploads under way: one each, counted per owner, and removed whatever their processes ended of."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from api.uploads.staging import LOCK, staging
from shared.errors import TooManyUploads


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    return tmp_path / "state" / "uploads"


def enter(uploads: Path, owner: str = "", most: int | None = None) -> None:
    with staging(uploads, owner, most):
        pass


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["open", "flock"])
def test_nothing_is_left_of_a_folder_that_cannot_be_locked(uploads, monkeypatch, call, number) -> None:
    calls: dict[str, Callable[..., Any]] = {"open": os.open, "flock": fcntl.flock}
    locks: set[int] = set()  # of folders; that of `uploads` is another

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    def opens(path: Any, *arguments: Any, **more: Any) -> int:
        of_a_folder = Path(path).name == LOCK and Path(path).parent != uploads
        if of_a_folder and call == "open":
            fail()
        lock: int = calls["open"](path, *arguments, **more)
        (locks.add if of_a_folder else locks.discard)(lock)
        return lock

    def flock(lock: int, how: int) -> None:
        if lock in locks and call == "flock":
            fail()
        calls["flock"](lock, how)

    before = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opens)
        patch.setattr(fcntl, "flock", flock)
        for _ in range(3):
            with pytest.raises(OSError, match=os.strerror(number)):
                enter(uploads, "alice", 1)
            assert not uploads.exists()
    assert len(os.listdir("/dev/fd")) == before
    enter(uploads, "alice", 1)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


LEFT: dict[str, Callable[[Path], None]] = {  # by where the process was killed
    "before the lock is made": lambda folder: None,
    "before it is locked": lambda folder: write(folder, LOCK),
    "while the body arrives": lambda folder: write(folder, LOCK, "file.part"),
    "while it is decoded": lambda folder: write(folder, LOCK, "file.part", "decoded/x_train.npy"),
    "while it is removed": lambda folder: write(folder, "file.part"),
}


@pytest.mark.parametrize("name", ["new-", ""])
@pytest.mark.parametrize("moment", LEFT)
def test_what_a_killed_process_left_goes_with_the_next_upload_and_takes_no_place(uploads, name, moment) -> None:
    with staging(uploads, "alice") as folder:
        prefix = folder.name.split("-")[0]
        for number in range(3):
            left = uploads / f"{name}{prefix}-{number:016x}"
            left.mkdir()
            LEFT[moment](left)
        with staging(uploads, "alice", 2) as second:
            assert {path for path in uploads.iterdir() if path.is_dir()} == {folder, second}
        assert folder.is_dir()
    assert not uploads.exists()


def test_what_is_not_of_an_upload_stays_and_no_lock_beside_it(uploads) -> None:
    """The folder may be a disk of its own, which has a lost+found, and others may write to it."""
    (uploads / "lost+found").mkdir(parents=True)
    (uploads / "filler").write_bytes(b"x")
    for _ in range(2):
        enter(uploads, "alice", 1)
        assert sorted(os.listdir(uploads)) == ["filler", "lost+found"]


@pytest.mark.parametrize("others", [0, 1, 2])
def test_of_those_that_start_together_as_many_begin_as_there_are_places(uploads, monkeypatch, others) -> None:
    several, most, glob = 4, 2, Path.glob
    start, counting, end = (threading.Barrier(several) for _ in range(3))

    def together() -> None:
        with suppress(threading.BrokenBarrierError):  # if they count one after the other, which is right
            counting.wait(0.3)

    def counted(self: Path, pattern: str) -> list[Path]:
        together()
        found = list(glob(self, pattern))
        together()
        return found

    def begin() -> bool:
        start.wait(30)
        with ExitStack() as stack:
            begun = False
            with suppress(TooManyUploads):
                stack.enter_context(staging(uploads, "alice", most))
                begun = True
            end.wait(30)
        return begun

    with ExitStack() as stack, ThreadPoolExecutor(several) as pool:
        for _ in range(others):
            stack.enter_context(staging(uploads, "alice", most))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "glob", counted)
            found = [pool.submit(begin) for _ in range(several)]
            assert sum(one.result(30) for one in found) == most - others
    assert not uploads.exists()


def test_a_refused_one_is_told_how_many_there_are_and_leaves_no_folder(uploads) -> None:
    with staging(uploads, "alice", 2), staging(uploads, "alice", 2), staging(uploads, "bob", 1):
        before = sorted(uploads.iterdir())
        with pytest.raises(TooManyUploads) as refused:
            enter(uploads, "alice", 2)
        assert (refused.value.extra["uploads"], refused.value.extra["limit"]) == (2, 2)
        assert sorted(uploads.iterdir()) == before
    enter(uploads, "alice", 1)


def test_the_end_of_one_upload_does_not_disturb_the_start_of_another(uploads) -> None:
    def many(owner: int) -> Iterator[bool]:
        for _ in range(20):
            with staging(uploads, str(owner), 1) as folder:
                (folder / "file.part").touch()
                yield folder.is_dir()

    with ThreadPoolExecutor(4) as pool:
        assert all(all(found) for found in pool.map(lambda owner: list(many(owner)), range(4)))
    assert not uploads.exists()
