"""Jobs whose pictures have not been drawn yet, and how pictures take their place among a job's files.

Such a job has an artifact `undrawn.npz`, which no list shows. The process that draws its pictures stores them, and then
replaces the row of that file by theirs in one transaction; of several at once, the first. A picture's key has its hash,
since two versions of a library may draw it in two ways.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from shared.artifacts import ArtifactStore, StoredFile, artifact_key, attempt_of, sha256_of
from shared.db.database import Database
from shared.db.tables import ArtifactRow
from shared.errors import NotFound, StoreUnavailable
from shared.events import UNDRAWN
from shared.jobs import joblog, jobs, stored_bytes

NEWEST = 20  # jobs, of which one is chosen

log = structlog.get_logger()
Draw = Callable[[Path, Path], Sequence[Path]]  # what `files.draw` does, perhaps in another process


class NoDrawing(Exception):
    """The pictures cannot be drawn: the drawing is of another version, or a library fails."""


def of_job(session: Session, job_id: str) -> ArtifactRow | None:
    return session.get(ArtifactRow, (job_id, UNDRAWN))


def among(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs whose pictures are not drawn yet."""
    rows = select(ArtifactRow.job_id).where(ArtifactRow.name == UNDRAWN, ArtifactRow.job_id.in_(job_ids))
    return set(session.scalars(rows))


def one_of_the_newest(session: Session, without: Sequence[str] = ()) -> ArtifactRow | None:
    """Chosen at random, since several workers draw; not the row of a job of `without`."""
    rows = select(ArtifactRow).where(ArtifactRow.name == UNDRAWN, ArtifactRow.job_id.not_in(without))
    newest = session.scalars(rows.order_by(ArtifactRow.job_id.desc()).limit(NEWEST)).all()
    return random.choice(newest) if newest else None  # for no secret  # nosec B311


def draw_and_store(database: Database, store: ArtifactStore, row: ArtifactRow, draw: Draw) -> bool:
    """Draw the pictures and store them. Returns False if the row is gone: the job has been deleted, or another process
    was first.

    A job whose drawing is missing in the store, or not what was stored, has no pictures from then on. Raises
    StoreUnavailable, DatabaseAway, NoDrawing, and OSError if the disk for temporary files is full.
    """
    with tempfile.TemporaryDirectory(prefix="gradq-pictures-") as name:
        source, folder = Path(name) / UNDRAWN, Path(name) / "drawn"
        folder.mkdir()
        try:
            drawn = draw(source, folder) if _fetch(store, row, source) else []
        except ValueError as error:
            raise NoDrawing(f"{row.key}: {error}") from error
        files = [_put(store, row, path) for path in drawn]
    with database.write() as session:
        is_first = _replace(session, row, files)
        keys = jobs.stored_keys(session, row.job_id)
    for key in (row.key, *(file.key for file in files)):
        if key not in keys:
            store.remove(key)  # else the sweep of the store removes it
    return is_first


def _fetch(store: ArtifactStore, row: ArtifactRow, path: Path) -> bool:
    """Fetch the drawing. Returns False if it is lost."""
    try:
        if store.get_checked(row.key, path, row.sha256):
            return True
        if not store.is_local:
            raise StoreUnavailable(f"{row.key}: the content differs from what was stored")
        log.error("the drawing of a job's pictures is not what was stored; it has none", key=row.key)
    except FileNotFoundError:
        log.error("the drawing of a job's pictures is not in the store; it has none", key=row.key)
    return False


def _put(store: ArtifactStore, row: ArtifactRow, path: Path) -> StoredFile:
    name = f"{sha256_of(path)[:16]}-{path.name}"
    return store.put(artifact_key(row.job_id, attempt_of(row.key), name), path)


def _replace(session: Session, row: ArtifactRow, files: Sequence[StoredFile]) -> bool:
    try:
        jobs.lock_job(session, row.job_id)  # before its artifacts, as a deletion does
    except NotFound:
        return False
    gone = delete(ArtifactRow).where(
        ArtifactRow.job_id == row.job_id, ArtifactRow.name == UNDRAWN, ArtifactRow.key == row.key
    )
    if session.scalar(gone.returning(ArtifactRow.key)) is None:
        return False
    at = joblog.now()
    session.add_all(ArtifactRow(job_id=row.job_id, created_at=at, **vars(file)) for file in files)
    added = sum(file.size_bytes for file in files) - row.size_bytes
    stored_bytes.add_of_job(session, row.job_id, "artifacts", added)
    return True
