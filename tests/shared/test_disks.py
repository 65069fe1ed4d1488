"""A disk that is full, read-only, broken or gone is recognized through the errors that wrap it."""

from __future__ import annotations

import errno
import os
from itertools import pairwise

import pytest

from shared.disks import BROKEN, disk_error, disk_is_full, disk_is_unusable, disk_outage


def wrapped(*errors: Exception) -> Exception:
    """The last error, each raised while the one before was handled."""
    for before, error in pairwise(errors):
        error.__context__ = before
    return errors[-1]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        wrapped(
            OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail] . unexpected pos 704 vs 598")
        ),  # torch.save
        OSError("1048576 requested and 262128 written"),  # numpy.save
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_recognized(error: Exception) -> None:
    assert disk_is_full(error)
    assert disk_is_unusable(error)
    assert disk_outage(disk_error(error, "/runs")).startswith("the disk is full: ")


@pytest.mark.parametrize(
    "error",
    [
        *[OSError(number, os.strerror(number)) for number in sorted(BROKEN)],
        wrapped(OSError(errno.EIO, "Input/output error"), RuntimeError("[enforce fail] . unexpected pos 704 vs 598")),
        ValueError("Error while serializing: I/O error: Read-only file system (os error 30)"),  # safetensors
    ],
    ids=repr,
)
def test_a_disk_that_is_read_only_broken_or_gone_is_not_full_and_cannot_be_used(error: Exception) -> None:
    assert not disk_is_full(error)
    assert disk_is_unusable(error)
    assert disk_outage(disk_error(error, "/runs")).startswith("the disk cannot be used: ")


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("unexpected pos"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ValueError("I/O error: No such file or directory (os error 2)"),
    ],
    ids=repr,
)
def test_other_errors_are_not_of_the_disk(error: Exception | None) -> None:
    assert not disk_is_full(error)
    assert not disk_is_unusable(error)


def test_the_text_names_the_disk_s_error_and_its_path() -> None:
    named = OSError(errno.EROFS, "Read-only file system", "/runs/7.pt")
    assert disk_error(wrapped(named, RuntimeError("unexpected pos")), "/runs") == f"OSError: {named}"
    write = OSError(errno.EIO, "Input/output error")
    assert disk_error(write, "/runs") == "OSError: [Errno 5] Input/output error, in /runs"
