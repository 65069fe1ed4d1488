"""The audit log: each change, by whom; and what was refused to somebody with a token."""

from __future__ import annotations

import re
from typing import Annotated, Any

import structlog
from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import Field
from sqlalchemy.orm import Session

from api.access.auth import principal
from api.http.errors import request_id
from api.http.render import timestamp
from api.http.requests import Query, UtcTime
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.services import services
from shared import audit
from shared.audit import Actor, Wanted
from shared.db.tables import AuditRow
from shared.errors import DatabaseAway

OBJECT = re.compile(r"[a-z0-9_]{1,64}")  # ids, and the names of what is built in

bp = APIBlueprint("audit", __name__, tag="Service")
log = structlog.get_logger()


class AuditQuery(Query):
    owner: str | None = Field(None, max_length=64, description="what this owner did")
    action: str | None = Field(
        None, max_length=64, description="what was called, as `jobs.submit`", examples=["jobs.submit"]
    )
    object: str | None = Field(None, max_length=64, description="what was done to this job or data set")
    since: UtcTime | None = Field(None, description="not before this time")
    after: str | None = Field(None, max_length=64, description="the id that the page goes on behind")
    limit: Annotated[int, Field(ge=1, le=100)] = 20


@bp.get("/v1/audit")
@endpoint(schemas.AuditList, scope="admin", query=AuditQuery, errors=(503,))
def index(query: AuditQuery) -> Response:
    """List who did what, newest first

    One entry a change that was made, and one a call that was refused to a token for its scope. They are kept for
    GRADQ_AUDIT_DAYS.
    """
    wanted = Wanted(query.owner, query.action, query.object, query.since, query.after)
    with services().database.read() as session:
        found = audit.page(session, wanted, query.limit + 1)
    page, has_more = found[: query.limit], len(found) > query.limit
    data = [_entry(row) for row in page]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return jsonify({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


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


def _entry(row: AuditRow) -> dict[str, Any]:
    names = ("id", "owner", "token_id", "address", "action", "object_id", "status", "request_id")
    return {"object": "audit_entry", "at": timestamp(row.at), **{name: getattr(row, name) for name in names}}
