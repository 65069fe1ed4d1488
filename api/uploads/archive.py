"""Uploaded zip files: validated when opened, read entry by entry in bounded memory, never extracted to their own
paths."""

from __future__ import annotations

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shared.errors import UnusableUpload

MAX_DIRECTORY_BYTES = 64 << 20  # about a million entries; zipfile reads the whole directory into memory
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
DIRECTORY_SIZE = 5  # index in zipfile's end record
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Context manager: the archive. Raises UnusableUpload if it is unreadable or too large, or has an unsafe entry."""
    with path.open("rb") as file:
        try:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # before ZipFile reads the directory
            if end is not None and end[DIRECTORY_SIZE] > MAX_DIRECTORY_BYTES:
                raise UnusableUpload("unpacks_too_large", "the zip has too many entries; split it up")
            archive = zipfile.ZipFile(file)
        except BROKEN as error:
            raise UnusableUpload("unreadable_file", f"the zip cannot be read: {error}; is it truncated?") from error
        with archive:
            for entry in archive.infolist():
                refuse_unsafe(entry)
            yield archive


def refuse_unsafe(entry: zipfile.ZipInfo) -> None:
    """Refuse paths that leave the archive and links, although no entry is opened by its path. Raises UnusableUpload."""
    name = entry.filename.replace("\\", "/")
    drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    if name.startswith("/") or drive or ".." in name.split("/") or any(ord(sign) < 32 for sign in name):
        raise UnusableUpload(
            "unsafe_path", f"{entry.filename!r} is a path outside of the archive; pack the folder again", name=name
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UnusableUpload("unsafe_path", f"{entry.filename!r} is a link; pack the file that it points to", name=name)


@contextlib.contextmanager
def entry_stream(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, code: str = "unreadable_file"
) -> Iterator[IO[bytes]]:
    """Context manager: the bytes of one entry. Raises UnusableUpload with the entry's name, also for errors while the
    stream is read."""
    if entry.flag_bits & ENCRYPTED:
        raise UnusableUpload(code, f"{entry.filename} is encrypted; pack it without a password")
    if entry.compress_type not in METHODS:
        detail = f"{entry.filename} has the compression method {entry.compress_type}; use deflate, as zip does"
        raise UnusableUpload(code, detail)
    try:
        with archive.open(entry) as stream:
            yield stream
    except BROKEN as error:
        detail = f"{entry.filename} cannot be unpacked: {error}; is the file complete?"
        raise UnusableUpload(code, detail) from error
