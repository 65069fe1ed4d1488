"""Folders that only this user may enter, with paths short enough for the sockets that will lie in them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

from shared.errors import ConfigurationError

SOCKET_PATH_BYTES = 103  # Linux takes 107, macOS 103
PLAIN = re.compile(r"[\w./+-]+", re.ASCII)  # what needs no quoting in redis+socket://…


def private(path: Path) -> Path:
    """Create `path` for this user alone, or make sure that it is so."""
    path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError(f"{path} exists and is not a folder of this user; remove it or set GRADQ_STATE_DIR")
    path.chmod(stat.S_IRWXU)
    return path


def for_sockets(wanted: Path, longest_name: int) -> Path:
    """`place_for_sockets`, made for this user alone."""
    return private(place_for_sockets(wanted, longest_name))


def place_for_sockets(wanted: Path, longest_name: int) -> Path:
    """`wanted`; or, where a socket in it would have too long or too odd a path, a short folder that belongs to it."""
    if _fits(wanted, longest_name):
        return wanted
    name = f"gradq-{os.getuid()}-{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:12]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # `private` refuses another's folder  # nosec B108
        if _fits(parent / name, longest_name):
            return parent / name
    raise ConfigurationError(f"no folder has a path short enough for a socket, not even {parent / name}")


def _fits(folder: Path, longest_name: int) -> bool:
    length = len(os.fsencode(folder)) + 1 + longest_name
    return length <= SOCKET_PATH_BYTES and PLAIN.fullmatch(str(folder)) is not None
