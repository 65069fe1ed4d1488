"""A TMPDIR for each worker. Trainers and workers meet at sockets in it; who gets SIGKILL leaves them behind.

Each folder carries a lock that its worker holds for life, across exec (the file stays open). A folder whose lock is
free belongs to nobody, and is swept away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from gradq.local.folders import for_sockets, private

# Below our eight characters, multiprocessing makes pymp-xxxxxxxx/listener-xxxxxxxx
LONGEST_NAME = len("12345678/pymp-12345678/listener-12345678") + 4


def own_tmp(state_dir: Path) -> Path:
    """A new folder for this process alone, and an end to those of workers that are gone."""
    folder = _folder(state_dir)
    with _locked(folder):  # two workers that start together do not sweep each other's
        _sweep(folder)
        own = private(folder / uuid4().hex[:8])
        lock = _try_lock(own)
    assert lock is not None
    os.set_inheritable(lock, True)
    return own


def sweep(state_dir: Path) -> None:
    """After the last worker: leave nothing, and no short folder outside the state folder either."""
    folder = _folder(state_dir)
    with _locked(folder):
        _sweep(folder)
        with suppress(OSError):  # a worker that somebody else started is still in it
            folder.rmdir()


def _folder(state_dir: Path) -> Path:
    return for_sockets(state_dir / "tmp", LONGEST_NAME)


def _sweep(folder: Path) -> None:
    for old in folder.iterdir():
        if (lock := _try_lock(old)) is not None:
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _try_lock(folder: Path) -> int | None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
