"""Files that a lost attempt left in the artifact store: stored or half stored, and never named by a row."""

from __future__ import annotations

import structlog

from shared.artifacts import ArtifactStore, attempt_of
from shared.db.database import Database
from shared.errors import DatabaseAway, NotFound
from shared.jobs import jobs
from shared.jobs.states import JobState

log = structlog.get_logger()


def sweep_strays(store: ArtifactStore, database: Database, job_id: str, attempt: int) -> None:
    """Remove what attempts up to this one left without a row; nothing, while the row says that it still runs.

    What database or store say against it is no reason to fail: whoever ends the next attempt sweeps again.
    """
    try:
        found = {key for key in store.keys_of(job_id) if attempt_of(key) <= attempt}
        for key in found - _named(database, job_id, attempt, found):
            store.remove(key)
            log.info("stray file removed", job_id=job_id, key=key)
    except (OSError, DatabaseAway) as error:
        log.warning("strays not swept", job_id=job_id, error=str(error))


def _named(database: Database, job_id: str, attempt: int, found: set[str]) -> set[str]:
    with database.read() as session:
        try:
            job = jobs.get(session, job_id)
        except NotFound:
            return set()
        still_runs = job.state == JobState.RUNNING and job.attempt <= attempt
        return found if still_runs else jobs.stored_keys(session, job_id)
