"""The pages of libraries' program code that a process has read, and no longer needs in its memory.

PyTorch's libraries run their initializers when they are loaded; the pages of these, 70 MB, would stay with the fork
server for as long as it lives. A forked process has none of its parent's anyway: each maps what it uses from the
system's cache of files.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

MAPS = Path("/proc/self/maps")
MADV_DONTNEED = 4  # of Linux: the pages are read from their file again when they are next used
PROGRAM = "r-xp"  # read and executed, never written: the file has the same content


def release() -> None:
    """Unmap the pages of program code that this process has read so far. Does nothing except on Linux."""
    if not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None).madvise
    for line in MAPS.read_text().splitlines():
        addresses, permissions, *_, path = line.split(maxsplit=5)
        if permissions == PROGRAM and path.startswith("/"):
            first, end = (int(address, 16) for address in addresses.split("-"))
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_DONTNEED)
