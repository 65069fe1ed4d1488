"""A job's event log: lines in commit order. `seq` increases by one per line, from a counter on the job's row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, Text, cast, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared.db.tables import EventRow, Job
from shared.events import Level
from shared.jobs import curve_blocks
from shared.jobs.states import JobState

CHANGED = "gradq-changed-jobs"
READ_LINES = 5000  # lines whose points are read in one query


@dataclass(frozen=True)
class Line:
    """One line to append to a job's log. A line of type `metric` has a `series` and a `step`."""

    type: str
    message: str
    data: dict[str, Any]
    level: Level = "info"
    series: str | None = None
    step: int | None = None
    at: datetime | None = None


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class EventFilter:
    """Selects lines by type and level (empty: all) between two cursors, both exclusive."""

    types: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    after: int = 0
    before: int | None = None

    def of(self, job_id: str) -> Select[tuple[EventRow]]:
        query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > self.after)
        if self.before is not None:
            query = query.where(EventRow.seq < self.before)
        if self.types:
            query = query.where(EventRow.type.in_(self.types))
        return query.where(EventRow.level.in_(self.levels)) if self.levels else query


ALL_EVENTS = EventFilter()


def events_of(session: Session, job_id: str, filter: EventFilter = ALL_EVENTS, limit: int = 1000) -> list[EventRow]:
    """The first `limit` matching lines, in order."""
    return list(session.scalars(filter.of(job_id).order_by(EventRow.seq).limit(limit)))


def last_events_of(session: Session, job_id: str, filter: EventFilter, limit: int) -> list[EventRow]:
    """The last `limit` matching lines, in order."""
    return list(session.scalars(filter.of(job_id).order_by(EventRow.seq.desc()).limit(limit)))[::-1]


def points_of(session: Session, job_id: str) -> Iterator[dict[str, Any]]:
    """The job's curve: step, epoch, series and metrics of each metric event, in order.

    The database joins the JSON of many points into one text, since reading a curve of 100 000 points row by row takes
    seconds.
    """
    is_metric = (EventRow.job_id == job_id, EventRow.type == "metric")
    end = session.scalar(select(Job.last_seq).where(Job.id == job_id)) or 0
    for first in range(0, end, READ_LINES):
        here = (EventRow.seq > first, EventRow.seq <= first + READ_LINES)
        points = (
            select(cast(EventRow.data, Text).label("text")).where(*is_metric, *here).order_by(EventRow.seq).subquery()
        )
        if text := session.scalar(select(func.aggregate_strings(points.c.text, ","))):
            yield from json.loads(f"[{text}]")


def status_line(state: JobState, message: str, **data: Any) -> Line:
    return Line("status", message, {"status": state.value, **data})


def add_line(session: Session, job_id: str, line: Line, attempt: int | None = None) -> None:
    """Append one line. To be called in the transaction of a state change, which already holds the row's lock."""
    last, current = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(last_seq=Job.last_seq + 1)
        .returning(Job.last_seq, Job.attempt)
        .execution_options(synchronize_session=False)
    ).one()
    session.execute(insert(EventRow), [_row(job_id, current if attempt is None else attempt, last, line)])
    session.info.setdefault(CHANGED, set()).add(job_id)


def has_changed(session: Session, job_id: str) -> bool:
    """Whether `add_line` was called for this job in this session. Every change of a job adds a line to its log."""
    return job_id in session.info.get(CHANGED, ())


def insert_lines(session: Session, job_id: str, attempt: int, first_seq: int, lines: Sequence[Line]) -> None:
    """Insert lines with consecutive `seq`; a point of the curve that the log already has is skipped. The caller holds
    the lock of the job's row."""
    rows = [_row(job_id, attempt, first_seq + i, line) for i, line in enumerate(lines)]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(EventRow).on_conflict_do_nothing(index_elements=["job_id", "series", "step"])
    session.execute(statement, rows)
    lowest: dict[str, int] = {}
    for line in lines:
        if line.series is not None and line.step is not None:
            lowest[line.series] = min(line.step, lowest.get(line.series, line.step))
    curve_blocks.extend(session, job_id, lowest)


def has_line(session: Session, job_id: str, attempt: int, line: Line) -> bool:
    """Whether the log has this line of the attempt, with its time. Reads the whole log of the job."""
    same = (EventRow.type == line.type, EventRow.message == line.message, EventRow.created_at == line.at)
    query = select(EventRow.seq).where(EventRow.job_id == job_id, EventRow.attempt == attempt, *same).limit(1)
    return session.scalar(query) is not None


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
