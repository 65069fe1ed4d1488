"""How much one owner may have: jobs that wait, jobs that run. Where no token is asked for nobody is limited."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, or_, select, text
from sqlalchemy.orm import Session

from shared.db.tables import Job
from shared.errors import TooManyQueuedJobs
from shared.jobs.states import JobState

CLAIMS, QUEUED = 7470002, 7470003  # the classes of PostgreSQL's advisory locks; SQLite has one writer anyway


def check_queued(session: Session, owner: str | None, limit: int | None, more: int = 1) -> None:
    """Raise TooManyQueuedJobs where `more` jobs would be beyond the limit. Holds until the transaction ends, whatever
    others submit for the same owner meanwhile."""
    if owner is None or limit is None:
        return
    _lock(session, QUEUED, owner)
    queued = _count(session, owner, JobState.QUEUED)
    if queued + more > limit:
        detail = (
            f"{owner} has {queued} queued jobs and may have {limit}; wait until some have started, or cancel some "
            "(GRADQ_MAX_QUEUED_JOBS)"
        )
        raise TooManyQueuedJobs(detail, queued=queued, limit=limit)


def may_run_more(limit: int | None) -> list[ColumnElement[bool]]:
    """The jobs whose owners have fewer running than the limit: conditions for a query of jobs."""
    if limit is None:
        return []
    return [or_(Job.owner.is_(None), Job.owner.not_in(_at_limit(limit)))]


def lock_claims(session: Session, limit: int | None) -> None:
    """With a limit claims are made one after the other, else two at once could both take an owner's last place."""
    if limit is not None:
        _lock(session, CLAIMS, "")


def owners_at_limit(session: Session, limit: int | None) -> set[str]:
    return set() if limit is None else set(session.scalars(_at_limit(limit)))


def _at_limit(limit: int):  # type: ignore[no-untyped-def]  # a select of one column, whose type is SQLAlchemy's own
    return (
        select(Job.owner)
        .where(Job.state == JobState.RUNNING, Job.owner.is_not(None))
        .group_by(Job.owner)
        .having(func.count() >= limit)
    )


def _count(session: Session, owner: str, state: JobState) -> int:
    return session.scalar(select(func.count()).where(Job.owner == owner, Job.state == state)) or 0


def _lock(session: Session, kind: int, name: str) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:kind, hashtext(:name))"), {"kind": kind, "name": name})
