"""Rows to lines and back: every kind of column, from either database into either."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.place import Place

from gradq.backup import rows
from shared.db.database import Database

ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": "grüße \U0001f40c\n\"'\\", "json": {"a": [1, 1e-300, None, "é"], "b": {}}, "yes": True},
    {"id": 5, "text": "", "json": [], "big": 2**53 - 1, "real": 0.1 + 0.2, "raw": bytes(range(256)), "yes": False},
    {
        "id": 900,
        "text": "x" * 100_000,
        "json": None,
        "real": 5e-324,
        "raw": b"",
        "at": datetime(2026, 1, 2, tzinfo=UTC),
    },
    {"id": 901, "text": "y", "json": "plain", "at": datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
]


def table_of(database: Database) -> sa.Table:
    """A table with a column of every type that a migration may use, numbered by the database."""
    metadata = sa.MetaData()
    sa.Table(
        "everything",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("json", sa.JSON(none_as_null=True)),
        sa.Column("big", sa.BigInteger),
        sa.Column("real", sa.Float),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("yes", sa.Boolean),
        sa.Column("at", sa.DateTime(timezone=True)),
    )
    with database.write() as session:
        metadata.create_all(session.connection())
        (table,) = rows.reflected(session.connection(), {"everything"})
    return table


@pytest.fixture
def source(empty_database: Database) -> Database:
    table = table_of(empty_database)
    sqlite = empty_database.is_sqlite
    with empty_database.write() as session:
        for row in ROWS:
            at = row.get("at")
            session.execute(table.insert(), [{**row, "at": at.replace(tzinfo=None) if at and sqlite else at}])
    return empty_database


def dumped(database: Database, path: Path) -> Path:
    with database.snapshot() as connection:
        (table,) = rows.reflected(connection, {"everything"})
        assert rows.write_lines(path, rows.read(connection, rows.whole(table))) == len(ROWS)
    return path


def test_every_kind_of_column_comes_back_in_either_database(
    source: Database, other_target: Place, tmp_path: Path
) -> None:
    lines = dumped(source, tmp_path / "before")
    table = table_of(other_target.database)
    with other_target.database.write() as session:
        rows.insert(session.connection(), table, rows.read_lines(lines))
    assert dumped(other_target.database, tmp_path / "after").read_bytes() == lines.read_bytes()
    with other_target.database.snapshot() as connection:
        found = connection.execute(rows.whole(table)).mappings().all()
    for row, wanted in zip(found, ROWS, strict=True):
        at = row["at"].replace(tzinfo=UTC) if row["at"] and row["at"].tzinfo is None else row["at"]
        assert {**row, "at": at} == {**dict.fromkeys(row), **wanted}


def test_the_next_row_gets_the_next_number(source: Database, other_target: Place, tmp_path: Path) -> None:
    table = table_of(other_target.database)
    lines = dumped(source, tmp_path / "rows")
    with other_target.database.write() as session:
        rows.insert(session.connection(), table, rows.read_lines(lines))
        (number,) = session.execute(table.insert().values(text="next").returning(table.c.id)).one()
    assert number == 902


def test_a_table_without_rows_is_numbered_from_one(other_target: Place) -> None:
    table = table_of(other_target.database)
    with other_target.database.write() as session:
        rows.insert(session.connection(), table, [])
        (number,) = session.execute(table.insert().values(text="first").returning(table.c.id)).one()
    assert number == 1
