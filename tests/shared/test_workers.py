"""Heartbeats, leadership and the status of the queue, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from support.store import OVER, ROUNDS, at_once, claim, claim_again, read, running, standing, submit, write
from support.waiting import wait_for

from shared import leadership, workers
from shared.db.database import Database
from shared.db.tables import Job, Leader, Worker, database_now
from shared.jobs import joblog, queue, queue_status

# --- heartbeats and leadership ----------------------------------------------------------------------------------------


@pytest.fixture
def beat(database: Database) -> Callable[..., None]:
    """beat("w1", slots=2): write the heartbeat of a worker."""

    def beat(worker_id: str, **fields: Any) -> None:
        row = {
            "host": "h",
            "pid": 1,
            "slots": 2,
            "free_slots": 1,
            "draining": False,
            "devices": {"kinds": ["cpu"]},
            "version": "0",
            "started_at": joblog.now(),
            **fields,
        }
        write(database, workers.heartbeat, Worker(id=worker_id, **row))

    return beat


def live(database: Database, within: float = 60) -> list[str]:
    return sorted(worker.id for worker in read(database, workers.live_workers, within))


def test_a_worker_lives_as_long_as_it_beats(database: Database, beat: Callable[..., None]) -> None:
    beat("w1", free_slots=2)
    beat("w2")
    assert live(database) == ["w1", "w2"]
    assert live(database, within=OVER) == []
    beat("w1", free_slots=0, draining=True)
    assert live(database) == ["w1", "w2"]
    (worker,) = (w for w in read(database, workers.live_workers, 60) if w.id == "w1")
    assert (worker.free_slots, worker.draining) == (0, True)
    write(database, workers.deregister, "w1")
    assert live(database) == ["w2"]


def test_workers_not_seen_for_long_are_swept_away_and_the_others_stay(
    database: Database, beat: Callable[..., None]
) -> None:
    beat("old")
    beat("new")
    gone = update(Worker).where(Worker.id == "old").values(seen_at=database_now(-100))
    write(database, lambda session: session.execute(gone.execution_options(synchronize_session=False)))
    write(database, workers.sweep_workers, 200)
    assert live(database, within=1000) == ["new", "old"]
    write(database, workers.sweep_workers, 50)
    assert live(database, within=1000) == ["new"]


def test_a_role_has_one_leader_who_can_renew(database: Database) -> None:
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 60)
    assert not write(database, leadership.acquire_leadership, "reconciler", "w2", 60)
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 60)
    assert write(database, leadership.acquire_leadership, "another", "w2", 60)


def test_a_role_is_free_again_when_its_term_has_ended(database: Database) -> None:
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 0.05)
    wait_for(
        lambda: write(database, leadership.acquire_leadership, "reconciler", "w2", 60), 30, "the end of a term of 50 ms"
    )
    assert not write(database, leadership.acquire_leadership, "reconciler", "w1", 60)


def test_of_many_concurrent_candidates_one_becomes_leader(database: Database) -> None:
    for term in range(ROUNDS // 3):
        calls = [
            lambda w=w, t=term: write(database, leadership.acquire_leadership, f"role {t}", w, 60)
            for w in ("a", "b", "c")
        ]
        assert sorted(at_once(*calls)) == [False, False, True]


# --- the queue as clients see it --------------------------------------------------------------------------------------


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
    beat("w2")
    assert reason(database, job_id) == "waiting_for_device"


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
    assert reason(database, job_id) == "waiting_for_device"


def test_a_job_in_its_backoff_says_so_and_then_waits_like_others(database: Database, beat: Callable[..., None]) -> None:
    beat("w1")
    lease = running(database, max_attempts=5)
    write(database, queue.mark_lost, lease, "lost")
    assert reason(database, lease.job_id) == "waiting_for_device"  # the first loss has no backoff
    write(database, queue.mark_lost, claim_again(database, lease.job_id), "lost")
    assert reason(database, lease.job_id) == "retry_backoff"


# --- a clock that was set back ----------------------------------------------------------------------------------------


def test_rows_written_before_the_clock_was_set_back_do_not_block_the_queue(
    database: Database, beat: Callable[..., None]
) -> None:
    def an_hour_ahead(table: Any, **values: Any) -> None:
        change = update(table).values(**values).execution_options(synchronize_session=False)
        write(database, lambda session: session.execute(change))

    ahead = database_now(3600)
    beat("dead")
    an_hour_ahead(Worker, seen_at=ahead)
    assert live(database) == []
    write(database, leadership.acquire_leadership, "reconciler", "dead", 6)
    an_hour_ahead(Leader, until=ahead)
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 6)
    lease = running(database, max_attempts=5, seconds=3600)
    assert read(database, queue.expired_leases, 15) == [lease]
    assert read(database, queue.expired_leases, 3600) == []
    write(database, queue.mark_lost, lease, "lost")
    an_hour_ahead(Job, not_before=ahead)
    assert (read(database, queue_status.queued_count), read(database, queue.waiting, {"cpu", "auto"}, 9)) == (1, 1)
    assert claim(database) is not None
