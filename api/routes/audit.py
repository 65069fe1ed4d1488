"""The audit log: each change, by whom; and what was refused to somebody with a token."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint, Response, jsonify
from pydantic import Field

from api.http.render import timestamp
from api.http.requests import Query, UtcTime
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.services import services
from shared import audit
from shared.audit import AuditFilter
from shared.db.tables import AuditRow

bp = Blueprint("audit", __name__)


class AuditQuery(Query):
    owner: str | None = Field(None, max_length=64, description="what this owner did")
    action: str | None = Field(
        None, max_length=64, description="what was called, as `jobs.submit`", examples=["jobs.submit"]
    )
    object: str | None = Field(None, max_length=64, description="what was done to this job or dataset")
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
    wanted = AuditFilter(query.owner, query.action, query.object, query.since, query.after)
    with services().database.read() as session:
        found = audit.page(session, wanted, query.limit + 1)
    page, has_more = found[: query.limit], len(found) > query.limit
    data = [_entry(row) for row in page]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return jsonify({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


def _entry(row: AuditRow) -> dict[str, Any]:
    names = ("id", "owner", "token_id", "address", "action", "object_id", "status", "request_id")
    return {"object": "audit_entry", "at": timestamp(row.at), **{name: getattr(row, name) for name in names}}
