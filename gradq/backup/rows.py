"""Rows as lines of JSON, between tables of either database and gzipped files."""

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
    """One file that a row names, and what it has to be."""

    key: str
    size_bytes: int
    sha256: str


def files_of(table: str, row: Row) -> list[File]:
    """The files of a row of `WITH_FILES`; such a row is of use with all of them alone."""
    if table == "datasets":
        files = row["files"].items()
        return [File(f"{row['folder']}/{name}", file["size_bytes"], file["sha256"]) for name, file in files]
    return [File(row["key"], row["size_bytes"], row["sha256"])]


def reflected(connection: Connection, names: set[str]) -> list[Table]:
    """The tables as they are in this database, whatever its revision; those that others refer to come first."""
    metadata = MetaData()
    metadata.reflect(connection, only=sorted(names))
    for table in metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True  # as in shared/db/tables.py
    return list(metadata.sorted_tables)


# --- out of a table ---------------------------------------------------------------------------------------------------


def whole(table: Table) -> Select[Any]:
    return select(table).order_by(*table.primary_key)


def read(connection: Connection, query: Select[Any]) -> Iterator[Row]:
    """The rows of one table as JSON knows them, a batch in memory at a time."""
    for row in connection.execute(query.execution_options(yield_per=BATCH)).mappings():
        yield {name: _out(value) for name, value in row.items()}


def write_lines(path: Path, rows: Iterable[Row]) -> int:
    """Write one line a row; return their number. The same rows give the same bytes."""
    count = 0
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        for row in rows:
            packed.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            count += 1
    return count


def _out(value: Any) -> Any:
    if isinstance(value, datetime):  # without a zone: SQLite's, which is UTC
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


# --- into a table -----------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def insert(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Store the rows, whose numbers are then taken. Raises UnusableBackup when they are not of this table."""
    remaining = iter(rows)
    try:
        while batch := [_of(table, row, connection.dialect.name) for row in islice(remaining, BATCH)]:
            connection.execute(table.insert(), batch)
        _count_on(connection, table)
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(error, OperationalError):
            raise  # not the row's fault
        raise UnusableBackup(f"a row of {table.name} cannot be stored: {error.orig}") from error
    except (TypeError, ValueError, StatementError) as error:
        raise UnusableBackup(f"a row of {table.name} is not what it has to be: {error}") from error


def _count_on(connection: Connection, table: Table) -> None:
    """Let PostgreSQL number the next row after the highest that was brought along; SQLite does so by itself."""
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
