"""The job list as server-sent events: the HTML of each row that is new or looks different.

`row` holds {"id", "html"}; `view` the ids that are shown, in order, and the counts of the status filter. The client
removes the rows whose ids are no longer in the view.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from flask import Response, current_app, render_template, stream_with_context
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.dashboard.job_rows import fingerprints_by_id, rows_of, version_of
from api.http.render import json_of
from api.services import services
from api.waiting import streams
from api.waiting.long_polling import Place, long_polls
from shared.db.tables import Job
from shared.errors import DatabaseAway, TooManyStreams

ROUND_SECONDS = 1.0  # shortest pause between two polls of the database
LEISURE = 4  # the pause is at least this many times as long as the poll before it

log = structlog.get_logger()
Selected = Callable[[Session], list[str]]  # ids, newest first
Counted = Callable[[Session], dict[str, int | str]]  # by state


def answer(selected: Selected, counted: Counted) -> Response:
    """The stream of the rows of the selected jobs, and of the numbers of jobs in each state. Raises
    TooManyStreams (503) where this process already holds as many requests as it may."""
    place = long_polls().place()
    if place is None:
        raise TooManyStreams("no stream is free; the page retries by itself")
    news = RowStream(selected, counted)
    response = Response(stream_with_context(news.follow(place)), mimetype=streams.MEDIA_TYPE, headers=streams.HEADERS)
    response.call_on_close(place.leave)
    return response


class RowStream:
    """The events of one open page: remembers what was sent, and sends only what has changed."""

    def __init__(self, selected: Selected, counted: Counted) -> None:
        self.selected, self.counted = selected, counted
        self.told: dict[str, str] = {}  # id -> version of the row that was sent last
        self.told_view: dict[str, Any] | None = None

    def follow(self, place: Place) -> Iterator[str]:
        yield f"retry: {streams.RECONNECT_MS}\n\n"
        comment_at = time.monotonic() + streams.COMMENT_SECONDS
        while not place.over():
            began = time.monotonic()
            try:
                news = self._look()
            except DatabaseAway as error:
                log.warning("the job list stream cannot reach the database", error=error.detail)
                news = ""
            if news or began >= comment_at:
                yield news or ":\n\n"
                comment_at = began + streams.COMMENT_SECONDS
            place.rest(max(ROUND_SECONDS, LEISURE * (time.monotonic() - began)))

    def _look(self) -> str:
        with services().database.read() as session:
            ids = self.selected(session)
            versions = {job_id: version_of(look) for job_id, look in fingerprints_by_id(session, ids).items()}
            new = [job_id for job_id in versions if self.told.get(job_id) != versions[job_id]]
            rows = rows_of(session, session.scalars(select(Job).where(Job.id.in_(new))).all()) if new else []
            view = {"ids": ids, "counts": self.counted(session)}
        lines = [
            _event("row", {"id": row.job["id"], "html": render_template("_job_row.html", row=row)}) for row in rows
        ]
        self.told = {**{i: v for i, v in self.told.items() if i in versions}, **{r.job["id"]: r.version for r in rows}}
        if view != self.told_view:
            lines.append(_event("view", view))
            self.told_view = view
        return "".join(lines)


def _event(type: str, data: Any) -> str:
    return f"event: {type}\ndata: {json_of(current_app).compact_text(data)}\n\n"
