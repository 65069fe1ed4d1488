"""The leader's work on the artifact store, in a thread of its own: a store that is slow or away delays nothing else.

It removes the files of deleted jobs and datasets, and of attempts whose workers have died, and compares files with rows
from time to time. Files without a row are removed: of jobs at once, since a job has its row before its first file;
folders of datasets after a while, since an upload stores the files first. Rows without files cannot be mended, and are
logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from queue import SimpleQueue

import structlog
from sqlalchemy import select, union
from sqlalchemy.orm import Session

from shared import file_removals
from shared.artifacts import DATASETS, PROBE, ArtifactStore
from shared.db.database import Database
from shared.db.tables import ArtifactRow, CheckpointRow, DatasetRow, Job
from shared.errors import DatabaseAway, StoreUnavailable
from shared.jobs import counters
from shared.jobs.states import JobState
from shared.maintenance import MaintenanceThread
from shared.pictures import undrawn
from worker.orphaned_files import remove_orphaned_files

REMOVALS = 100  # per round
MOST_FAILURES = 3  # per round: each may take a minute
JOBS = 100  # whose files and rows are read at a time
ROWS = 1000
FEW = 3  # unknown folders that a store may have however few it has
UPLOAD_SECONDS = 3600.0  # that an upload may take from its first stored file to its row
NAMED = 20  # files in one line of the log

log = structlog.get_logger()


class StoreSweep(MaintenanceThread):
    """`leads`: whether this worker is the leader now. `round_seconds`: between two looks at the list of removals,
    `sweep_seconds`: between two comparisons of files and rows."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        lost_attempts: SimpleQueue[tuple[str, int]],
        leads: Callable[[], bool],
        round_seconds: float,
        sweep_seconds: float,
    ) -> None:
        super().__init__("store-sweep", pause=round_seconds)
        self.database, self.store = database, store
        self.lost_attempts, self.leads = lost_attempts, leads
        self.sweep_seconds = sweep_seconds
        self._swept_at = time.monotonic()
        self._told = ""  # the last error in the log
        self._unknown: dict[str, float] = {}  # folders of datasets without a row -> when they were first seen

    def first_wait(self) -> float:
        return self.pause

    def round(self) -> float:
        self.remove_lost()
        if self.leads():
            if time.monotonic() - self._swept_at >= self.sweep_seconds:
                self._swept_at = time.monotonic()  # whether it succeeds or not
                self.sweep()
            self.remove_listed()
            self._told = ""
        return self.pause

    def failed(self, error: Exception) -> float:
        """The next round may succeed."""
        if isinstance(error, StoreUnavailable | DatabaseAway):
            if error.detail != self._told:  # once, not every two seconds
                log.warning("the store is not swept", error=error.detail)
            self._told = error.detail
        else:
            log.error("sweep of the store failed", exc_info=error)
        return self.pause

    def stop(self) -> None:
        self.stopped.set()

    def remove_lost(self) -> None:
        """Remove the files that attempts of dead workers have left without a row."""
        while not self.lost_attempts.empty() and not self.stopped.is_set():
            job_id, attempt = self.lost_attempts.get()
            remove_orphaned_files(self.store, self.database, job_id, attempt)

    def remove_listed(self) -> None:
        """Remove the folders whose rows have been deleted. Those that cannot be removed stay listed, behind the others.
        Raises StoreUnavailable if the store is away, or after MOST_FAILURES."""
        with self.database.read() as session:
            keys = file_removals.oldest(session, REMOVALS)
        if not keys:
            return
        self.store.check_root()
        removed: list[str] = []
        failed: dict[str, StoreUnavailable] = {}
        for key in keys:
            try:
                self.store.remove_folder(key)
                removed.append(key)
            except ValueError as error:  # of a restored backup: no key that gradq has made
                log.error("a folder is not removed", key=key, error=str(error))
                removed.append(key)
            except StoreUnavailable as error:
                failed[key] = error
                if len(failed) >= MOST_FAILURES:
                    break
        with self.database.write() as session:
            file_removals.done(session, removed)
            for key in failed:
                file_removals.add(session, key)  # anew, at the end
        if failed:
            raise next(iter(failed.values()))

    def sweep(self) -> None:
        """Compare all files with all rows, once. Raises StoreUnavailable, DatabaseAway.

        Nothing is removed from a store in which most folders have no row: it is another service's, or this one's with
        another database.
        """
        self.store.remove_folder(PROBE)
        folders = self.store.folders()
        if (unknown := self._without_rows(folders)) > max(FEW, len(folders) // 2):
            log.error(
                "most folders in the store have no row; nothing is removed", folders=len(folders), unknown=unknown
            )
            return
        datasets = [folder for folder in folders if folder.startswith(f"{DATASETS}/")]
        for some in _in_groups([folder for folder in folders if "/" not in folder], JOBS):
            if self.stopped.is_set():
                return
            self._sweep_jobs(some)
        self._sweep_datasets(datasets)
        self._report_lost_folders(set(folders))

    def _without_rows(self, folders: Sequence[str]) -> int:
        """How many of the folders no job or dataset has."""
        unknown = 0
        for some in _in_groups(folders, ROWS):
            with self.database.read() as session:
                known = set(session.scalars(select(Job.id).where(Job.id.in_(some))))
                known |= set(session.scalars(select(DatasetRow.folder).where(DatasetRow.folder.in_(some))))
            unknown += len(set(some) - known)
        return unknown

    def _sweep_jobs(self, job_ids: Sequence[str]) -> None:
        """The files are listed before the rows are read: a file that is written meanwhile is not in the list, and the
        row of one that is has been written, unless its attempt still runs or its pictures are being drawn."""
        files = {job_id: set(self.store.keys_of(job_id)) for job_id in job_ids}
        with self.database.read() as session:
            busy = set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.state == JobState.RUNNING)))
            busy |= undrawn.among(session, job_ids)  # pictures are stored before their rows are written
            known = _keys_of_rows(session, job_ids)
        settled = [job_id for job_id in job_ids if job_id not in busy]
        orphans = [key for job_id in settled for key in sorted(files[job_id] - known)]
        for key in orphans:
            self.store.remove(key)
        if orphans:
            log.warning("files without a row removed", count=len(orphans), keys=orphans[:NAMED])
            with self.database.write() as session:
                counters.orphans_removed(session, len(orphans))
        listed = {key for job_id in settled for key in files[job_id]}
        missing = sorted(key for key in known - listed if key.partition("/")[0] in settled)
        if missing := [key for key in missing if not self.store.has(key)]:
            log.error("files of these rows are missing in the store", count=len(missing), keys=missing[:NAMED])

    def _report_lost_folders(self, folders: set[str]) -> None:
        """Log the jobs with artifacts or checkpoints that have no folder in the store at all."""
        last, lost = "", []
        while not self.stopped.is_set():
            each = union(*(select(table.job_id).where(table.job_id > last) for table in (ArtifactRow, CheckpointRow)))
            with self.database.read() as session:
                some = session.scalars(each.order_by("job_id").limit(ROWS)).all()
            if not some:
                break
            last = some[-1]
            lost += [job_id for job_id in some if job_id not in folders and not self.store.keys_of(job_id)]
        with self.database.read() as session:  # without those that were deleted meanwhile
            lost = [job_id for job_id in lost[:NAMED] if session.get(Job, job_id) is not None]
        if lost:
            log.error("jobs whose files are all missing in the store", jobs=lost)

    def _sweep_datasets(self, folders: Sequence[str]) -> None:
        with self.database.read() as session:
            known = set(session.scalars(select(DatasetRow.folder)))
        now = time.monotonic()
        self._unknown = {folder: self._unknown.get(folder, now) for folder in folders if folder not in known}
        for folder, seen_at in self._unknown.items():
            if now - seen_at >= UPLOAD_SECONDS:
                self.store.remove_folder(folder)
                log.warning("files of a dataset without a row removed", folder=folder)
        if missing := sorted(known - set(folders)):
            log.error("datasets whose files are missing in the store", count=len(missing), keys=missing[:NAMED])


def _keys_of_rows(session: Session, job_ids: Sequence[str]) -> set[str]:
    return {
        key
        for table in (ArtifactRow, CheckpointRow)
        for key in session.scalars(select(table.key).where(table.job_id.in_(job_ids)))
    }


def _in_groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    each = iter(items)
    while group := list(islice(each, size)):
        yield group
