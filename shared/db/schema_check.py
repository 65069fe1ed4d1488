"""Whether the database has the revision of the schema that this version of gradq needs."""

from __future__ import annotations

import time

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from shared.db.database import Database
from shared.db.revision import NEWEST_REVISION, VERSION_TABLE
from shared.errors import ConfigurationError, SchemaMismatch

CHECK_SECONDS = 3.0  # how long the last answer counts
REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")  # a constant  # nosec B608


class SchemaCheck:
    """Reads the revision at most once per `CHECK_SECONDS`: it changes only when an operator migrates the database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._found: tuple[str | None, float] = (None, 0.0)  # the mismatch, and until when it counts

    def mismatch(self, fresh: bool = False) -> str | None:
        """What is wrong with the schema, with the next step; None if it is the right one. `fresh`: read it in any case.

        Raises DatabaseAway.
        """
        found, until = self._found  # without a lock, since the database may take seconds to respond
        if fresh or time.monotonic() >= until:
            found = _mismatch(self.revision())
            self._found = (found, time.monotonic() + CHECK_SECONDS)
        return found

    def check(self, fresh: bool = False) -> None:
        """Raises SchemaMismatch unless the schema is the right one, or DatabaseAway."""
        if (found := self.mismatch(fresh)) is not None:
            raise SchemaMismatch(found)

    def revision(self) -> str | None:
        """The revision that the database says it has; None without tables. Raises DatabaseAway."""
        try:
            with self.database.look() as connection:
                found: str | None = connection.scalar(REVISION)
                return found
        except DBAPIError:
            with self.database.look() as connection:
                if _has_version_table(connection):
                    raise
            return None


def _mismatch(revision: str | None) -> str | None:
    if revision == NEWEST_REVISION:
        return None
    from shared.db.migrate import mismatch  # imports Alembic

    return mismatch(revision)


def require_schema(url: str) -> None:
    """Raises ConfigurationError unless the database at this URL has the right schema, or DatabaseAway."""
    database = Database(url)
    try:
        SchemaCheck(database).check(fresh=True)
    except SchemaMismatch as error:
        raise ConfigurationError(error.detail) from error
    finally:
        database.close()


def _has_version_table(connection: Connection) -> bool:
    return inspect(connection).has_table(VERSION_TABLE)
