"""Rows of workers: heartbeats, which workers are alive, and the clock that both are read by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from shared.db.database import upsert
from shared.db.tables import Worker, database_now


def heartbeat(session: Session, worker: Worker) -> None:
    """Say that this worker lives, on the database's clock."""
    values = {c.name: getattr(worker, c.name) for c in Worker.__table__.columns if c.name != "seen_at"}
    upsert(session, Worker, {"id"}, {**values, "seen_at": database_now()})


def deregister(session: Session, worker_id: str) -> None:
    session.execute(delete(Worker).where(Worker.id == worker_id))


def live_workers(session: Session, within_seconds: float) -> Sequence[Worker]:
    """Those that were seen of late; nobody was seen in the future, unless the clock has been put back since."""
    lately = Worker.seen_at.between(database_now(-within_seconds), database_now(within_seconds))
    return session.scalars(select(Worker).where(lately).order_by(Worker.started_at)).all()


def clock(session: Session) -> datetime:
    """What the database's clock says."""
    found = session.scalar(select(database_now()))
    assert found is not None
    return found


def any_worker_alive(session: Session, within_seconds: float) -> bool:
    """Whether a worker is alive, read so that it can be asked of every revision of the schema."""
    query = select(Worker.id).where(Worker.seen_at > database_now(-within_seconds)).limit(1)
    return session.scalar(query) is not None


def sweep_workers(session: Session, older_than_seconds: float) -> None:
    session.execute(delete(Worker).where(Worker.seen_at < database_now(-older_than_seconds)))
