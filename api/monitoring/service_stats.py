"""A snapshot of the service for /metrics: a few queries, none of which scans all jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared import workers
from shared.db.tables import Job, Worker
from shared.jobs import counters
from shared.jobs.joblog import now
from shared.jobs.states import UNFINISHED, JobState


@dataclass(frozen=True)
class ServiceStats:
    """`jobs`: number by (state, requested device); `oldest_seconds`: age of the oldest queued job, by requested
    device."""

    jobs: dict[tuple[str, str], int]
    oldest_seconds: dict[str, float]
    examples_per_second: float
    steps_per_second: float
    workers: Sequence[Worker]
    counters: dict[str, dict[str, counters.Sum]]


def take(session: Session, live_within_seconds: float) -> ServiceStats:
    """Read the statistics. A worker is live if its last heartbeat is less than `live_within_seconds` old."""
    counts, oldest = _jobs(session)
    examples, steps = _throughput(session)
    return ServiceStats(
        jobs=counts,
        oldest_seconds=oldest,
        examples_per_second=examples,
        steps_per_second=steps,
        workers=workers.live_workers(session, live_within_seconds),
        counters=counters.read(session),
    )


def _jobs(session: Session) -> tuple[dict[tuple[str, str], int], dict[str, float]]:
    query = (
        select(Job.state, Job.device, func.count(), func.min(Job.created_at))
        .where(Job.state.in_(UNFINISHED))
        .group_by(Job.state, Job.device)
    )
    counts, oldest, moment = {}, {}, now()
    for state, device, count, first in session.execute(query):
        counts[state, device] = count
        if state == JobState.QUEUED:
            oldest[device] = max((moment - first).total_seconds(), 0.0)
    return counts, oldest


def _throughput(session: Session) -> tuple[float, float]:
    """Examples and steps per second of all running jobs together, as of their last progress report."""
    examples = steps = 0.0
    for progress, spec in session.execute(select(Job.progress, Job.spec).where(Job.state == JobState.RUNNING)):
        if progress is not None:
            examples += progress["examples_per_second"]
            if "batch_size" in spec:  # which a job of a kind that this version does not know may lack
                steps += progress["examples_per_second"] / spec["batch_size"]
    return examples, steps
