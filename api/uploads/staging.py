"""A temporary folder per upload. It is removed with the request; those of killed processes are removed later.

Its name begins with a digest of the owner, so that the uploads of an owner can be counted over all API processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from shared.errors import TooManyUploads

LOCK = ".lock"
# an earlier version named a folder new-… until it was locked
OURS = re.compile(r"(new-)?[0-9a-f]{16}-[0-9a-f]{16}|left-[0-9a-f]{32}")


@contextlib.contextmanager
def staging(uploads: Path, owner: str = "", most: int | None = None) -> Iterator[Path]:
    """Context manager: a new folder below `uploads`. It is locked until it is removed or the process ends: see
    `sweep`. Raises TooManyUploads if the owner has `most` already."""
    prefix = hashlib.sha256(owner.encode()).hexdigest()[:16]
    left: list[Path] = []
    try:
        try:
            with _alone(uploads):
                left = sweep(uploads)
                _check_number(owner, len(list(uploads.glob(f"{prefix}-*"))), most)
                folder = uploads / f"{prefix}-{secrets.token_hex(8)}"
                lock = _make(folder)
        finally:
            for other in left:  # which may take seconds
                shutil.rmtree(other, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)  # what could not be removed is removed by the next `sweep`
    finally:
        _remove_empty(uploads)


def sweep(uploads: Path) -> list[Path]:
    """Rename the folders of processes that have died, whose locks the kernel has released, so that they do not count;
    returns those that the caller is to remove. Called by one at a time, so no other process is about to lock one."""
    left = []
    for folder in list(uploads.iterdir()):
        if folder.is_dir() and _is_left(folder):
            with contextlib.suppress(OSError):
                left.append(folder.rename(uploads / f"left-{secrets.token_hex(16)}"))
    return left


def _is_left(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        # its process died while it made or removed the folder, or is removing it; or it is a lost+found, for example
        return OURS.fullmatch(folder.name) is not None
    except OSError:
        return False  # another user's
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # in use
    finally:
        os.close(lock)
    return True


@contextlib.contextmanager
def _alone(uploads: Path) -> Iterator[None]:
    """Context manager: makes `uploads`, and is entered by one thread of one process at a time, for milliseconds."""
    while (lock := _locked(uploads)) is None:
        pass
    try:
        yield
    finally:
        os.close(lock)


def _locked(uploads: Path) -> int | None:
    """The lock of `uploads`; None if the end of another upload has removed it, or `uploads`, meanwhile."""
    try:
        uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        if uploads.exists():  # a file
            raise
        return None
    path = uploads / LOCK
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _make(folder: Path) -> int:
    """Make and lock the folder; return the lock. Nothing is left if that fails."""
    folder.mkdir(mode=0o700)
    lock = None
    try:
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except BaseException:
        if lock is not None:
            os.close(lock)
        with contextlib.suppress(OSError):  # without `rmtree`, which opens the folder: too many files may be open
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
        raise
    return lock


def _remove_empty(uploads: Path) -> None:
    """Remove `uploads`, with its lock, if there is no other upload. A disk that is mounted there stays."""
    with contextlib.suppress(OSError):
        if not uploads.is_dir():
            return
        with _alone(uploads):
            if not any(map(OURS.fullmatch, os.listdir(uploads))):
                (uploads / LOCK).unlink()
                uploads.rmdir()


def _check_number(owner: str, there: int, most: int | None) -> None:
    if most is not None and there >= most:
        detail = (
            f"{owner or 'anonymous use'} has {there} uploads under way and may have {most}; wait for the end of "
            "one (GRADQ_MAX_OWNER_UPLOADS)"
        )
        raise TooManyUploads(detail, uploads=there, limit=most)
