"""The job store, as the API uses it: create, read, cancel, pause, resume, retry, edit, delete.

Each change appends a line to the job's log in the same transaction. Functions that find no job raise NotFound; those
that the job's state does not allow raise WrongState.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import uuid6
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from shared import file_removals
from shared.db.tables import ArtifactRow, Attempt, CheckpointRow, CurveBlock, EventRow, Job, JobLabel
from shared.errors import NotFound, WrongState
from shared.events import UNDRAWN
from shared.jobs import counters, search_rows, stored_bytes
from shared.jobs.joblog import Line, add_line, insert_lines, now, status_line
from shared.jobs.states import ALLOWED_ACTIONS, TERMINAL, JobState, shown_status
from shared.spec.job_spec import JobSpec, Work

MOST_CHANGE_BYTES = 4096  # of a line about changed fields
CHANGE_WIDTHS = (512, 64, 16)  # characters of a label and its name in it: the first of these that makes it short enough
LARGE_LABELS = 2000  # characters; jobs with more are counted when they are submitted

ENDED = {JobState.FAILED: "the job failed", JobState.CANCELLED: "the job was cancelled"}


def new_id(prefix: str) -> str:
    """A new id that sorts by time of creation (UUID version 7)."""
    return f"{prefix}_{uuid6.uuid7().hex}"


def create(session: Session, spec: Work, reproduces: str | None = None, owner: str | None = None) -> Job:
    """Insert a queued job. `reproduces` is the id of the job that it repeats; `owner` is None for anonymous access."""
    job = Job(
        id=new_id("job"),
        owner=owner,
        name=spec.name,
        kind=spec.kind,
        reproduces=reproduces,
        state=JobState.QUEUED,
        spec=spec.to_json(),
        labels=spec.labels,
        priority=spec.priority,
        device=spec.device,
        attempt=0,
        failures=0,
        last_seq=1,
        created_at=now(),
    )
    session.add(job)
    session.flush()
    search_rows.add(session, job.id, job.name, job.labels)
    insert_lines(session, job.id, 0, 1, [status_line(JobState.QUEUED, "job queued")])
    if sum(len(name) + len(value) for name, value in spec.labels.items()) > LARGE_LABELS:
        stored_bytes.count_log(session, job.id)
    return job


def get(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"job {job_id} not found")
    return job


def check_owner(session: Session, job_id: str, visible_to: str | None) -> None:
    """Raise NotFound for a job of another owner, as for a missing one. `visible_to` None allows all owners."""
    if visible_to is not None and session.scalar(select(Job.owner).where(Job.id == job_id)) != visible_to:
        raise NotFound(f"job {job_id} not found")


def attempts_of(session: Session, job_id: str) -> Sequence[Attempt]:
    return session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)).all()


RECENT_JOBS = 200  # number of recent jobs that `speeds_like` reads


def speeds_like(session: Session, spec: JobSpec, device: str, visible_to: str | None) -> list[float]:
    """Examples per second of recent succeeded jobs with the same network, gradients, data, batch size and device.

    `visible_to`: of this owner's jobs only; None: of all.
    """
    visible = [] if visible_to is None else [Job.owner == visible_to]
    query = (
        select(Job.spec, Job.result)
        .where(Job.kind == JobSpec.kind, Job.state == JobState.SUCCEEDED, *visible)
        .order_by(Job.id.desc())
        .limit(RECENT_JOBS)
    )
    asked = spec.to_json()
    same = ("architecture", "gradients", "verify", "dataset", "augment", "batch_size", "precision")
    return [
        result["examples_per_second"]
        for theirs, result in session.execute(query)
        if result
        and result.get("examples_per_second")
        and str(result.get("device", "")).startswith(device)
        and all(theirs.get(field) == asked[field] for field in same)
    ]


def artifacts_of(session: Session, job_id: str) -> Sequence[ArtifactRow]:
    """The files that clients see: without pictures that are not drawn yet (shared/pictures/undrawn.py)."""
    shown = select(ArtifactRow).where(ArtifactRow.job_id == job_id, ArtifactRow.name != UNDRAWN)
    return session.scalars(shown.order_by(ArtifactRow.name)).all()


def artifact(session: Session, job_id: str, name: str) -> ArtifactRow:
    """One of the files that clients see. Raises NotFound."""
    row = session.get(ArtifactRow, (job_id, name))
    if row is None or name == UNDRAWN:
        raise NotFound(f"job {job_id} has no artifact {name}")
    return row


def request_cancel(session: Session, job_id: str) -> Job:
    """Cancel a queued or paused job at once; record the request on a running one. A repeated request has no effect."""
    job = lock_job(session, job_id)
    if job.state in (JobState.QUEUED, JobState.PAUSED):
        message = "cancelled before it started" if job.state == JobState.QUEUED else "cancelled while it was paused"
        job.state, job.status_reason = JobState.CANCELLED, {"code": "cancelled_by_user", "detail": message}
        job.cancel_requested_at = job.finished_at = now()
        counters.job_ended(session, job.state, "cancelled_by_user", None)
        add_line(session, job_id, status_line(JobState.CANCELLED, message))
        stored_bytes.count_log(session, job_id)
    elif job.state == JobState.RUNNING and job.cancel_requested_at is None:
        job.cancel_requested_at = now()
        add_line(session, job_id, Line("status", "cancel requested", {"status": "cancelling"}))
    elif job.state in TERMINAL and job.state != JobState.CANCELLED:
        raise wrong_state(job, "cancel")
    return job


def request_pause(session: Session, job_id: str) -> Job:
    """Record the request on a running job. A repeated request, or one for a paused job, has no effect."""
    job = lock_job(session, job_id)
    if status_of(job) == "running":
        job.pause_requested_at = now()
        add_line(session, job_id, Line("status", "pause requested", {"status": "pausing"}))
    elif status_of(job) not in ("pausing", "paused"):
        raise wrong_state(job, "pause")
    return job


def resume(session: Session, job_id: str) -> Job:
    """Queue a paused job again, or withdraw a pause request that the worker has not carried out yet."""
    job = lock_job(session, job_id)
    if status_of(job) not in ("pausing", "paused"):
        raise wrong_state(job, "resume")
    job.pause_requested_at = None
    if job.state == JobState.PAUSED:
        job.state = JobState.QUEUED
        add_line(session, job_id, status_line(JobState.QUEUED, "resumed; queued again"))
    else:
        add_line(session, job_id, status_line(JobState.RUNNING, "pause request withdrawn"))
    stored_bytes.count_log(session, job_id)
    return job


def retry(session: Session, job_id: str) -> Job:
    """Queue a failed or cancelled job again; it resumes from its last checkpoint, if it has one.

    It keeps its log and attempts. Its artifacts stay until it ends again and replaces them.
    """
    job = lock_job(session, job_id)
    if job.state not in (JobState.FAILED, JobState.CANCELLED):
        raise wrong_state(job, "retry")
    message = f"{ENDED[JobState(job.state)]}; queued again on request"
    job.state, job.failures = JobState.QUEUED, 0
    job.status_reason = job.result = job.finished_at = job.not_before = None
    job.cancel_requested_at = job.pause_requested_at = job.worker = None
    add_line(session, job_id, status_line(JobState.QUEUED, message))
    return job


def edit(session: Session, job: Job, wanted: dict[str, Any]) -> None:
    """Change name, priority or labels, also in the spec, and log what changed. `job` must come from `lock_job`."""
    changed = {name: (old, new) for name, new in wanted.items() if (old := getattr(job, name)) != new}
    if not changed:
        return
    before = stored_bytes.row_text(session, job.id)
    for name, (_, new) in changed.items():
        setattr(job, name, new)
    job.spec = {**job.spec, **{name: new for name, (_, new) in changed.items()}}
    session.flush()
    if "name" in changed:
        search_rows.rename(session, *changed["name"])
    if "labels" in changed:
        search_rows.relabel(session, job.id, job.labels)
    add_line(session, job.id, _line_about(changed))
    stored_bytes.count_row_again(session, job.id, before)
    stored_bytes.count_log(session, job.id)


def _line_about(changed: dict[str, tuple[Any, Any]]) -> Line:
    """Line of a job's log with the old and new values. Long labels are cut, so that a page of a log of changes stays
    small."""
    for width in CHANGE_WIDTHS:
        pairs = {name: {"from": _cut(old, width), "to": _cut(new, width)} for name, (old, new) in changed.items()}
        if len(json.dumps(pairs)) <= MOST_CHANGE_BYTES:
            break
    said = (f"{name} changed from {_text(pair['from'])} to {_text(pair['to'])}" for name, pair in pairs.items())
    return Line("log", _cut("; ".join(said), MOST_CHANGE_BYTES // 4), {"changed": pairs})


def _cut(value: Any, width: int) -> Any:
    """A text, or texts and names of labels, of at most `width` characters."""
    if isinstance(value, dict):
        return {_cut(name, width): _cut(text, width) for name, text in value.items()}
    return f"{value[: width - 1]}…" if isinstance(value, str) and len(value) > width else value


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def lock_job(session: Session, job_id: str) -> Job:
    """Lock the job's row (SELECT … FOR UPDATE) and return it, so that no worker changes its state meanwhile.

    Values that the session has read before are refreshed.
    """
    locked = select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    job = session.scalar(locked)
    if job is None:
        raise NotFound(f"job {job_id} not found")
    return job


def remove(session: Session, job_id: str) -> None:
    """Delete the rows of a job that has ended, and list its files for removal."""
    job = lock_job(session, job_id)
    if job.state not in TERMINAL:
        raise wrong_state(job, "delete")
    for table in (ArtifactRow, CheckpointRow):
        stored_bytes.add_of_job(session, job_id, table.__tablename__, -bytes_of(session, table, job_id))
    stored_bytes.remove_log(session, job_id)
    for child in (EventRow, CurveBlock, ArtifactRow, CheckpointRow, Attempt, JobLabel):
        session.execute(delete(child).where(child.job_id == job_id))
    session.delete(job)
    session.flush()
    search_rows.forget(session, job.name)
    file_removals.add(session, job_id)


def status_of(job: Job) -> str:
    """The status shown to clients, from the row's state and its pending requests."""
    return shown_status(JobState(job.state), job.cancel_requested_at is not None, job.pause_requested_at is not None)


def allowed_actions(job: Job) -> list[str]:
    """The actions that a client may take on the job in its current status."""
    return [name for name in ALLOWED_ACTIONS[status_of(job)] if name != "reproduce" or job.kind == JobSpec.kind]


def wrong_state(job: Job, action: str, why: str | None = None) -> WrongState:
    """The error for an action that is not allowed; `why` replaces the reason if that is not the job's status."""
    status, allowed = status_of(job), allowed_actions(job)
    detail = f"{why or f'cannot {action} a job that is {status}'}; allowed now: {', '.join(allowed)}"
    return WrongState(detail, state=status, allowed=allowed)


def stored_keys(session: Session, job_id: str) -> set[str]:
    """The keys of the job's artifacts and checkpoints."""
    return {
        key
        for table in (ArtifactRow, CheckpointRow)
        for key in session.scalars(select(table.key).where(table.job_id == job_id))
    }


def bytes_of(session: Session, table: type[ArtifactRow | CheckpointRow], job_id: str) -> int:
    """The total size of the job's artifacts or checkpoints, in bytes."""
    # PostgreSQL sums bigints to a Decimal
    return int(session.scalar(select(func.sum(table.size_bytes)).where(table.job_id == job_id)) or 0)
