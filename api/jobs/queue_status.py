"""The queue as clients see it: position and reason to wait of each queued job, and the queue of each device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, func, not_, or_, select, true
from sqlalchemy.orm import Session

from shared.db.tables import Job, Worker, database_now
from shared.jobs import limits
from shared.jobs.joblog import now
from shared.jobs.queue import may_start, running_by_owner, running_of
from shared.jobs.states import UNFINISHED, JobState
from shared.workers import job_kinds_of, live_workers

REQUESTED_DEVICES = ("auto", "cpu", "cuda")
OUTAGES = {
    "store_unavailable": "the artifact store is not available; it starts once the store takes files again",
    "disk_full": "the workers' disk is full or cannot be used; it starts once the disk takes files again",
}
NO_JOBS = (0, None, 0, None, 0, 0, None)


_queued = Job.state == JobState.QUEUED
_same = Job.priority == bindparam("priority")
_older = or_(
    Job.created_at < bindparam("created_at"),
    and_(Job.created_at == bindparam("created_at"), Job.id < bindparam("job_id")),
)
_by_owner = (  # queued jobs of a higher priority, of that or the same, and those of the same that are older
    select(
        Job.owner,
        func.count().filter(Job.priority > bindparam("priority")),
        func.count(),
        func.count().filter(_same, _older),
    )
    .where(_queued, Job.priority >= bindparam("priority"))
    .group_by(Job.owner)
)

_owners = select(Job.owner).where(_queued).distinct().limit(2)
_place = func.row_number().over(order_by=(Job.priority.desc(), Job.created_at, Job.id)).label("place")
_line = select(Job.id, _place).where(_queued).subquery()
_numbered = select(_line.c.id, _line.c.place).where(_line.c.id.in_(bindparam("ids", expanding=True)))


@dataclass(frozen=True)
class Queue:
    """The jobs that request one device, the slots that can run them, and why the queued ones wait."""

    device: str
    queued: int
    running: int
    paused: int
    oldest_queued_at: datetime | None
    slots: int
    free_slots: int
    reasons: list[dict[str, Any]]  # code, detail, and the number of jobs


def queue_standings(
    session: Session, some: Sequence[Job], live_within_seconds: float, running_limit: int | None = None
) -> dict[str, dict[str, Any]]:
    """Position (from 1) and reason to wait of each queued job in `some`, by id.

    Takes three queries for any number of jobs, and one more with `running_limit`.
    """
    waiting = [job for job in some if job.state == JobState.QUEUED]
    if not waiting:
        return {}
    ahead = _jobs_ahead(session, waiting)
    workers = live_workers(session, live_within_seconds)
    busy = limits.owners_at_limit(session, running_limit)
    return {
        job.id: {
            "position": ahead[job.id] + 1,
            "reason": _at_limit(running_limit) if job.owner in busy else _reason_to_wait(job, ahead[job.id], workers),
        }
        for job in waiting
    }


def _jobs_ahead(session: Session, waiting: list[Job]) -> dict[str, int]:
    """The number of queued jobs that are claimed before each of these, by id, if no running job ends before.

    Each claim adds to the running jobs of an owner, so an owner's k-th job in the order of priority and age is claimed
    when the owner has as many running jobs as now and k - 1 more; jobs of one priority are claimed in the order of
    that sum. Counting takes less time than numbering the whole queue, and is done for one job only; the jobs of a
    single owner are numbered without their turns.
    """
    if len(waiting) == 1:
        (job,) = waiting
        return {job.id: _count_ahead(session, job)}
    in_line = (Job.priority.desc(), Job.created_at, Job.id)
    ids = [job.id for job in waiting]
    if len(session.execute(_owners).all()) == 1:
        found = session.execute(_numbered, {"ids": ids})
        return {job_id: place - 1 for job_id, place in found}
    running = running_by_owner(session)
    turn = running_of(running) + func.row_number().over(partition_by=Job.owner, order_by=in_line)
    turns = (
        select(Job.id, Job.priority, Job.created_at, turn.label("turn")).where(Job.state == JobState.QUEUED).subquery()
    )
    order = (turns.c.priority.desc(), turns.c.turn, turns.c.created_at, turns.c.id)
    line = select(turns.c.id, func.row_number().over(order_by=order).label("place")).subquery()
    found = session.execute(select(line.c.id, line.c.place).where(line.c.id.in_(ids)))
    return {job_id: place - 1 for job_id, place in found}


def _count_ahead(session: Session, job: Job) -> int:
    """The number of queued jobs that are claimed before this one: see `_jobs_ahead`."""
    asked = {"priority": job.priority, "created_at": job.created_at, "job_id": job.id}
    by_owner = {owner: tuple(numbers) for owner, *numbers in session.execute(_by_owner, asked)}
    higher, _, own = by_owner.pop(job.owner, (0, 0, 0))
    ahead = higher + own
    if not by_owner:
        return ahead
    running = running_by_owner(session)
    turn = running.get(job.owner, 0) + ahead
    for owner, (higher, there, before) in by_owner.items():
        # the owner's jobs of this priority whose turn is earlier, and the one of the same turn if it is older
        at_first = running.get(owner, 0) + higher
        earlier = max(turn - at_first, 0)
        tied = turn >= at_first and earlier < min(there - higher, before)
        ahead += higher + min(earlier, there - higher) + tied
    return ahead


def _reason_to_wait(job: Job, ahead: int, workers: Sequence[Worker]) -> dict[str, str]:
    kinds = _kinds_of(_granting(job.device, workers))
    if kinds is not None and job.kind not in kinds:
        return _no_worker_for_kind(job.kind)
    if job.not_before is not None and job.not_before > now():
        return _backoff(job.not_before)
    jobs_ahead = "1 job" if ahead == 1 else f"{ahead} jobs"
    return _reason_of_device(job.device, workers, ahead + 1, f"{jobs_ahead} ahead, ")


def _kinds_of(workers: Sequence[Worker]) -> set[str] | None:
    """The kinds of jobs that some of these workers can run; None if that is unknown: without workers, or with one of a
    version that does not report it."""
    reported = [job_kinds_of(worker) for worker in workers]
    if not reported or None in reported:
        return None
    return {kind for kinds in reported for kind in kinds or ()}


def _no_worker_for_kind(kind: str) -> dict[str, str]:
    detail = f"no live worker can run a job of kind {kind}; update the workers to the version that accepted it"
    return {"code": "no_worker_for_kind", "detail": detail}


def _at_limit(limit: int | None) -> dict[str, str]:
    return {"code": "owner_at_limit", "detail": f"its owner has {limit} running jobs, the limit per owner"}


def _backoff(until: datetime) -> dict[str, str]:
    return {"code": "retry_backoff", "detail": f"retried from {until.isoformat(timespec='seconds')}"}


def _reason_of_device(device: str, workers: Sequence[Worker], jobs: int, ahead: str = "") -> dict[str, str]:
    """Why the first `jobs` jobs that request this device wait, apart from limits and backoff.

    If all of them have a free slot, they wait for their workers' next poll, and not for a device.
    """
    granting = _granting(device, workers)
    if not _granting("auto", workers):
        return {"code": "no_live_worker", "detail": "no worker is alive; start one with `gradq worker`"}
    if not granting:
        return {"code": "no_such_device", "detail": f"the job requests {device}, and no live worker has a GPU"}
    if all(worker.outage for worker in granting):
        return {"code": str(granting[0].outage), "detail": OUTAGES[str(granting[0].outage)]}
    granting = [worker for worker in granting if not worker.outage]
    free, slots = sum(worker.free_slots for worker in granting), sum(worker.slots for worker in granting)
    if free >= jobs:
        return {"code": "starting", "detail": "a slot is free; it starts within seconds"}
    return {"code": "waiting_for_device", "detail": f"{ahead}{free} of {slots} slots free"}


def _granting(device: str, workers: Sequence[Worker]) -> list[Worker]:
    """The workers that run jobs which request this device. A worker has slots of one kind; a GPU slot runs any job."""
    return [
        worker for worker in workers if not worker.draining and (device != "cuda" or "cuda" in worker.devices["kinds"])
    ]


def queues(session: Session, live_within_seconds: float, running_limit: int | None = None) -> list[Queue]:
    """One queue for each device that a job requests or a live worker offers."""
    workers = live_workers(session, live_within_seconds)
    later = Job.not_before > database_now()
    busy = Job.owner.in_(limits.owners_at_limit(session, running_limit))
    kinds = _kinds_of(_granting("auto", workers))
    known = Job.kind.in_(sorted(kinds)) if kinds is not None else true()
    query = (
        select(
            Job.device,
            Job.state,
            func.count(),
            func.min(Job.created_at),
            func.count().filter(later, known),
            func.min(Job.not_before).filter(later, known),
            func.count().filter(busy, may_start(), known),
            func.count().filter(not_(known)),
            func.min(Job.kind).filter(not_(known)),
        )
        .where(Job.state.in_(UNFINISHED))
        .group_by(Job.device, Job.state)
    )
    counted = {(device, state): tuple(numbers) for device, state, *numbers in session.execute(query)}
    return [
        _queue(
            device,
            {state: counted.get((device, state), NO_JOBS) for state in UNFINISHED},
            workers,
            running_limit,
        )
        for device in REQUESTED_DEVICES
        if _granting(device, workers) or any((device, state) in counted for state in UNFINISHED)
    ]


def _queue(
    device: str, counted: dict[JobState, tuple[Any, ...]], workers: Sequence[Worker], running_limit: int | None
) -> Queue:
    queued, oldest, backing_off, next_try, held_back, unknown, kind = counted[JobState.QUEUED]
    reasons: list[dict[str, Any]] = []
    if (ready := queued - backing_off - held_back - unknown) > 0:
        reasons.append({**_reason_of_device(device, workers, ready), "jobs": ready})
    if held_back:
        reasons.append({**_at_limit(running_limit), "jobs": held_back})
    if backing_off:
        reasons.append({**_backoff(next_try), "jobs": backing_off})
    if unknown:
        reasons.append({**_no_worker_for_kind(kind), "jobs": unknown})
    granting = _granting(device, workers)
    return Queue(
        device=device,
        queued=queued,
        running=counted[JobState.RUNNING][0],
        paused=counted[JobState.PAUSED][0],
        oldest_queued_at=oldest,
        slots=sum(worker.slots for worker in granting),
        free_slots=sum(worker.free_slots for worker in granting),
        reasons=reasons,
    )
