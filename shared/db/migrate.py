"""Revisions of the schema, a linear history: the revision of a database, and upgrades and downgrades (Alembic)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from shared.db.revision import NEWEST, VERSION_TABLE
from shared.errors import ConfigurationError
from shared.version import VERSION

MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config(connection: Any = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def known() -> list[str]:
    """All revisions in this version of gradq, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]


def revision_of(connection: Connection) -> str | None:
    """The schema's revision; None if the database has no tables. Raises ConfigurationError for an unknown revision."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in known():
        raise ConfigurationError(mismatch(revision) or "")
    return revision


def mismatch(revision: str | None) -> str | None:
    """Why this version of gradq cannot use a database at this revision, with the next step; None if it can."""
    line = _line()
    if revision == line[-1]:
        return None
    if revision is None:
        return f"the database has no tables of gradq; run `gradq migrate`, which creates revision {line[-1]}"
    if revision in line:
        return f"the database is at revision {revision}, and gradq {VERSION} needs {line[-1]}; run `gradq migrate`"
    return (
        f"the database is at revision {revision}, which gradq {VERSION} does not know: a newer version of gradq "
        "has migrated it. Use that version or a newer one; docs/operations.md describes how to go back."
    )


@functools.cache
def _line() -> tuple[str, ...]:
    return tuple(known())


def move(connection: Connection, to: str = NEWEST) -> str:
    """Upgrade or downgrade the schema to a revision; return the revision. The caller has begun a transaction and holds
    the schema lock. Raises ConfigurationError for an unknown revision."""
    line = known()
    wanted = line[-1] if to == NEWEST else to
    if wanted not in line:
        raise ConfigurationError(f"unknown revision {to}; this version of gradq has {', '.join(line)}")
    at = revision_of(connection)
    if at is None or line.index(at) <= line.index(wanted):
        command.upgrade(alembic_config(connection), wanted)
    else:
        command.downgrade(alembic_config(connection), wanted)
    return wanted


def clear(connection: Connection) -> None:
    """Drop all tables. The caller has checked that they are empty."""
    if revision_of(connection) is not None:
        command.downgrade(alembic_config(connection), "base")


def tables_of(revision: str) -> set[str]:
    """The names of a revision's tables, from an in-memory database migrated to it."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), revision)
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names - {VERSION_TABLE}
