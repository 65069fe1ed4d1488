"""The keys under which a request's first answer is kept. A key is pending until the answer stands, then settled.

A pending key belongs to a `Claim` for a short time. One that ran out may be claimed anew: had its holder done what was
asked, the same transaction would have settled the key.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
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
    """The right to answer for a key. Owners do not see each other's: `owner` is empty for who is nobody by name."""

    key: str
    token: str
    owner: str = ""


@dataclass(frozen=True)
class Settled:
    """An answer as it was given."""

    status: int
    headers: dict[str, Any]
    body: str


def claim(session: Session, key: str, fingerprint: str, owner: str = "") -> Claim | Settled:
    """Take a key that is new or has run out, or return the answer that stands under it.

    Raises IdempotencyKeyReused when it stands for another request, IdempotencyInProgress while nothing stands yet.
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
    if upsert(session, IdempotencyKey, {"owner", "key"}, values, where=IdempotencyKey.until < database_now()):
        return Claim(key, token, owner)
    row = session.get(IdempotencyKey, (owner, key))
    if row is None:  # given back since the line above
        raise IdempotencyInProgress("the first request with this key has just failed; send this one again")
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused("this key came with another body or to another address; draw a new key")
    if row.state == PENDING:
        raise IdempotencyInProgress("the first request with this key is still under way; send this one again later")
    assert row.status is not None
    assert row.body is not None
    return Settled(row.status, row.headers or {}, row.body)


def settle(session: Session, claim: Claim, answer: Settled) -> bool:
    """Keep the answer; False: the claim ran out, and somebody else has the key now."""
    settled = (
        update(IdempotencyKey)
        .where(*_holds(claim))
        .values(state=SETTLED, until=database_now(KEPT_SECONDS), **vars(answer))
        .returning(IdempotencyKey.key)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(settled) is not None


def amend(session: Session, claim: Claim, body: str) -> None:
    """Put another body into an answer that this claim has settled: what came out only after its transaction."""
    session.execute(update(IdempotencyKey).where(*_is(claim)).values(body=body))


def release(session: Session, claim: Claim) -> None:
    """Give back a key under which nothing was done."""
    session.execute(delete(IdempotencyKey).where(*_holds(claim)))


def sweep(session: Session) -> None:
    """Forget the answers whose time is over, and claims that nobody came back for."""
    over, long_over = IdempotencyKey.until < database_now(), IdempotencyKey.until < database_now(-KEPT_SECONDS)
    session.execute(delete(IdempotencyKey).where(or_(and_(IdempotencyKey.state == SETTLED, over), long_over)))


def _is(claim: Claim) -> tuple[Any, ...]:
    return (
        IdempotencyKey.owner == claim.owner,
        IdempotencyKey.key == claim.key,
        IdempotencyKey.token == claim.token,
    )


def _holds(claim: Claim) -> tuple[Any, ...]:
    return (*_is(claim), IdempotencyKey.state == PENDING)
