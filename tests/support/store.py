"""The job store for tests: one transaction per call, and jobs brought to the state in which a test begins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import update
from sqlalchemy.orm import Session

from api.jobs import queue_status
from shared import workers
from shared.artifacts import StoredFile
from shared.db.database import Database
from shared.db.tables import EventRow, Job, Worker
from shared.jobs import joblog, jobs, queue
from shared.jobs.joblog import Line
from shared.jobs.queue import Lease
from shared.spec.job_spec import JobSpec

CPU = {"auto", "cpu"}
GPU = {"auto", "cpu", "cuda"}
OVER = -1.0  # seconds; a lease that has run out already
ROUNDS = 30
T = TypeVar("T")


def write(database: Database, change: Callable[..., T], *arguments: Any, **named: Any) -> T:
    with database.write() as session:
        return change(session, *arguments, **named)


def read(database: Database, question: Callable[..., T], *arguments: Any, **named: Any) -> T:
    with database.read() as session:
        return question(session, *arguments, **named)


def submit(database: Database, **fields: Any) -> str:
    return write(database, jobs.create, JobSpec.parse(fields)).id


def claim(database: Database, worker: str = "w1", fits: set[str] = CPU, seconds: float = 60) -> Job | None:
    return write(database, queue.claim, worker, "cpu", fits, seconds)


def running(database: Database, seconds: float = 60, **fields: Any) -> Lease:
    """Submit and claim a job; return its lease."""
    job_id = submit(database, **fields)
    job = claim(database, seconds=seconds)
    assert job is not None
    assert job.id == job_id
    return queue.lease_of(job)


def claim_again(database: Database, job_id: str) -> Lease:
    """End the backoff of a queued job and claim it."""
    write(database, lambda session: session.execute(update(Job).where(Job.id == job_id).values(not_before=None)))
    job = claim(database, "w2")
    assert job is not None
    assert job.id == job_id
    return queue.lease_of(job)


def job_of(database: Database, job_id: str) -> Job:
    return read(database, jobs.get, job_id)


def lines_of(database: Database, job_id: str, type: str | None = None) -> list[EventRow]:
    return read(database, joblog.events_of, job_id, joblog.EventFilter(types=(type,) if type else ()))


def stored(name: str = "model.json", size: int = 10, key: str = "") -> StoredFile:
    return StoredFile(name, "model", "application/json", size, "0" * 64, key or name)


def point(series: str, step: int, value: float = 1.0) -> Line:
    return Line(
        "metric",
        f"step {step}",
        {"step": step, "epoch": 1, "series": series, "metrics": {"loss": value}},
        series=series,
        step=step,
    )


def standing(database: Database, job_id: str) -> Any:
    def ask(session: Session) -> Any:
        return queue_status.queue_standings(session, [jobs.get(session, job_id)], 60).get(job_id)

    return read(database, ask)


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Run each call in its own thread, all released at the same moment."""
    barrier = threading.Barrier(len(calls))

    def together(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(together, calls))


def heartbeat(database: Database, worker_id: str, **fields: Any) -> None:
    """Write the heartbeat of a worker: on host "h", with 2 slots, 1 of them free, on the CPU."""
    row = {
        "host": "h",
        "pid": 1,
        "slots": 2,
        "free_slots": 1,
        "draining": False,
        "outage": None,
        "devices": {"kinds": ["cpu"]},
        "version": "0",
        "started_at": joblog.now(),
        **fields,
    }
    write(database, workers.heartbeat, Worker(id=worker_id, **row))
