"""Audit entries of a request: one per change, in the change's transaction, and one for a refused scope."""

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

OBJECT = re.compile(r"[a-z0-9_]{1,64}")  # ids, and names of built-in datasets

log = structlog.get_logger()


def note(session: Session, object_id: str, status: int, action: str | None = None) -> None:
    """Record that this request changes the object, in the transaction of the change. `action` defaults to the route's
    name."""
    audit.note(session, _actor(), action or _route(), object_id, status)


def note_refusal() -> None:
    """Record a refused call that has a token, so that its rate limit bounds the entries; other refusals are in the log
    only."""
    if principal().token_id is None:
        return
    try:
        with services().database.write() as session:
            audit.note(session, _actor(), _route(), _object_of_path(), 403)
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
