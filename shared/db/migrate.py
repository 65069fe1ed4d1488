"""The revisions of the schema, one line from first to newest: where a database stands, and the way to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from shared.errors import ConfigurationError
from shared.version import VERSION

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST, VERSION_TABLE = "head", "alembic_version"


def alembic_config(connection: Any = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def known() -> list[str]:
    """Every revision that this gradq knows, the first one first."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]


def revision_of(connection: Connection) -> str | None:
    """Where the schema stands; None: it has no tables yet. Refuses one that a newer gradq has left behind."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in known():
        raise ConfigurationError(
            f"the database is at revision {revision}, which gradq {VERSION} does not know: a newer gradq has been at "
            "work there. Use that version, or one that is newer; docs/operations.md says how to go back."
        )
    return revision


def move(connection: Connection, to: str = NEWEST) -> str:
    """Take the schema up or down to a revision; return its name. The caller holds transaction and lock."""
    line = known()
    wanted = line[-1] if to == NEWEST else to
    if wanted not in line:
        raise ConfigurationError(f"there is no revision {to}; this gradq knows {', '.join(line)}")
    at = revision_of(connection)
    if at is None or line.index(at) <= line.index(wanted):
        command.upgrade(alembic_config(connection), wanted)
    else:
        command.downgrade(alembic_config(connection), wanted)
    return wanted


def clear(connection: Connection) -> None:
    """Take away all tables. The caller has made sure that nothing is in them."""
    if revision_of(connection) is not None:
        command.downgrade(alembic_config(connection), "base")


def tables_of(revision: str) -> set[str]:
    """The names of a revision's tables, read off a database in memory that was brought there."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), revision)
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names - {VERSION_TABLE}
