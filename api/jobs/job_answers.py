"""The answer that shows one job. That of a job that has ended is kept, and sent again while its row stays the same."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from flask import Response, current_app, request
from pydantic import Field
from sqlalchemy import Text, bindparam, select, type_coerce
from sqlalchemy.orm import Session

from api.http.render import json_of
from api.services import services
from api.waiting.change_notifier import Concerns
from api.waiting.job_fingerprint import Fingerprint, fingerprints_of
from api.waiting.long_polling import Waiting, hold
from shared.db.tables import Job
from shared.errors import NotFound
from shared.jobs.states import TERMINAL, JobState

EXTENSION = "gradq.job_answers"
MOST_KEPT = 512
UNTIL_SECONDS = 30.0  # for a call that says what it waits for, and not how long
SOON_SECONDS, LATER_SECONDS = 1, 10  # between two polls of a job that is about to move; of one that is not

TABLE = Job.__table__
ROW = tuple(type_coerce(c, Text).label(f"raw_{c.name}") for c in TABLE.columns)  # as the driver gives it
ROW_OF = select(*ROW).where(TABLE.c.id == bindparam("job_id"))
JOB_AND_ROW_OF = select(Job, *ROW).where(Job.id == bindparam("job_id"))

Render = Callable[[Session, Job], dict[str, Any]]


class JobQuery(Waiting):
    until: Literal["terminal"] | None = Field(
        None,
        description="wait for a terminal state, where `wait` alone waits for any change; alone for 30 s at most",
    )


@dataclass(frozen=True)
class JobAnswer:
    """A job as it was when its row was `row`."""

    row: tuple[Any, ...]
    body: bytes
    etag: str
    terminal: bool
    poll_seconds: int | None


class JobAnswers:
    """Those that are kept. A job that has ended shows what its row and its attempts say, and these go with its row."""

    def __init__(self) -> None:
        self._kept: dict[str, JobAnswer] = {}
        self._lock = threading.Lock()

    def get(self, job_id: str, render: Render) -> JobAnswer:
        kept = self._kept.get(job_id)
        if kept is not None and kept.row == self._row(job_id):
            return kept
        answer = _render(job_id, render)
        if answer.terminal:
            self._keep(job_id, answer)
        return answer

    def _row(self, job_id: str) -> tuple[Any, ...] | None:
        with services().database.look() as connection:
            found = connection.execute(ROW_OF, {"job_id": job_id}).first()
        return None if found is None else tuple(found)

    def _keep(self, job_id: str, answer: JobAnswer) -> None:
        with self._lock:
            self._kept.pop(job_id, None)
            self._kept[job_id] = answer
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]


def show(job_id: str, query: JobQuery, render: Render) -> Response:
    """Hold the answer as `query` says, and send it, or 304 for what the client has already."""
    seconds = query.seconds
    if query.until is not None and seconds is None:
        seconds = UNTIL_SECONDS
    answers: JobAnswers = current_app.extensions[EXTENSION]
    first_etag: str | None = None

    def ask() -> tuple[Response, Concerns | None]:
        nonlocal first_etag
        seen = _look(job_id) if seconds else None  # before the answer: what comes between is a change, not lost
        answer = answers.get(job_id, render)
        first_etag = first_etag or answer.etag
        response = _response(answer)
        if not seconds or _is_news(answer, query, first_etag):
            return response, None
        if query.until is not None:
            return response, lambda look: look is None or look.terminal
        return response, lambda look: look != seen

    response = hold(job_id, seconds, ask)
    response.make_conditional(request)
    return response


def _is_news(answer: JobAnswer, query: JobQuery, first_etag: str) -> bool:
    if query.until is not None:
        return answer.terminal
    if answer.terminal:  # nothing more is to come
        return True
    if request.if_none_match:
        return not request.if_none_match.contains_weak(answer.etag)
    return answer.etag != first_etag


def _look(job_id: str) -> Fingerprint | None:
    with services().database.read() as session:
        return fingerprints_of(session, [job_id], services().settings.lease_seconds).get(job_id)


def _render(job_id: str, render: Render) -> JobAnswer:
    with services().database.read() as session:
        found = session.execute(JOB_AND_ROW_OF, {"job_id": job_id}).first()  # one statement: job and row are one state
        if found is None:
            raise NotFound(f"there is no job {job_id}")
        job, *row = found
        shown = render(session, job)
    body = f"{json_of(current_app).compact_text(shown)}\n".encode()
    terminal = job.state in TERMINAL
    return JobAnswer(
        tuple(row), body, hashlib.sha1(body, usedforsecurity=False).hexdigest(), terminal, poll_seconds(shown)
    )


def poll_seconds(job: dict[str, Any]) -> int | None:
    """How long a client does well to wait before it asks again; None: nothing more is to come."""
    if job["terminal"]:
        return None
    if job["status"] == JobState.PAUSED:
        return LATER_SECONDS
    left = (job["progress"] or {}).get("eta_seconds") if job["status"] == JobState.RUNNING else None
    return SOON_SECONDS if left is None else max(SOON_SECONDS, min(LATER_SECONDS, math.ceil(left)))


def _response(answer: JobAnswer) -> Response:
    response = Response(answer.body, mimetype="application/json")
    response.set_etag(answer.etag)
    if answer.poll_seconds is not None:
        response.headers["Retry-After"] = str(answer.poll_seconds)
    return response
