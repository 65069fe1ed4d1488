"""Reads a backup: files into the store, tables into a folder, and checks all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gradq.backup import NOT_SAVED, WITH_FILES, UnusableBackup, archive, rows
from gradq.backup.archive import AGAIN
from gradq.backup.contents import FILES, FORMAT, HEAD, MANIFEST, PACKED, TABLES, Advance, Head, Manifest
from gradq.backup.rows import File, Row, files_of
from shared.artifacts import CHUNK, ArtifactStore, sha256_of
from shared.db import migrate
from shared.version import VERSION

# These become names of folders and files, in the store and where trainers run
NAMES = {
    ("jobs", "id"): re.compile(r"job_\w+", re.ASCII),
    ("datasets", "id"): re.compile(r"ds_\w+", re.ASCII),
    ("artifacts", "name"): re.compile(r"[\w-][\w.-]*", re.ASCII),
}


class Unpacked:
    def __init__(self, store: ArtifactStore, scratch: Path, advance: Advance) -> None:
        self.store, self.scratch, self.advance = store, scratch, advance
        self.files: dict[str, File | None] = {}  # None while it is being stored
        self.size_bytes = 0
        self.found: set[str] = set()
        self.manifest: Manifest | None = None

    def read(self, source: IO[bytes]) -> None:
        """Reads every entry. Raises UnusableBackup at the first one that gradq cannot have written."""
        entries = archive.entries(source)
        name, content = next(entries, ("", None))
        if name != HEAD or content is None:
            raise UnusableBackup(f"this is not a backup of gradq: it does not begin with {HEAD}")
        self.head = Head.model_validate_json(content.read())
        self._refuse_newer()
        for name, content in entries:
            if self.manifest is not None:
                raise UnusableBackup(f"{name!r} follows after the end of the backup; {AGAIN}")
            if name.startswith(FILES):
                self._store(name.removeprefix(FILES), content)
            elif name == MANIFEST:
                self.manifest = Manifest.model_validate_json(content.read())
            else:
                self._keep_table(name, content)

    def check(self) -> None:
        """Raises UnusableBackup unless the backup is complete and all its sha256 are right."""
        if self.manifest is None:
            raise UnusableBackup(f"the backup is truncated: its end is missing; {AGAIN}")
        tables = self.manifest.tables
        if not set(tables) == self.found == migrate.tables_of(self.head.revision) - NOT_SAVED:
            raise UnusableBackup(f"the backup does not have the tables of revision {self.head.revision}; {AGAIN}")
        for name, table in tables.items():
            if sha256_of(self.path(name)) != table.sha256:
                raise UnusableBackup(f"the table {name} is damaged: its sha256 is not the stored one; {AGAIN}")
        named: set[str] = set()
        for name in sorted(tables):
            for row in self.rows(name):
                named |= self._check_row(name, row)
        if more := sorted(set(self.files) - named):
            raise UnusableBackup(f"no row names the file {more[0]}; {AGAIN}")

    def rows(self, table: str) -> Iterator[Row]:
        return rows.read_lines(self.path(table))

    def path(self, table: str) -> Path:
        return self.scratch / f"{table}{PACKED}"

    def take_back(self) -> None:
        """Removes the files that were stored so far."""
        for folder in {"/".join(key.split("/")[: 2 if key.startswith("datasets/") else 1]) for key in self.files}:
            self.store.remove_folder(folder)

    def _refuse_newer(self) -> None:
        if self.head.format != FORMAT or self.head.revision not in migrate.known():
            raise UnusableBackup(
                f"the backup was made by gradq {self.head.gradq} (format {self.head.format}, revision "
                f"{self.head.revision} of the schema), which this gradq {VERSION} does not know; restore it with that "
                "version or a newer one"
            )

    def _store(self, key: str, content: IO[bytes]) -> None:
        if key in self.files:
            raise UnusableBackup(f"the file {key} occurs twice; {AGAIN}")
        path = self.scratch / "file"
        with path.open("wb") as file:
            while chunk := content.read(CHUNK):
                file.write(chunk)
                self.size_bytes += len(chunk)
                self.advance(self.size_bytes, self.head.size_bytes)
        self.files[key] = None
        stored = self.store.put(key, path)
        self.files[key] = File(key, stored.size_bytes, stored.sha256)

    def _keep_table(self, name: str, content: IO[bytes]) -> None:
        table = name.removeprefix(TABLES).removesuffix(PACKED)
        if name != f"{TABLES}{table}{PACKED}" or table in self.found or not re.fullmatch(r"\w+", table):
            raise UnusableBackup(f"{name!r} is not part of a backup of gradq, or occurs twice; {AGAIN}")
        self.found.add(table)
        with self.path(table).open("wb") as file:
            while chunk := content.read(CHUNK):
                file.write(chunk)

    def _check_row(self, table: str, row: Row) -> set[str]:
        """The keys of the row's files. Raises UnusableBackup unless they and its names are valid."""
        try:
            for (of, column), pattern in NAMES.items():
                if of == table and not pattern.fullmatch(row[column]):
                    raise UnusableBackup(
                        f"{row[column]!r} in {table} is not a name that gradq gives; nothing was restored"
                    )
            files = files_of(table, row) if table in WITH_FILES else []
        except (KeyError, TypeError, AttributeError) as error:
            raise UnusableBackup(f"a row of {table} is invalid: {error!r}") from error
        for file in files:
            if file.key not in self.files:
                raise UnusableBackup(f"the file {file.key} is missing in the backup; {AGAIN}")
            if self.files[file.key] != file:
                raise UnusableBackup(f"the file {file.key} is damaged: its sha256 is not the stored one; {AGAIN}")
        return {file.key for file in files}
