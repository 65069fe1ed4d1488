"""Jobs: submit, list, show, steer, reproduce, delete."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import structlog
from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from api import schemas
from api.openapi import endpoint
from api.render import timestamp, timestamp_or_none
from api.requests import LABELS, CommaList, Query, parse_json
from api.services import services
from shared import dataset_store, jobs, roster
from shared.datasets import DatasetInfo
from shared.estimate import estimate
from shared.origin import check_origin
from shared.presets import PRESETS
from shared.spec import MAX_NAME, GradientCheckSpec, JobSpec, LabelKey, LabelValue, Work
from shared.states import TERMINAL, JobState
from shared.tables import Attempt, Job

POLL_SECONDS = 1  # what suits a job that is still going on
REPRODUCED = " reproduced"
JOB_ID = r"^job_[0-9a-f]{32}$"

bp = APIBlueprint("jobs", __name__, tag="Jobs")
log = structlog.get_logger()


def _no_number(text: str) -> str:
    """A bare number would be read as the seconds since 1970."""
    if text.replace(".", "", 1).removeprefix("-").isdecimal():
        raise ValueError("must be a time with its zone, as 2026-11-23T12:00:00Z")
    return text


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from error


class JobFilter(Query):
    status: Annotated[tuple[schemas.Status, ...], CommaList] = Field((), description="any of these")
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="`*` stands for any text; upper and lower case are one"
    )
    labels: dict[LabelKey, LabelValue] = Field({}, alias=LABELS, max_length=16, description="the label KEY's value")
    created_after: Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_no_number)] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: Annotated[str, Field(pattern=JOB_ID)] | None = Field(None, description="the last id of the page before")


class SubmitQuery(Query):
    dry_run: bool = Field(False, description="say what the job would cost, and store nothing")


# --- views ------------------------------------------------------------------------------------------------------------


@bp.post("/v1/jobs")
@endpoint(
    schemas.Job,
    status=202,
    body=JobSpec,
    query=SubmitQuery,
    other_answers={200: schemas.DryRun},
    errors=(400, 413, 415, 503),
    headers=("Location",),
)
def submit(query: SubmitQuery) -> Response | tuple[Response, int, dict[str, str]]:
    """Submit a job

    Every field has a default; what the server filled in, seed included, comes back in `spec`. With `dry_run=true`
    nothing is stored, and the answer (200) says what the job would cost.
    """
    find_dataset = dataset_store.finder(services().database)
    spec = JobSpec.parse(parse_json(), find_dataset)
    if query.dry_run:
        info = find_dataset(spec.dataset)
        assert info is not None, "the spec was parsed with it"
        with services().database.read() as session:
            check_origin(session, spec, find_dataset)
            return jsonify(_dry_run(session, spec, info))
    return accept(spec)


@bp.post("/v1/gradient-checks")
@endpoint(schemas.Job, status=202, body=GradientCheckSpec, errors=(400, 413, 415, 503), headers=("Location",))
def submit_gradient_check() -> tuple[Response, int, dict[str, str]]:
    """Submit a gradient check

    A job that trains nothing: it holds the gradients by hand against autograd's and finite differences, in float64.
    """
    return accept(GradientCheckSpec.parse(parse_json(), dataset_store.finder(services().database)))


def accept(spec: Work, reproduces: str | None = None) -> tuple[Response, int, dict[str, str]]:
    """Store a job, ring for it, and show it."""
    with services().database.write() as session:
        dataset_store.hold(session, spec.dataset)
        if isinstance(spec, JobSpec):
            check_origin(session, spec, dataset_store.finder(services().database))
        body = to_json(session, jobs.create(session, spec, reproduces))
    services().broker.ring()  # after the commit: whoever answers the bell finds the row; a dead broker is no error
    return jsonify(body), 202, {"Location": body["links"]["self"]}


@bp.get("/v1/jobs")
@endpoint(schemas.JobList, query=JobFilter, errors=(503,), sometimes=("Link",))
def index(query: JobFilter) -> Response:
    """List jobs, newest first"""
    with services().database.read() as session:
        found = session.scalars(_matching(session, query).limit(query.limit + 1)).all()
        page, has_more = found[: query.limit], len(found) > query.limit
        attempts = _attempts_by_job(session, [job.id for job in page])
        data = [to_json(session, job, attempts.get(job.id, [])) for job in page]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    response = jsonify({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})
    if has_more:
        following = urlencode({**request.args.to_dict(), "after": last})
        response.headers["Link"] = f'</v1/jobs?{following}>; rel="next"'
    return response


@bp.get("/v1/jobs/<job_id>")
@endpoint(schemas.Job, errors=(404, 503), conditional=True, sometimes=("Retry-After",))
def show(job_id: str) -> Response:
    """Show a job"""
    with services().database.read() as session:
        job = jobs.get(session, job_id)
        response = jsonify(to_json(session, job))
    if job.state not in TERMINAL:
        response.headers["Retry-After"] = str(POLL_SECONDS)
    response.add_etag()
    response.make_conditional(request)
    return response


@bp.post("/v1/jobs/<job_id>/cancel")
@endpoint(schemas.Job, status=202, errors=(404, 409, 503))
def cancel(job_id: str) -> tuple[Response, int]:
    """Cancel a job

    A queued job is cancelled at once; a running one shows `cancelling` until its device is free.
    """
    with services().database.write() as session:
        body = to_json(session, jobs.request_cancel(session, job_id))
    return jsonify(body), 202


@bp.post("/v1/jobs/<job_id>/pause")
@endpoint(schemas.Job, status=202, errors=(404, 409, 503))
def pause(job_id: str) -> tuple[Response, int]:
    """Pause a job

    It shows `pausing` until its checkpoint is written and its device is free, and costs no attempt.
    """
    with services().database.write() as session:
        body = to_json(session, jobs.request_pause(session, job_id))
    return jsonify(body), 202


@bp.post("/v1/jobs/<job_id>/resume")
@endpoint(schemas.Job, status=202, errors=(404, 409, 503))
def resume(job_id: str) -> tuple[Response, int]:
    """Resume a paused job

    It is queued, and goes on from its checkpoint. A wish to pause that is not yet carried out is taken back.
    """
    with services().database.write() as session:
        body = to_json(session, jobs.resume(session, job_id))
    services().broker.ring()
    return jsonify(body), 202


@bp.post("/v1/jobs/<job_id>/reproduce")
@endpoint(
    schemas.Job,
    status=202,
    errors=(404, 409, 503),
    problems={422: ("invalid_query", "invalid_spec")},
    headers=("Location",),
)
def reproduce(job_id: str) -> tuple[Response, int, dict[str, str]]:
    """Run a job again with the same spec and seed

    Its `result.reproduction` says whether it came out the same, or the first step that differs.
    """
    with services().database.read() as session:
        original = jobs.get(session, job_id)
    if original.kind != JobSpec.kind:
        raise jobs.wrong_state(original, "reproduce", "a gradient check trains nothing to reproduce; submit it again")
    if original.state != JobState.SUCCEEDED:
        raise jobs.wrong_state(original, "reproduce")
    spec = JobSpec.model_validate(original.spec)
    name = original.name[: MAX_NAME - len(REPRODUCED)] + REPRODUCED
    return accept(spec.model_copy(update={"name": name}), reproduces=original.id)


@bp.delete("/v1/jobs/<job_id>")
@endpoint(schemas.DeletedJob, errors=(404, 409, 503))
def delete(job_id: str) -> Response:
    """Delete a job that has ended, with its log and its files"""
    with services().database.write() as session:
        freed = jobs.remove(session, job_id)
    try:
        services().store.remove_job(job_id)  # after the rows: nobody is shown a file that is gone
    except OSError as error:
        log.warning("files of a deleted job remain", job_id=job_id, error=str(error))
        freed = 0
    return jsonify({"object": "job", "id": job_id, "deleted": True, "freed_bytes": freed})


# --- the filter as SQL ------------------------------------------------------------------------------------------------


def _matching(session: Session, query: JobFilter) -> Select[tuple[Job]]:
    """Ids begin with the time, so the primary key is the order, and a cursor works on when its job has been deleted."""
    wanted: list[ColumnElement[bool]] = []
    if query.status:
        wanted.append(or_(*(_shows(status) for status in query.status)))
    if query.name is not None:
        wanted.append(Job.name.ilike(_like(query.name), escape="\\"))
    if query.created_after is not None:
        wanted.append(Job.created_at > query.created_after)
    if query.after is not None:
        wanted.append(Job.id < query.after)
    wanted += [_has_label(session, key, value) for key, value in query.labels.items()]
    return select(Job).where(*wanted).order_by(Job.id.desc())


def _shows(status: str) -> ColumnElement[bool]:
    """The rows for which `shown_status` says so."""
    cancel, pause = Job.cancel_requested_at, Job.pause_requested_at
    wishes = {
        "cancelling": (cancel.is_not(None),),
        "pausing": (cancel.is_(None), pause.is_not(None)),
        "running": (cancel.is_(None), pause.is_(None)),
    }
    if status in wishes:
        return and_(Job.state == JobState.RUNNING, *wishes[status])
    return Job.state == status


def _like(pattern: str) -> str:
    for special in "\\%_":
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")


def _has_label(session: Session, key: str, value: str) -> ColumnElement[bool]:
    if session.get_bind().dialect.name == "postgresql":
        return Job.labels[key].as_string() == value
    # SQLite's JSON paths cannot name a key that JSON writes with an escape, as é or a quote
    pair = func.json_each(Job.labels).table_valued("key", "value")
    return exists().where(pair.c.key == key, pair.c.value == value)


# --- the job object ---------------------------------------------------------------------------------------------------


def to_json(session: Session, job: Job, attempts: Sequence[Attempt] | None = None) -> dict[str, Any]:
    state = JobState(job.state)
    if attempts is None:
        attempts = jobs.attempts_of(session, job.id) if job.attempt else []
    me = f"/v1/jobs/{job.id}"
    return {
        "object": "job",
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "status": jobs.status_of(job),
        "terminal": state in TERMINAL,
        "status_reason": job.status_reason,
        "spec": job.spec,
        "attempt": job.attempt,
        "attempts": [_attempt(attempt) for attempt in attempts],
        "queue": roster.queue_standing(session, job, services().settings.lease_seconds),
        "progress": _progress(job),
        "result": job.result,
        **_article(job),
        "reproduces": job.reproduces,
        "labels": job.labels,
        "priority": job.priority,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp_or_none(job.started_at),
        "finished_at": timestamp_or_none(job.finished_at),
        "cancel_requested_at": timestamp_or_none(job.cancel_requested_at),
        "pause_requested_at": timestamp_or_none(job.pause_requested_at),
        "links": {
            "self": me,
            "events": f"{me}/events",
            "metrics": f"{me}/metrics",
            "artifacts": f"{me}/artifacts",
            "cancel": f"{me}/cancel",
            "pause": f"{me}/pause",
            "resume": f"{me}/resume",
            "reproduce": f"{me}/reproduce",
        },
    }


def _article(job: Job) -> dict[str, Any]:
    """What the article printed of the run that this job's preset stands for; nothing where the body changed the run.

    The number of epochs may differ: the figures are then compared as far as both go.
    """
    preset = PRESETS.get(job.spec.get("preset") or "")
    if preset is None:
        return {}
    same = all(job.spec[field] == value for field, value in _fields_of(preset.name).items() if field != "epochs")
    return {"article": preset.article} if same else {}


@functools.cache
def _fields_of(preset: str) -> dict[str, Any]:
    """What a preset says, short forms written out; the same for every job that a list shows."""
    given = PRESETS[preset].spec
    whole = JobSpec.model_validate(given).to_json()
    return {field: whole[field] for field in given}


def _dry_run(session: Session, spec: JobSpec, info: DatasetInfo) -> dict[str, Any]:
    device = "cpu" if spec.device == "cpu" or not (spec.device == "cuda" or _some_gpu(session)) else "cuda"
    found = estimate(spec, info, device, jobs.speeds_like(session, spec, device))
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
    live = roster.live_workers(session, services().settings.lease_seconds)
    return any("cuda" in worker.devices["kinds"] for worker in live)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "worker": attempt.worker,
        "device": attempt.device,
        "started_at": timestamp(attempt.started_at),
        "finished_at": timestamp_or_none(attempt.finished_at),
        "resumed_from_step": attempt.resumed_from_step,
        "outcome": attempt.outcome,
    }


def _progress(job: Job) -> dict[str, Any] | None:
    """What the worker stored, with the share that is done and, while the job runs, the time that is left."""
    if job.progress is None:
        return None
    done, total, speed = (job.progress[key] for key in ("step", "total_steps", "examples_per_second"))
    eta = None
    if job.state == JobState.RUNNING and speed:
        eta = round((total - done) * job.spec["batch_size"] / speed, 1)
    return {
        "epoch": job.progress["epoch"],
        "epochs": job.progress["epochs"],
        "step": done,
        "total_steps": total,
        "percent": round(100 * done / total, 1) if total else 0.0,
        "examples_per_second": speed,
        "eta_seconds": eta,
    }


def _attempts_by_job(session: Session, job_ids: list[str]) -> dict[str, list[Attempt]]:
    """The attempts of a whole page in one query."""
    found: dict[str, list[Attempt]] = {}
    for attempt in session.scalars(select(Attempt).where(Attempt.job_id.in_(job_ids)).order_by(Attempt.number)):
        found.setdefault(attempt.job_id, []).append(attempt)
    return found
