"""One action on many jobs, by ids or by a filter; each job has an outcome of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy.orm import Session

from api.access.auth import owner_filter
from api.changes import audit_log
from api.changes.idempotency import amend, once, settle
from api.http.errors import members
from api.http.requests import parse_body
from api.jobs import job_list
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.routes.jobs import remove_files
from api.routes.steering import queue_again, queue_paused
from api.services import services
from shared.db.tables import Job
from shared.errors import FieldError, GradqError, InvalidBody
from shared.jobs import joblog, jobs
from shared.jobs.states import ALLOWED_ACTIONS

MOST = 1000  # jobs per call
BODY_BYTES = 512 << 10  # a thousand ids, of at most 64 characters each
ANSWER_BYTES = 4 << 20  # a thousand errors, each of which repeats an id
# statuses in which the action is allowed and changes nothing: a filter leaves such jobs out
ALREADY_DONE = {"cancel": ("cancelling",), "pause": ("pausing", "paused")}
RINGS = ("retry", "resume")
ACTIONS: dict[str, Callable[[Session, str], Job | None]] = {
    "cancel": jobs.request_cancel,
    "delete": jobs.remove,
    "pause": jobs.request_pause,
    "resume": queue_paused,
    "retry": queue_again,
}

bp = Blueprint("bulk", __name__)


@bp.post("/v1/jobs/bulk")
@endpoint(
    schemas.BulkAnswer,
    scope="submit",
    body=schemas.BulkRequest,
    body_bytes=BODY_BYTES,
    answer_bytes=ANSWER_BYTES,
    errors=(400, 413, 415, 503),
    problems={422: ("invalid_query", "invalid_body")},
)
@once
def bulk() -> Response:
    """Cancel, delete, pause, resume or retry many jobs

    Takes either `ids` or a `filter` with the parameters of the job list. A filter selects the matching jobs that the
    action applies to, newest first, at most 1000 per call. While `has_more` is true, repeat the call with `last_id` as
    the filter's `after`.
    """
    asked = parse_body(schemas.BulkRequest)
    if (asked.ids is None) == (asked.filter is None):
        raise InvalidBody([FieldError("/ids", "either_or", "give either 'ids' or 'filter'")])
    with services().database.write() as session:
        ids, has_more = (asked.ids, False) if asked.ids is not None else _found(session, asked)
        # every call locks rows in the order of their ids, so two calls on the same rows cannot deadlock
        by_id = {job_id: _outcome(session, asked.action, job_id) for job_id in sorted(set(ids))}
        outcomes = [by_id[job_id] for job_id in ids]
        response = _answer(asked.action, outcomes, has_more)
        done = [job_id for job_id, outcome in by_id.items() if outcome["ok"]]
        for job_id in done:
            if asked.action == "delete" or joblog.has_changed(session, job_id):
                audit_log.note(session, job_id, response.status_code, f"bulk.{asked.action}")
        settle(session, response)
    if asked.action == "delete":
        response = _answer(asked.action, outcomes, has_more, freed=remove_files(done))
        amend(response)
    elif asked.action in RINGS:
        _ring(len(done))
    return response


def _found(session: Session, asked: schemas.BulkRequest) -> tuple[list[str], bool]:
    assert asked.filter is not None
    suits = [
        status
        for status, actions in ALLOWED_ACTIONS.items()
        if asked.action in actions and status not in ALREADY_DONE.get(asked.action, ())
    ]
    status = [one for one in suits if one in asked.filter.status] if asked.filter.status else suits
    if not status:
        return [], False
    wanted = asked.filter.model_copy(update={"status": tuple(status)})
    found = job_list.newest(session, wanted, owner_filter(), MOST + 1)
    return found[:MOST], len(found) > MOST


def _outcome(session: Session, action: str, job_id: str) -> dict[str, Any]:
    """The outcome of the action on one job, in a savepoint: an error rolls back this job's changes only."""
    try:
        with session.begin_nested():
            jobs.check_owner(session, job_id, owner_filter())
            job = ACTIONS[action](session, job_id)
    except GradqError as error:
        return {"id": job_id, "ok": False, "error": members(error)}
    return {"id": job_id, "ok": True, "status": "deleted" if job is None else jobs.status_of(job)}


def _answer(action: str, outcomes: list[dict[str, Any]], has_more: bool, freed: int = 0) -> Response:
    body = {
        "object": "bulk",
        "action": action,
        "data": outcomes,
        "succeeded": sum(outcome["ok"] for outcome in outcomes),
        "failed": sum(not outcome["ok"] for outcome in outcomes),
        "last_id": outcomes[-1]["id"] if outcomes else None,
        "has_more": has_more,
    }
    return jsonify({**body, "freed_bytes": freed} if action == "delete" else body)


def _ring(times: int) -> None:
    for _ in range(times):
        if not services().broker.ring():
            return
