"""Idempotency keys: the response to the first request with a key is stored and replayed to later ones.

A key is pending while its first request is processed, then settled. A pending key belongs to a `Claim` for
`LEASE_SECONDS`. An expired claim may be taken over: if its request had taken effect, the same transaction would have
settled the key.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, or_, update
from sqlalchemy.orm import Session

from shared.db.database import upsert
from shared.db.tables import IdempotencyKey, database_now
from shared.errors import IdempotencyInProgress, IdempotencyKeyReused

LEASE_SECONDS = 30.0
KEPT_SECONDS = 24 * 3600.0
PENDING, SETTLED = "pending", "settled"


@dataclass(frozen=True)
class Claim:
    """The right to process the request with a key. Keys are scoped by owner, which is empty for anonymous requests."""

    key: str
    token: str
    owner: str = ""


@dataclass(frozen=True)
class Settled:
    """A stored response."""

    status: int
    headers: dict[str, Any]
    body: str


def claim(session: Session, key: str, fingerprint: str, owner: str = "") -> Claim | Settled:
    """Claim a key that is new, or whose first request was given up, or return the response stored under it.

    `fingerprint` identifies the request (method, address and body). Raises IdempotencyKeyReused if the key was used
    with another fingerprint, IdempotencyInProgress while the first request is still being processed.
    """
    token = secrets.token_hex(16)
    values = {
        "owner": owner,
        "key": key,
        "fingerprint": fingerprint,
        "token": token,
        "state": PENDING,
        "status": None,
        "headers": None,
        "body": None,
        "created_at": database_now(),
        "until": database_now(LEASE_SECONDS),
    }
    # a settled key is replayed until `sweep` deletes it, whatever the clock says meanwhile
    expired = and_(IdempotencyKey.state == PENDING, IdempotencyKey.until < database_now())
    if upsert(session, IdempotencyKey, {"owner", "key"}, values, where=expired):
        return Claim(key, token, owner)
    row = session.get(IdempotencyKey, (owner, key))
    if row is None:  # released since the upsert
        raise IdempotencyInProgress("the first request with this key has just failed; send this one again")
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused("this key was used with another body or address; generate a new key")
    if row.state == PENDING:
        raise IdempotencyInProgress(
            "the first request with this key is still being processed; send this one again later"
        )
    assert row.status is not None
    assert row.body is not None
    return Settled(row.status, row.headers or {}, row.body)


def settle(session: Session, claim: Claim, answer: Settled) -> bool:
    """Store the response. Returns False if the claim has expired and another request has taken over the key."""
    settled = (
        update(IdempotencyKey)
        .where(*_is_pending(claim))
        .values(state=SETTLED, until=database_now(KEPT_SECONDS), **vars(answer))
        .returning(IdempotencyKey.key)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(settled) is not None


def amend(session: Session, claim: Claim, body: str) -> None:
    """Replace the body of a settled response, with results that were known only after its transaction."""
    session.execute(update(IdempotencyKey).where(*_matches(claim)).values(body=body))


def release(session: Session, claim: Claim) -> None:
    """Delete a pending key whose request had no effect, so that it can be used again."""
    session.execute(delete(IdempotencyKey).where(*_is_pending(claim)))


def sweep(session: Session, now: datetime) -> None:
    """Delete expired responses, and claims that expired more than `KEPT_SECONDS` ago."""
    over, long_over = IdempotencyKey.until < now, IdempotencyKey.until < now - timedelta(seconds=KEPT_SECONDS)
    session.execute(delete(IdempotencyKey).where(or_(and_(IdempotencyKey.state == SETTLED, over), long_over)))


def _matches(claim: Claim) -> tuple[Any, ...]:
    return (
        IdempotencyKey.owner == claim.owner,
        IdempotencyKey.key == claim.key,
        IdempotencyKey.token == claim.token,
    )


def _is_pending(claim: Claim) -> tuple[Any, ...]:
    return (*_matches(claim), IdempotencyKey.state == PENDING)
