"""The heartbeat of a worker's maintenance loop: a small file in memory, which `gradq up` and health checks read.

It needs neither database nor disk, so that their absence is not taken for the worker's death. The worker's row has a
heartbeat as well; that one tells other hosts that its jobs are looked after.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MEMORY = Path("/dev/shm")  # the folder in it is accessible to this user only  # nosec B108
LENGTH = 256  # bytes that are read
SILENT_SECONDS = 60.0  # after which a health check reports a worker; its loop beats every few seconds

_written: list[_Writer] = []  # that of this process, if it has one


@dataclass(frozen=True)
class Beat:
    """`rounds`: number of beats so far, 0 before the loop begins. `age`: seconds since the last one, without those in
    which the machine was suspended. `kinds`: kinds of the worker's slots, comma-separated."""

    rounds: int
    age: float
    kinds: str


def start(state_dir: Path) -> None:
    """Begin the heartbeat of this process, and remove those of processes that have ended.

    Without a place for it there is none, and nobody waits for one.
    """
    with contextlib.suppress(OSError):
        folder = _place(state_dir)
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return  # another user's
        _sweep(folder)
        _written[:] = [_Writer(folder / str(os.getpid()))]


def beat(kinds: str = "") -> None:
    """Show that the maintenance loop is at work. Does nothing in a process without a heartbeat."""
    for writer in _written:
        writer.beat(kinds)


def end() -> None:
    """Remove this process's file."""
    for writer in _written:
        with contextlib.suppress(OSError):
            writer.path.unlink()
        with contextlib.suppress(OSError):
            writer.path.parent.rmdir()  # another worker may have one there
    _written.clear()


def sweep(state_dir: Path) -> None:
    """Remove the files of workers that have ended without removing them, and the folder if none is left."""
    with contextlib.suppress(OSError):
        _sweep(_place(state_dir))
        _place(state_dir).rmdir()


def of_process(state_dir: Path, pid: int) -> Beat | None:
    """The heartbeat of the worker with that pid; None if it has none."""
    return _read(_place(state_dir) / str(pid))


def of_host(state_dir: Path) -> list[Beat]:
    """The heartbeats of all workers on this host whose processes live, the oldest first."""
    with contextlib.suppress(OSError):
        living = [path for path in _place(state_dir).iterdir() if not _is_free(path)]
        return sorted(filter(None, map(_read, living)), key=lambda beat: -beat.age)
    return []


class _Writer:
    """The open file, locked for as long as the process lives."""

    def __init__(self, path: Path) -> None:
        self.path, self.rounds = path, 0
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._fd), path.lstat()):
                    break
            os.close(self._fd)  # another worker removed it before it was locked
        self._write("")

    def beat(self, kinds: str) -> None:
        self.rounds += 1
        self._write(kinds)

    def _write(self, kinds: str) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, f"{self.rounds:012d} {time.monotonic():016.3f} {kinds}\n".encode(), 0)


def _place(state_dir: Path) -> Path:
    parent = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    name = hashlib.sha256(os.fsencode(f"{socket.gethostname()}:{state_dir}")).hexdigest()[:12]
    return parent / f"gradq-heartbeats-{os.getuid()}-{name}"


def _read(path: Path) -> Beat | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_uid != os.getuid():
                return None
            rounds, at, kinds = os.pread(fd, LENGTH, 0).decode().splitlines()[0].split(" ")
        finally:
            os.close(fd)
        return Beat(int(rounds), max(0.0, time.monotonic() - float(at)), kinds)
    except (OSError, ValueError, IndexError):
        return None


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        if _is_free(path):
            path.unlink(missing_ok=True)


def _is_free(path: Path) -> bool:
    """Whether no process holds the file, because its writer has ended."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
