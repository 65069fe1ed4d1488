"""Restores a backup into an empty place, completely or not at all: files first, then all rows in one transaction.

Jobs that ran at the time of the backup are queued, and resume from their last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.orm import Session

from gradq.backup import DERIVED, NOT_SAVED, NotEmpty, archive, rows
from gradq.backup.contents import Advance
from gradq.backup.unpacked import Unpacked
from shared import workers
from shared.artifacts import ArtifactStore
from shared.db import migrate
from shared.db.database import Database
from shared.db.tables import ArtifactRow, CheckpointRow, DatasetRow, Job
from shared.jobs import counters, queue, stored_bytes
from shared.jobs.states import JobState

ELSEWHERE = "choose another place with GRADQ_STATE_DIR (or GRADQ_DATABASE_URL and GRADQ_ARTIFACTS_URL)"


@dataclass(frozen=True)
class Restored:
    """What was restored."""

    created_at: datetime
    revision: str  # of the backup; the database now has the newest
    jobs: dict[str, int]  # by state
    datasets: int
    files: int
    size_bytes: int


def restore(
    database: Database, store: ArtifactStore, source: IO[bytes], scratch: Path, alive_seconds: float, advance: Advance
) -> Restored:
    """Restores the backup `source` into an empty database and store; after a failure they are empty again.

    `alive_seconds`: a worker with a heartbeat that recent counts as alive. Raises NotEmpty, also if a worker is alive,
    and UnusableBackup.
    """
    if not store.is_empty():
        raise NotEmpty(f"{store.root} is not empty; remove the files of an interrupted restore there, or {ELSEWHERE}")
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
        raise NotEmpty(f"a worker uses this database; stop the service first, or {ELSEWHERE}")
    for table in rows.reflected(connection, names - NOT_SAVED - DERIVED):
        if connection.execute(select(table).limit(1)).first():
            raise NotEmpty(f"the database is not empty: there are rows in {table.name}; {ELSEWHERE}")


def _fill(connection: Connection, unpacked: Unpacked) -> None:
    """Creates the schema of the backup's revision, inserts its rows, and migrates to the newest revision."""
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
    """Sets the counters of stored bytes to the restored files; the saved ones include rows that were left out."""
    counted = counters.read(session).get(counters.STORED, {})
    for table in (CheckpointRow, ArtifactRow, DatasetRow):
        kind = table.__tablename__
        there = int(session.scalar(select(func.sum(table.size_bytes))) or 0)
        counters.stored(session, kind, there - int(counted[kind].total if kind in counted else 0))
    stored_bytes.recount(session)
