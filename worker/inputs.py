"""What an attempt starts from, brought to this host: dataset, checkpoint, initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared.artifacts import MODEL, ArtifactStore
from shared.datasets.catalog import DATASETS
from shared.db.tables import CheckpointRow, Job
from shared.disks import disk_is_unusable
from shared.errors import DataError, NotFound
from shared.jobs import jobs, queue
from shared.spec.job_spec import JobSpec
from worker import leakage
from worker.context import WorkerContext
from worker.dataset_files import local_folder
from worker.folder_cache import HeldFolder
from worker.lease import LeaseKeeper
from worker.log_buffer import LogBuffer
from worker.start_failures import is_exhausted


@dataclass(frozen=True)
class Inputs:
    dataset: HeldFolder | None  # that of an uploaded dataset; None: built in, found by its name
    resume: Path | None  # the newest readable checkpoint; None: start at step 0
    reported_step: int  # the last step whose metrics the log holds; -1: none
    init_from: Path | None  # initial weights; None where `resume` is given or the spec names no job

    @classmethod
    def fetch(
        cls, job: Job, folder: Path, context: WorkerContext, keeper: LeaseKeeper, log_buffer: LogBuffer
    ) -> Inputs:
        """Bring the files of this attempt into `folder`; an uploaded dataset goes to the cache.

        Raises DataError when the dataset or the weights are gone or damaged, StoreUnavailable, OSError when the disk
        cannot be used, LeaseLost. A checkpoint that cannot be read is skipped, with a warning in the log.
        """
        dataset = _dataset_folder(job.spec["dataset"], context)
        resume, reported_step = None, -1
        if job.attempt > 1:
            checkpoints, reported_step = keeper.read(partial(queue.resume_point, lease=keeper.lease))
            resume = _newest_readable(checkpoints, folder / "resume.pt", context.store, log_buffer, keeper)
        origin = job.spec.get("init_from")
        init_from = _weights_of(origin["job"], folder, context.store, keeper) if origin and resume is None else None
        if init_from is not None and job.kind == JobSpec.kind:
            for warning in keeper.read(partial(leakage.warnings_about, spec=job.spec)):
                log_buffer.say(warning, "warning")
        return cls(dataset, resume, reported_step, init_from)


def _dataset_folder(dataset_id: str, context: WorkerContext) -> HeldFolder | None:
    if dataset_id in DATASETS:
        return None
    return local_folder(dataset_id, context.settings, context.database, context.store)


def _newest_readable(
    checkpoints: list[CheckpointRow], path: Path, store: ArtifactStore, log_buffer: LogBuffer, keeper: LeaseKeeper
) -> Path | None:
    for row in checkpoints:
        if _fetch_checkpoint(row, path, store, log_buffer):
            keeper.write(partial(queue.note_resumed, lease=keeper.lease, step=row.step))
            return path
    return None


def _fetch_checkpoint(row: CheckpointRow, path: Path, store: ArtifactStore, log_buffer: LogBuffer) -> bool:
    """Whether `path` now holds the checkpoint as it was stored."""
    try:
        whole = store.get_checked(row.key, path, row.sha256)
    except OSError as error:  # not StoreUnavailable: the checkpoint itself may be intact, and the next attempt reads it
        if disk_is_unusable(error) or is_exhausted(error):
            raise
        log_buffer.say(f"the checkpoint at step {row.step} cannot be read: {error}", "warning")
        return False
    if not whole:
        log_buffer.say(f"the checkpoint at step {row.step} is damaged; trying the one before", "warning")
    return whole


def _weights_of(job_id: str, folder: Path, store: ArtifactStore, keeper: LeaseKeeper) -> Path:
    """Fetch the model file of another job. Raises DataError when it is gone or damaged."""
    path = folder / "init_from.safetensors"
    try:
        row = keeper.read(partial(jobs.artifact, job_id=job_id, name=MODEL))
        whole = store.get_checked(row.key, path, row.sha256)
    except (NotFound, FileNotFoundError) as error:
        detail = f"init_from: {job_id} or its {MODEL} has been deleted since this job was submitted"
        raise DataError(detail, job=job_id) from error
    if not whole:
        raise DataError(f"init_from: the {MODEL} of {job_id} is damaged: its sha256 is not the stored one")
    return path
