"""Recognizes "disk full" in the errors of libraries, which wrap it in different ways."""

from __future__ import annotations

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT)
# torch and safetensors keep only the message of the cause; numpy counts what it has written, and has no error number
MESSAGES = re.compile(r"No space left on device|Disk quota exceeded|\d+ requested and \d+ written")


def disk_is_full(error: BaseException | None) -> bool:
    """Whether the error or one of its causes is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if MESSAGES.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
