"""A job's log, read from a cursor: page by page, or as a stream."""

from __future__ import annotations

import re
from typing import Annotated, Any

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import Field

from api import schemas, streams
from api.held import Waiting, hold
from api.openapi import JSON, endpoint
from api.render import timestamp
from api.services import services
from api.watcher import Concerns
from shared import joblog, jobs
from shared.errors import FieldError, InvalidQuery
from shared.states import TERMINAL
from shared.tables import EventRow

MOST_LINES = 2**31
CURSOR = re.compile(r"\d{1,10}")

bp = APIBlueprint("events", __name__, tag="Jobs")


class EventFilter(Waiting):
    after: Annotated[int, Field(ge=0, lt=MOST_LINES)] = Field(0, description="the `next_after` of the page before")
    type: schemas.EventType | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000


@bp.get("/v1/jobs/<job_id>/events")
@endpoint(
    schemas.EventList,
    scope="read",
    query=EventFilter,
    media=(JSON, streams.MEDIA_TYPE),
    errors=(404, 503),
    problems={503: ("database_away", "too_many_streams")},
    headers=("Vary",),
    takes=("Prefer", "Last-Event-ID"),
    sometimes=("Retry-After", "Preference-Applied"),
)
def index(job_id: str, query: EventFilter) -> Response:
    """Read a job's log from a cursor

    `next_after` is where the next call goes on, whether or not there is more already. With `wait` an empty page is held
    back until there is a line, or the job has ended. `Accept: text/event-stream` sends the same lines as server-sent
    events, as they come: `id` is `seq`, `Last-Event-ID` goes on where a stream was cut, the last event is `end`.
    """
    if request.accept_mimetypes.best_match([JSON, streams.MEDIA_TYPE]) == streams.MEDIA_TYPE:
        return _stream(job_id, query)
    response = hold(job_id, query.seconds, lambda: _page(job_id, query))
    response.headers["Vary"] = "Accept"
    return response


def _page(job_id: str, query: EventFilter) -> tuple[Response, Concerns | None]:
    with services().database.read() as session:
        job = jobs.get(session, job_id)  # before the lines: those of a job that has ended are all there
        found = joblog.events_of(session, job_id, query.after, query.type, query.limit + 1)
    page = found[: query.limit]
    response = jsonify(
        {
            "object": "list",
            "data": [_event(row) for row in page],
            "next_after": page[-1].seq if page else query.after,
            "has_more": len(found) > query.limit,
        }
    )
    return response, None if found or job.state in TERMINAL else streams.grown(job.last_seq)


def _stream(job_id: str, query: EventFilter) -> Response:
    if unfit := query.model_fields_set & {"wait", "limit"}:
        detail = "a stream takes no such parameter: it sends whatever there is and waits by itself"
        raise InvalidQuery([FieldError(f"/{name}", "not_for_streams", detail) for name in sorted(unfit)])
    with services().database.read() as session:
        jobs.get(session, job_id)
    last = _last_event_id()
    return streams.answer(job_id, query.after if last is None else last, query.type, _event)


def _last_event_id() -> int | None:
    """What a client that was cut off says it had last."""
    given = request.headers.get("Last-Event-ID", "").strip()
    if not given:
        return None
    if not CURSOR.fullmatch(given) or int(given) >= MOST_LINES:
        detail = f"must be the `id` of an event of this stream, a whole number, got {given[:80]!r}"
        raise InvalidQuery([FieldError("/Last-Event-ID", "not_an_event", detail)])
    return int(given)


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
