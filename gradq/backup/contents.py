"""The head and the manifest of a backup, and the names of its entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1
HEAD, MANIFEST = "backup.json", "manifest.json"
FILES, TABLES, PACKED = "files/", "database/", ".jsonl.gz"

Advance = Callable[[int, int], None]  # called with progress: bytes done, bytes in all
Why = Literal["deleted", "lost", "damaged"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Head(Section):
    """The first entry, which shows whether this version can read the rest. The counts are the snapshot's."""

    format: int
    gradq: str
    revision: str
    created_at: datetime
    rows: dict[str, int]
    files: int
    size_bytes: int


@dataclass(frozen=True)
class LeftOut:
    """A row that is not in the backup: deleted since the snapshot, or its file lost or damaged in the store."""

    table: str
    key: str
    why: Why


class Table(Section):
    rows: int
    sha256: str


class Manifest(Section):
    """The last entry: what the backup must contain."""

    tables: dict[str, Table]
    files: int
    size_bytes: int
    left_out: list[LeftOut]


def table_entry(table: str) -> str:
    return f"{TABLES}{table}{PACKED}"
