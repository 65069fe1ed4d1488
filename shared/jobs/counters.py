"""Persistent counters for Prometheus: ended jobs by reason, seconds queued and trained, bytes stored.

They outlive the jobs that they count. Each change is inserted as a row in the transaction that it counts, so that
transactions never wait for each other on a counter's row. The leader folds the rows into one per label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from shared.db.tables import Tally

ENDED, TRAINED, WAITED, STORED = "jobs_ended", "training_seconds", "queue_seconds", "stored_bytes"
ORPHANS = "orphaned_files"
BOUNDS = (0.1, 0.3, 1, 3, 10, 30, 60, 300, 900, 3_600, 14_400, 43_200, 86_400)  # of the histograms' buckets, in seconds
OVER = "+Inf"  # the last bucket
FOLD_ABOVE = 200  # rows


@dataclass(frozen=True)
class Sum:
    """Number of observations and their sum; the count of `STORED` is 0."""

    count: int
    total: float


def job_ended(session: Session, state: str, reason: str | None, result: Mapping[str, Any] | None) -> None:
    """Count an ended job and its training time. To be called in the transaction that ends the job."""
    _add(session, ENDED, f"{state}/{reason or ''}")
    seconds = (result or {}).get("training_seconds")
    if seconds is not None:
        _observe(session, TRAINED, seconds)


def job_started(session: Session, waited_seconds: float) -> None:
    """Count a job's time in the queue. To be called in the transaction that claims the job for the first time."""
    _observe(session, WAITED, max(waited_seconds, 0.0))


def stored(session: Session, kind: str, size_bytes: int) -> None:
    """Count stored bytes, or removed ones if negative; `kind` is `artifacts`, `checkpoints` or `datasets`."""
    if size_bytes:
        _add(session, STORED, kind, count=0, total=size_bytes)


def orphans_removed(session: Session, files: int) -> None:
    """Count files that the sweep of the store has removed, since no row named them."""
    _add(session, ORPHANS, "", count=files)


def read(session: Session) -> dict[str, dict[str, Sum]]:
    """The sums, by name and label."""
    query = select(Tally.name, Tally.label, func.sum(Tally.count), func.sum(Tally.total)).group_by(
        Tally.name, Tally.label
    )
    found: dict[str, dict[str, Sum]] = {}
    for name, label, count, total in session.execute(query):
        found.setdefault(name, {})[label] = Sum(int(count), float(total))
    return found


def fold(session: Session) -> None:
    """Replace the rows of each label by one, in the caller's transaction; the sums do not change for readers."""
    if (session.scalar(select(func.count()).select_from(Tally)) or 0) <= FOLD_ABOVE:
        return
    sums: dict[tuple[str, str], list[float]] = {}
    gone = delete(Tally).returning(Tally.name, Tally.label, Tally.count, Tally.total)
    for name, label, count, total in session.execute(gone):
        entry = sums.setdefault((name, label), [0, 0.0])
        entry[0] += count
        entry[1] += total
    for (name, label), (count, total) in sorted(sums.items()):
        _add(session, name, label, int(count), total)


def _observe(session: Session, name: str, seconds: float) -> None:
    place = bisect_left(BOUNDS, seconds)
    label = f"{BOUNDS[place]:g}" if place < len(BOUNDS) else OVER
    _add(session, name, label, total=seconds)


def _add(session: Session, name: str, label: str, count: int = 1, total: float = 0.0) -> None:
    session.execute(insert(Tally).values(name=name, label=label, count=count, total=total))
