"""One service per state folder: a file lock, which the kernel releases when its holder ends in any way."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import GradqError

LOCK = "up.lock"


class AlreadyRunning(GradqError):
    code, title = "already_running", "Another service uses this state folder"


@contextmanager
def only_one(state_dir: Path, address: str) -> Iterator[None]:
    """Locks the state folder. Raises AlreadyRunning, with the holder's pid and address, if another process holds it."""
    path = state_dir / LOCK
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
            raise AlreadyRunning(
                f"{state_dir} is in use by {holder}; stop that one, or use another folder with --state"
            ) from None
        os.ftruncate(file, 0)
        try:
            os.pwrite(file, f"`gradq up`, pid {os.getpid()}, {address}\n".encode(), 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        yield
        os.ftruncate(file, 0)
    finally:
        os.close(file)


def holder_of(state_dir: Path) -> str | None:
    """The text of the lock file if a process holds the state folder, else None."""
    try:
        file = os.open(state_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
    finally:
        os.close(file)
    return None
