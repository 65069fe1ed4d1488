"""A job's log as server-sent events, sent as lines are written, until the job has ended and all lines are sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import structlog
from flask import Response, current_app
from sqlalchemy.orm import Session

from api.http.render import json_of
from api.services import services
from api.waiting.change_notifier import Predicate
from api.waiting.job_fingerprint import Fingerprint
from api.waiting.long_polling import Place, long_polls
from shared.db.database import Database
from shared.db.tables import EventRow
from shared.errors import DatabaseAway, NotFound, TooManyStreams
from shared.jobs import joblog, jobs
from shared.jobs.states import TERMINAL

MEDIA_TYPE = "text/event-stream"
RECONNECT_MS = 1000
COMMENT_SECONDS = 15.0
PAGE = 500  # lines per piece
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", "Vary": "Accept"}

log = structlog.get_logger()
Render = Callable[[EventRow], dict[str, Any]]


def answer(job_id: str, filter: joblog.EventFilter, render: Render) -> Response:
    """A stream of the lines after the filter's cursor. Raises TooManyStreams if this process holds as many requests as
    it may."""
    place = long_polls().place()
    if place is None:
        raise TooManyStreams("too many open streams; retry later, or read pages with after=<next_after>")
    log_of = Log(services().database, job_id, filter, render, json_of(current_app).compact_text)
    response = Response(log_of.follow(place), mimetype=MEDIA_TYPE, headers=HEADERS)
    response.call_on_close(place.leave)
    return response


@dataclass(frozen=True)
class Piece:
    """Text to send, the `seq` of its last line, and, if there are no more lines yet, when to read again."""

    text: str = ""
    after: int | None = None
    until: Predicate | None = None
    last: bool = False


@dataclass
class Log:
    """The lines of a log that a client has not received yet."""

    database: Database
    job_id: str
    filter: joblog.EventFilter
    render: Render
    text_of: Callable[[Any], str]

    def follow(self, place: Place) -> Iterator[str]:
        yield f"retry: {RECONNECT_MS}\n\n"
        comment_at = time.monotonic() + COMMENT_SECONDS
        while not place.over():
            piece = self._next()
            if piece.text:
                yield piece.text
            if piece.last:
                return
            if piece.until is not None:
                place.wait(self.job_id, piece.until, comment_at - time.monotonic())
            if time.monotonic() >= comment_at:
                yield ":\n\n"
                comment_at += COMMENT_SECONDS

    def _next(self) -> Piece:
        try:
            with self.database.read() as session:
                piece = self._read(session)
        except NotFound:  # the job was deleted meanwhile
            return Piece(self._end(None), last=True)
        except DatabaseAway as error:
            log.warning("stream waits for the database", job_id=self.job_id, error=error.detail)
            return Piece(until=_anything)
        if piece.after is not None:
            # only now: a read that fails when its transaction ends is repeated
            self.filter = replace(self.filter, after=piece.after)
        return piece

    def _read(self, session: Session) -> Piece:
        job = jobs.get(session, self.job_id)  # before the lines: a job that has ended gets no further lines
        lines = joblog.events_of(session, self.job_id, self.filter, PAGE)
        after = lines[-1].seq if lines else None
        text = "".join(map(self._line, lines))
        if len(lines) == PAGE:
            return Piece(text, after)
        if job.state in TERMINAL:
            return Piece(text + self._end(jobs.status_of(job)), after, last=True)
        return Piece(text, after, until=grown(job.last_seq))

    def _line(self, row: EventRow) -> str:
        return f"id: {row.seq}\nevent: {row.type}\ndata: {self.text_of(self.render(row))}\n\n"

    def _end(self, status: str | None) -> str:
        return f"event: end\ndata: {self.text_of({'status': status})}\n\n"


def grown(last_seq: int) -> Predicate:
    """Holds if the log has lines after `last_seq`, or will not get any."""
    return lambda fingerprint: fingerprint is None or fingerprint.terminal or fingerprint.last_seq > last_seq


def _anything(fingerprint: Fingerprint | None) -> bool:
    return True
