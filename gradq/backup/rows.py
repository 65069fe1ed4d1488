"""Converts rows between tables of either database and gzipped files of JSON lines."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import JSON, Connection, DateTime, LargeBinary, MetaData, Select, Table, func, select
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

from gradq.backup import UnusableBackup

BATCH = 1000
Row = dict[str, Any]


class File(NamedTuple):
    """A file that a row names, with its expected size and sha256."""

    key: str
    size_bytes: int
    sha256: str


def files_of(table: str, row: Row) -> list[File]:
    """The files of a row of a table of `WITH_FILES`. The row is only usable with all of them."""
    if table == "datasets":
        files = row["files"].items()
        return [File(f"{row['folder']}/{name}", file["size_bytes"], file["sha256"]) for name, file in files]
    return [File(row["key"], row["size_bytes"], row["sha256"])]


def reflected(connection: Connection, names: set[str]) -> list[Table]:
    """The tables as this database has them, at any revision; a table comes after those that it refers to."""
    metadata = MetaData()
    metadata.reflect(connection, only=sorted(names))
    for table in metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True  # as in shared/db/tables.py
    return list(metadata.sorted_tables)


# --- from a table ---------------------------------------------------------------------------------------------------


def whole(table: Table) -> Select[Any]:
    return select(table).order_by(*table.primary_key)


def read(connection: Connection, query: Select[Any]) -> Iterator[Row]:
    """Yields the rows of a query with values that JSON can hold, and keeps one batch in memory."""
    for row in connection.execute(query.execution_options(yield_per=BATCH)).mappings():
        yield {name: _out(value) for name, value in row.items()}


def write_lines(path: Path, rows: Iterable[Row]) -> int:
    """Writes one line per row and returns their number. Equal rows give equal bytes."""
    count = 0
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        for row in rows:
            packed.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            count += 1
    return count


def _out(value: Any) -> Any:
    if isinstance(value, datetime):  # SQLite's have no zone and are UTC
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


# --- into a table -----------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def insert(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Inserts the rows and advances the table's sequence. Raises UnusableBackup for rows that do not fit the table."""
    remaining = iter(rows)
    try:
        while batch := [_of(table, row, connection.dialect.name) for row in islice(remaining, BATCH)]:
            connection.execute(table.insert(), batch)
        _advance_sequence(connection, table)
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(error, OperationalError):
            raise  # not caused by the row
        raise UnusableBackup(f"a row of {table.name} cannot be stored: {error.orig}") from error
    except (TypeError, ValueError, StatementError) as error:
        raise UnusableBackup(f"a row of {table.name} is invalid: {error}") from error


def _advance_sequence(connection: Connection, table: Table) -> None:
    """Sets PostgreSQL's sequence to the highest number inserted; SQLite does so by itself."""
    column = table.autoincrement_column
    if connection.dialect.name == "postgresql" and column is not None:
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(select(func.setval(sequence, func.max(column))).where(sequence.is_not(None)))


def _of(table: Table, row: Row, dialect: str) -> Row:
    if set(row) != set(table.columns.keys()):
        raise UnusableBackup(f"a row of {table.name} has other columns than this revision of the schema")
    return {name: _in(table.columns[name].type, value, dialect) for name, value in row.items()}


def _in(kind: Any, value: Any, dialect: str) -> Any:
    if value is None:
        return None
    if isinstance(kind, DateTime):
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=None) if dialect == "sqlite" else at
    return base64.b64decode(value, validate=True) if isinstance(kind, LargeBinary) else value
