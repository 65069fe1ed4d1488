"""Validation of `init_from`, from database rows alone: whether a job can start from the weights of another job."""

from __future__ import annotations

from sqlalchemy.orm import Session

from shared.artifacts import MODEL
from shared.datasets.catalog import DATASETS, FindDataset
from shared.db.tables import ArtifactRow, Job
from shared.errors import FieldError, InvalidSpec, NotFound
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec, WalkSpec

POINTER = "/init_from/job"
Initialized = JobSpec | WalkSpec  # specs that have the field `init_from`


def check_init_from(
    session: Session, spec: Initialized, find_dataset: FindDataset = DATASETS.get, visible_to: str | None = None
) -> None:
    """Raise InvalidSpec if the job that `init_from` names has no fitting weights or is not visible to `visible_to`."""
    if spec.init_from is None:
        return
    try:
        jobs.check_owner(session, spec.init_from.job, visible_to)
        job = jobs.get(session, spec.init_from.job)
    except NotFound as error:
        raise InvalidSpec([FieldError(POINTER, "not_found", error.detail)]) from error
    if why := _misfit(session, spec, job, find_dataset):
        raise InvalidSpec([FieldError(POINTER, "conflict", why)])


def _misfit(session: Session, spec: Initialized, job: Job, find_dataset: FindDataset) -> str | None:
    """Why the job's weights cannot be used; None if they can."""
    if job.kind != JobSpec.kind:
        return f"{job.id} is a {job.kind.replace('_', ' ')} and has no trained weights"
    if job.state != JobState.SUCCEEDED:
        return f"must have succeeded; {job.id} is {jobs.status_of(job)}"
    if session.get(ArtifactRow, (job.id, MODEL)) is None:
        return f"{job.id} has no {MODEL}"
    theirs = JobSpec.stored(job.spec)
    if theirs.architecture != spec.architecture:
        one, other = (s.architecture.model_dump_json() for s in (theirs, spec))
        return f"{job.id} has another architecture: {one}, this job has {other}"
    if theirs.dataset == spec.dataset:
        return None
    before, now = find_dataset(theirs.dataset), find_dataset(spec.dataset)
    if before is None or now is None:
        return f"the dataset of {job.id}, {theirs.dataset}, no longer exists and cannot be compared with {spec.dataset}"
    if (before.shape, len(before.classes)) != (now.shape, len(now.classes)):
        return f"{job.id} has images of {_size(before.shape, len(before.classes))}, {spec.dataset} of " + (
            _size(now.shape, len(now.classes))
        )
    return None


def _size(shape: tuple[int, int, int], classes: int) -> str:
    return f"{'x'.join(map(str, shape))} in {classes} classes"
