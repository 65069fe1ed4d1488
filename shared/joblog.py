"""A job's log: lines in the order in which they were committed. `seq` grows by one a line, on the job's row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared.events import Level
from shared.states import JobState
from shared.tables import EventRow, Job


@dataclass(frozen=True)
class Line:
    """One line for a job's log. A metric names its `series` and `step`."""

    type: str
    message: str
    data: dict[str, Any]
    level: Level = "info"
    series: str | None = None
    step: int | None = None
    at: datetime | None = None


def now() -> datetime:
    return datetime.now(UTC)


def events_of(
    session: Session, job_id: str, after: int = 0, type: str | None = None, limit: int = 1000
) -> list[EventRow]:
    query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > after)
    if type is not None:
        query = query.where(EventRow.type == type)
    return list(session.scalars(query.order_by(EventRow.seq).limit(limit)))


def points_of(session: Session, job_id: str) -> list[EventRow]:
    """The job's curve: every metric event, in order."""
    query = select(EventRow).where(EventRow.job_id == job_id, EventRow.type == "metric")
    return list(session.scalars(query.order_by(EventRow.seq)))


def status_line(state: JobState, message: str, **data: Any) -> Line:
    return Line("status", message, {"status": state.value, **data})


def add_line(session: Session, job_id: str, line: Line, attempt: int | None = None) -> None:
    """Append one line as part of a state change that holds the row's lock already."""
    last, current = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(last_seq=Job.last_seq + 1)
        .returning(Job.last_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one()
    session.execute(insert(EventRow), [_row(job_id, current if attempt is None else attempt, last, line)])


def insert_lines(session: Session, job_id: str, attempt: int, first_seq: int, lines: Sequence[Line]) -> None:
    rows = [_row(job_id, attempt, first_seq + i, line) for i, line in enumerate(lines)]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(EventRow).on_conflict_do_nothing(index_elements=["job_id", "series", "step"])
    session.execute(statement, rows)


def _row(job_id: str, attempt: int, seq: int, line: Line) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "seq": seq,
        "attempt": attempt,
        "type": line.type,
        "level": line.level,
        "message": line.message,
        "data": line.data,
        "series": line.series,
        "step": line.step,
        "created_at": line.at or now(),
    }
