"""Makes a backup of a running service: a snapshot of its rows first, then the files that they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gradq.backup import WITH_FILES, rows
from gradq.backup.archive import Writer
from gradq.backup.contents import HEAD, MANIFEST, Advance, LeftOut, Manifest, Table, table_entry
from gradq.backup.copies import Copies
from gradq.backup.snapshot import Snapshot
from shared.artifacts import ArtifactStore, sha256_of
from shared.db.database import Database


@dataclass(frozen=True)
class Saved:
    """What was saved, and what was left out."""

    revision: str
    rows: dict[str, int]
    files: int
    size_bytes: int
    left_out: list[LeftOut]

    @property
    def whole(self) -> bool:
        """Whether the store had all files; those that users deleted since the snapshot do not count."""
        return all(left.why == "deleted" for left in self.left_out)


def save(database: Database, store: ArtifactStore, out: IO[bytes], scratch: Path, advance: Advance) -> Saved:
    """Writes a backup to `out`. `scratch`: a folder for the rows, and for one file at a time of a remote store.

    Raises NothingToBackUp if the database has no tables.
    """
    snapshot = Snapshot(database, scratch)
    with Writer(out) as archive:
        archive.add_text(HEAD, snapshot.head().model_dump_json(indent=2))
        copies = Copies(database, store, archive, snapshot, advance)
        tables = {name: _table(snapshot, copies, name) for name in sorted(snapshot.tables, key=_files_first)}
        manifest = Manifest(tables=tables, files=copies.files, size_bytes=copies.size_bytes, left_out=copies.left_out)
        archive.add_text(MANIFEST, manifest.model_dump_json(indent=2))
    counts = {name: table.rows for name, table in tables.items()}
    return Saved(snapshot.revision, counts, copies.files, copies.size_bytes, copies.left_out)


def _table(snapshot: Snapshot, copies: Copies, name: str) -> Table:
    """Adds the files of a table, then the table with those rows whose files were copied."""
    path, count = snapshot.path(name), snapshot.counts[name]
    if name in WITH_FILES:
        path = path.with_name(f"kept-{path.name}")
        count = rows.write_lines(path, copies.of(name))
    with path.open("rb") as file:
        copies.archive.add(table_entry(name), file, path.stat().st_size)
    return Table(rows=count, sha256=sha256_of(path))


def _files_first(table: str) -> tuple[int, str]:
    return (WITH_FILES.index(table) if table in WITH_FILES else len(WITH_FILES), table)
