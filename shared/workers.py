"""Rows of workers: heartbeats, which workers are alive, and the database's clock, against which both are measured."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from shared.db.database import upsert
from shared.db.tables import Worker, database_now


def described(
    devices: dict[str, Any], memory: list[dict[str, Any]], broker: dict[str, Any], job_kinds: list[str]
) -> dict[str, Any]:
    """What the column `devices` holds: the devices with their memory, the state of the worker's connection to the
    broker, and the kinds of jobs that the worker can run."""
    return {**devices, "memory": memory, "broker": broker, "job_kinds": job_kinds}


def broker_of(worker: Worker) -> dict[str, Any] | None:
    """Whether the worker receives doorbell messages (`ok`, `detail`, `errors`, `rejected`); None if it does not say."""
    found: dict[str, Any] | None = worker.devices.get("broker")
    return found


def job_kinds_of(worker: Worker) -> list[str] | None:
    """The kinds of jobs that the worker can run; None if it does not say."""
    found: list[str] | None = worker.devices.get("job_kinds")
    return found


def heartbeat(session: Session, worker: Worker) -> None:
    """Write the worker's row, with `seen_at` set to the database's time."""
    values = {c.name: getattr(worker, c.name) for c in Worker.__table__.columns if c.name != "seen_at"}
    upsert(session, Worker, {"id"}, {**values, "seen_at": database_now()})


def deregister(session: Session, worker_id: str) -> None:
    session.execute(delete(Worker).where(Worker.id == worker_id))


def live_workers(session: Session, within_seconds: float) -> Sequence[Worker]:
    """The workers whose last heartbeat is at most `within_seconds` old, by the time of their start.

    A heartbeat further than that in the future dates from before the clock was set back, and does not count.
    """
    return session.scalars(_live(within_seconds)).all()


@functools.cache
def _live(within_seconds: float) -> Select[tuple[Worker]]:
    recent = Worker.seen_at.between(database_now(-within_seconds), database_now(within_seconds))
    return select(Worker).where(recent).order_by(Worker.started_at)


def clock(session: Session) -> datetime:
    """The database's time."""
    found = session.scalar(select(database_now()))
    assert found is not None
    return found


def any_worker_alive(session: Session, within_seconds: float) -> bool:
    """Whether any worker is alive. Reads only columns that exist in every revision of the schema."""
    query = select(Worker.id).where(Worker.seen_at > database_now(-within_seconds)).limit(1)
    return session.scalar(query) is not None


def sweep_workers(session: Session, before: datetime) -> None:
    """Delete the rows of workers whose last heartbeat was earlier."""
    session.execute(delete(Worker).where(Worker.seen_at < before))
