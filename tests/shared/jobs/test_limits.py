"""Limits per owner, on both databases: they hold for concurrent requests, and do not affect other owners."""

from __future__ import annotations

import pytest
from support.store import CPU, ROUNDS, at_once, read, write

from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import TooManyQueuedJobs
from shared.jobs import jobs, limits, queue
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec


def submit(database: Database, owner: str | None, **fields: object) -> str:
    return write(database, jobs.create, JobSpec.parse(fields), owner=owner).id


def claim(database: Database, limit: int | None) -> Job | None:
    return write(database, queue.claim, "w1", "cpu", CPU, 60, limit)


def submit_within(database: Database, owner: str, limit: int) -> bool:
    try:
        with database.write() as session:
            limits.check_queued(session, owner, limit)
            jobs.create(session, JobSpec.parse({}), owner=owner)
    except TooManyQueuedJobs:
        return False
    return True


def test_an_owner_who_runs_as_many_as_may_be_is_passed_over_until_one_has_ended(database: Database) -> None:
    first, second = submit(database, "alice", priority=90), submit(database, "alice", priority=80)
    others = [submit(database, "bob"), submit(database, None), submit(database, None)]
    running = claim(database, 1)
    assert running is not None
    assert running.id == first
    assert read(database, queue.waiting, CPU, 10, 1) == 3
    assert [job.id for _ in range(3) if (job := claim(database, 1))] == others  # anonymous jobs have no limit
    assert claim(database, 1) is None
    assert read(database, queue.waiting, CPU, 10, 1) == 0  # so that workers are not woken for it repeatedly
    write(database, queue.finish, queue.lease_of(running), JobState.SUCCEEDED, "done")
    again = claim(database, 1)
    assert again is not None
    assert again.id == second


def test_without_a_limit_all_are_claimed(database: Database) -> None:
    submitted = [submit(database, "alice") for _ in range(3)]
    assert [job.id for _ in range(3) if (job := claim(database, None))] == submitted


def test_two_workers_at_once_never_take_more_than_the_limit(database: Database) -> None:
    for round_ in range(ROUNDS):
        owner = f"owner{round_}"
        submit(database, owner), submit(database, owner)
        claimed = at_once(lambda: claim(database, 1), lambda: claim(database, 1))
        assert sum(job is not None for job in claimed) == 1, round_
        with database.write() as session:
            for job in session.query(Job).filter(Job.state == JobState.QUEUED):
                jobs.request_cancel(session, job.id)


def test_the_queue_s_limit_holds_for_submits_at_once(database: Database) -> None:
    for round_ in range(ROUNDS):
        owner = f"owner{round_}"
        taken = at_once(*[lambda owner=owner: submit_within(database, owner, 2) for _ in range(4)])
        assert sum(taken) == 2, round_


def test_a_refusal_says_how_many_wait_and_how_many_may(database: Database) -> None:
    for _ in range(3):
        submit(database, "alice")
    with pytest.raises(TooManyQueuedJobs, match="alice has 3 queued jobs and may have 3") as refused:
        read(database, limits.check_queued, "alice", 3)
    assert refused.value.extra == {"queued": 3, "limit": 3}
    read(database, limits.check_queued, "bob", 3)
    read(database, limits.check_queued, None, 3)
    read(database, limits.check_queued, "alice", None)
