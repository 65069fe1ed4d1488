"""Deletes files in the artifact store that ended attempts left there and no row names: half stored, or not recorded."""

from __future__ import annotations

from contextlib import suppress

import structlog

from shared.artifacts import ArtifactStore, attempt_of
from shared.db.database import Database
from shared.errors import DatabaseAway, NotFound, StoreUnavailable
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.pictures import undrawn

log = structlog.get_logger()


def remove_orphaned_files(store: ArtifactStore, database: Database, job_id: str, attempt: int) -> None:
    """Delete the orphans of attempts up to `attempt`; nothing while the row says that this attempt is running, or the
    job's pictures are not drawn yet: they are stored before their rows are written.

    Errors of the database or the store are logged and not raised: the leader's sweep of the store cleans up again.
    """
    try:
        found = {key for key in store.keys_of(job_id) if _is_of(key, attempt)}
        for key in found - _keys_to_keep(database, job_id, attempt, found):
            store.remove(key)
            log.info("orphaned file removed", job_id=job_id, key=key)
    except (StoreUnavailable, OSError, DatabaseAway) as error:
        log.warning("orphaned files not removed", job_id=job_id, error=str(error))


def _is_of(key: str, attempt: int) -> bool:
    """Whether an attempt up to `attempt` wrote this file; not one that a network filesystem has put there."""
    with suppress(ValueError):
        return attempt_of(key) <= attempt
    return False


def _keys_to_keep(database: Database, job_id: str, attempt: int, found: set[str]) -> set[str]:
    with database.read() as session:
        try:
            job = jobs.get(session, job_id)
        except NotFound:
            return set()
        still_runs = job.state == JobState.RUNNING and job.attempt <= attempt
        is_drawn = undrawn.of_job(session, job_id) is None
        return found if still_runs or not is_drawn else jobs.stored_keys(session, job_id)
