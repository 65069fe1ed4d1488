"""A job with a log as long as that of days of training, written directly into the database."""

from __future__ import annotations

import math

from shared.db.database import Database
from shared.jobs import joblog, jobs
from shared.jobs.joblog import Line
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec

EVERY = 50  # steps between two points, as a trainer reports them
PER_EPOCH = 100  # points
PIECE = 10_000  # rows of one statement


def store_long_job(database: Database, points: int) -> str:
    """Store a finished job with `points` points of batch loss, then two lines, and no files. Returns its id."""
    epochs = points // PER_EPOCH
    with database.write() as session:
        job = jobs.create(session, JobSpec.model_validate({"name": "a long job", "epochs": epochs, "seed": 1}))
        for first in range(1, points + 1, PIECE):
            lines = [_point(number) for number in range(first, min(first + PIECE, points + 1))]
            joblog.insert_lines(session, job.id, 1, first + 1, lines)
        last = [Line("log", "the last line but one", {}), Line("log", "the last line", {}, "warning")]
        joblog.insert_lines(session, job.id, 1, points + 2, last)
        steps = points * EVERY
        progress = {"epoch": epochs, "epochs": epochs, "step": steps, "total_steps": steps}
        job.progress = {**progress, "examples_per_second": 1e5}
        job.state, job.finished_at, job.last_seq = JobState.SUCCEEDED, joblog.now(), points + 3
    return job.id


def _point(number: int) -> Line:
    step, epoch = number * EVERY, (number - 1) // PER_EPOCH + 1
    loss = 2 / math.sqrt(number) + 0.1 * math.sin(number)
    data = {"series": "batch", "step": step, "epoch": epoch, "metrics": {"batch_loss": loss}}
    return Line("metric", f"step {step}: batch_loss {loss:.4f}", data, series="batch", step=step)
