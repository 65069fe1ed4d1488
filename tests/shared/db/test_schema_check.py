"""Which revisions of the schema this version accepts, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from shared.db import migrate
from shared.db.database import Database
from shared.db.revision import NEWEST_REVISION
from shared.db.schema_check import SchemaCheck, require_schema
from shared.errors import ConfigurationError, DatabaseAway, SchemaMismatch


def at(database: Database, revision: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_the_revision_that_processes_look_for_is_the_newest() -> None:
    assert migrate.known()[-1] == NEWEST_REVISION


def test_the_newest_revision_is_accepted(database: Database) -> None:
    SchemaCheck(database).check()
    require_schema(database.url)


@pytest.mark.parametrize("revision", [*migrate.known()[:-1], "0099", "", "z"])
def test_any_other_is_refused_with_the_next_step(database: Database, revision: str) -> None:
    check = SchemaCheck(database)
    check.check()
    at(database, revision)
    try:
        assert check.mismatch() is None, "the last answer counts for some seconds"
        with pytest.raises(SchemaMismatch) as caught:
            check.check(fresh=True)
        assert f"at revision {revision}" in caught.value.detail
        known = revision in migrate.known()
        assert ("run `gradq migrate`" if known else "docs/operations.md") in caught.value.detail
        with pytest.raises(ConfigurationError):
            require_schema(database.url)
        assert check.mismatch() is not None, "a fresh answer replaces the last one"
    finally:
        at(database, migrate.known()[-1])
    assert check.mismatch(fresh=True) is None


def test_a_database_without_tables_is_refused(empty_database: Database) -> None:
    check = SchemaCheck(empty_database)
    assert check.revision() is None
    assert "no tables of gradq" in (check.mismatch() or "")
    empty_database.migrate()
    assert check.mismatch(fresh=True) is None
    with empty_database.engine.execution_options(gradq_writes=True).begin() as connection:
        migrate.clear(connection)
    assert check.revision() is None, "the table of the revision is there, and empty"


def test_a_database_that_is_away_is_not_a_mismatch() -> None:
    away = Database("postgresql+psycopg://gradq:secret@127.0.0.1:1/gradq")
    with pytest.raises(DatabaseAway) as caught:
        SchemaCheck(away).check()
    assert not isinstance(caught.value, SchemaMismatch)
    away.close()
