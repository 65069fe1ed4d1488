"""A job's log from a cursor, in pages or as a stream of server-sent events."""

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
from api.waiting.change_notifier import Predicate
from api.waiting.long_polling import WaitQuery, hold
from shared.db.tables import EventRow
from shared.errors import FieldError, InvalidQuery
from shared.jobs import joblog, jobs
from shared.jobs.joblog import EventFilter
from shared.jobs.states import TERMINAL

MOST_LINES = 2**31
Seq = Annotated[int, Field(ge=0, lt=MOST_LINES)]
CURSOR = re.compile(r"\d{1,10}")

bp = Blueprint("events", __name__)


class EventsQuery(WaitQuery):
    after: Seq = Field(0, description="the `next_after` of the previous page")
    before: Seq | None = Field(None, description="lines with a smaller `seq`")
    type: Annotated[tuple[schemas.EventType, ...], CommaList] = Field((), description="any of these")
    level: Annotated[tuple[schemas.Level, ...], CommaList] = Field((), description="any of these")
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000
    last: bool = Field(
        False, description="return the last `limit` lines, in order of `seq`; `has_more`: there are earlier ones"
    )

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
    problems={503: ("database_away", "too_many_streams", "too_many_transfers")},
    headers=("Vary",),
    takes=("Prefer", "Last-Event-ID"),
    sometimes=("Retry-After", "Preference-Applied"),
)
def index(job_id: str, query: EventsQuery) -> Response:
    """Read a job's log from a cursor

    `next_after` is the cursor for the next call, whether or not there are more lines yet. With `wait` the call waits
    until there is a line or the job has ended, instead of returning an empty page. With `last` the page is the end of
    the log; `before` with the `seq` of its first line returns the page above. `Accept: text/event-stream` sends the
    same lines as server-sent events while they are written: `id` is `seq`, `Last-Event-ID` resumes an interrupted
    stream, and the last event is `end`.
    """
    if request.accept_mimetypes.best_match([JSON, streams.MEDIA_TYPE]) == streams.MEDIA_TYPE:
        return _stream(job_id, query)
    response = hold(job_id, query.seconds, lambda: _page(job_id, query))
    response.headers["Vary"] = "Accept"
    return response


def _page(job_id: str, query: EventsQuery) -> tuple[Response, Predicate | None]:
    with services().database.read() as session:
        job = jobs.get(session, job_id)  # before the lines: a job that has ended gets no further lines
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
        detail = "not a parameter of streams, which send all lines and wait for new ones"
        raise InvalidQuery([FieldError(f"/{name}", "not_for_streams", detail) for name in sorted(unfit)])
    with services().database.read() as session:
        jobs.get(session, job_id)
    last = _last_event_id()
    return streams.answer(job_id, query.filter if last is None else replace(query.filter, after=last), _event)


def _last_event_id() -> int | None:
    """The Last-Event-ID header as `seq`; None without it. Raises InvalidQuery."""
    given = request.headers.get("Last-Event-ID", "").strip()
    if not given:
        return None
    if not CURSOR.fullmatch(given) or int(given) >= MOST_LINES:
        detail = f"must be the `id` of an event of this stream, an integer, got {given[:80]!r}"
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
