"""Sparklines of the job list: some 24 points of each job's loss, for a whole page of jobs in one query."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import JSON, BigInteger, Select, String, and_, bindparam, cast, column, func, select
from sqlalchemy.orm import Session

from shared.db.tables import EventRow, Job

POINTS = 24  # of one sparkline, two more or fewer
BATCH_STEPS = 50  # steps between two points of the series `batch`
LOSS_OF = {"epoch": "train_loss", "batch": "batch_loss"}

Place = tuple[str, str, int]  # job, series, step: the key of a point


@dataclass
class Sparkline:
    """`losses` in the order of steps, of epochs or of batches; `loss`: the last epoch's; `accuracy`: the last one on
    the validation data, 0 to 1."""

    losses: list[float] = field(default_factory=list)
    loss: float | None = None
    accuracy: float | None = None


def sparklines_of(session: Session, some: Sequence[Job]) -> dict[str, Sparkline]:
    """By job id; jobs without points are missing. Points are fetched by their keys: no curve is read as a whole."""
    drawn = {job.id: _series(job) for job in some if job.progress is not None}
    places = [place for job in some if job.id in drawn for place in _places(job, drawn[job.id])]
    if not places:
        return {}
    found: dict[str, Sparkline] = {}
    for job_id, series, data in session.execute(_points_at(session, places)):
        sparkline, point = found.setdefault(job_id, Sparkline()), data["metrics"]
        loss = point.get(LOSS_OF[series])
        if series == drawn[job_id] and loss is not None and math.isfinite(loss):
            sparkline.losses.append(loss)
        sparkline.loss = point.get("train_loss", sparkline.loss)
        sparkline.accuracy = point.get("val_accuracy", sparkline.accuracy)
    return found


def _points_at(session: Session, places: list[Place]) -> Select[tuple[str, str, dict[str, Any]]]:
    """The keys are one JSON parameter: a statement with thousands of parameters takes longer to build than to run."""
    given = bindparam("places", json.dumps(places), String)
    if session.get_bind().dialect.name == "postgresql":
        each = func.json_array_elements(cast(given, JSON)).table_valued(column("value", JSON))
        job_id, series, step = (each.c.value[i].as_string() for i in range(3))
    else:
        each = func.json_each(given).table_valued(column("value"))
        job_id, series, step = (func.json_extract(each.c.value, f"$[{i}]") for i in range(3))
    is_wanted = (EventRow.job_id == job_id, EventRow.series == series, EventRow.step == cast(step, BigInteger))
    return select(EventRow.job_id, EventRow.series, EventRow.data).join(each, and_(*is_wanted)).order_by(EventRow.step)


def _series(job: Job) -> str:
    """`epoch` where there are enough epochs, since their means are smoother; `batch` otherwise."""
    epochs, batches = _epochs(job), _batches(job)
    return "epoch" if epochs >= min(POINTS // 2, batches) else "batch"


def _places(job: Job, series: str) -> Iterable[Place]:
    assert job.progress is not None
    per_epoch = job.progress["total_steps"] // job.progress["epochs"]
    count, steps = (_epochs(job), per_epoch) if series == "epoch" else (_batches(job), BATCH_STEPS)
    places = {(job.id, series, steps * number) for number in _spread(count)}
    # loss and accuracy of the last epoch, or of the one before while the last is being validated
    return places | {(job.id, "epoch", per_epoch * n) for n in (_epochs(job) - 1, _epochs(job)) if n > 0}


def _spread(count: int) -> set[int]:
    """The first and the last of 1…count, and evenly spaced ones between them."""
    return {1, count, *range(1, count + 1, math.ceil(count / POINTS))} if count else set()


def _epochs(job: Job) -> int:
    assert job.progress is not None
    return int(job.progress["step"] * job.progress["epochs"] // max(job.progress["total_steps"], 1))


def _batches(job: Job) -> int:
    assert job.progress is not None
    return int(job.progress["step"] // BATCH_STEPS)
