"""Audit entries of this request: one for each change, in its transaction, and one for a refused scope."""

from __future__ import annotations

import re

import structlog
from flask import request
from sqlalchemy.orm import Session

from api.access.auth import principal
from api.http.errors import request_id
from api.services import services
from shared import audit
from shared.audit import Actor
from shared.errors import DatabaseAway

OBJECT = re.compile(r"[a-z0-9_]{1,64}")  # ids, and the names of what is built in

log = structlog.get_logger()


def note(session: Session, object_id: str, status: int, action: str | None = None) -> None:
    """That this request changes that object. In the transaction of the change. `action`: else the route's name."""
    audit.note(session, _actor(), action or _route(), object_id, status)


def note_refusal() -> None:
    """Of a token, as many as its rate allows. What comes without one could fill the table; the log has it."""
    if principal().token_id is None:
        return
    try:
        with services().database.write() as session:
            audit.note(session, _actor(), _route(), _object_of_path(), 403)
    except DatabaseAway as error:
        log.warning("a refusal was not noted", error=error.detail, request_id=request_id())


def _object_of_path() -> str | None:
    """What the call was about; None for what can be no id: nobody has looked for it, and PostgreSQL takes no NUL."""
    path = request.view_args or {}
    named = path.get("job_id") or path.get("dataset_id") or ""
    return named if OBJECT.fullmatch(named) else None


def _route() -> str:
    return request.endpoint or "nothing"


def _actor() -> Actor:
    who = principal()
    return Actor(who.owner, who.token_id, request.remote_addr or None, request_id())
