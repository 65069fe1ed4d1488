"""API tokens: each has an owner, a scope and an expiry.

A token's text is `gq_<id>_<secret>`, shown once, when it is created. Its row is found by the id and holds only the
sha256 of the secret: a secret of 32 random bytes needs no slow hash.
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
USUAL_MAX_PRIORITY = 50  # of tokens without the scope admin: the priority of a job that names none
USED_EVERY = timedelta(minutes=1)  # resolution of `last_used_at`: one write per request would serialize all requests

_nothing = hashlib.sha256(b"").hexdigest()
_facts = select(
    Token.id,
    Token.owner,
    Token.scope,
    Token.sha256,
    Token.expires_at,
    Token.revoked_at,
    Token.last_used_at,
    Token.max_priority,
).where(Token.id == bindparam("token_id"))


@dataclass(frozen=True)
class TokenInfo:
    """A valid token. `stale` is True if `last_used_at` should be updated. `max_priority` None: no limit of its own."""

    id: str
    owner: str
    scope: Scope
    stale: bool
    max_priority: int | None = None


def create(
    session: Session,
    name: str,
    owner: str,
    scope: Scope,
    expires_at: datetime | None,
    max_priority: int | None = None,
) -> tuple[Token, str]:
    """Create a token; return its row and its text.

    `max_priority` is the highest priority that it can give a job. None is the usual: USUAL_MAX_PRIORITY, and no limit
    for the scope admin.
    """
    if max_priority is None and scope != "admin":
        max_priority = USUAL_MAX_PRIORITY
    secret = secrets.token_urlsafe(SECRET_BYTES)
    row = Token(
        id=new_id("tok"),
        name=name,
        owner=owner,
        scope=scope,
        sha256=_hash(secret),
        created_at=now(),
        expires_at=expires_at,
        max_priority=max_priority,
    )
    session.add(row)
    session.flush()
    return row, f"{PREFIX}_{row.id.removeprefix('tok_')}_{secret}"


def find(connection: Connection, text: str) -> TokenInfo:
    """Look up a token by its text.

    Raises TokenInvalid, with the same message, if the id is unknown or the secret is wrong; TokenExpired or
    TokenRevoked only if the secret is right.
    """
    token_id, secret = _parts(text)
    row = connection.execute(_facts, {"token_id": token_id}).first()
    if not hmac.compare_digest(_hash(secret), row.sha256 if row is not None else _nothing) or row is None:
        raise TokenInvalid("this token is unknown or incomplete; `gradq token create` creates one")
    at = now()
    if row.revoked_at is not None:
        raise TokenRevoked("this token has been revoked; ask the operator of the service for a new one")
    if row.expires_at is not None and row.expires_at <= at:
        raise TokenExpired(f"this token expired at {row.expires_at:%Y-%m-%d %H:%M} UTC; ask for a new one")
    stale = row.last_used_at is None or abs(at - row.last_used_at) >= USED_EVERY
    return TokenInfo(row.id, row.owner, row.scope, stale, row.max_priority)


def note_use(session: Session, token_id: str) -> None:
    session.execute(update(Token).where(Token.id == token_id).values(last_used_at=now()))


def is_good(connection: Connection, token_id: str) -> bool:
    """Whether a token has not been revoked and has not expired since its request began."""
    return connection.scalar(select(Token.id).where(Token.id == token_id, _good())) is not None


def any_good(session: Session) -> bool:
    """Whether any token is neither revoked nor expired."""
    return session.scalar(select(Token.id).where(_good()).limit(1)) is not None


def list_all(session: Session) -> Sequence[Token]:
    """All tokens, oldest first, including revoked and expired ones."""
    return session.scalars(select(Token).order_by(Token.id)).all()


def name_in_use(session: Session, name: str) -> bool:
    """Whether a token that is neither revoked nor expired has this name."""
    return session.scalar(select(func.count()).select_from(Token).where(Token.name == name, _good())) != 0


def revoke(session: Session, id_or_name: str) -> Sequence[Token]:
    """Revoke the token with this id, else all with this name; return them. Raises NotFound if there are none.

    A token that is already revoked keeps its time of revocation.
    """
    by_id = session.get(Token, id_or_name)
    found = [by_id] if by_id else session.scalars(select(Token).where(Token.name == id_or_name)).all()
    if not found:
        raise NotFound(f"token {id_or_name} not found; `gradq token list` lists them")
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
    """The id and the secret; for text that is not a gradq token, an id that no row has."""
    prefix, _, rest = text.partition("_")
    number, _, secret = rest.partition("_")
    whole = prefix == PREFIX and number.isascii() and number.isalnum() and len(number) <= 32
    return (f"tok_{number}" if whole else "none"), secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
