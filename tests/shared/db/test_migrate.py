"""Migrations with rows in the tables, on both databases: from every revision to the newest, and back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import DBAPIError
from support.place import Place, full
from support.store import read, submit, write

from shared import audit, idempotency
from shared.artifacts import ArtifactStore
from shared.db import migrate
from shared.db.database import Database
from shared.db.tables import Base
from shared.errors import ConfigurationError
from shared.jobs import queue, stored_bytes
from shared.jobs.states import JobState
from shared.jobs.stored_bytes import AUDIT_BYTES

LINE = migrate.known()
STEPS = list(itertools.pairwise(LINE))


@pytest.fixture
def place(empty_database: Database, tmp_path: Path) -> Place:
    """A service at the newest revision, with rows in every table and a schema of its own."""
    empty_database.migrate()
    (tmp_path / "work").mkdir()
    place = Place(empty_database, ArtifactStore(f"file://{tmp_path / 'artifacts'}"), tmp_path / "work")
    full(place)
    return place


def structure(database: Database) -> dict[str, Any]:
    """Tables, columns with their types, keys, and indexes, as the database reports them."""
    with database.snapshot() as connection:
        seen = inspect(connection)
        return {
            name: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)],
                seen.get_pk_constraint(name)["constrained_columns"],
                sorted((key["referred_table"], key["options"].get("ondelete")) for key in seen.get_foreign_keys(name)),
                sorted((index["name"], tuple(index["column_names"])) for index in seen.get_indexes(name)),
                sorted(tuple(unique["column_names"]) for unique in seen.get_unique_constraints(name)),
            )
            for name in seen.get_table_names()
        }


def test_the_revisions_are_one_line_without_a_fork() -> None:
    assert len(ScriptDirectory.from_config(migrate.alembic_config()).get_heads()) == 1
    assert sorted(LINE) == LINE


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_each_step_down_and_up_again_keeps_every_row_that_both_sides_know(
    place: Place, before: str, after: str
) -> None:
    """A step down and up removes what the older schema cannot store, and nothing else."""
    place.database.migrate(after)
    both = migrate.tables_of(before)
    rows, shape = place.rows(of=both), structure(place.database)
    assert place.database.migrate(before) == before
    old = place.rows(of=both)
    assert {table: len(old[table]) for table in both} == {table: len(rows[table]) for table in both}
    for table in both:
        for was, now in zip(rows[table], old[table], strict=True):
            assert now == {column: value for column, value in was.items() if column in now}
    assert place.database.migrate(after) == after
    assert structure(place.database) == shape
    new = place.rows(of=both)
    for table in both:
        for was, now in zip(old[table], new[table], strict=True):
            assert was == {column: value for column, value in now.items() if column in was}


def test_of_two_owners_keys_of_one_name_the_older_schema_keeps_one(place: Place) -> None:
    write(place.database, idempotency.claim, "my key", "e" * 64, "alice")
    before = {row["key"] for row in place.rows(of={"idempotency_keys"})["idempotency_keys"]}
    place.database.migrate("0005")
    left = place.rows(of={"idempotency_keys"})["idempotency_keys"]
    assert sorted(row["key"] for row in left) == sorted(before)
    assert {row["fingerprint"] for row in left if row["key"] == "my key"} == {"f" * 64}, "the one of nobody by name"


def test_rows_from_before_owners_have_no_owner(place: Place) -> None:
    place.database.migrate("0005")
    place.database.migrate()
    assert {row["owner"] for row in place.rows(of={"jobs"})["jobs"]} == {None}
    assert {tuple(row["owners"]) for row in place.rows(of={"datasets"})["datasets"]} == {("",)}
    assert {row["owner"] for row in place.rows(of={"idempotency_keys"})["idempotency_keys"]} == {""}


def test_what_owners_store_is_counted_for_rows_from_before_and_their_tokens_keep_all_priorities(place: Place) -> None:
    write(place.database, audit.note, audit.Actor("alice"), "jobs.submit", "job_1")
    place.database.migrate("0008")
    place.database.migrate()
    used = {owner: read(place.database, stored_bytes.used_by, owner) for owner in ("alice", None)}
    assert used["alice"]["datasets"] == used[None]["datasets"] > 0
    assert {kind for kind, size in used[None].items() if size} >= {"artifacts", "checkpoints", "datasets", "logs"}
    assert used["alice"]["audit"] == AUDIT_BYTES
    write(place.database, stored_bytes.recount)
    assert {owner: read(place.database, stored_bytes.used_by, owner) for owner in used} == used
    assert {row["max_priority"] for row in place.rows(of={"tokens"})["tokens"]} == {None}
    assert {row["count"] for row in place.rows(of={"audit"})["audit"]} <= {1}


@pytest.mark.parametrize("revision", LINE)
def test_a_service_that_was_at_any_revision_works_at_the_newest(place: Place, revision: str) -> None:
    jobs_before = len(place.rows(of={"jobs"})["jobs"])
    place.database.migrate(revision)
    place.database.migrate()
    with place.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    submit(place.database)
    claimed = write(place.database, queue.claim, "w1", "cpu", {"auto"}, 60)
    assert claimed is not None
    write(place.database, queue.finish, queue.lease_of(claimed), JobState.SUCCEEDED, "done")
    with place.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Base.metadata.tables["jobs"])) == jobs_before + 1


def test_the_way_down_leads_to_nothing_and_up_again(place: Place) -> None:
    shape = structure(place.database)
    with place.database.write() as session:
        migrate.clear(session.connection())
    assert set(structure(place.database)) == {migrate.VERSION_TABLE}
    place.database.migrate()
    assert structure(place.database) == shape


def test_a_way_that_fails_halfway_leaves_schema_and_rows_as_they_were(place: Place) -> None:
    place.database.migrate(LINE[0])
    names = migrate.tables_of(LINE[0])
    in_the_way = max(migrate.tables_of(LINE[-1]) - names)
    with place.database.write() as session:
        session.execute(text(f"CREATE TABLE {in_the_way} (id INTEGER)"))
    shape, rows = structure(place.database), place.rows(of=names)
    with pytest.raises(DBAPIError, match=in_the_way):
        place.database.migrate()
    assert (structure(place.database), place.rows(of=names)) == (shape, rows)
    with place.database.write() as session:
        session.execute(text(f"DROP TABLE {in_the_way}"))
    place.database.migrate()


def test_the_tables_of_a_revision_are_those_that_it_makes(empty_database: Database) -> None:
    for revision in LINE:
        empty_database.migrate(revision)
        assert migrate.tables_of(revision) == set(structure(empty_database)) - {migrate.VERSION_TABLE}


def test_a_database_that_a_newer_gradq_has_left_is_refused_by_name(empty_database: Database) -> None:
    empty_database.migrate()
    with empty_database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match=r"revision 9999.*Use that version or a newer one"):
        empty_database.migrate()


def test_a_revision_that_is_none_is_refused_with_those_that_are(empty_database: Database) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown revision 7; this version of gradq has {', '.join(LINE)}"):
        empty_database.migrate("7")
