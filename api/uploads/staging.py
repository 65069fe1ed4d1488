"""A temporary folder per upload. It is removed with the request; those of killed processes are removed later.

Its name begins with a digest of the owner, so that the uploads of an owner can be counted over all API processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from shared.errors import TooManyUploads

LOCK, NEW, TRIES = ".lock", "new-", 10


@contextlib.contextmanager
def staging(uploads: Path, owner: str = "", most: int | None = None) -> Iterator[Path]:
    """Context manager: a new folder below `uploads`. It is locked until it is removed or the process ends: see
    `sweep`. Raises TooManyUploads if the owner then has more than `most`."""
    sweep(uploads)
    prefix = hashlib.sha256(owner.encode()).hexdigest()[:16]
    new = _make(uploads, prefix)
    folder = new.with_name(new.name.removeprefix(NEW))
    lock = os.open(new / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(folder)  # from here on, `sweep` of another process checks its lock
        _check_number(owner, len(list(uploads.glob(f"{prefix}-*"))), most)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):
            uploads.rmdir()  # fails if there is another upload


def sweep(uploads: Path) -> None:
    """Remove the folders of processes that have died, whose locks the kernel has released."""
    for folder in uploads.glob("[!n]*"):  # not `new-…`, which is not locked yet
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            continue  # it is being removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # in use
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _check_number(owner: str, there: int, most: int | None) -> None:
    if most is not None and there > most:
        detail = (
            f"{owner or 'anonymous use'} has {there - 1} uploads under way and may have {most}; wait for the end of "
            "one (GRADQ_MAX_OWNER_UPLOADS)"
        )
        raise TooManyUploads(detail, uploads=there - 1, limit=most)


def _make(uploads: Path, prefix: str) -> Path:
    folder = uploads / f"{NEW}{prefix}-{secrets.token_hex(8)}"
    for _ in range(TRIES):  # the end of another upload may remove the parent in between
        with contextlib.suppress(FileNotFoundError):
            uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            return folder
    folder.mkdir(mode=0o700, parents=True)
    return folder
