"""A job's log, read from a cursor."""

from __future__ import annotations

from typing import Annotated, Any

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import Field
from werkzeug.exceptions import NotAcceptable

from api import schemas
from api.openapi import endpoint
from api.render import timestamp
from api.requests import Query
from api.services import services
from shared import jobs
from shared.tables import EventRow

STREAM = "text/event-stream"

bp = APIBlueprint("events", __name__, tag="Jobs")


class EventFilter(Query):
    after: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="the `next_after` of the page before")
    type: schemas.EventType | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000


@bp.get("/v1/jobs/<job_id>/events")
@endpoint(schemas.EventList, query=EventFilter, errors=(404, 406, 503))
def index(job_id: str, query: EventFilter) -> Response:
    """Read a job's log from a cursor

    `next_after` is where the next call goes on, whether or not there is more already.
    """
    if request.accept_mimetypes.best_match(["application/json", STREAM]) == STREAM:
        raise NotAcceptable(f"{STREAM} is in the contract, but not built; poll with after=<next_after>")
    with services().database.read() as session:
        jobs.get(session, job_id)
        found = jobs.events_of(session, job_id, query.after, query.type, query.limit + 1)
    page = found[: query.limit]
    return jsonify(
        {
            "object": "list",
            "data": [_event(row) for row in page],
            "next_after": page[-1].seq if page else query.after,
            "has_more": len(found) > query.limit,
        }
    )


def _event(row: EventRow) -> dict[str, Any]:
    return {
        "id": f"evt_{row.job_id.removeprefix('job_')}_{row.seq}",
        "seq": row.seq,
        "attempt": row.attempt,
        "type": row.type,
        "level": row.level,
        "message": row.message,
        "data": row.data,
        "created_at": timestamp(row.created_at),
    }
