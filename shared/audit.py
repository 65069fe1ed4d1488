"""Audit log: one row per change, written in the transaction of the change, so that neither exists without the other.

A row holds the owner, token id, address, action, object and status, and no secrets. The only text taken from the client
is `X-Request-Id`, which is not verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from shared.db.tables import AuditRow
from shared.jobs.joblog import now
from shared.jobs.jobs import new_id


@dataclass(frozen=True)
class Actor:
    """Who makes a change.

    `owner` and `token_id` are None for anonymous access, `address` is None for the command line on the service's host.
    """

    owner: str | None = None
    token_id: str | None = None
    address: str | None = None
    request_id: str | None = None


HOST = Actor()


@dataclass(frozen=True)
class AuditFilter:
    """Selects rows; None does not filter. `after` is the cursor: the last id of the previous page, newest first."""

    owner: str | None = None
    action: str | None = None
    object_id: str | None = None
    since: datetime | None = None
    after: str | None = None


def note(session: Session, actor: Actor, action: str, object_id: str | None, status: int | None = None) -> str:
    """Add a row; return its id. `action` is the operation, such as `jobs.submit`; `status` is the HTTP status of the
    response."""
    row = AuditRow(id=new_id("aud"), at=now(), action=action, object_id=object_id, status=status, **vars(actor))
    session.add(row)
    return row.id


def count_again(session: Session, row_id: str) -> bool:
    """Count another request in a row. Returns False if there is no such row."""
    change = update(AuditRow).where(AuditRow.id == row_id).values(count=AuditRow.count + 1)
    return session.scalar(change.returning(AuditRow.id)) is not None


def page(session: Session, wanted: AuditFilter, limit: int) -> Sequence[AuditRow]:
    """At most `limit` matching rows, newest first."""
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


def sweep(session: Session, days: float, now: datetime) -> None:
    """Delete rows older than `days`."""
    session.execute(delete(AuditRow).where(AuditRow.at < now - timedelta(days=days)))
