"""The statistics of the service, on both databases."""

from __future__ import annotations

import pytest
from support.store import CPU, claim, read, running, submit, write

from api.monitoring import service_stats
from shared import workers
from shared.db.database import Database
from shared.db.tables import Worker
from shared.jobs import joblog, jobs, queue
from shared.jobs.states import JobState


def take(database: Database) -> service_stats.ServiceStats:
    return read(database, service_stats.take, 30.0)


def test_an_empty_service(database: Database) -> None:
    found = take(database)
    assert (found.jobs, found.oldest_seconds, found.examples_per_second, list(found.workers)) == ({}, {}, 0, [])


def test_queued_and_running_jobs_throughput_and_workers(database: Database) -> None:
    lease = running(database, batch_size=32)
    pace = {"epoch": 1, "epochs": 5, "step": 1, "total_steps": 9, "examples_per_second": 96.0}
    write(database, queue.renew, lease, 60, pace)
    write(database, queue.finish, running(database, device="cpu"), JobState.SUCCEEDED, "done")
    for device in ("cuda", "cuda", "cpu"):
        submit(database, device=device)
    row = {"host": "h", "pid": 1, "slots": 2, "free_slots": 1, "draining": False, "devices": {}, "version": "1"}
    write(database, workers.heartbeat, Worker(id="w1", started_at=joblog.now(), **row))
    found = take(database)
    assert found.jobs == {("running", "auto"): 1, ("queued", "cuda"): 2, ("queued", "cpu"): 1}
    assert found.oldest_seconds.keys() == {"cuda", "cpu"}
    assert 0 <= found.oldest_seconds["cpu"] <= found.oldest_seconds["cuda"] < 60
    assert (found.examples_per_second, found.steps_per_second) == (96, 3)
    assert [worker.id for worker in found.workers] == ["w1"]
    assert found.counters["jobs_ended"]["succeeded/"].count == 1


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_a_paused_job_counts_and_one_that_ended_does_not(database: Database, state: str) -> None:
    lease = running(database)
    write(database, jobs.request_pause if state == "paused" else jobs.request_cancel, lease.job_id)
    write(database, queue.release, lease, "stopped", outcome="paused")
    assert take(database).jobs == ({("paused", "auto"): 1} if state == "paused" else {})
    assert claim(database, fits=CPU) is None
