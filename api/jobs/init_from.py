"""`init_from`: whether the weights that one job ended with can begin another. Asked at the border, of rows alone."""

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
Beginner = JobSpec | WalkSpec  # what can begin with the weights of another job


def check_init_from(
    session: Session, spec: Beginner, find_dataset: FindDataset = DATASETS.get, visible_to: str | None = None
) -> None:
    """Raise InvalidSpec when the job that `init_from` names has no weights that would fit, or is not of this owner."""
    if spec.init_from is None:
        return
    try:
        jobs.check_owner(session, spec.init_from.job, visible_to)
        job = jobs.get(session, spec.init_from.job)
    except NotFound as error:
        raise InvalidSpec([FieldError(POINTER, "not_found", error.detail)]) from error
    if why := _misfit(session, spec, job, find_dataset):
        raise InvalidSpec([FieldError(POINTER, "conflict", why)])


def _misfit(session: Session, spec: Beginner, job: Job, find_dataset: FindDataset) -> str | None:
    if job.kind != JobSpec.kind:
        return f"{job.id} is a {job.kind.replace('_', ' ')}, and trained no weights"
    if job.state != JobState.SUCCEEDED:
        return f"must have succeeded; {job.id} is {jobs.status_of(job)}"
    if session.get(ArtifactRow, (job.id, MODEL)) is None:
        return f"{job.id} has no {MODEL}"
    theirs = JobSpec.model_validate(job.spec)
    if theirs.architecture != spec.architecture:
        one, other = (s.architecture.model_dump_json() for s in (theirs, spec))
        return f"{job.id} trained another net: {one}, and this job asks for {other}"
    if theirs.dataset == spec.dataset:
        return None
    before, now = find_dataset(theirs.dataset), find_dataset(spec.dataset)
    if before is None or now is None:
        return f"the dataset of {job.id}, {theirs.dataset}, is no longer there to be compared with {spec.dataset}"
    if (before.shape, len(before.classes)) != (now.shape, len(now.classes)):
        return f"{job.id} took images {_size(before.shape, len(before.classes))}, and {spec.dataset} has " + (
            _size(now.shape, len(now.classes))
        )
    return None


def _size(shape: tuple[int, int, int], classes: int) -> str:
    return f"{'x'.join(map(str, shape))} in {classes} classes"
