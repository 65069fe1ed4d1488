"""The queue as clients see it, on both databases: positions, reasons to wait, the queue of each device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from support.store import claim, claim_again, heartbeat, running, standing, submit, write

from api.jobs import queue_status
from shared.db.database import Database
from shared.jobs import jobs, queue
from shared.spec.job_spec import JobSpec


@pytest.fixture
def beat(database: Database) -> Callable[..., None]:
    """beat("w1", slots=2): write the heartbeat of a worker."""
    return functools.partial(heartbeat, database)


def reason(database: Database, job_id: str) -> str:
    code: str = standing(database, job_id)["reason"]["code"]
    return code


def test_a_queued_job_knows_how_many_stand_before_it(database: Database) -> None:
    order = [submit(database, priority=p) for p in (50, 50, 90, 10)]
    assert [standing(database, job_id)["position"] for job_id in order] == [2, 3, 1, 4]
    claim(database)
    assert [standing(database, job_id)["position"] for job_id in order[:2]] == [1, 2]
    assert standing(database, order[2]) is None  # it runs


def test_a_job_waits_for_a_worker_when_none_lives_or_all_go(database: Database, beat: Callable[..., None]) -> None:
    job_id = submit(database)
    assert reason(database, job_id) == "no_live_worker"
    beat("w1", draining=True)
    assert reason(database, job_id) == "no_live_worker"
    beat("w2", free_slots=0)
    assert reason(database, job_id) == "waiting_for_device"


@pytest.mark.parametrize(("slots", "free"), [(1, 1), (2, 2), (4, 1), (4, 3), (1, 0), (2, 0)])
def test_a_job_for_which_a_slot_is_free_starts_and_waits_for_no_device(
    database: Database, beat: Callable[..., None], slots: int, free: int
) -> None:
    in_line = [submit(database) for _ in range(4)]
    beat("w1", slots=slots, free_slots=free)
    reasons = [standing(database, job_id)["reason"] for job_id in in_line]
    assert [found["code"] for found in reasons] == ["starting"] * free + ["waiting_for_device"] * (4 - free)
    assert all(found["detail"] == "a slot is free; it starts within seconds" for found in reasons[:free])
    assert all(found["detail"].endswith(f"{free} of {slots} slots free") for found in reasons[free:])


def test_a_job_that_waits_for_a_device_is_told_how_many_are_free(database: Database, beat: Callable[..., None]) -> None:
    submit(database)
    job_id = submit(database)
    beat("w1", slots=2, free_slots=0)
    beat("w2", slots=4, free_slots=1)
    assert standing(database, job_id)["reason"] == {
        "code": "waiting_for_device",
        "detail": "1 job ahead, 1 of 6 slots free",
    }


def test_a_job_for_a_missing_gpu_has_that_reason(database: Database, beat: Callable[..., None]) -> None:
    job_id = submit(database, device="cuda")
    beat("w1")
    assert reason(database, job_id) == "no_such_device"
    beat("w2", devices={"kinds": ["cpu", "cuda"]})
    assert reason(database, job_id) == "starting"


def test_a_job_in_its_backoff_says_so_and_then_waits_like_others(database: Database, beat: Callable[..., None]) -> None:
    beat("w1")
    lease = running(database, max_attempts=5)
    write(database, queue.mark_lost, lease, "lost")
    assert reason(database, lease.job_id) == "starting"  # the first loss has no backoff
    write(database, queue.mark_lost, claim_again(database, lease.job_id), "lost")
    assert reason(database, lease.job_id) == "retry_backoff"


def owned(database: Database, owner: str) -> str:
    return write(database, jobs.create, JobSpec.parse({}), owner=owner).id


def test_a_job_of_an_owner_at_the_limit_has_that_reason(database: Database) -> None:
    running_one, held_back, free = (owned(database, owner) for owner in ("alice", "alice", "bob"))
    assert claim(database).id == running_one
    with database.read() as session:
        waiting = [jobs.get(session, job_id) for job_id in (held_back, free)]
        standings = queue_status.queue_standings(session, waiting, 60, running_limit=1)
        (auto,) = queue_status.queues(session, 60, running_limit=1)
    assert standings[held_back]["reason"] == {
        "code": "owner_at_limit",
        "detail": "its owner has 1 running jobs, the limit per owner",
    }
    assert standings[free]["reason"]["code"] == "no_live_worker"
    assert {reason["code"]: reason["jobs"] for reason in auto.reasons} == {"no_live_worker": 1, "owner_at_limit": 1}
