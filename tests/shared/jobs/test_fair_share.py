"""The order of the queue between owners, on both databases: the owner with fewer running jobs comes first."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import update
from support.store import claim, read, running, write

from api.jobs import queue_status
from api.waiting.job_fingerprint import fingerprints_of
from shared.db.database import Database
from shared.db.tables import Job
from shared.jobs import jobs, queue
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec


def submit(database: Database, owner: str | None, **fields: object) -> str:
    return write(database, jobs.create, JobSpec.parse(fields), owner=owner).id


def claimed(database: Database, times: int) -> list[str]:
    return [job.id for _ in range(times) if (job := claim(database))]


def positions(database: Database, ids: list[str]) -> list[int]:
    """Positions as a list shows them; the answer for one job alone must be the same."""

    def ask(wanted: list[str]) -> list[int]:
        with database.read() as session:
            found = queue_status.queue_standings(session, [jobs.get(session, job_id) for job_id in wanted], 60)
        return [found[job_id]["position"] for job_id in wanted]

    at_once = ask(ids)
    assert at_once == [ask([job_id])[0] for job_id in ids]
    return at_once


def test_one_owner_s_many_jobs_leave_every_second_slot_to_another_owner(database: Database) -> None:
    hers = [submit(database, "alice") for _ in range(6)]
    his = [submit(database, "bob") for _ in range(2)]
    assert claimed(database, 5) == [hers[0], his[0], hers[1], his[1], hers[2]]


def test_the_slot_that_an_owner_s_job_leaves_goes_to_the_owner_with_fewer(database: Database) -> None:
    hers = [submit(database, "alice") for _ in range(4)]
    claimed(database, 3)
    his = [submit(database, "bob") for _ in range(3)]
    assert claimed(database, 2) == his[:2]
    with database.read() as session:
        first = queue.lease_of(jobs.get(session, hers[0]))
    write(database, queue.finish, first, JobState.SUCCEEDED, "done")
    assert claimed(database, 2) == [hers[3], his[2]]  # two of each run: the older job comes first


def test_jobs_without_an_owner_are_one_owner_s(database: Database) -> None:
    nobody = [submit(database, None) for _ in range(3)]
    hers = submit(database, "alice")
    assert claimed(database, 4) == [nobody[0], hers, nobody[1], nobody[2]]


def test_a_higher_priority_comes_before_any_share(database: Database) -> None:
    running_one, urgent = submit(database, "alice"), submit(database, "alice", priority=60)
    his = submit(database, "bob", priority=50)
    assert claimed(database, 3) == [urgent, his, running_one]


def test_one_owner_s_jobs_keep_their_order(database: Database) -> None:
    order = [submit(database, "alice", priority=p) for p in (50, 50, 90, 10)]
    running(database, priority=100)
    assert claimed(database, 4) == [order[2], order[0], order[1], order[3]]


@pytest.mark.parametrize("seed", range(6))
def test_positions_are_the_order_in_which_jobs_are_claimed(database: Database, seed: int) -> None:
    """Owners, priorities, running jobs and equal times of submission are drawn; no running job ends."""
    drawn = random.Random(seed)
    owners = [None, "alice", "bob", "carol"][: drawn.randint(2, 4)]
    for _ in range(drawn.randint(0, 4)):
        submit(database, drawn.choice(owners))
    claimed(database, 9)
    waiting = [submit(database, drawn.choice(owners), priority=drawn.choice((10, 50, 50, 50, 90))) for _ in range(12)]
    same = drawn.sample(waiting, 5)
    with database.write() as session:
        at = jobs.get(session, same[0]).created_at
        session.execute(update(Job).where(Job.id.in_(same)).values(created_at=at))
    told = dict(zip(waiting, positions(database, waiting), strict=True))
    assert [told[job_id] for job_id in claimed(database, 12)] == list(range(1, 13))


def test_a_waiting_client_is_told_when_another_owner_s_job_goes_ahead(database: Database) -> None:
    for _ in range(2):
        submit(database, "alice")
    last = submit(database, "alice")
    claim(database)

    def fingerprint() -> object:
        return read(database, fingerprints_of, [last], 60)[last]

    before, place = fingerprint(), positions(database, [last])
    submit(database, "alice")
    assert (fingerprint(), positions(database, [last])) == (before, place)  # nobody is woken for it
    submit(database, "bob")
    assert positions(database, [last]) == [place[0] + 1]
    assert fingerprint() != before
