"""Copies files from the store into a backup, while the service adds and deletes files.

A row whose file is gone is left out, and reported. A running job replaces its checkpoints; where those of the snapshot
are gone, its newest one is saved instead: a checkpoint has the whole run so far and fits every older log. Pictures that
have been drawn meanwhile are saved in place of what they were drawn from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BufferedRandom, BufferedReader
from itertools import groupby

from sqlalchemy import select

from gradq.backup import rows
from gradq.backup.archive import Writer
from gradq.backup.contents import FILES, Advance, LeftOut, Why
from gradq.backup.rows import File, Row, files_of
from gradq.backup.snapshot import Snapshot
from shared.artifacts import ArtifactStore
from shared.db.database import Database
from shared.events import UNDRAWN

TRIES = 5  # to copy the newest checkpoint of a running job


@dataclass
class Copies:
    database: Database
    store: ArtifactStore
    archive: Writer
    snapshot: Snapshot
    advance: Advance
    files: int = 0
    size_bytes: int = 0
    left_out: list[LeftOut] = field(default_factory=list)

    def of(self, table: str) -> Iterator[Row]:
        """Copies the files of a table's rows; yields the rows whose files were copied."""
        if table == "checkpoints":
            for job_id, of_job in groupby(self.snapshot.rows(table), key=lambda row: str(row["job_id"])):
                yield from self._checkpoints(job_id, list(of_job))
            return
        for row in self.snapshot.rows(table):
            if (wrong := self._copy(files_of(table, row))) is None:
                yield row
            elif row.get("name") == UNDRAWN and (drawn := self._drawn_since(row)):
                yield from drawn
            else:
                self._leave_out(table, row, wrong)

    def _drawn_since(self, undrawn: Row) -> list[Row]:
        """The rows of the pictures that took the place of `undrawn` since the snapshot, whose files were copied."""
        table = self.snapshot.tables["artifacts"]
        query = select(table).where(table.c.job_id == undrawn["job_id"], table.c.kind == "plot").order_by(table.c.name)
        with self.database.read() as session:
            found = list(rows.read(session.connection(), query))
        return [row for row in found if self._copy(files_of("artifacts", row)) is None]

    def _checkpoints(self, job_id: str, of_job: list[Row]) -> list[Row]:
        """The rows of one job whose files were copied, else its newest checkpoint now."""
        wrong = {row["key"]: self._copy(files_of("checkpoints", row)) for row in of_job}
        there = [row for row in of_job if wrong[row["key"]] is None]
        if not there and (newer := self._newest_checkpoint(job_id)):
            there = [newer]
        for row in of_job:
            if (why := wrong[row["key"]]) and (not there or self._is_current("checkpoints", row)):
                self._leave_out("checkpoints", row, why)
        return there

    def _newest_checkpoint(self, job_id: str) -> Row | None:
        table = self.snapshot.tables["checkpoints"]
        query = select(table).where(table.c.job_id == job_id).order_by(table.c.step.desc()).limit(1)
        for _ in range(TRIES):
            with self.database.read() as session:
                row = next(rows.read(session.connection(), query), None)
            if row is None or self._copy(files_of("checkpoints", row)) is None:
                return row
        return None

    def _copy(self, files: list[File]) -> Why | None:
        """Copies all files and returns None; or copies none and returns what is wrong with one."""
        with ExitStack() as stack:
            streams = []
            for file in files:
                for _ in range(self.store.reads):
                    try:
                        stream = stack.enter_context(self._opened(file.key))
                    except FileNotFoundError:
                        return "lost"
                    if hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256:
                        streams.append(stream)
                        break
                else:
                    return "damaged"
            for file, stream in zip(files, streams, strict=True):
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                self.archive.add(f"{FILES}{file.key}", stream, size)
                self.files, self.size_bytes = self.files + 1, self.size_bytes + size
                self.advance(self.size_bytes, self.snapshot.size_bytes)
        return None

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[BufferedReader | BufferedRandom]:
        """The open file; deleting it no longer affects the copy."""
        if (path := self.store.local_path(key)) is not None:
            with path.open("rb") as file:
                yield file
            return
        with tempfile.TemporaryFile(dir=self.snapshot.folder) as here:
            with self.store.open(key) as there:
                shutil.copyfileobj(there, here)
            here.seek(0)
            yield here

    def _leave_out(self, table: str, row: Row, why: Why) -> None:
        key = str(row["id"] if table == "datasets" else row["key"])
        self.left_out.append(LeftOut(table, key, why if self._is_current(table, row) else "deleted"))

    def _is_current(self, name: str, row: Row) -> bool:
        """Whether the service still has this row, with the same files."""
        table = self.snapshot.tables[name]
        query = select(table).where(*(column == row[column.name] for column in table.primary_key))
        with self.database.read() as session:
            now = next(rows.read(session.connection(), query), None)
        return now is not None and files_of(name, now) == files_of(name, row)
