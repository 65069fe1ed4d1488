"""Who works and who leads, and how the queue stands between them: what people ask when their job waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared.jobs import now
from shared.states import JobState
from shared.tables import Job, Leader, Worker, database_now


def beat(session: Session, worker: Worker) -> None:
    """Say that this worker lives, on the database's clock."""
    values = {c.name: getattr(worker, c.name) for c in Worker.__table__.columns if c.name != "seen_at"}
    _upsert(session, Worker, {"id"}, {**values, "seen_at": database_now()})


def retire(session: Session, worker_id: str) -> None:
    session.execute(delete(Worker).where(Worker.id == worker_id))


def live_workers(session: Session, within_seconds: float) -> Sequence[Worker]:
    query = select(Worker).where(Worker.seen_at > database_now(-within_seconds)).order_by(Worker.started_at)
    return session.scalars(query).all()


def somebody_works(session: Session, within_seconds: float) -> bool:
    """Whether a worker is alive, read so that it can be asked of every revision of the schema."""
    query = select(Worker.id).where(Worker.seen_at > database_now(-within_seconds)).limit(1)
    return session.scalar(query) is not None


def sweep_workers(session: Session, older_than_seconds: float) -> None:
    session.execute(delete(Worker).where(Worker.seen_at < database_now(-older_than_seconds)))


def take_office(session: Session, office: str, holder: str, seconds: float) -> bool:
    """Become or stay the one who holds `office` for the next `seconds`; False: somebody else does."""
    values = {"office": office, "holder": holder, "until": database_now(seconds), "term": seconds}
    mine_or_free = or_(Leader.holder == holder, Leader.until < database_now())
    return _upsert(session, Leader, {"office"}, values, where=mine_or_free)


# --- the queue as people see it ---------------------------------------------------------------------------------------


def queue_standing(session: Session, job: Job, live_within_seconds: float) -> dict[str, Any] | None:
    """Where a queued job stands and why it waits; None once it runs or has ended."""
    if job.state != JobState.QUEUED:
        return None
    ahead_of = or_(
        Job.priority > job.priority,
        and_(Job.priority == job.priority, Job.created_at < job.created_at),
        and_(Job.priority == job.priority, Job.created_at == job.created_at, Job.id < job.id),
    )
    ahead = session.scalar(select(func.count()).where(Job.state == JobState.QUEUED, ahead_of)) or 0
    workers = live_workers(session, live_within_seconds)
    return {"position": ahead + 1, "reason": _reason_to_wait(job, ahead, workers)}


def _reason_to_wait(job: Job, ahead: int, workers: Sequence[Worker]) -> dict[str, str]:
    if job.not_before is not None and job.not_before > now():
        return {"code": "retry_backoff", "detail": f"tried again from {job.not_before.isoformat(timespec='seconds')}"}
    workers = [worker for worker in workers if not worker.draining]
    if not workers:
        return {"code": "no_live_worker", "detail": "no worker is alive; start one with `gradq worker`"}
    kinds = {kind for worker in workers for kind in worker.devices["kinds"]}
    if job.device == "cuda" and "cuda" not in kinds:
        return {"code": "no_such_device", "detail": "the job asks for cuda and no live worker has a GPU"}
    free, slots = sum(worker.free_slots for worker in workers), sum(worker.slots for worker in workers)
    jobs_ahead = "1 job" if ahead == 1 else f"{ahead} jobs"
    return {"code": "waiting_for_device", "detail": f"{jobs_ahead} ahead, {free} of {slots} slots free"}


def queued_count(session: Session) -> int:
    ready = or_(Job.not_before.is_(None), Job.not_before <= database_now())
    return session.scalar(select(func.count()).select_from(Job).where(Job.state == JobState.QUEUED, ready)) or 0


def _upsert(session: Session, table: Any, keys: set[str], values: dict[str, Any], where: Any = None) -> bool:
    """Insert, or update where the key stands already and `where` holds. Returns whether a row was written."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values)
    change = {name: value for name, value in values.items() if name not in keys}
    statement = statement.on_conflict_do_update(index_elements=sorted(keys), set_=change, where=where)
    written = session.execute(statement.returning(*(getattr(table, name) for name in keys)))
    return written.first() is not None  # a row count would be -1 here on PostgreSQL
