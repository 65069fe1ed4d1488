"""Putting a backup into an empty place: files first, then all rows in one transaction. It is there, or it is not.

Jobs that ran at the time of the backup wait in the queue, and go on from their last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.orm import Session

from gradq.backup import OF_THE_MOMENT, NotEmpty, archive, rows
from gradq.backup.contents import Advance
from gradq.backup.unpacked import Unpacked
from shared import workers
from shared.artifacts import ArtifactStore
from shared.db import migrate
from shared.db.database import Database
from shared.db.tables import ArtifactRow, CheckpointRow, DatasetRow, Job
from shared.jobs import counters, queue
from shared.jobs.states import JobState

ELSEWHERE = "choose another place with GRADQ_STATE_DIR (or GRADQ_DATABASE_URL and GRADQ_ARTIFACTS_URL)"


@dataclass(frozen=True)
class Restored:
    """What is there now."""

    created_at: datetime
    revision: str  # that of the backup; the database is at the newest
    jobs: dict[str, int]  # by state
    datasets: int
    files: int
    size_bytes: int


def restore(
    database: Database, store: ArtifactStore, source: IO[bytes], scratch: Path, alive_seconds: float, advance: Advance
) -> Restored:
    """Read a backup from `source` into database and store, both empty; where it fails, they are empty again.

    `alive_seconds`: how long ago a worker may have been heard of to count as alive; with one nothing is restored.
    """
    if not store.is_empty():
        raise NotEmpty(f"files lie in {store.root}; remove them if a restore was cut off there, or {ELSEWHERE}")
    with database.read() as session:
        _refuse_unless_empty(session, alive_seconds)
    unpacked = Unpacked(store, scratch, advance)
    try:
        with archive.damage_is_named():
            unpacked.read(source)
            unpacked.check()
        with database.write() as session:
            database.lock_schema(session.connection())
            _refuse_unless_empty(session, alive_seconds)
            _fill(session.connection(), unpacked)
            restored = _restored(session, unpacked)
    except BaseException:
        unpacked.take_back()
        raise
    database.checkpoint_wal()
    return restored


def _refuse_unless_empty(session: Session, alive_seconds: float) -> None:
    connection = session.connection()
    revision = migrate.revision_of(connection)
    names = migrate.tables_of(revision) if revision else set()
    if "workers" in names and workers.any_worker_alive(session, alive_seconds):
        raise NotEmpty(f"a worker is at work here; stop the service first, or {ELSEWHERE}")
    for table in rows.reflected(connection, names - OF_THE_MOMENT):
        if connection.execute(select(table).limit(1)).first():
            raise NotEmpty(f"the database is not empty: there are rows in {table.name}; {ELSEWHERE}")


def _fill(connection: Connection, unpacked: Unpacked) -> None:
    """The schema of the backup's revision, its rows, and from there up to the newest revision."""
    migrate.clear(connection)
    migrate.move(connection, unpacked.head.revision)
    for table in rows.reflected(connection, unpacked.found):
        connection.execute(delete(table))
        rows.insert(connection, table, unpacked.rows(table.name))
    migrate.move(connection)


def _restored(session: Session, unpacked: Unpacked) -> Restored:
    head = unpacked.head
    message = f"queued again: restored from the backup of {head.created_at:%Y-%m-%d %H:%M:%S} UTC"
    for job in session.scalars(select(Job).where(Job.state == JobState.RUNNING)).all():
        queue.release(session, queue.lease_of(job), message)
    _count_bytes(session)
    states = session.execute(select(Job.state, func.count()).group_by(Job.state).order_by(Job.state))
    by_state = {str(state): int(count) for state, count in states}
    datasets = unpacked.manifest.tables["datasets"].rows if unpacked.manifest and "datasets" in unpacked.found else 0
    return Restored(head.created_at, head.revision, by_state, datasets, len(unpacked.files), unpacked.size_bytes)


def _count_bytes(session: Session) -> None:
    """Let the counters tell of the files that are here: what the backup left out came with its bytes."""
    counted = counters.read(session).get(counters.STORED, {})
    for table in (CheckpointRow, ArtifactRow, DatasetRow):
        kind = table.__tablename__
        there = int(session.scalar(select(func.sum(table.size_bytes))) or 0)
        counters.stored(session, kind, there - int(counted[kind].total if kind in counted else 0))
