"""Actions on one job: cancel, pause, resume, retry, reproduce; and changes of its name, priority and labels."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy.orm import Session

from api.access.auth import check_priority, owner_filter
from api.changes.idempotency import once
from api.changes.transaction import change
from api.http.requests import parse_body
from api.jobs.job_object import to_json
from api.openapi import schemas
from api.openapi.endpoint import SPEC_BYTES, endpoint
from api.openapi.problems import QUEUES_AGAIN
from api.routes.jobs import accept, check_share, check_storage
from shared.datasets import dataset_store
from shared.db.tables import Job
from shared.errors import FieldError, InvalidBody, PreconditionFailed
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.spec.job_spec import MAX_LABELS, MAX_NAME, JobSpec

MERGE_PATCH = "application/merge-patch+json"
UNCHANGEABLE = f"cannot be changed; fields that can be changed: {', '.join(schemas.JobPatch.model_fields)}"
REPRODUCED = " reproduced"

bp = Blueprint("steering", __name__)


@bp.post("/v1/jobs/<job_id>/cancel")
@endpoint(schemas.Job, scope="submit", status=202, errors=(404, 409, 503))
@once
def cancel(job_id: str) -> Response:
    """Cancel a job

    A queued job is cancelled at once; a running one has the status `cancelling` until its device is free.
    """
    return change(lambda session: to_json(session, jobs.request_cancel(session, job_id)))


@bp.post("/v1/jobs/<job_id>/pause")
@endpoint(schemas.Job, scope="submit", status=202, errors=(404, 409, 503))
@once
def pause(job_id: str) -> Response:
    """Pause a job

    A running job has the status `pausing` until its checkpoint is written and its device is free. A pause does not
    count as a failed attempt.
    """
    return change(lambda session: to_json(session, jobs.request_pause(session, job_id)))


@bp.post("/v1/jobs/<job_id>/resume")
@endpoint(schemas.Job, scope="submit", status=202, errors=(404, 409, 503), problems=QUEUES_AGAIN)
@once
def resume(job_id: str) -> Response:
    """Resume a paused job

    The job is queued and resumes from its checkpoint. A pending request to pause is withdrawn.
    """
    return change(lambda session: to_json(session, queue_paused(session, job_id)), rings=True)


def queue_paused(session: Session, job_id: str) -> Job:
    """Queue a paused job again. The limit on queued jobs and that on the priority do not apply to one that still runs,
    with a pending pause."""
    job = jobs.get(session, job_id)
    if job.state == JobState.PAUSED:
        check_priority(job.priority)
        check_share(session, job.owner)
    else:
        check_storage(session, job.owner)  # each pause and its withdrawal add lines to the log
    return jobs.resume(session, job_id)


@bp.post("/v1/jobs/<job_id>/retry")
@endpoint(
    schemas.Job,
    scope="submit",
    status=202,
    errors=(404, 409, 503),
    problems=QUEUES_AGAIN,
)
@once
def retry(job_id: str) -> Response:
    """Retry a job that failed or was cancelled

    The same job is queued again and resumes from its last checkpoint, if there is one. Its attempts and log continue,
    and it may lose as many attempts as a new job.
    """
    return change(lambda session: to_json(session, queue_again(session, job_id)), rings=True)


def queue_again(session: Session, job_id: str) -> Job:
    job = jobs.get(session, job_id)
    check_priority(job.priority)
    check_share(session, job.owner)
    job = jobs.retry(session, job_id)
    # the dataset may have been deleted since the job ended
    if "dataset" in job.spec:  # which a job of a kind that this version does not know may lack
        dataset_store.lock_for_job(session, job.spec["dataset"], owner_filter())
    return job


@bp.post("/v1/jobs/<job_id>/reproduce")
@endpoint(
    schemas.Job,
    scope="submit",
    status=202,
    errors=(404, 409, 503),
    problems=QUEUES_AGAIN,
    headers=("Location",),
)
@once
def reproduce(job_id: str) -> Response:
    """Reproduce a job: run a new one with the same spec and seed

    Its `result.reproduction` has whether the results are identical, or else the first step that differs.
    """
    return change(lambda session: _repeat(session, jobs.get(session, job_id)), created=True, rings=True)


def _repeat(session: Session, original: Job) -> dict[str, Any]:
    if original.kind != JobSpec.kind:
        raise jobs.wrong_state(
            original,
            "reproduce",
            f"a {original.kind.replace('_', ' ')} does not train and cannot be reproduced; submit it again",
        )
    if original.state != JobState.SUCCEEDED:
        raise jobs.wrong_state(original, "reproduce")
    spec = JobSpec.stored(original.spec)
    name = original.name[: MAX_NAME - len(REPRODUCED)] + REPRODUCED
    return accept(session, spec.model_copy(update={"name": name}), reproduces=original.id)


# --- changes of a job -------------------------------------------------------------------------------------------------


@bp.patch("/v1/jobs/<job:job_id>")
@endpoint(
    schemas.Job,
    scope="submit",
    body=schemas.JobPatch,
    body_bytes=SPEC_BYTES,
    other_bodies={MERGE_PATCH: schemas.JobPatch},
    errors=(400, 404, 409, 412, 413, 415, 503),
    problems={409: ("owner_storage_full",), 422: ("invalid_query", "invalid_body")},
    takes=("If-Match",),
    headers=("ETag",),
)
def patch(job_id: str) -> Response:
    """Change a job's name, priority or labels

    A merge patch (RFC 7396): a label that is null is removed, labels that are not given are unchanged. With `If-Match`
    and the ETag of the job as it was read, the call is refused if the job has changed since.
    """
    wanted = parse_body(schemas.JobPatch, MERGE_PATCH, unknown=UNCHANGEABLE)
    response = change(lambda session: _patched(session, job_id, wanted), status=200)
    response.add_etag()  # for the next change
    return response


def _patched(session: Session, job_id: str, wanted: schemas.JobPatch) -> dict[str, Any]:
    job = jobs.lock_job(session, job_id)
    _check_unchanged(session, job)
    values = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if "labels" in values:
        values["labels"] = _merged(job.labels, wanted.labels)
    if "priority" in values and values["priority"] != job.priority:
        check_priority(values["priority"], InvalidBody)
    check_storage(session, job.owner)  # each change adds a line to the log
    jobs.edit(session, job, values)
    return to_json(session, job)


def _check_unchanged(session: Session, job: Job) -> None:
    """Compare `If-Match` with the ETag that GET would return now. Raises PreconditionFailed."""
    if not request.if_match:
        return
    now = jsonify(to_json(session, job))
    now.add_etag()
    if not request.if_match.contains(now.get_etag()[0] or ""):
        raise PreconditionFailed(f"job {job.id} has changed since it was read; read it again and send the new ETag")


def _merged(labels: dict[str, str], changes: dict[str, str | None] | None) -> dict[str, str]:
    """Labels after a merge patch (RFC 7396): null removes a label, or all of them. Raises InvalidBody."""
    if changes is None:
        return {}
    both = {key: value for key, value in {**labels, **changes}.items() if value is not None}
    if len(both) > MAX_LABELS:
        detail = f"the job would have {len(both)} labels; at most {MAX_LABELS} are allowed. Remove some with null"
        raise InvalidBody([FieldError("/labels", "too_long", detail)])
    return both
