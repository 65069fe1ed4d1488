"""Lines for a job's log, held back until the database takes them: written in batches, in order."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import structlog
from sqlalchemy.orm import Session

from shared import events
from shared.errors import DatabaseAway, LeaseLost
from shared.jobs import joblog, queue
from worker.lease import LeaseKeeper

BATCH_LINES = 5000  # in one transaction
MOST_LINES = 100_000  # that wait for the database, some 100 MB; then the trainer waits, too
SAME_LINES = 100  # of an attempt, alike but for their numbers, that are all kept
MOST_KINDS = 1000  # of lines that are told apart; the others are thinned together
NUMBER = re.compile(r"\d[\d.e+-]*")

log = structlog.get_logger()


class Thinning:
    """Bounds an attempt's log: of lines that are alike but for their numbers, the first 100 are kept, of the next 900
    each tenth, of the next 9000 each hundredth, and so on. All points of the curve are kept, and all changes of the
    status, of which there are few."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], int] = {}

    def of(self, line: joblog.Line) -> list[joblog.Line]:
        """What to write for this line: the line, nothing, or with a note on those that are left out."""
        if line.type in ("metric", "status"):
            return [line]
        kind = (line.type, line.level, NUMBER.sub("0", line.message)[:80])
        if kind not in self._seen and len(self._seen) >= MOST_KINDS:
            kind = (line.type, line.level, "")
        count = self._seen[kind] = self._seen.get(kind, 0) + 1
        period = 1 if count <= SAME_LINES else int(10 ** len(str((count - 1) // SAME_LINES)))
        if count % period:
            return []
        if count == SAME_LINES:
            note = f"there were {count} lines like the one before; of the next, one in ten is kept, later fewer"
            return [line, joblog.Line("log", note, {"kept_one_in": 10})]
        if period == 1:
            return [line]
        left_out = f"{line.message} ({period - 1} such lines before it are left out)"
        return [replace(line, message=left_out, data={**line.data, "lines_left_out": period - 1})]


class LogBuffer:
    """The lines of one attempt, repeated ones thinned. While the database is away they wait; a lost lease sets
    `keeper.lost`. If a commit gets no answer, whether it was made is looked for before the same lines are written."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self.keeper = keeper
        self._lines: list[joblog.Line] = []
        self._tried = 0  # how many of them a transaction has tried to write without an answer
        self._thinning = Thinning()
        self._writing = threading.Lock()

    def append(self, line: joblog.Line) -> None:
        """Add a line at the end, with the time of now unless it has one. May be called by several threads."""
        self._lines += [each if each.at else replace(each, at=joblog.now()) for each in self._thinning.of(line)]

    def thinned(self, line: joblog.Line) -> Sequence[joblog.Line]:
        """What to write for a line that is written in another transaction: it may be left out."""
        return self._thinning.of(line)

    def say(self, message: str, level: events.Level = "info") -> None:
        """Append a line of the supervisor's own."""
        self.append(joblog.Line("warning" if level == "warning" else "log", message, {}, level))

    def is_full(self) -> bool:
        return len(self._lines) >= MOST_LINES

    def flush(self) -> None:
        """Write the oldest lines in one transaction, tried once. The lease keeper's thread calls this, so that the
        supervisor never waits for a database that is away or hangs."""
        lease = self.keeper.lease
        with self._writing:
            if not (lines := self._batch()):
                return
            try:
                with self.keeper.database.write() as session:
                    self._write(session, lines)
            except DatabaseAway as error:
                waiting = len(self._lines)
                log.warning("log lines wait for the database", job_id=lease.job_id, lines=waiting, error=str(error))
            except LeaseLost:
                self.keeper.lost.set()
            else:
                self._remove(lines)

    def flush_all(self) -> None:
        """Write all lines, retrying until the database is back. Raises LeaseLost, also if the thread that writes hangs
        when the worker shuts down."""
        with self.keeper.holding(self._writing):
            while lines := self._batch():
                self.keeper.write(partial(self._write, lines=lines))
                self._remove(lines)

    def _batch(self) -> list[joblog.Line]:
        return self._lines[: self._tried or BATCH_LINES]

    def _write(self, session: Session, lines: list[joblog.Line]) -> None:
        """In the transaction of the caller, who may try again. Raises LeaseLost."""
        lease, tried, self._tried = self.keeper.lease, self._tried, len(lines)
        last = next((line for line in reversed(lines) if line.series is None), None)  # points have no duplicates
        if tried and last is not None and joblog.has_line(session, lease.job_id, lease.attempt, last):
            return
        queue.append(session, lease, lines)

    def _remove(self, written: list[joblog.Line]) -> None:
        del self._lines[: len(written)]
        self._tried = 0


def line_of(event: events.Metric | events.Log) -> joblog.Line:
    """A trainer's event as a line of the log."""
    if isinstance(event, events.Log):
        return joblog.Line("log", event.message, event.data, event.level, at=at(event))
    data = {"step": event.step, "epoch": event.epoch, "series": event.series, "metrics": event.values}
    text = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
    message = f"step {event.step}: {text}"
    return joblog.Line("metric", message, data, series=event.series, step=event.step, at=at(event))


def at(event: events.Event) -> datetime:
    """The time of an event, in UTC."""
    return datetime.fromtimestamp(event.at, UTC)
