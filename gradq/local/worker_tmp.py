"""A TMPDIR for each worker. It has the sockets between a worker and its trainers, which a SIGKILL leaves behind.

Each worker locks its folder until it ends, across exec (the file stays open). A folder whose lock is free is deleted.
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
    """Creates and locks a folder for this process and returns it; deletes those of workers that have ended."""
    folder = _folder(state_dir)
    with _locked(folder):  # two workers that start together do not delete each other's
        _sweep(folder)
        own = private(folder / uuid4().hex[:8])
        lock = _try_lock(own)
    assert lock is not None
    os.set_inheritable(lock, True)
    return own


def remove(own: Path) -> None:
    """Deletes a folder that `own_tmp` has made, by its process; also its parent folder if no other worker uses it."""
    with suppress(OSError), _locked(own.parent):  # a second signal may have cut this short before
        shutil.rmtree(own, ignore_errors=True)
        own.parent.rmdir()


def sweep(state_dir: Path) -> None:
    """Deletes the folders of workers that have ended, and their parent folder if none is left."""
    folder = _folder(state_dir)
    with _locked(folder):
        _sweep(folder)
        with suppress(OSError):  # another worker still uses it
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
