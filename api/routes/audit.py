"""The audit log: each change and who made it, and each call refused for a token's scope."""

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
    owner: str | None = Field(None, max_length=64, description="changes and refusals of this owner")
    action: str | None = Field(
        None, max_length=64, description="the name of the action, such as `jobs.submit`", examples=["jobs.submit"]
    )
    object: str | None = Field(None, max_length=64, description="the id of the job or dataset that was changed")
    since: UtcTime | None = Field(None, description="entries at or after this time")
    after: str | None = Field(None, pattern="^aud_[0-9a-f]{32}$", description="the last id of the previous page")
    limit: Annotated[int, Field(ge=1, le=100)] = 20


@bp.get("/v1/audit")
@endpoint(schemas.AuditList, scope="admin", query=AuditQuery, errors=(503,))
def index(query: AuditQuery) -> Response:
    """List the audit log, newest first

    One entry per change, and one per call that was refused for the token's scope: up to 100 per token, hour and API
    process, and then one that counts the others. Entries are kept for GRADQ_AUDIT_DAYS.
    """
    wanted = AuditFilter(query.owner, query.action, query.object, query.since, query.after)
    with services().database.read() as session:
        found = audit.page(session, wanted, query.limit + 1)
    page, has_more = found[: query.limit], len(found) > query.limit
    data = [_entry(row) for row in page]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return jsonify({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


def _entry(row: AuditRow) -> dict[str, Any]:
    names = ("id", "owner", "token_id", "address", "action", "object_id", "status", "request_id", "count")
    return {"object": "audit_entry", "at": timestamp(row.at), **{name: getattr(row, name) for name in names}}
