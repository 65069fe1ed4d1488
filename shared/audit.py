"""Who did what: one row a change, written in the transaction of the change, so that neither is there without the other.

Nothing secret stands in it: who, from where, which call, on what, and how it ended. Of what a client writes it has the
`X-Request-Id` alone, which proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from shared.db.tables import AuditRow
from shared.jobs.joblog import now
from shared.jobs.jobs import new_id


@dataclass(frozen=True)
class Actor:
    """`owner`, `token_id` None: no token was asked for. `address` None: by the command line, on the service's host."""

    owner: str | None = None
    token_id: str | None = None
    address: str | None = None
    request_id: str | None = None


HOST = Actor()


@dataclass(frozen=True)
class AuditFilter:
    """Of which rows a page is made; None: of all. `after`: the id that it goes on behind, newest first."""

    owner: str | None = None
    action: str | None = None
    object_id: str | None = None
    since: datetime | None = None
    after: str | None = None


def note(session: Session, actor: Actor, action: str, object_id: str | None, status: int | None = None) -> None:
    """`action`: what was called, as `jobs.submit`; `status`: how HTTP answered."""
    row = AuditRow(id=new_id("aud"), at=now(), action=action, object_id=object_id, status=status, **vars(actor))
    session.add(row)


def page(session: Session, wanted: AuditFilter, limit: int) -> Sequence[AuditRow]:
    """The newest first."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    for column, value in (
        (AuditRow.owner, wanted.owner),
        (AuditRow.action, wanted.action),
        (AuditRow.object_id, wanted.object_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.since is not None:
        query = query.where(AuditRow.at >= wanted.since)
    if wanted.after is not None:
        query = query.where(AuditRow.id < wanted.after)
    return session.scalars(query).all()


def sweep(session: Session, days: float) -> None:
    """Forget what is older."""
    session.execute(delete(AuditRow).where(AuditRow.at < now() - timedelta(days=days)))
