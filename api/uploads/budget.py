"""The limit on bytes unpacked from archives. Counts the bytes that are read; sizes in headers are not trusted."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Protocol

from shared.errors import UnusableUpload

CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Budget:
    """Bytes that an upload may unpack to. `spend` raises UnusableUpload once more than `limit` are spent."""

    def __init__(self, limit: int) -> None:
        self.limit, self.spent = limit, 0

    def spend(self, size: int, what: str) -> None:
        self.spent += size
        if self.spent > self.limit:
            detail = f"{what}: more than {self.limit} bytes unpacked; GRADQ_MAX_UNPACKED_BYTES sets the limit"
            raise UnusableUpload("unpacks_too_large", detail, limit_bytes=self.limit)


def unpack(stream: Readable, target: Path, budget: Budget, what: str) -> int:
    """Copy `stream` to `target` in chunks; return the number of bytes. Raises UnusableUpload over the budget."""
    size = 0
    with target.open("wb") as file:
        while chunk := stream.read(CHUNK):
            budget.spend(len(chunk), what)
            size += len(chunk)
            file.write(chunk)
    return size


def gunzipped(path: Path, target: Path, budget: Budget, what: str) -> Path:
    """`path` itself if it is not gzipped, else `target` with the unpacked contents. Raises UnusableUpload."""
    with path.open("rb") as file:
        if file.read(2) != GZIP_MAGIC:
            return path
    try:
        with gzip.open(path) as stream:
            unpack(stream, target, budget, what)
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableUpload("unreadable_file", f"{what} cannot be unpacked: {error}; is it truncated?") from error
    return target
