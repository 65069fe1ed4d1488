"""A full disk is recognized through the errors that wrap it."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from shared.disks import disk_is_full


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
            OSError(errno.ENOSPC, "full"), RuntimeError("[enforce fail] . unexpected pos 704 vs 598")
        ),  # torch.save
        OSError("1048576 requested and 262128 written"),  # numpy.save
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_recognized(error: Exception) -> None:
    assert disk_is_full(error)


@pytest.mark.parametrize("error", [None, OSError(errno.EIO, "Input/output error"), RuntimeError("unexpected pos")])
def test_other_errors_are_not(error: Exception | None) -> None:
    assert not disk_is_full(error)
