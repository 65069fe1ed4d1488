"""The job object of the API: a row, its attempts and its position in the queue."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.http.render import timestamp, timestamp_or_none
from api.jobs import queue_status
from api.services import services
from shared.db.tables import Attempt, Job
from shared.jobs import jobs
from shared.jobs.states import TERMINAL, JobState
from shared.spec.job_spec import GradientCheckSpec, JobSpec
from shared.spec.presets import PRESETS

LINKS = ("events", "metrics", "artifacts", "cancel", "pause", "resume", "retry", "reproduce", "predict")


def to_json(session: Session, job: Job) -> dict[str, Any]:
    return page_to_json(session, [job])[0]


def page_to_json(session: Session, page: Sequence[Job]) -> list[dict[str, Any]]:
    """The job objects of a page, with at most three queries."""
    attempts = _attempts_of(session, [job.id for job in page if job.attempt])
    settings = services().settings
    standings = queue_status.queue_standings(session, page, settings.lease_seconds, settings.max_running_jobs)
    return [_job(job, attempts.get(job.id, []), standings.get(job.id)) for job in page]


def _attempts_of(session: Session, job_ids: list[str]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    if job_ids:
        for attempt in session.scalars(select(Attempt).where(Attempt.job_id.in_(job_ids)).order_by(Attempt.number)):
            found.setdefault(attempt.job_id, []).append(attempt)
    return found


def _job(job: Job, attempts: Sequence[Attempt], standing: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "object": "job",
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "status": jobs.status_of(job),
        "terminal": JobState(job.state) in TERMINAL,
        "status_reason": job.status_reason,
        "spec": job.spec,
        "attempt": job.attempt,
        "attempts": [_attempt(attempt) for attempt in attempts],
        "queue": standing,
        "progress": _progress(job),
        "result": job.result,
        **_article(job),
        "reproduces": job.reproduces,
        "labels": job.labels,
        "priority": job.priority,
        "owner": job.owner,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp_or_none(job.started_at),
        "finished_at": timestamp_or_none(job.finished_at),
        "cancel_requested_at": timestamp_or_none(job.cancel_requested_at),
        "pause_requested_at": timestamp_or_none(job.pause_requested_at),
        "links": _links(f"/v1/jobs/{job.id}"),
    }


def _links(me: str) -> dict[str, str]:
    files = {"artifacts_zip": f"{me}/artifacts.zip", "loss_curve": f"{me}/loss_curve.svg"}
    return {"self": me, **{name: f"{me}/{name}" for name in LINKS}, **files}


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
    """The progress that the worker stored, with the percentage done and, while the job runs, the remaining seconds."""
    if job.progress is None:
        return None
    done, total, speed = (job.progress[key] for key in ("step", "total_steps", "examples_per_second"))
    eta = None
    batch_size = job.spec.get("batch_size")  # None: a job of a kind that this version does not know
    if job.state == JobState.RUNNING and speed and batch_size:
        batches = (total - done) / _steps_per_batch(job, total)
        eta = round(batches * batch_size / speed, 1)
    return {
        "epoch": job.progress["epoch"],
        "epochs": job.progress["epochs"],
        "step": done,
        "total_steps": total,
        "percent": round(100 * done / total, 1) if total else 0.0,
        "examples_per_second": speed,
        "eta_seconds": eta,
    }


def _steps_per_batch(job: Job, total_steps: int) -> float:
    """A gradient check takes a step for each parameter of a batch; other jobs one per batch."""
    return total_steps / job.progress["epochs"] if job.kind == GradientCheckSpec.kind and job.progress else 1.0


def _article(job: Job) -> dict[str, Any]:
    """The article's results for the job's preset; empty if the spec differs from the preset.

    The number of epochs may differ: results are then compared for the epochs that both have.
    """
    preset = PRESETS.get(job.spec.get("preset") or "")
    if preset is None:
        return {}
    same = all(job.spec[field] == value for field, value in _fields_of(preset.name).items() if field != "epochs")
    return {"article": preset.article} if same else {}


@functools.cache
def _fields_of(preset: str) -> dict[str, Any]:
    """The fields that a preset sets, short forms expanded; cached, since it is the same for each job of a list."""
    given = PRESETS[preset].spec
    whole = JobSpec.model_validate(given).to_json()
    return {field: whole[field] for field in given}
