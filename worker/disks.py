"""Recognizes "disk full" in the errors of libraries, which wrap it in different ways."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether the error or one of its causes is a full disk. torch and safetensors keep only the cause's message."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
