"""The job store as tests drive it: one call, one transaction; a job brought to the state that a test begins in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import update
from sqlalchemy.orm import Session

from shared.artifacts import StoredFile
from shared.db.database import Database
from shared.db.tables import EventRow, Job
from shared.jobs import joblog, jobs, queue, queue_status
from shared.jobs.joblog import Line
from shared.jobs.queue import Lease
from shared.spec.job_spec import JobSpec

CPU = {"auto", "cpu"}
GPU = {"auto", "cpu", "cuda"}
OVER = -1.0  # a lease of so many seconds ran out before it began
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
    """The lease of a job that was submitted and claimed."""
    job_id = submit(database, **fields)
    job = claim(database, seconds=seconds)
    assert job is not None
    assert job.id == job_id
    return queue.lease_of(job)


def claim_again(database: Database, job_id: str) -> Lease:
    """Claim a job that waits, its backoff over."""
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
    return Line("metric", f"step {step}", {"step": step, "metrics": {"loss": value}}, series=series, step=step)


def standing(database: Database, job_id: str) -> Any:
    def ask(session: Session) -> Any:
        return queue_status.queue_standings(session, [jobs.get(session, job_id)], 60).get(job_id)

    return read(database, ask)


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Each call in a thread of its own, all let go at the same moment."""
    barrier = threading.Barrier(len(calls))

    def together(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(together, calls))
