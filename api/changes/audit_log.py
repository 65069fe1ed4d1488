"""Audit entries of a request: one per change, in the change's transaction, and one for a refused scope.

Refused calls of a token get an entry each up to a number per hour. The entry after that counts all others of the hour,
so that a token that may change nothing cannot fill the table.
"""

from __future__ import annotations

import re

import structlog
from flask import Flask, current_app, request
from limits import RateLimitItemPerHour
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy.orm import Session

from api.access.auth import principal
from api.http.errors import request_id
from api.services import services
from shared import audit
from shared.audit import Actor
from shared.errors import DatabaseAway

EXTENSION = "gradq.refusals"
REFUSALS = RateLimitItemPerHour(100)  # entries of their own, per token and API process
MORE_REFUSALS = "more_refusals"  # the action of the entry that counts the others
REFUSAL_WAIT_SECONDS = 1.0  # for other writers; a refusal that cannot be recorded by then is in the log alone
OBJECT = re.compile(r"[a-z0-9_]{1,64}")  # ids, and names of built-in datasets

log = structlog.get_logger()


class Refusals:
    """The refused calls of each token in its current hour, in memory: a refusal costs no query."""

    def __init__(self) -> None:
        self.entries = FixedWindowRateLimiter(MemoryStorage())
        self._rest: dict[str, tuple[float, str]] = {}  # by token: the end of its hour, the entry that counts the others

    def may_have_entry(self, token_id: str) -> bool:
        return self.entries.hit(REFUSALS, token_id)

    def note_another(self, session: Session, actor: Actor, status: int) -> None:
        """Count a refused call in the entry for this token and hour, which is added first."""
        token_id = str(actor.token_id)
        end = self.entries.get_window_stats(REFUSALS, token_id).reset_time
        known = self._rest.get(token_id)
        if (
            known is not None
            and abs(known[0] - end) < REFUSALS.get_expiry() / 2
            and audit.count_again(session, known[1])
        ):
            return
        self._rest[token_id] = end, audit.note(session, actor, MORE_REFUSALS, None, status)


def register(app: Flask) -> None:
    app.extensions[EXTENSION] = Refusals()


def note(session: Session, object_id: str, status: int, action: str | None = None) -> None:
    """Record that this request changes the object, in the transaction of the change. `action` defaults to the route's
    name."""
    audit.note(session, _actor(), action or _route(), object_id, status)


def note_refusal() -> None:
    """Record a refused call that has a token, which bounds the entries; other refusals are in the log only."""
    token_id = principal().token_id
    if token_id is None:
        return
    refusals: Refusals = current_app.extensions[EXTENSION]
    alone = refusals.may_have_entry(token_id)
    try:
        with services().database.write(REFUSAL_WAIT_SECONDS) as session:
            if alone:
                audit.note(session, _actor(), _route(), _object_of_path(), 403)
            else:
                refusals.note_another(session, _actor(), 403)
    except DatabaseAway as error:
        log.warning("a refusal is missing in the audit log", error=error.detail, request_id=request_id())


def _object_of_path() -> str | None:
    """The job or dataset in the path; None if it cannot be an id, such as a text with NUL, which PostgreSQL refuses."""
    path = request.view_args or {}
    named = path.get("job_id") or path.get("dataset_id") or ""
    return named if OBJECT.fullmatch(named) else None


def _route() -> str:
    return request.endpoint or "nothing"


def _actor() -> Actor:
    who = principal()
    return Actor(who.owner, who.token_id, request.remote_addr or None, request_id())
