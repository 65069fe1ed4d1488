"""The tar that a backup is: entries one after the other, onto a pipe or from one. Knows nothing of what they mean."""

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
AGAIN = "make a new backup with `gradq backup`, or fetch this one again from where it came"


class Writer:
    """Entries in the order in which they are added; whole once the block has ended without an exception."""

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
        self.tar.getmembers().clear()  # nobody asks for them again, and there may be a million

    def add_text(self, name: str, text: str) -> None:
        content = text.encode() + b"\n"
        self.add(name, io.BytesIO(content), len(content))


def entries(source: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each entry, which must be read before the next. Refuses what is no plain, safely named file.

    A tar that was gzipped, or the like, is unpacked on the way.
    """
    with tarfile.open(fileobj=source, mode="r|*") as tar:
        while (entry := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            if not entry.isreg() or entry.issparse() or not is_safe(entry.name):
                raise UnusableBackup(f"{entry.name!r} is nothing that gradq puts into a backup; nothing was restored")
            content = tar.extractfile(entry)
            assert content is not None, "a plain file has content"
            yield entry.name, content


def is_safe(name: str) -> bool:
    """Whether a name stays below the folder that it is joined to, on every system."""
    plain = name.isascii() and name.isprintable() and "\\" not in name and ":" not in name
    return plain and all(part not in ("", ".", "..") for part in name.split("/"))


@contextlib.contextmanager
def damage_is_named() -> Iterator[None]:
    """Whatever torn bytes do to those who read them is UnusableBackup; a full disk or a lost database stays itself."""
    try:
        yield
    except DAMAGE as error:
        raise UnusableBackup(f"the backup is damaged, cut short, or none at all ({error}); {AGAIN}") from error
