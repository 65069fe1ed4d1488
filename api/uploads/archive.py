"""Zip files as uploads: opened with care, read entry by entry in bounded memory, never extracted by their own paths."""

from __future__ import annotations

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shared.errors import UnusableUpload

MAX_DIRECTORY_BYTES = 64 << 20  # zipfile holds the whole list of entries in memory: this is about a million of them
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
DIRECTORY_SIZE = 5  # where zipfile's end record keeps it
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as file:
        try:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # before ZipFile reads all that it announces
            if end is not None and end[DIRECTORY_SIZE] > MAX_DIRECTORY_BYTES:
                raise UnusableUpload("unpacks_too_large", "the zip lists too many entries; split it up")
            archive = zipfile.ZipFile(file)
        except BROKEN as error:
            raise UnusableUpload("unreadable_file", f"the zip cannot be read: {error}; is it cut short?") from error
        with archive:
            for entry in archive.infolist():
                refuse_unsafe(entry)
            yield archive


def refuse_unsafe(entry: zipfile.ZipInfo) -> None:
    """No entry is ever opened by its path; one that tries to leave the archive is refused all the same."""
    name = entry.filename.replace("\\", "/")
    drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    if name.startswith("/") or drive or ".." in name.split("/") or any(ord(sign) < 32 for sign in name):
        raise UnusableUpload("unsafe_path", f"{entry.filename!r} leaves the archive; pack the folder anew", name=name)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UnusableUpload("unsafe_path", f"{entry.filename!r} is a link; pack the file that it leads to", name=name)


@contextlib.contextmanager
def entry_stream(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, code: str = "unreadable_file"
) -> Iterator[IO[bytes]]:
    """The bytes of one entry; whatever is wrong with them is told with the entry's name."""
    if entry.flag_bits & ENCRYPTED:
        raise UnusableUpload(code, f"{entry.filename} is encrypted; pack it without a password")
    if entry.compress_type not in METHODS:
        detail = f"{entry.filename} is packed with method {entry.compress_type}; pack it with deflate, as zip does"
        raise UnusableUpload(code, detail)
    try:
        with archive.open(entry) as stream:
            yield stream
    except BROKEN as error:
        detail = f"{entry.filename} cannot be unpacked: {error}; is the file whole?"
        raise UnusableUpload(code, detail) from error
