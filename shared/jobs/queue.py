"""The queue as workers know it: claim, renew, hand back, finish. Each change is one guarded statement.

A running job belongs to a `Lease` (job, attempt, token). Whoever writes for an attempt names its lease; when the row
says otherwise the write does nothing and raises LeaseLost. Thus a worker that was given up for lost can do no harm.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, CursorResult, Update, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from shared.artifacts import StoredFile
from shared.db.tables import ArtifactRow, Attempt, CheckpointRow, EventRow, Job, database_now
from shared.errors import LeaseLost
from shared.events import Level
from shared.jobs import counters, jobs, limits
from shared.jobs.joblog import Line, add_line, insert_lines, now, status_line
from shared.jobs.states import ALLOWED_MOVES, TERMINAL, JobState

StopRequest = Literal["cancel", "pause"]
Cause = Literal["worker_lost", "trainer_died", "disk_full", "internal_error"]  # of a loss: the attempt's outcome

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 5.0, 60.0


@dataclass(frozen=True)
class Lease:
    """The right to write for one attempt of one job."""

    job_id: str
    attempt: int
    token: str


def may_start() -> ColumnElement[bool]:
    """It waits, and its backoff is over; one that ends later than any can is from before the clock was put back."""
    ready = or_(
        Job.not_before.is_(None),
        Job.not_before <= database_now(),
        Job.not_before > database_now(LONGEST_BACKOFF_SECONDS),
    )
    return and_(Job.state == JobState.QUEUED, ready)


def waiting(session: Session, fits: Iterable[str], most: int, running_limit: int | None = None) -> int:
    """How many jobs a slot that grants `fits` could claim now; not counted beyond `most`."""
    claimable = (may_start(), Job.device.in_(list(fits)), *limits.may_run_more(running_limit))
    some = select(Job.id).where(*claimable).limit(most).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def claim(
    session: Session,
    worker: str,
    device: str,
    fits: Iterable[str],
    lease_seconds: float,
    running_limit: int | None = None,
) -> Job | None:
    """Take the best queued job whose device wish is in `fits`: raise its attempt, write a lease. None: none waits.

    `running_limit`: how many jobs of one owner may run; those of an owner who has as many are passed over.
    """
    limits.lock_claims(session, running_limit)
    best = (
        select(Job.id)
        .where(may_start(), Job.device.in_(list(fits)), *limits.may_run_more(running_limit))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    token = secrets.token_hex(16)
    job = session.scalar(
        update(Job)
        .where(Job.id == best, Job.state == JobState.QUEUED)
        .values(
            state=JobState.RUNNING,
            attempt=Job.attempt + 1,
            worker=worker,
            lease_token=token,
            lease_until=database_now(lease_seconds),
            started_at=func.coalesce(Job.started_at, now()),
            not_before=None,
        )
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if job is None:
        return None
    if job.attempt == 1:
        counters.job_started(session, (now() - job.created_at).total_seconds())
    session.add(Attempt(job_id=job.id, number=job.attempt, worker=worker, device=device, started_at=now()))
    message = f"attempt {job.attempt} started on {device}"
    add_line(session, job.id, status_line(JobState.RUNNING, message, worker=worker, device=device), attempt=job.attempt)
    return job


def lease_of(job: Job) -> Lease:
    assert job.lease_token is not None, "only a claimed job has a lease"
    return Lease(job.id, job.attempt, job.lease_token)


def renew(session: Session, lease: Lease, lease_seconds: float, progress: dict[str, Any] | None = None) -> None:
    values: dict[str, Any] = {"lease_until": database_now(lease_seconds)}
    if progress is not None:
        values["progress"] = progress
    _fenced(session, lease, update(Job).values(**values))


def requested_stop(session: Session, lease: Lease) -> StopRequest | None:
    """What somebody asked of the job, a cancel before a pause; LeaseLost when it is no longer this attempt's."""
    row = session.execute(select(Job.cancel_requested_at, Job.pause_requested_at).where(*_holds(lease))).one_or_none()
    if row is None:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")
    cancel, pause = row
    return "cancel" if cancel is not None else "pause" if pause is not None else None


def append(session: Session, lease: Lease, lines: Sequence[Line]) -> None:
    """Append to the log in order. A point of the curve that already stands there is left out."""
    if not lines:
        return
    last = session.scalar(
        update(Job).where(*_holds(lease)).values(last_seq=Job.last_seq + len(lines)).returning(Job.last_seq)
    )
    if last is None:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")
    first = last - len(lines) + 1
    insert_lines(session, lease.job_id, lease.attempt, first, lines)


def resume_point(session: Session, lease: Lease) -> tuple[list[CheckpointRow], int]:
    """The job's checkpoints, newest first, and the last step of the curve that the log already holds (-1: none)."""
    rows = session.scalars(
        select(CheckpointRow).where(CheckpointRow.job_id == lease.job_id).order_by(CheckpointRow.step.desc())
    ).all()
    last = session.scalar(
        select(func.max(EventRow.step)).where(EventRow.job_id == lease.job_id, EventRow.series.is_not(None))
    )
    return list(rows), -1 if last is None else last


def note_resumed(session: Session, lease: Lease, step: int) -> None:
    _locked(session, lease)
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == lease.job_id, Attempt.number == lease.attempt)
        .values(resumed_from_step=step)
    )


def add_checkpoint(
    session: Session, lease: Lease, file: StoredFile, step: int, epoch: int, keep_last: int
) -> list[str]:
    """Record a stored checkpoint; return the keys of those that it replaces or that are beyond `keep_last`."""
    row = CheckpointRow(
        job_id=lease.job_id,
        step=step,
        attempt=lease.attempt,
        epoch=epoch,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        key=file.key,
        created_at=now(),
    )
    append(session, lease, [Line("checkpoint", f"checkpoint at step {step}", {"step": step, "epoch": epoch})])
    query = select(CheckpointRow).where(CheckpointRow.job_id == lease.job_id)
    before = jobs.bytes_of(session, CheckpointRow, lease.job_id)
    replaced = session.scalar(query.where(CheckpointRow.step == step, CheckpointRow.key != file.key))
    freed = [replaced.key] if replaced else []  # an earlier attempt's, at the same step
    session.merge(row)
    session.flush()
    for stale in session.scalars(query.order_by(CheckpointRow.step.desc()).offset(keep_last)).all():
        session.delete(stale)
        freed.append(stale.key)
    session.flush()
    counters.stored(session, "checkpoints", jobs.bytes_of(session, CheckpointRow, lease.job_id) - before)
    return freed


def finish(
    session: Session,
    lease: Lease,
    state: JobState,
    message: str,
    reason: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    progress: dict[str, Any] | None = None,
    files: Sequence[StoredFile] = (),
) -> None:
    """End the job: its files, its last line and its state in one transaction."""
    assert state in ALLOWED_MOVES[JobState.RUNNING] & TERMINAL
    lines = [Line("artifact", f"stored {f.name}", {"name": f.name, "size_bytes": f.size_bytes}) for f in files]
    level: Level = "error" if state is JobState.FAILED else "info"
    append(session, lease, [*lines, Line("status", message, {"status": state.value, "reason": reason}, level)])
    values: dict[str, Any] = {"state": state, "status_reason": reason, "finished_at": now()}
    values["lease_token"] = None  # nobody holds it any more
    if result is not None:
        values["result"] = result
    if progress is not None:
        values["progress"] = progress
    _fenced(session, lease, update(Job).values(**values, lease_until=None))
    counters.job_ended(session, state, reason["code"] if reason else None, result)
    counters.stored(
        session, "artifacts", sum(f.size_bytes for f in files) - jobs.bytes_of(session, ArtifactRow, lease.job_id)
    )
    session.execute(delete(ArtifactRow).where(ArtifactRow.job_id == lease.job_id))
    session.add_all(ArtifactRow(job_id=lease.job_id, created_at=now(), **vars(f)) for f in files)
    _end_attempt(session, lease, state.value)


def release(
    session: Session,
    lease: Lease,
    message: str,
    outcome: str = "drained",
    progress: dict[str, Any] | None = None,  # written if a cancel request ends the job here
) -> JobState:
    """The attempt stopped at a checkpoint, through no fault of its own: it costs none of `max_attempts`.

    The row says what follows, since a wish may have come or been taken back meanwhile: a cancel wins over a pause, a
    pause over the queue.
    """
    job = _locked(session, lease)
    if job.cancel_requested_at is not None:
        _end_cancelled(session, lease, progress)
        return JobState.CANCELLED
    if job.pause_requested_at is not None:
        _leave(session, lease, JobState.PAUSED, status_line(JobState.PAUSED, "paused"), "paused")
        return JobState.PAUSED
    _leave(session, lease, JobState.QUEUED, status_line(JobState.QUEUED, message), outcome)
    return JobState.QUEUED


def mark_lost(session: Session, lease: Lease, detail: str, cause: Cause = "worker_lost") -> JobState:
    """The attempt died. Cancelled or paused if that was wished, failed after `max_attempts`, else queued again."""
    job = _locked(session, lease)
    if job.cancel_requested_at is not None:
        _end_cancelled(session, lease)
        return JobState.CANCELLED
    failures, allowed = job.failures + 1, job.spec["max_attempts"]
    if failures >= allowed:
        reason = {
            "code": "too_many_attempts",
            "detail": f"{failures} of {allowed} attempts were lost; the last: {detail}",
        }
        finish(session, lease, JobState.FAILED, reason["detail"], reason)
        return JobState.FAILED
    pauses = job.pause_requested_at is not None
    state, follows = (JobState.PAUSED, "paused") if pauses else (JobState.QUEUED, "queued again")
    data = {"status": state.value, "reason": {"code": cause, "detail": detail}}
    line = Line("status", f"attempt {lease.attempt} was lost: {detail}; {follows}", data, "warning")
    wait = None if pauses else database_now(backoff_seconds(failures, cause))
    _leave(session, lease, state, line, cause, failures=failures, not_before=wait)
    return state


def backoff_seconds(failures: int, cause: Cause = "worker_lost") -> float:
    """At once after the first loss (most are deploys and evictions), then 5 s, 10 s, 20 s … 60 s.

    A full disk is rarely empty a moment later: there the first wait is one of 5 s too.
    """
    if failures <= 1 and cause != "disk_full":
        return 0.0
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** max(failures - 2, 0), LONGEST_BACKOFF_SECONDS)


def expired_leases(session: Session, lease_seconds: float = 3600.0) -> list[Lease]:
    """The leases that ran out: their workers are gone, or as good as.

    Nobody renews for much longer than `lease_seconds`: a lease that ends at ten times that dates from before the
    database's clock was put back. Its worker, if it lives, renews it soon, so give it the time before you ask.
    """
    over = or_(Job.lease_until < database_now(), Job.lease_until > database_now(10 * lease_seconds))
    return [lease_of(job) for job in session.scalars(select(Job).where(Job.state == JobState.RUNNING, over))]


def next_expiry(session: Session) -> datetime | None:
    """When the first of the leases runs out, if nobody renews it; None: nothing runs."""
    return session.scalar(select(func.min(Job.lease_until)).where(Job.state == JobState.RUNNING))


# --- the statements that all of the above are made of -----------------------------------------------------------------


def _holds(lease: Lease) -> tuple[Any, ...]:
    return (
        Job.id == lease.job_id,
        Job.attempt == lease.attempt,
        Job.lease_token == lease.token,
        Job.state == JobState.RUNNING,
    )


def _locked(session: Session, lease: Lease) -> Job:
    """The lease's row, locked until the transaction ends; LeaseLost when it is no longer the lease's."""
    job = session.scalar(select(Job).where(*_holds(lease)).with_for_update())
    if job is None:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")
    return job


def _leave(session: Session, lease: Lease, state: JobState, line: Line, outcome: str, **values: Any) -> None:
    """End the attempt and not the job: its last line and the row's new state in one transaction."""
    assert state in ALLOWED_MOVES[JobState.RUNNING] - TERMINAL
    append(session, lease, [line])
    _fenced(session, lease, update(Job).values(state=state, lease_token=None, lease_until=None, worker=None, **values))
    _end_attempt(session, lease, outcome)


def _end_cancelled(session: Session, lease: Lease, progress: dict[str, Any] | None = None) -> None:
    reason = {"code": "cancelled_by_user", "detail": "cancelled on request"}
    finish(session, lease, JobState.CANCELLED, reason["detail"], reason, progress=progress)


def _fenced(session: Session, lease: Lease, change: Update) -> None:
    """Change the lease's row, or raise LeaseLost when it is no longer the lease's."""
    if _changed(session, change.where(*_holds(lease))) != 1:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")


def _changed(session: Session, statement: Update) -> int:
    """Execute a write and return how many rows it wrote."""
    result = cast("CursorResult[Any]", session.execute(statement, execution_options={"synchronize_session": False}))
    return result.rowcount


def _end_attempt(session: Session, lease: Lease, outcome: str) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == lease.job_id, Attempt.number == lease.attempt)
        .values(finished_at=now(), outcome=outcome)
    )
