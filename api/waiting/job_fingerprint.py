"""Fingerprints of jobs: all that a client sees of a job and that can change, for any number of jobs in one query."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Text, and_, bindparam, case, cast, func, or_, select
from sqlalchemy.orm import Session, aliased

from shared.db.tables import Job, Worker, database_now
from shared.jobs.queue import ahead_of
from shared.jobs.states import TERMINAL, JobState


@dataclass(frozen=True)
class Fingerprint:
    """Equal fingerprints: nothing visible of the job has changed, and its log has the same length."""

    state: JobState
    last_seq: int
    rest: tuple[Any, ...]

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


def fingerprints_of(session: Session, job_ids: Iterable[str], live_within_seconds: float) -> dict[str, Fingerprint]:
    """Fingerprints by job id, without jobs that do not exist."""
    rows = session.execute(_query(live_within_seconds), {"job_ids": list(job_ids)})
    return {id: Fingerprint(JobState(state), last_seq, tuple(rest)) for id, state, last_seq, *rest in rows}


@functools.cache
def _query(live_within_seconds: float) -> Select[Any]:
    """Columns of the job's row; for a queued job also what its position in the queue depends on, and the slots of the
    live workers."""
    queued = Job.state == JobState.QUEUED
    other = aliased(Job)
    own_one = other.owner.is_not_distinct_from(Job.owner)
    in_the_way = or_(and_(own_one, ahead_of(other, Job)), and_(~own_one, other.priority >= Job.priority))
    ahead = select(func.count()).where(other.state == JobState.QUEUED, in_the_way).correlate(Job)
    running = select(func.count()).where(other.state == JobState.RUNNING)
    slots = (
        select(
            func.count().label("workers"),
            func.sum(Worker.slots).label("slots"),
            func.sum(Worker.free_slots).label("free"),
        )
        .where(Worker.seen_at > database_now(-live_within_seconds), Worker.draining.is_(False))
        .subquery()
    )
    own = (Job.attempt, Job.name, Job.priority, cast(Job.labels, Text), cast(Job.progress, Text))
    requests = (Job.cancel_requested_at, Job.pause_requested_at)
    queue = (
        case((queued, ahead.scalar_subquery())),
        case((queued, running.scalar_subquery())),
        case((and_(queued, Job.not_before > database_now()), 1), else_=0),
        *(case((queued, column)) for column in slots.c),
    )
    rows = select(Job.id, Job.state, Job.last_seq, *own, *requests, *queue).select_from(Job)
    return rows.join(slots, queued, isouter=True).where(Job.id.in_(bindparam("job_ids", expanding=True)))
