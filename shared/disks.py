"""Recognizes a disk that cannot be used in the errors of libraries, which wrap it in different ways."""

from __future__ import annotations

import errno
import re
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# read-only, as Linux makes a filesystem after errors; errors of the device; a device, server or FUSE process that is
# gone
BROKEN = frozenset(
    getattr(errno, name)
    for name in ("EROFS", "EIO", "ESTALE", "ENODEV", "ENXIO", "ENOTCONN", "EREMOTEIO", "EUCLEAN")
    if hasattr(errno, name)  # the last two are Linux's
)
# torch and safetensors keep only the message of the cause; numpy counts what it has written, and has no error number
MESSAGES = re.compile(r"No space left on device|Disk quota exceeded|\d+ requested and \d+ written")
RUST = re.compile(r"\(os error (\d+)\)")  # safetensors


def disk_is_full(error: BaseException | None) -> bool:
    """Whether the error or one of its causes is a full disk."""
    return _in_chain(error, FULL) is not None


def disk_is_unusable(error: BaseException | None) -> bool:
    """Whether the error or one of its causes is a disk that is full, read-only, broken or gone."""
    return _in_chain(error, FULL | BROKEN) is not None


def disk_error(error: BaseException, place: Path | str) -> str:
    """The text of the disk's error among this one and its causes: `OSError: [Errno 5] Input/output error: '/a/1.pt'`.
    `place` is the path for errors without one, as those of writes."""
    found = _in_chain(error, FULL | BROKEN) or error
    text = f"{type(found).__name__}: {found}"
    return text if getattr(found, "filename", None) else f"{text}, in {place}"


def disk_outage(text: str) -> str:
    """What is wrong with the disk whose error has this text, and the text."""
    return f"{'the disk is full' if MESSAGES.search(text) else 'the disk cannot be used'}: {text}"


def _in_chain(error: BaseException | None, numbers: frozenset[int]) -> BaseException | None:
    """The first of the error and its causes that has one of these numbers, in any form."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            return error
        text = str(error)
        if MESSAGES.search(text) or any(int(number) in numbers for number in RUST.findall(text)):
            return error
        error = error.__cause__ or error.__context__
    return None
