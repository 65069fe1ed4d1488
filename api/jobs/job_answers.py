"""The response that shows one job. For a job that has ended it is cached for as long as the job's row is unchanged."""

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
from api.waiting.change_notifier import Predicate
from api.waiting.job_fingerprint import Fingerprint, fingerprints_of
from api.waiting.long_polling import WaitQuery, hold
from shared.db.tables import Job
from shared.errors import NotFound
from shared.jobs.states import TERMINAL, JobState

EXTENSION = "gradq.job_answers"
MAX_CACHED = 512
UNTIL_SECONDS = 30.0  # default of `wait` for a call with `until`
SOON_SECONDS, LATER_SECONDS = 1, 10  # bounds of Retry-After; a paused job has the upper one

TABLE = Job.__table__
ROW = tuple(type_coerce(c, Text).label(f"raw_{c.name}") for c in TABLE.columns)  # values as the driver returns them
ROW_OF = select(*ROW).where(TABLE.c.id == bindparam("job_id"))
JOB_AND_ROW_OF = select(Job, *ROW).where(Job.id == bindparam("job_id"))

Render = Callable[[Session, Job], dict[str, Any]]


class JobQuery(WaitQuery):
    until: Literal["terminal"] | None = Field(
        None,
        description="wait for a terminal state instead of any change; without `wait` for up to 30 s",
    )


@dataclass(frozen=True)
class JobAnswer:
    """The rendered job, as of the row `row`."""

    row: tuple[Any, ...]
    body: bytes
    etag: str
    terminal: bool
    poll_seconds: int | None


class JobAnswers:
    """Cache of the responses of ended jobs. They depend on the job's row and its attempts only, and the attempts of an
    ended job change only together with its row."""

    def __init__(self) -> None:
        self._cached: dict[str, JobAnswer] = {}
        self._lock = threading.Lock()

    def get(self, job_id: str, render: Render) -> JobAnswer:
        """The job's response, from the cache or rendered by `render`. Raises NotFound."""
        cached = self._cached.get(job_id)
        if cached is not None and cached.row == self._row(job_id):
            return cached
        answer = _render(job_id, render)
        if answer.terminal:
            self._store(job_id, answer)
        return answer

    def _row(self, job_id: str) -> tuple[Any, ...] | None:
        with services().database.look() as connection:
            found = connection.execute(ROW_OF, {"job_id": job_id}).first()
        return None if found is None else tuple(found)

    def _store(self, job_id: str, answer: JobAnswer) -> None:
        with self._lock:
            self._cached.pop(job_id, None)
            self._cached[job_id] = answer
            if len(self._cached) > MAX_CACHED:
                del self._cached[next(iter(self._cached))]


def show(job_id: str, query: JobQuery, render: Render) -> Response:
    """The response with the job, held as `query` says; 304 if the client has it already. Raises NotFound."""
    seconds = query.seconds
    if query.until is not None and seconds is None:
        seconds = UNTIL_SECONDS
    answers: JobAnswers = current_app.extensions[EXTENSION]
    first_etag: str | None = None

    def respond() -> tuple[Response, Predicate | None]:
        nonlocal first_etag
        before = _fingerprint(job_id) if seconds else None  # before the answer, so that no change in between is missed
        answer = answers.get(job_id, render)
        first_etag = first_etag or answer.etag
        response = _response(answer)
        if not seconds or _has_changed(answer, query, first_etag):
            return response, None
        if query.until is not None:
            return response, lambda fingerprint: fingerprint is None or fingerprint.terminal
        return response, lambda fingerprint: fingerprint != before

    response = hold(job_id, seconds, respond)
    response.make_conditional(request)
    return response


def _has_changed(answer: JobAnswer, query: JobQuery, first_etag: str) -> bool:
    """Whether the wait is over: `answer` is what the client waits for."""
    if query.until is not None:
        return answer.terminal
    if answer.terminal:  # it does not change any more
        return True
    if request.if_none_match:
        return not request.if_none_match.contains_weak(answer.etag)
    return answer.etag != first_etag


def _fingerprint(job_id: str) -> Fingerprint | None:
    with services().database.read() as session:
        return fingerprints_of(session, [job_id], services().settings.lease_seconds).get(job_id)


def _render(job_id: str, render: Render) -> JobAnswer:
    with services().database.read() as session:
        found = session.execute(JOB_AND_ROW_OF, {"job_id": job_id}).first()  # one statement, so that job and row agree
        if found is None:
            raise NotFound(f"job {job_id} not found")
        job, *row = found
        shown = render(session, job)
    body = f"{json_of(current_app).compact_text(shown)}\n".encode()
    terminal = job.state in TERMINAL
    return JobAnswer(
        tuple(row), body, hashlib.sha1(body, usedforsecurity=False).hexdigest(), terminal, poll_seconds(shown)
    )


def poll_seconds(job: dict[str, Any]) -> int | None:
    """Polling interval for Retry-After; None for a job that has ended.

    A running job: a quarter of the time that is left, so that its end is seen soon even if the estimate is wrong.
    """
    if job["terminal"]:
        return None
    if job["status"] == JobState.PAUSED:
        return LATER_SECONDS
    left = (job["progress"] or {}).get("eta_seconds") if job["status"] == JobState.RUNNING else None
    return SOON_SECONDS if left is None else max(SOON_SECONDS, min(LATER_SECONDS, math.ceil(left / 4)))


def _response(answer: JobAnswer) -> Response:
    response = Response(answer.body, mimetype="application/json")
    response.set_etag(answer.etag)
    if answer.poll_seconds is not None:
        response.headers["Retry-After"] = str(answer.poll_seconds)
    return response
