"""Reads and writes the entries of a backup's tar sequentially, so that it may be a pipe."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import tarfile
import time
import zlib
from collections.abc import Iterator
from typing import IO

from gradq.backup import UnusableBackup

DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, UnicodeDecodeError, ValueError)
AGAIN = "make a new backup with `gradq backup`, or copy this one again"


class Writer:
    """Writes a tar; it is complete once the block has ended without an exception."""

    def __init__(self, out: IO[bytes]) -> None:
        self.tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.tar.close()

    def add(self, name: str, file: IO[bytes], size_bytes: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = size_bytes, 0o600, int(time.time())
        self.tar.addfile(entry, file)
        self.tar.getmembers().clear()  # tarfile keeps them in memory, and there may be a million

    def add_text(self, name: str, text: str) -> None:
        content = text.encode() + b"\n"
        self.add(name, io.BytesIO(content), len(content))


def entries(source: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields name and content of each entry, which must be read before the next. Decompresses gzip, bzip2 and xz.

    Raises UnusableBackup for an entry that is not a regular file with a safe name.
    """
    with tarfile.open(fileobj=source, mode="r|*") as tar:
        while (entry := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            if not entry.isreg() or entry.issparse() or not is_safe(entry.name):
                raise UnusableBackup(f"{entry.name!r} is not part of a backup of gradq; nothing was restored")
            content = tar.extractfile(entry)
            assert content is not None, "a regular file has content"
            yield entry.name, content


def is_safe(name: str) -> bool:
    """Whether a joined path stays below its folder, on every operating system."""
    plain = name.isascii() and name.isprintable() and "\\" not in name and ":" not in name
    return plain and all(part not in ("", ".", "..") for part in name.split("/"))


@contextlib.contextmanager
def damage_is_named() -> Iterator[None]:
    """Turns errors of damaged bytes into UnusableBackup; other errors, such as of a full disk, are not changed."""
    try:
        yield
    except DAMAGE as error:
        raise UnusableBackup(
            f"the backup is damaged or truncated, or not a backup of gradq ({error}); {AGAIN}"
        ) from error
