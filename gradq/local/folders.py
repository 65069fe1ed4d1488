"""Private folders of this user, with paths short enough for Unix sockets."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

from shared.errors import ConfigurationError

SOCKET_PATH_BYTES = 103  # the limit on macOS; Linux allows 107
PLAIN = re.compile(r"[\w./+-]+", re.ASCII)  # needs no quoting in redis+socket://…


def private(path: Path) -> Path:
    """Creates `path` with mode 700, or sets that mode; returns it. Raises ConfigurationError if another user has it, or
    if it cannot be created."""
    try:
        path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot create the folder {path}: {error.strerror}; set GRADQ_STATE_DIR") from error
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError(f"{path} exists and is not a folder of this user; remove it or set GRADQ_STATE_DIR")
    path.chmod(stat.S_IRWXU)
    return path


def for_sockets(wanted: Path, longest_name: int) -> Path:
    """Creates the folder of `place_for_sockets` for this user alone and returns it."""
    return private(place_for_sockets(wanted, longest_name))


def place_for_sockets(wanted: Path, longest_name: int) -> Path:
    """`wanted`, or a folder with a short name derived from it, where a socket's path would be too long or need quoting.

    `longest_name`: bytes of a socket's name. Raises ConfigurationError if no path is short enough.
    """
    if _fits(wanted, longest_name):
        return wanted
    name = f"gradq-{os.getuid()}-{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:12]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # `private` refuses other users' folders  # nosec B108
        if _fits(parent / name, longest_name):
            return parent / name
    raise ConfigurationError(f"no folder has a path short enough for a socket, not even {parent / name}")


def _fits(folder: Path, longest_name: int) -> bool:
    length = len(os.fsencode(folder)) + 1 + longest_name
    return length <= SOCKET_PATH_BYTES and PLAIN.fullmatch(str(folder)) is not None
