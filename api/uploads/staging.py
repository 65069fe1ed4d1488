"""A folder for one upload: whatever way the request ends, it is gone, and what a killed process left goes later."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

LOCK, NEW, TRIES = ".lock", "new-", 10


@contextlib.contextmanager
def staging(uploads: Path) -> Iterator[Path]:
    """A new folder below `uploads`. Its lock is held as long as this process lives: see `sweep`."""
    sweep(uploads)
    new = _make(uploads)
    folder = new.with_name(new.name.removeprefix(NEW))
    lock = os.open(new / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(folder)  # from here on others may look whether it is locked
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):
            uploads.rmdir()  # where nobody else uploads at this moment


def sweep(uploads: Path) -> None:
    """Remove the folders of processes that died; the system let go of their locks."""
    for folder in uploads.glob("[!n]*"):  # not those that are new: nobody has locked them yet
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            continue  # it has just been made, or is just going
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # somebody works there
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _make(uploads: Path) -> Path:
    folder = uploads / f"{NEW}{secrets.token_hex(8)}"
    for _ in range(TRIES):  # the last upload before this one may take the parent away in between
        with contextlib.suppress(FileNotFoundError):
            uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            return folder
    folder.mkdir(mode=0o700, parents=True)
    return folder
