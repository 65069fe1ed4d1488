"""Tokens: who may do what, in whose name, and for how long.

A token's text is `gq_<id>_<secret>`, told once, when it is made. Its row is found by the id and holds the secret's
sha256 alone: 32 random bytes need no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from shared.db.tables import Token
from shared.errors import NotFound, TokenExpired, TokenInvalid, TokenRevoked
from shared.jobs.joblog import now
from shared.jobs.jobs import new_id

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "submit", "admin")  # each allows what those before it allow
PREFIX = "gq"
NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"  # of tokens and of owners
SECRET_BYTES = 32
USED_EVERY = timedelta(minutes=1)  # how exactly `last_used_at` is kept: a write a request would be a queue of writers

_nothing = hashlib.sha256(b"").hexdigest()
_facts = select(
    Token.id, Token.owner, Token.scope, Token.sha256, Token.expires_at, Token.revoked_at, Token.last_used_at
).where(Token.id == bindparam("token_id"))


@dataclass(frozen=True)
class TokenInfo:
    """What a token that is good says of whoever sent it. `stale`: its use is to be noted."""

    id: str
    owner: str
    scope: Scope
    stale: bool


def create(session: Session, name: str, owner: str, scope: Scope, expires_at: datetime | None) -> tuple[Token, str]:
    """The row of a new token, and its text."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    row = Token(
        id=new_id("tok"),
        name=name,
        owner=owner,
        scope=scope,
        sha256=_hash(secret),
        created_at=now(),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, f"{PREFIX}_{row.id.removeprefix('tok_')}_{secret}"


def find(connection: Connection, text: str) -> TokenInfo:
    """Whose token this is. Raises TokenInvalid for one that is unknown or whose secret is wrong, without a difference;
    TokenExpired and TokenRevoked are only said to who has the secret."""
    token_id, secret = _parts(text)
    row = connection.execute(_facts, {"token_id": token_id}).first()
    if not hmac.compare_digest(_hash(secret), row.sha256 if row is not None else _nothing) or row is None:
        raise TokenInvalid("this token is not known here, or not whole; `gradq token create` makes one")
    at = now()
    if row.revoked_at is not None:
        raise TokenRevoked("this token has been revoked; ask whoever runs the service for another one")
    if row.expires_at is not None and row.expires_at <= at:
        raise TokenExpired(f"this token was good until {row.expires_at:%Y-%m-%d %H:%M} UTC; ask for another one")
    stale = row.last_used_at is None or abs(at - row.last_used_at) >= USED_EVERY
    return TokenInfo(row.id, row.owner, row.scope, stale)


def note_use(session: Session, token_id: str) -> None:
    session.execute(update(Token).where(Token.id == token_id).values(last_used_at=now()))


def is_good(connection: Connection, token_id: str) -> bool:
    """Whether a token that was good when its request began still is."""
    return connection.scalar(select(Token.id).where(Token.id == token_id, _good())) is not None


def somebody_may(session: Session) -> bool:
    """Whether there is any token that is good."""
    return session.scalar(select(Token.id).where(_good()).limit(1)) is not None


def all_of_them(session: Session) -> Sequence[Token]:
    """The oldest first."""
    return session.scalars(select(Token).order_by(Token.id)).all()


def named(session: Session, name: str) -> bool:
    """Whether a good token has this name."""
    return session.scalar(select(func.count()).select_from(Token).where(Token.name == name, _good())) != 0


def revoke(session: Session, id_or_name: str) -> Sequence[Token]:
    """Revoke a token by its id, else those of a name; return them. One that is revoked stays as it is."""
    by_id = session.get(Token, id_or_name)
    found = [by_id] if by_id else session.scalars(select(Token).where(Token.name == id_or_name)).all()
    if not found:
        raise NotFound(f"there is no token {id_or_name}; `gradq token list` shows them")
    for token in found:
        token.revoked_at = token.revoked_at or now()
    return found


def state_of(token: Token) -> str:
    """`good`, `expired` or `revoked`."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now() else "good"


def _good() -> ColumnElement[bool]:
    return Token.revoked_at.is_(None) & or_(Token.expires_at.is_(None), Token.expires_at > now())


def _parts(text: str) -> tuple[str, str]:
    """The id and the secret; what is no token of ours has an id that no row has."""
    prefix, _, rest = text.partition("_")
    number, _, secret = rest.partition("_")
    whole = prefix == PREFIX and number.isascii() and number.isalnum() and len(number) <= 32
    return (f"tok_{number}" if whole else "none"), secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
