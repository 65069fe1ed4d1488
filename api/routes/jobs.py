"""Jobs: submit, list, show, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import structlog
from flask import Blueprint, Response, jsonify, request
from pydantic import Field
from sqlalchemy.orm import Session

from api.access.auth import check_priority, owner_filter, principal
from api.changes import audit_log
from api.changes.idempotency import once
from api.changes.transaction import change
from api.http.requests import Query, parse_json
from api.jobs import job_answers, job_list
from api.jobs.init_from import check_init_from
from api.jobs.job_answers import JobQuery
from api.jobs.job_filter import ListQuery
from api.jobs.job_object import page_to_json, to_json
from api.openapi import schemas
from api.openapi.endpoint import SPEC_BYTES, endpoint
from api.openapi.problems import QUEUES
from api.services import services
from api.waiting import transfers
from shared import workers
from shared.datasets import dataset_store
from shared.datasets.catalog import DatasetInfo
from shared.errors import StoreUnavailable
from shared.jobs import jobs, limits, stored_bytes
from shared.spec.estimate import estimate
from shared.spec.job_spec import GradientCheckSpec, JobSpec, WalkSpec, Work

bp = Blueprint("jobs", __name__)
log = structlog.get_logger()


class SubmitQuery(Query):
    dry_run: bool = Field(False, description="estimate what the job would cost, and store nothing")


@bp.post("/v1/jobs")
@endpoint(
    schemas.Job,
    scope="submit",
    status=202,
    body=JobSpec,
    body_bytes=SPEC_BYTES,
    query=SubmitQuery,
    other_answers={200: schemas.DryRun},
    errors=(400, 413, 415, 503),
    problems=QUEUES,
    headers=("Location",),
)
@once
def submit(query: SubmitQuery) -> Response:
    """Submit a job

    Every field has a default; `spec` in the response has all values, including those that the server chose, such as the
    seed. With `dry_run=true` nothing is stored, and the response (200) estimates what the job would cost.
    """
    find_dataset = dataset_store.finder(services().database, owner_filter())
    spec = JobSpec.parse(parse_json(), find_dataset)
    check_priority(spec.priority)
    if query.dry_run:
        info = find_dataset(spec.dataset)
        assert info is not None, "the spec was parsed with it"
        with services().database.read() as session:
            check_init_from(session, spec, find_dataset, owner_filter())
            return jsonify(_dry_run(session, spec, info))
    return change(lambda session: accept(session, spec), created=True, rings=True)


@bp.post("/v1/gradient-checks")
@endpoint(
    schemas.Job,
    scope="submit",
    status=202,
    body=GradientCheckSpec,
    body_bytes=SPEC_BYTES,
    errors=(400, 413, 415, 503),
    problems=QUEUES,
    headers=("Location",),
)
@once
def submit_gradient_check() -> Response:
    """Submit a gradient check

    The job does not train: it compares manual gradients with autograd's and with finite differences, in float64.
    """
    spec = GradientCheckSpec.parse(parse_json(), dataset_store.finder(services().database, owner_filter()))
    return change(lambda session: accept(session, spec), created=True, rings=True)


@bp.post("/v1/walks")
@endpoint(
    schemas.Job,
    scope="submit",
    status=202,
    body=WalkSpec,
    body_bytes=SPEC_BYTES,
    errors=(400, 413, 415, 503),
    problems=QUEUES,
    headers=("Location",),
)
@once
def submit_walk() -> Response:
    """Submit a walk

    The job does not train: it runs one batch forward and backward through a linear or two-layer network, manually and
    with autograd. Its `walk.json` has the formula, shape and values of each stage, and the difference between the two.
    """
    spec = WalkSpec.parse(parse_json(), dataset_store.finder(services().database, owner_filter()))
    return change(lambda session: accept(session, spec), created=True, rings=True)


def accept(session: Session, spec: Work, reproduces: str | None = None) -> dict[str, Any]:
    """Store a job; return its JSON object. Raises TooManyQueuedJobs, OwnerStorageFull and InvalidSpec."""
    check_priority(spec.priority)
    check_share(session, principal().owner)
    dataset_store.lock_for_job(session, spec.dataset, owner_filter())
    if isinstance(spec, JobSpec | WalkSpec):
        check_init_from(session, spec, dataset_store.finder(services().database, owner_filter()), owner_filter())
    return to_json(session, jobs.create(session, spec, reproduces, principal().owner))


def check_share(session: Session, owner: str | None) -> None:
    """Raise TooManyQueuedJobs or OwnerStorageFull if the owner may not queue another job."""
    limits.check_queued(session, owner, services().settings.max_queued_jobs)
    check_storage(session, owner)


def check_storage(session: Session, owner: str | None) -> None:
    """Raise OwnerStorageFull if the owner may store nothing more."""
    stored_bytes.check(session, owner, services().settings.owner_bytes)


@bp.get("/v1/jobs")
@endpoint(schemas.JobList, scope="read", query=ListQuery, errors=(503,), sometimes=("Link",))
def index(query: ListQuery) -> Response:
    """List jobs, newest first"""
    with services().database.read() as session:
        found = job_list.newest(session, query, owner_filter(), query.limit + 1)
        page, has_more = job_list.jobs_of(session, found[: query.limit]), len(found) > query.limit
        data = page_to_json(session, page)
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    response = jsonify({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})
    if has_more:
        following = urlencode({**request.args.to_dict(), "after": last})
        response.headers["Link"] = f'</v1/jobs?{following}>; rel="next"'
    return response


@bp.get("/v1/jobs/<job:job_id>")
@endpoint(
    schemas.Job,
    scope="read",
    query=JobQuery,
    errors=(404, 503),
    conditional=True,
    takes=("Prefer",),
    sometimes=("Retry-After", "Preference-Applied"),
)
def show(job_id: str, query: JobQuery) -> Response:
    """Show a job

    `Retry-After` is a polling interval. With `wait` the call waits until the job has changed (its ETag is no longer the
    one in `If-None-Match`) or, with `until=terminal`, has ended, and returns the job's state at that time.
    """
    return job_answers.show(job_id, query, to_json)


@bp.delete("/v1/jobs/<job:job_id>")
@endpoint(schemas.DeletedJob, scope="submit", errors=(404, 409, 503))
def delete(job_id: str) -> Response:
    """Delete a job that has ended, with its log, files and checkpoints

    `freed_bytes` is the disk space freed, over all attempts. While the artifact store is not available, or as many
    requests wait for it as may, it is 0, and the files are removed later.
    """
    with services().database.write() as session:
        jobs.remove(session, job_id)
        audit_log.note(session, job_id, 200)
    return jsonify({"object": "job", "id": job_id, "deleted": True, "freed_bytes": remove_files([job_id])})


def remove_files(keys: Sequence[str]) -> int:
    """Remove the folders of deleted jobs or datasets; return the bytes freed. Called after the rows are deleted, so
    that no row refers to a missing file. The deletion has listed the folders: the leader removes those that remain, and
    all of them where this request may not wait for the store."""
    freed = 0
    if not transfers.may_use_store():
        return freed
    try:
        for key in keys:
            freed += services().store.remove_folder(key)
    except (StoreUnavailable, ValueError) as error:  # ask no more: each request may wait for seconds
        log.warning("files are removed later", first=keys[0], error=str(error))
    return freed


# --- the estimate of a dry run ----------------------------------------------------------------------------------------


def _dry_run(session: Session, spec: JobSpec, info: DatasetInfo) -> dict[str, Any]:
    device = "cpu" if spec.device == "cpu" or not (spec.device == "cuda" or _some_gpu(session)) else "cuda"
    found = estimate(spec, info, device, jobs.speeds_like(session, spec, device, owner_filter()))
    return {
        "object": "dry_run",
        "spec": spec.to_json(),
        "parameters": found.parameters,
        "steps": found.steps,
        "estimated_seconds": round(found.seconds, 2),
        "estimated_memory_bytes": found.memory_bytes,
        "basis": found.basis,
    }


def _some_gpu(session: Session) -> bool:
    live = workers.live_workers(session, services().settings.lease_seconds)
    return any("cuda" in worker.devices["kinds"] for worker in live)
