"""A job's files as clients see them: pictures are drawn when they are first asked for, unless a worker has done it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from api.services import services
from api.waiting import transfers
from shared.db.tables import ArtifactRow
from shared.errors import NotFound, StoreUnavailable, TooManyTransfers
from shared.jobs import jobs
from shared.pictures import undrawn

log = structlog.get_logger()


def files_of(job_id: str) -> Sequence[ArtifactRow]:
    """All files, by name. Raises NotFound, and as `draw_pictures`."""
    draw_pictures(job_id)
    with services().database.read() as session:
        jobs.get(session, job_id)
        return jobs.artifacts_of(session, job_id)


def file_of(job_id: str, name: str) -> ArtifactRow:
    """One file. Raises NotFound, and as `draw_pictures`."""
    with services().database.read() as session:
        jobs.get(session, job_id)
        try:
            return jobs.artifact(session, job_id, name)
        except NotFound:
            if undrawn.of_job(session, job_id) is None:
                raise
    draw_pictures(job_id)
    with services().database.read() as session:
        return jobs.artifact(session, job_id, name)


def draw_pictures(job_id: str) -> None:
    """Draw a finished job's pictures, and store them, unless that has been done.

    Takes a third of a second once per job, in one of the places for transfers. Raises TooManyTransfers,
    StoreUnavailable, DatabaseAway, and OSError if the disk for temporary files is full.
    """
    with services().database.read() as session:
        row = undrawn.of_job(session, job_id)
    if row is None:
        return
    transfers.take_place()
    from shared.pictures import files  # imports numpy, Pillow and matplotlib

    try:
        undrawn.draw_and_store(services().database, services().store, row, files.draw)
    except undrawn.NoDrawing as error:
        log.error("pictures of a job cannot be drawn", job_id=job_id, error=str(error))


def try_to_draw_pictures(job_id: str) -> None:
    """As `draw_pictures`, for a page that is shown without them if that is not possible now."""
    try:
        draw_pictures(job_id)
    except (TooManyTransfers, StoreUnavailable, OSError) as error:
        log.warning("a page without pictures", job_id=job_id, error=f"{type(error).__name__}: {error}")
