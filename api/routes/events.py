"""A job's log, read from a cursor: page by page, or as a stream."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify, request
from pydantic import Field

from api.http.render import timestamp
from api.http.requests import CommaList
from api.openapi import schemas
from api.openapi.endpoint import JSON, endpoint
from api.services import services
from api.waiting import streams
from api.waiting.change_notifier import Concerns
from api.waiting.long_polling import Waiting, hold
from shared.db.tables import EventRow
from shared.errors import FieldError, InvalidQuery
from shared.jobs import joblog, jobs
from shared.jobs.joblog import EventFilter
from shared.jobs.states import TERMINAL

MOST_LINES = 2**31
Seq = Annotated[int, Field(ge=0, lt=MOST_LINES)]
CURSOR = re.compile(r"\d{1,10}")

bp = Blueprint("events", __name__)


class EventsQuery(Waiting):
    after: Seq = Field(0, description="the `next_after` of the page before")
    before: Seq | None = Field(None, description="lines whose `seq` is less")
    type: Annotated[tuple[schemas.EventType, ...], CommaList] = Field((), description="any of these")
    level: Annotated[tuple[schemas.Level, ...], CommaList] = Field((), description="any of these")
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000
    last: bool = Field(False, description="the last `limit` lines, still in order; `has_more`: there are earlier ones")

    @property
    def filter(self) -> EventFilter:
        return EventFilter(self.type, self.level, self.after, self.before)


@bp.get("/v1/jobs/<job_id>/events")
@endpoint(
    schemas.EventList,
    scope="read",
    query=EventsQuery,
    media=(JSON, streams.MEDIA_TYPE),
    errors=(404, 503),
    problems={503: ("database_away", "too_many_streams")},
    headers=("Vary",),
    takes=("Prefer", "Last-Event-ID"),
    sometimes=("Retry-After", "Preference-Applied"),
)
def index(job_id: str, query: EventsQuery) -> Response:
    """Read a job's log from a cursor

    `next_after` is where the next call goes on, whether or not there is more already. With `wait` an empty page is held
    back until there is a line, or the job has ended. With `last` the page is the end of the log; `before` its first
    line's `seq`, and the call answers the page above. `Accept: text/event-stream` sends the same lines as server-sent
    events, as they come: `id` is `seq`, `Last-Event-ID` goes on where a stream was cut, the last event is `end`.
    """
    if request.accept_mimetypes.best_match([JSON, streams.MEDIA_TYPE]) == streams.MEDIA_TYPE:
        return _stream(job_id, query)
    response = hold(job_id, query.seconds, lambda: _page(job_id, query))
    response.headers["Vary"] = "Accept"
    return response


def _page(job_id: str, query: EventsQuery) -> tuple[Response, Concerns | None]:
    with services().database.read() as session:
        job = jobs.get(session, job_id)  # before the lines: those of a job that has ended are all there
        read = joblog.last_events_of if query.last else joblog.events_of
        found = read(session, job_id, query.filter, query.limit + 1)
    page = found[-query.limit :] if query.last else found[: query.limit]
    response = jsonify(
        {
            "object": "list",
            "data": [_event(row) for row in page],
            "next_after": page[-1].seq if page else query.after,
            "has_more": len(found) > query.limit,
        }
    )
    return response, None if found or job.state in TERMINAL else streams.grown(job.last_seq)


def _stream(job_id: str, query: EventsQuery) -> Response:
    if unfit := query.model_fields_set & {"wait", "limit", "last", "before"}:
        detail = "a stream takes no such parameter: it sends whatever there is and waits by itself"
        raise InvalidQuery([FieldError(f"/{name}", "not_for_streams", detail) for name in sorted(unfit)])
    with services().database.read() as session:
        jobs.get(session, job_id)
    last = _last_event_id()
    return streams.answer(job_id, query.filter if last is None else replace(query.filter, after=last), _event)


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
