"""Uploaded zip files: validated when opened, read entry by entry in bounded memory, never extracted to their own
paths."""

from __future__ import annotations

import contextlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from unicodedata import category

from api.uploads.system_files import is_system
from shared.errors import UnusableUpload

# zipfile reads the whole directory into memory, where an entry has some 700 bytes
MAX_DIRECTORY_BYTES, MAX_ENTRIES = 32 << 20, 200_000
LONGEST_PATH, DEEPEST_PATH = 8192, 64  # characters of an entry's name; folders in folders
# characters of one folder's or file's name, as in most file systems; to compose marks takes the square of their number
LONGEST_PART = 255
ENTRY, CHUNK = b"PK\x01\x02", 1 << 20  # the start of an entry in the directory; bytes that are searched at once
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED, UTF8 = 0x1, 0x800  # bits of an entry's flags
UNICODE_PATH = 0x7075  # an extra field
DIRECTORY_SIZE, END_AT = 5, 9  # indices in zipfile's end record: bytes of the directory, where the record begins
# what zipfile raises for damaged archives and for methods that it does not know
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
Parts = tuple[str, ...]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Context manager: the archive. Raises UnusableUpload if it is unreadable or too large, or has an unsafe entry."""
    with path.open("rb") as file:
        try:
            refuse_many_entries(file)
            archive = zipfile.ZipFile(file)
        except BROKEN as error:
            raise UnusableUpload("unreadable_file", f"the zip cannot be read: {error}; is it truncated?") from error
        with archive:
            for entry in archive.infolist():
                entry.filename = decoded_name(entry)
                refuse_unsafe(entry)
            yield archive


def refuse_many_entries(file: IO[bytes]) -> None:
    """Raise UnusableUpload if the directory is too large to be held in memory; called before ZipFile reads it. Whatever
    else is wrong is left to ZipFile."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        return
    size, found = end[DIRECTORY_SIZE], 0
    if size <= MAX_DIRECTORY_BYTES:
        # what follows the directory is short, so the last `size` bytes before the end record have most of it
        file.seek(max(0, end[END_AT] - size))
        left, tail = size, b""
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            found += (tail + chunk).count(ENTRY)
            left, tail = left - len(chunk), chunk[-len(ENTRY) + 1 :]
    if size > MAX_DIRECTORY_BYTES or found > MAX_ENTRIES:
        detail = f"the zip has too many entries; at most {MAX_ENTRIES} are accepted. Split it up, or send arrays (.npz)"
        raise UnusableUpload("unpacks_too_large", detail)


def decoded_name(entry: zipfile.ZipInfo) -> str:
    """The entry's name: UTF-8 if its bytes are valid UTF-8, with or without the flag that announces it, else cp437.

    Archive Utility of macOS and many tools on Unix write UTF-8 without the flag, others write it into an extra field
    beside a name in another encoding. `orig_filename`, which zipfile compares with the local header, stays as it is.
    """
    if entry.flag_bits & UTF8:
        return entry.filename
    raw = entry.filename.encode("cp437", "replace")  # cp437 has a character for each byte: these are the bytes read
    with contextlib.suppress(UnicodeDecodeError):
        return _unicode_path(entry.extra, raw) or raw.decode("utf-8")
    return entry.filename


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name in Info-ZIP's extra field 0x7075: version 1, CRC-32 of the raw name, name in UTF-8; None without it.

    https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.6.9. Raises UnicodeDecodeError.
    """
    at, checksum = 0, None  # no copy of what follows, and one checksum: an entry may have 16 000 fields
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        value, at = extra[at + 4 : at + 4 + size], at + 4 + size
        if kind != UNICODE_PATH or len(value) <= 5:
            continue
        checksum = zlib.crc32(raw) if checksum is None else checksum
        if struct.unpack_from("<BI", value) == (1, checksum):
            return value[5:].decode("utf-8").partition("\0")[0] or None
    return None


def refuse_unsafe(entry: zipfile.ZipInfo) -> None:
    """Refuse paths that are too long or leave the archive, and links, although no entry is opened by its path.
    `entry.filename` must be the decoded name, which is used from here on. Raises UnusableUpload."""
    name = entry.filename.replace("\\", "/")
    _refuse_long_path(name)
    drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    if name.startswith("/") or drive or ".." in name.split("/"):
        raise UnusableUpload(
            "unsafe_path", f"{entry.filename!r} is a path outside of the archive; pack the folder again", name=name
        )
    if any(category(sign) == "Cc" for part in name.split("/") if not is_system(part) for sign in part):
        detail = f"{entry.filename!r} has a control character in its name; rename it and pack the folder again"
        raise UnusableUpload("unsafe_path", detail, name=name)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UnusableUpload("unsafe_path", f"{entry.filename!r} is a link; pack the file that it points to", name=name)


def _refuse_long_path(name: str) -> None:
    """Refuse a path that is longer or deeper than those of file systems. Raises UnusableUpload."""
    # counted before the path is divided
    if len(name) > LONGEST_PATH or name.count("/") > DEEPEST_PATH:
        detail = f"{name[:80]!r}… is {len(name)} characters long, or in more than {DEEPEST_PATH} folders"
        raise UnusableUpload("unsafe_path", f"{detail}; pack the folder again, with fewer folders in one another")
    if (longest := max(map(len, name.split("/")))) > LONGEST_PART:
        detail = f"{name[:80]!r}… has a folder or file whose name has {longest} characters; at most {LONGEST_PART} are"
        raise UnusableUpload("unsafe_path", f"{detail} accepted. Rename it and pack the folder again")


def user_entries(archive: zipfile.ZipFile) -> list[tuple[Parts, zipfile.ZipInfo]]:
    """The entries with the parts of their paths, without hidden files and those that systems add to a user's own."""
    found = []
    for entry in archive.infolist():
        parts = tuple(part for part in entry.filename.replace("\\", "/").split("/") if part not in ("", "."))
        if parts and not any(is_system(part) for part in parts):
            found.append((parts, entry))
    return found


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
