"""Limits per owner: queued jobs and running jobs. Anonymous jobs are not limited."""

from __future__ import annotations

from sqlalchemy import ColumnElement, bindparam, func, or_, select, text
from sqlalchemy.orm import Session

from shared.db.tables import Job
from shared.errors import TooManyQueuedJobs
from shared.jobs.states import JobState

# classes of PostgreSQL advisory locks; SQLite has a single writer and needs none
CLAIMS, QUEUED, STORED = 7470002, 7470003, 7470004

_queued_of = select(func.count()).where(Job.owner == bindparam("owner"), Job.state == JobState.QUEUED)


def check_queued(session: Session, owner: str | None, limit: int | None, more: int = 1) -> None:
    """Raise TooManyQueuedJobs if `more` jobs would exceed the limit.

    Locks the owner's queue until the transaction ends, so that concurrent submissions cannot exceed it together.
    """
    if owner is None or limit is None:
        return
    _lock(session, QUEUED, owner)
    queued = session.scalar(_queued_of, {"owner": owner}) or 0
    if queued + more > limit:
        detail = (
            f"{owner} has {queued} queued jobs and may have {limit}; wait until some have started, or cancel some "
            "(GRADQ_MAX_QUEUED_JOBS)"
        )
        raise TooManyQueuedJobs(detail, queued=queued, limit=limit)


def may_run_more(limit: int | None) -> list[ColumnElement[bool]]:
    """Conditions for a query of jobs that exclude those of owners who have `limit` running jobs."""
    if limit is None:
        return []
    return [or_(Job.owner.is_(None), Job.owner.not_in(_at_limit(limit)))]


def lock_claims(session: Session, limit: int | None) -> None:
    """Serialize claims if there is a limit: two concurrent ones could both take an owner's last place."""
    if limit is not None:
        _lock(session, CLAIMS, "")


def lock_storage(session: Session, owner: str) -> None:
    """Serialize what is added to an owner's datasets until the transaction ends, so that concurrent uploads cannot
    exceed the limit together. Taken before the row of a dataset is locked, so that no two wait for each other."""
    _lock(session, STORED, owner)


def owners_at_limit(session: Session, limit: int | None) -> set[str]:
    """The owners who have at least `limit` running jobs; none without a limit."""
    return set() if limit is None else set(session.scalars(_at_limit(limit)))


def _at_limit(limit: int):  # type: ignore[no-untyped-def]  # a select of one column, whose type is SQLAlchemy's own
    return (
        select(Job.owner)
        .where(Job.state == JobState.RUNNING, Job.owner.is_not(None))
        .group_by(Job.owner)
        .having(func.count() >= limit)
    )


def _lock(session: Session, kind: int, name: str) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:kind, hashtext(:name))"), {"kind": kind, "name": name})
