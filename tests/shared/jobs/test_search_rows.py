"""The rows by which lists find jobs are in step with the jobs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update
from support.store import read, submit, write

from shared.db.database import Database
from shared.db.tables import Job, JobLabel, JobName, NameGram
from shared.jobs import jobs, search_rows


def expected(database: Database) -> tuple[Any, ...]:
    """The rows that the jobs of the database must have."""
    with database.read() as session:
        found = session.scalars(select(Job)).all()
        labels = {(key, value, job.id) for job in found for key, value in job.labels.items()}
        names = {job.name for job in found}
        return labels, names, {(gram, name) for name in names for gram in search_rows.grams(name)}


def stored(database: Database) -> tuple[Any, ...]:
    with database.read() as session:
        grams = select(NameGram.gram, JobName.name).join(JobName, JobName.id == NameGram.name_id)
        return (
            {tuple(row) for row in session.execute(select(JobLabel.key, JobLabel.value, JobLabel.job_id))},
            set(session.scalars(select(JobName.name))),
            {tuple(row) for row in session.execute(grams)},
        )


def edit(database: Database, job_id: str, **wanted: Any) -> None:
    with database.write() as session:
        jobs.edit(session, jobs.lock_job(session, job_id), wanted)


@pytest.fixture
def three(database: Database) -> list[str]:
    return [
        submit(database, name="Ärger 7", labels={"team": "a", "k'é\"": "x"}),
        submit(database, name="Ärger 7", labels={"team": "a"}),
        submit(database, name="İ"),
    ]


def test_they_are_those_of_the_jobs(database: Database, three: list[str]) -> None:
    assert stored(database) == expected(database)
    assert [len(rows) for rows in stored(database)] == [3, 2, 8]


def test_a_changed_job_has_the_rows_of_its_new_name_and_labels(database: Database, three: list[str]) -> None:
    edit(database, three[0], name="other", labels={"team": "b"})
    assert stored(database) == expected(database)
    edit(database, three[1], name="other", labels={})  # the last job with the first name
    assert stored(database) == expected(database)
    assert [len(rows) for rows in stored(database)] == [1, 2, 6]


def test_a_deleted_job_leaves_none(database: Database, three: list[str]) -> None:
    for job_id in three:
        write(database, jobs.request_cancel, job_id)
        write(database, jobs.remove, job_id)
        assert stored(database) == expected(database)
    assert stored(database) == (set(), set(), set())


def test_a_change_that_is_rolled_back_changes_no_row(database: Database, three: list[str]) -> None:
    before = stored(database)
    with pytest.raises(ZeroDivisionError), database.write() as session:
        jobs.edit(session, jobs.lock_job(session, three[0]), {"name": "new", "labels": {"a": "b"}})
        raise ZeroDivisionError
    assert stored(database) == before


def test_the_migration_copies_those_of_existing_jobs(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_database.migrate()
    for number in range(3):
        submit(empty_database, name=f"n{number % 2}", labels={"team": "a", "k'é\"": f"{number}"})
    submit(empty_database, name="İ ärger")
    rows = stored(empty_database)
    empty_database.migrate("0009")
    empty_database.migrate()
    assert stored(empty_database) == rows == expected(empty_database)
    submit(empty_database, name="one more")  # its number is the next
    assert stored(empty_database) == expected(empty_database)


@pytest.mark.parametrize(("text", "found"), [("är", True), ("GER", True), (" 7", True), ("7", True), ("a", False)])
def test_a_name_is_found_by_each_text_in_it(database: Database, three: list[str], text: str, found: bool) -> None:
    wanted = select(JobName.name).where(JobName.id.in_(search_rows.names_with(text)))
    assert read(database, lambda session: session.scalars(wanted).all()) == ["Ärger 7"] * found


def test_a_name_that_another_transaction_uses_is_kept(database: Database, three: list[str]) -> None:
    """The last job of a name is deleted while a new one is submitted: the name is still there for the new one."""
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    write(database, jobs.request_cancel, three[2])
    with database.write() as session:
        search_rows.add(session, three[0], "İ", {})  # as the transaction of a new job of this name, which goes on
        write(database, jobs.remove, three[2])
        session.execute(update(Job).where(Job.id == three[0]).values(name="İ"))
    assert "İ" in stored(database)[1]
