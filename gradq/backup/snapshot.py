"""Saves the rows of one moment to a folder, so that the transaction ends before the files are copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gradq.backup import NOT_SAVED, WITH_FILES, NothingToBackUp, rows
from gradq.backup.contents import FORMAT, PACKED, Head
from gradq.backup.rows import Row, files_of
from shared.db import migrate
from shared.db.database import Database
from shared.jobs.joblog import now
from shared.version import VERSION


class Snapshot:
    """All tables but those of NOT_SAVED, at any revision. Raises NothingToBackUp for an empty database."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.folder = folder
        with database.snapshot() as connection:
            revision = migrate.revision_of(connection)
            if revision is None:
                raise NothingToBackUp(
                    "the database is empty; set GRADQ_STATE_DIR or GRADQ_DATABASE_URL to that of the service"
                )
            self.revision, self.taken_at = revision, now()
            tables = rows.reflected(connection, migrate.tables_of(revision) - NOT_SAVED)
            self.tables = {table.name: table for table in tables}
            self.counts = {
                name: rows.write_lines(self.path(name), rows.read(connection, rows.whole(table)))
                for name, table in self.tables.items()
            }
        self.files = self.size_bytes = 0
        for file in (file for name in WITH_FILES for row in self.rows(name) for file in files_of(name, row)):
            self.files += 1
            self.size_bytes += file.size_bytes

    def path(self, table: str) -> Path:
        return self.folder / f"{table}{PACKED}"

    def rows(self, table: str) -> Iterator[Row]:
        """The rows of a table; empty if this revision does not have it."""
        return rows.read_lines(self.path(table)) if table in self.tables else iter(())

    def head(self) -> Head:
        """The first entry of the backup."""
        return Head(
            format=FORMAT,
            gradq=VERSION,
            revision=self.revision,
            created_at=self.taken_at,
            rows=self.counts,
            files=self.files,
            size_bytes=self.size_bytes,
        )
