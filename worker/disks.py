"""Whether an error says that a disk is full: libraries wrap it, each in its own way."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(error: BaseException | None) -> bool:
    """Look at the error and at what it came from: torch and safetensors keep only the words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
