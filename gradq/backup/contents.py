"""What a backup says of itself, at its beginning and at its end, and how its entries are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1
HEAD, MANIFEST = "backup.json", "manifest.json"
FILES, TABLES, PACKED = "files/", "database/", ".jsonl.gz"

Advance = Callable[[int, int], None]  # told of progress: bytes done, bytes in all
Why = Literal["deleted", "lost", "damaged"]


class Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Head(Said):
    """Read before anything else: whether the rest can be read at all. The counts are those of the snapshot."""

    format: int
    gradq: str
    revision: str
    created_at: datetime
    rows: dict[str, int]
    files: int
    size_bytes: int


@dataclass(frozen=True)
class LeftOut:
    """A row that is not in the backup. Deleted: since the snapshot, no fault; lost, damaged: its file, by the store."""

    table: str
    key: str
    why: Why


class Table(Said):
    rows: int
    sha256: str


class Manifest(Said):
    """Read last: what has to have come."""

    tables: dict[str, Table]
    files: int
    size_bytes: int
    left_out: list[LeftOut]


def table_entry(table: str) -> str:
    return f"{TABLES}{table}{PACKED}"
