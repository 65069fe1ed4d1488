"""The job queue, as workers use it: claim, renew, release, finish. Each change is one guarded statement.

A running job belongs to a `Lease` (job, attempt, token). Each write for an attempt names its lease; if the row has
another one, the write has no effect and raises LeaseLost. So a worker whose job was requeued cannot overwrite anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, CursorResult, Update, and_, case, delete, func, literal, or_, select, update
from sqlalchemy.orm import Session

from shared.artifacts import StoredFile
from shared.db.tables import ArtifactRow, Attempt, CheckpointRow, EventRow, Job, database_now
from shared.errors import LeaseLost
from shared.events import UNDRAWN, Level
from shared.jobs import counters, jobs, limits, stored_bytes
from shared.jobs.joblog import Line, add_line, insert_lines, now, status_line
from shared.jobs.retry_backoff import LONGEST_BACKOFF_SECONDS, MOST_OUTAGES, OUTAGES, Cause, backoff_seconds
from shared.jobs.states import ALLOWED_MOVES, TERMINAL, JobState
from shared.spec.job_spec import DEFAULT_ATTEMPTS, KINDS

StopRequest = Literal["cancel", "pause"]


@dataclass(frozen=True)
class Lease:
    """The right to write for one attempt of one job."""

    job_id: str
    attempt: int
    token: str


def may_start() -> ColumnElement[bool]:
    """Condition for a job that can be claimed: it is queued, and its retry backoff is over.

    A backoff that ends later than the longest possible one dates from before the clock was set back, and is ignored.
    """
    ready = or_(
        Job.not_before.is_(None),
        Job.not_before <= database_now(),
        Job.not_before > database_now(LONGEST_BACKOFF_SECONDS),
    )
    return and_(Job.state == JobState.QUEUED, ready)


def known_kind() -> ColumnElement[bool]:
    """Condition for a job of a kind that this version can run; a newer version may have queued others."""
    return Job.kind.in_(list(KINDS))


_running = select(Job.owner, func.count()).where(Job.state == JobState.RUNNING).group_by(Job.owner)


def running_by_owner(session: Session) -> dict[str | None, int]:
    """The number of running jobs of each owner who has some; None: of anonymous use. One indexed read."""
    return dict(session.execute(_running).tuples().all())


def running_of(running: Mapping[str | None, int]) -> ColumnElement[int]:
    """The number of running jobs of a row's owner, from `running_by_owner`."""
    named = {owner: count for owner, count in running.items() if owner is not None}
    of_named: ColumnElement[int] = case(named, value=Job.owner, else_=0) if named else literal(0)
    anonymous = running.get(None, 0)
    return case((Job.owner.is_(None), anonymous), else_=of_named) if anonymous else of_named


def _turns(running: Mapping[str | None, int]) -> Iterator[ColumnElement[bool]]:
    """Conditions for the owners of jobs, those with the fewest running jobs first."""
    named = [owner for owner in running if owner is not None]
    without = Job.owner.not_in(named)
    yield and_(Job.owner.is_not(None), without) if None in running else or_(Job.owner.is_(None), without)
    for count in sorted(set(running.values())):
        owners = [owner for owner in named if running[owner] == count]
        if running.get(None) == count:
            yield or_(Job.owner.is_(None), Job.owner.in_(owners))
        else:
            yield Job.owner.in_(owners)


def ahead_of(other: Any, job: Any) -> ColumnElement[bool]:
    """Whether `other` is claimed before `job` if both are queued and of one owner; each is a row or the table."""
    return or_(
        other.priority > job.priority,
        and_(other.priority == job.priority, other.created_at < job.created_at),
        and_(other.priority == job.priority, other.created_at == job.created_at, other.id < job.id),
    )


def waiting(session: Session, fits: Iterable[str], most: int, running_limit: int | None = None) -> int:
    """How many jobs a slot could claim now, counted up to `most`. `fits`: the requested devices that it can run."""
    claimable = (may_start(), known_kind(), Job.device.in_(list(fits)), *limits.may_run_more(running_limit))
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
    """Claim the first queued job of a known kind whose requested device is in `fits`; return None if there is none.

    Of the jobs of the highest priority, those of the owner with the fewest running jobs are first, then the oldest.
    Increments the job's attempt and writes a lease. `running_limit` is the number of jobs that one owner may have
    running; jobs of owners at the limit are skipped.
    """
    limits.lock_claims(session, running_limit)
    claimable = (may_start(), known_kind(), Job.device.in_(list(fits)), *limits.may_run_more(running_limit))
    first = _first(session, claimable)
    token = secrets.token_hex(16)
    job = session.scalar(
        update(Job)
        .where(Job.id == first, Job.state == JobState.QUEUED)
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
    if job.progress is not None:  # of the attempt before; the speed of this one is not known yet
        job.progress = {**job.progress, "examples_per_second": 0.0}
    session.add(Attempt(job_id=job.id, number=job.attempt, worker=worker, device=device, started_at=now()))
    message = f"attempt {job.attempt} started on {device}"
    add_line(session, job.id, status_line(JobState.RUNNING, message, worker=worker, device=device), attempt=job.attempt)
    return job


def _first(session: Session, claimable: Sequence[ColumnElement[bool]]) -> ColumnElement[Any]:
    """The query for the id of the first job that is claimable. Its row is locked, and locked rows are skipped.

    If jobs are running, the owners are tried in their turn among the jobs of the highest priority. Each try reads the
    index of the queue in its order, which takes less time than sorting the whole queue by owner.
    """
    running = running_by_owner(session)
    in_line = select(Job.id).where(*claimable).order_by(Job.priority.desc(), Job.created_at, Job.id).limit(1)
    in_line = in_line.with_for_update(skip_locked=True)
    if not running:
        return in_line.scalar_subquery()
    top = select(Job.priority).where(*claimable).order_by(Job.priority.desc()).limit(1).scalar_subquery()
    turns = [in_line.where(Job.priority == top, owners).scalar_subquery() for owners in _turns(running)]
    # the last one: other workers have locked all jobs of the highest priority
    return func.coalesce(*turns, in_line.scalar_subquery())


def lease_of(job: Job) -> Lease:
    assert job.lease_token is not None, "only a claimed job has a lease"
    return Lease(job.id, job.attempt, job.lease_token)


def renew(session: Session, lease: Lease, lease_seconds: float, progress: dict[str, Any] | None = None) -> None:
    """Extend the lease to `lease_seconds` from now and store the job's progress. Raises LeaseLost."""
    values: dict[str, Any] = {"lease_until": database_now(lease_seconds)}
    if progress is not None:
        values["progress"] = progress
    _fenced(session, lease, update(Job).values(**values))


def requested_stop(session: Session, lease: Lease) -> StopRequest | None:
    """The pending request to stop the job, if any; a cancel takes precedence over a pause. Raises LeaseLost."""
    row = session.execute(select(Job.cancel_requested_at, Job.pause_requested_at).where(*_holds(lease))).one_or_none()
    if row is None:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")
    cancel, pause = row
    return "cancel" if cancel is not None else "pause" if pause is not None else None


def append(session: Session, lease: Lease, lines: Sequence[Line]) -> None:
    """Append to the log in order; a point of the curve that the log already has is skipped. Raises LeaseLost."""
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
    """The job's checkpoints, newest first, and the last step of the curve in the log (-1 if there is none)."""
    rows = session.scalars(
        select(CheckpointRow).where(CheckpointRow.job_id == lease.job_id).order_by(CheckpointRow.step.desc())
    ).all()
    last = session.scalar(
        select(func.max(EventRow.step)).where(EventRow.job_id == lease.job_id, EventRow.series.is_not(None))
    )
    return list(rows), -1 if last is None else last


def note_resumed(session: Session, lease: Lease, step: int) -> None:
    """Record the step from which the attempt resumed. Raises LeaseLost."""
    _locked(session, lease)
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == lease.job_id, Attempt.number == lease.attempt)
        .values(resumed_from_step=step)
    )


def add_checkpoint(
    session: Session,
    lease: Lease,
    file: StoredFile,
    step: int,
    epoch: int,
    keep_last: int,
    lines: Sequence[Line] | None = None,
) -> list[str]:
    """Record a stored checkpoint. Returns the keys of files to delete: replaced ones, and those beyond `keep_last`.

    `lines`: what the log says of it; None: the line that `checkpoint_line` makes. Raises LeaseLost.
    """
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
    _locked(session, lease)
    append(session, lease, [checkpoint_line(step, epoch)] if lines is None else lines)
    query = select(CheckpointRow).where(CheckpointRow.job_id == lease.job_id)
    before = jobs.bytes_of(session, CheckpointRow, lease.job_id)
    replaced = session.scalar(query.where(CheckpointRow.step == step, CheckpointRow.key != file.key))
    freed = [replaced.key] if replaced else []  # an earlier attempt's checkpoint at the same step
    session.merge(row)
    session.flush()
    # by attempt first: an attempt that began anew, since the newer files were damaged, must keep its own
    newest = query.order_by(CheckpointRow.attempt.desc(), CheckpointRow.step.desc())
    for stale in session.scalars(newest.offset(keep_last)).all():
        session.delete(stale)
        freed.append(stale.key)
    session.flush()
    added = jobs.bytes_of(session, CheckpointRow, lease.job_id) - before
    stored_bytes.add_of_job(session, lease.job_id, "checkpoints", added)
    stored_bytes.count_log(session, lease.job_id)
    return freed


def checkpoint_line(step: int, epoch: int) -> Line:
    return Line("checkpoint", f"checkpoint at step {step}", {"step": step, "epoch": epoch})


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
    """End the job: write artifacts, last log line and terminal state in one transaction. Raises LeaseLost."""
    assert state in ALLOWED_MOVES[JobState.RUNNING] & TERMINAL
    shown = [file for file in files if file.name != UNDRAWN]
    lines = [Line("artifact", f"stored {f.name}", {"name": f.name, "size_bytes": f.size_bytes}) for f in shown]
    level: Level = "error" if state is JobState.FAILED else "info"
    append(session, lease, [*lines, Line("status", message, {"status": state.value, "reason": reason}, level)])
    values: dict[str, Any] = {"state": state, "status_reason": reason, "finished_at": now()}
    values["lease_token"] = None
    if result is not None:
        values["result"] = result
    if progress is not None:
        values["progress"] = progress
    _fenced(session, lease, update(Job).values(**values, lease_until=None))
    counters.job_ended(session, state, reason["code"] if reason else None, result)
    added = sum(f.size_bytes for f in files) - jobs.bytes_of(session, ArtifactRow, lease.job_id)
    stored_bytes.add_of_job(session, lease.job_id, "artifacts", added)
    stored_bytes.count_log(session, lease.job_id)
    session.execute(delete(ArtifactRow).where(ArtifactRow.job_id == lease.job_id))
    session.add_all(ArtifactRow(job_id=lease.job_id, created_at=now(), **vars(f)) for f in files)
    _end_attempt(session, lease, state.value)


def release(
    session: Session,
    lease: Lease,
    message: str,
    outcome: str = "drained",
    progress: dict[str, Any] | None = None,  # written if a cancel request ends the job here
    wait_seconds: float = 0.0,
) -> JobState:
    """End an attempt that stopped at a checkpoint on request; it does not count towards `max_attempts`. A job that is
    queued is not claimed for `wait_seconds`.

    Returns the job's new state. It is decided from the locked row, since a request may have been made or withdrawn
    meanwhile: `cancelled` if a cancel is requested, else `paused` if a pause is requested, else `queued`.
    Raises LeaseLost.
    """
    job = _locked(session, lease)
    if job.cancel_requested_at is not None:
        _end_cancelled(session, lease, progress)
        return JobState.CANCELLED
    if job.pause_requested_at is not None:
        _leave(session, lease, JobState.PAUSED, status_line(JobState.PAUSED, "paused"), "paused")
        return JobState.PAUSED
    wait = {"not_before": database_now(wait_seconds)} if wait_seconds else {}
    _leave(session, lease, JobState.QUEUED, status_line(JobState.QUEUED, message), outcome, **wait)
    return JobState.QUEUED


def mark_lost(session: Session, lease: Lease, detail: str, cause: Cause = "worker_lost") -> JobState:
    """End an attempt that was lost. Returns the job's new state: `cancelled` if that was requested, `failed` after
    `max_attempts`, `paused` if that was requested, else `queued` with a backoff. Raises LeaseLost.

    An outage (of the store, a disk, the database) does not count, up to MOST_OUTAGES in a row.
    """
    job = _locked(session, lease)
    if job.cancel_requested_at is not None:
        _end_cancelled(session, lease)
        return JobState.CANCELLED
    outages = _outages_in_a_row(session, lease) + 1 if cause in OUTAGES else 0
    counted = not 0 < outages <= MOST_OUTAGES
    failures, allowed = job.failures + counted, job.spec.get("max_attempts", DEFAULT_ATTEMPTS)
    if counted and failures >= allowed:
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
    wait = None if pauses else database_now(backoff_seconds(outages or failures, cause))
    _leave(session, lease, state, line, cause, failures=failures, not_before=wait)
    return state


def mark_expired(
    session: Session, lease: Lease, lease_seconds: float, detail: str, cause: Cause = "worker_lost"
) -> JobState:
    """End an attempt as `mark_lost` does, if its lease is one of `expired_leases` still, and its row is not locked: its
    worker may be about to renew it, as all are that waited for the same lock or the same server. Raises LeaseLost."""
    row = select(Job.id).where(*_holds(lease), _is_over(lease_seconds)).with_for_update(skip_locked=True)
    if session.scalar(row) is None:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")
    return mark_lost(session, lease, detail, cause)


def expired_leases(session: Session, lease_seconds: float = 3600.0) -> dict[Lease, datetime]:
    """The leases that have expired, and when: their workers are dead or cannot reach the database.

    A lease that ends more than ten times `lease_seconds` from now dates from before the database's clock was set back
    and counts as expired. If its worker is alive it will renew soon; callers should allow for that after a clock jump.
    """
    found = session.scalars(select(Job).where(Job.state == JobState.RUNNING, _is_over(lease_seconds)))
    return {lease_of(job): job.lease_until for job in found if job.lease_until is not None}


def next_expiry(session: Session) -> datetime | None:
    """When the first lease expires unless it is renewed; None if no job is running."""
    return session.scalar(select(func.min(Job.lease_until)).where(Job.state == JobState.RUNNING))


# --- statements used by the functions above ---------------------------------------------------------------------------


def _holds(lease: Lease) -> tuple[Any, ...]:
    return (
        Job.id == lease.job_id,
        Job.attempt == lease.attempt,
        Job.lease_token == lease.token,
        Job.state == JobState.RUNNING,
    )


def _is_over(lease_seconds: float) -> ColumnElement[bool]:
    """Condition for a row whose lease has expired, or has an end that `expired_leases` does not believe."""
    return or_(Job.lease_until < database_now(), Job.lease_until > database_now(10 * lease_seconds))


def _locked(session: Session, lease: Lease) -> Job:
    """The job's row, locked until the transaction ends. Raises LeaseLost if the lease is no longer valid."""
    job = session.scalar(select(Job).where(*_holds(lease)).with_for_update())
    if job is None:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")
    return job


def _leave(session: Session, lease: Lease, state: JobState, line: Line, outcome: str, **values: Any) -> None:
    """End the attempt but not the job: write its last log line and the job's new state in one transaction."""
    assert state in ALLOWED_MOVES[JobState.RUNNING] - TERMINAL
    append(session, lease, [line])
    _fenced(session, lease, update(Job).values(state=state, lease_token=None, lease_until=None, worker=None, **values))
    stored_bytes.count_log(session, lease.job_id)
    _end_attempt(session, lease, outcome)


def _end_cancelled(session: Session, lease: Lease, progress: dict[str, Any] | None = None) -> None:
    reason = {"code": "cancelled_by_user", "detail": "cancelled on request"}
    finish(session, lease, JobState.CANCELLED, reason["detail"], reason, progress=progress)


def _fenced(session: Session, lease: Lease, change: Update) -> None:
    """Update the job's row, or raise LeaseLost if the lease is no longer valid."""
    if _changed(session, change.where(*_holds(lease))) != 1:
        raise LeaseLost(f"job {lease.job_id}, attempt {lease.attempt}")


def _changed(session: Session, statement: Update) -> int:
    """Execute an update and return the number of rows changed."""
    result = cast("CursorResult[Any]", session.execute(statement, execution_options={"synchronize_session": False}))
    return result.rowcount


def _outages_in_a_row(session: Session, lease: Lease) -> int:
    """How many of the attempts right before this one were ended by an outage."""
    before = select(Attempt.outcome).where(Attempt.job_id == lease.job_id, Attempt.number < lease.attempt)
    recent = session.scalars(before.order_by(Attempt.number.desc()).limit(MOST_OUTAGES)).all()
    return next((number for number, outcome in enumerate(recent) if outcome not in OUTAGES), len(recent))


def _end_attempt(session: Session, lease: Lease, outcome: str) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == lease.job_id, Attempt.number == lease.attempt)
        .values(finished_at=now(), outcome=outcome)
    )
