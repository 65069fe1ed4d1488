"""A claim whose commit gets no answer: if it was made, the job is given back, and the attempt does not count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import update
from support.store import claim_again, job_of, submit, write

from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import DatabaseAway
from shared.jobs.states import JobState
from worker import claims as module
from worker.claims import Claims
from worker.devices import CPU

LEASE_SECONDS = 30.0


class Unanswered:
    """A database whose connection breaks at the next commit, before it or after it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.breaks: str | None = None

    @contextmanager
    def write(self) -> Iterator[Any]:
        breaks, self.breaks = self.breaks, None
        with self.database.write() as session:
            yield session
            if breaks == "before":
                raise DatabaseAway("the connection was closed")
        if breaks == "after":
            raise DatabaseAway("the connection was closed")


@pytest.fixture
def faulty(database: Database) -> Unanswered:
    return Unanswered(database)


@pytest.fixture
def claims(faulty: Unanswered) -> Claims:
    return Claims(faulty, "w1@host", LEASE_SECONDS, None)  # type: ignore[arg-type]


def break_at_commit(claims: Claims, faulty: Unanswered, when: str) -> None:
    faulty.breaks = when
    with pytest.raises(DatabaseAway):
        claims.claim(CPU)


@pytest.mark.parametrize(("when", "state"), [("before", JobState.QUEUED), ("after", JobState.RUNNING)])
def test_no_attempt_counts_and_the_job_runs_once(
    database: Database, claims: Claims, faulty: Unanswered, when: str, state: JobState
):
    job_id = submit(database, max_attempts=1)
    break_at_commit(claims, faulty, when)
    assert job_of(database, job_id).state == state
    job = claims.claim(CPU)
    assert job is not None
    assert (job.id, job.failures) == (job_id, 0)
    assert claims.claim(CPU) is None
    claims.give_back()
    assert job_of(database, job_id).state == JobState.RUNNING


def test_a_worker_that_claims_nothing_more_gives_it_back_too(database: Database, claims: Claims, faulty: Unanswered):
    job_id = submit(database)
    break_at_commit(claims, faulty, "after")
    claims.give_back()
    assert job_of(database, job_id).state == JobState.QUEUED


def test_it_is_remembered_while_the_database_is_away(database: Database, claims: Claims, faulty: Unanswered):
    job_id = submit(database)
    break_at_commit(claims, faulty, "after")
    break_at_commit(claims, faulty, "before")
    assert job_of(database, job_id).state == JobState.RUNNING
    claims.give_back()
    assert job_of(database, job_id).state == JobState.QUEUED


def test_a_job_that_another_worker_has_taken_over_stays_there(database: Database, claims: Claims, faulty: Unanswered):
    job_id, next_id = submit(database), submit(database)
    break_at_commit(claims, faulty, "after")
    requeued = update(Job).where(Job.id == job_id).values(state=JobState.QUEUED, lease_token=None)  # as by the leader
    write(database, lambda session: session.execute(requeued))
    claim_again(database, job_id)
    job = claims.claim(CPU)
    assert job is not None
    assert (job.id, job.attempt) == (next_id, 1)
    assert job_of(database, job_id).worker == "w2"


def test_a_commit_that_is_made_later_is_found(database: Database, claims: Claims, faulty: Unanswered, monkeypatch):
    """PostgreSQL may commit for a connection that is gone: until then the row is as it was before."""
    job_id = submit(database)
    break_at_commit(claims, faulty, "before")
    [lease] = claims._unanswered
    claims.give_back()
    late = {"state": JobState.RUNNING, "attempt": 1, "lease_token": lease.token, "worker": "w1@host"}
    write(database, lambda session: session.execute(update(Job).where(Job.id == job_id).values(**late)))
    claims.give_back()
    assert job_of(database, job_id).state == JobState.QUEUED
    monkeypatch.setattr(module, "queue", None)
    claims.give_back()  # it is looked for no more


def test_a_claim_that_was_not_made_is_looked_for_for_a_lease(
    database: Database, claims: Claims, faulty: Unanswered, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    submit(database)
    break_at_commit(claims, faulty, "before")
    claims.give_back()
    assert len(claims._unanswered) == 1
    now[0] = LEASE_SECONDS
    claims.give_back()
    assert not claims._unanswered
