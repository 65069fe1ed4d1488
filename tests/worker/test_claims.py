"""A claim whose commit gets no answer: the worker continues with the job if it was committed, else it claims anew."""

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
from worker.claims import Claims
from worker.devices import CPU, Slot

GPU = Slot("cuda", "cuda:0", "GPU-1")


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
    return Claims(faulty, "w1@host", 30.0, None)  # type: ignore[arg-type]


def break_at_commit(claims: Claims, faulty: Unanswered, when: str, slot: Slot = CPU) -> None:
    faulty.breaks = when
    with pytest.raises(DatabaseAway):
        claims.claim(slot)
    assert claims.unanswered == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_job_runs_once_and_in_its_first_attempt(database: Database, claims: Claims, faulty: Unanswered, when: str):
    job_id = submit(database)
    break_at_commit(claims, faulty, when)
    assert job_of(database, job_id).state == (JobState.RUNNING if when == "after" else JobState.QUEUED)
    job = claims.claim(CPU)
    assert job is not None
    assert (job.id, job.attempt, job.worker) == (job_id, 1, "w1@host")
    assert claims.unanswered == 0
    assert claims.claim(CPU) is None


def test_it_is_remembered_while_the_database_is_away(database: Database, claims: Claims, faulty: Unanswered):
    job_id = submit(database)
    for _ in range(3):
        break_at_commit(claims, faulty, "after")
    job = claims.claim(CPU)
    assert job is not None
    assert (job.id, job.attempt) == (job_id, 1)


def test_a_job_that_another_worker_has_taken_over_stays_there(database: Database, claims: Claims, faulty: Unanswered):
    job_id, next_id = submit(database), submit(database)
    break_at_commit(claims, faulty, "after")
    requeued = update(Job).where(Job.id == job_id).values(state=JobState.QUEUED, lease_token=None)  # as by the leader
    write(database, lambda session: session.execute(requeued))
    claim_again(database, job_id)
    job = claims.claim(CPU)
    assert job is not None
    assert (job.id, job.attempt) == (next_id, 1)
    assert job_of(database, job_id).attempt == 2


def test_another_slot_does_not_take_it(database: Database, claims: Claims, faulty: Unanswered):
    job_id, next_id = submit(database), submit(database)
    break_at_commit(claims, faulty, "after", GPU)
    assert claims.claim(CPU).id == next_id  # type: ignore[union-attr]
    assert claims.claim(GPU).id == job_id  # type: ignore[union-attr]


def test_the_lease_is_renewed(database: Database, claims: Claims, faulty: Unanswered):
    job_id = submit(database)
    break_at_commit(claims, faulty, "after")
    before = job_of(database, job_id).lease_until
    assert claims.claim(CPU) is not None
    assert job_of(database, job_id).lease_until > before
