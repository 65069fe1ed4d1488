"""Whether the weights that `init_from` names were trained on images with which a job validates or tests: from the rows
of the jobs before it, without their images."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from shared.datasets import dataset_store
from shared.db.tables import Job
from shared.spec.job_spec import Fraction, JobSpec
from worker.trainer.data.split_methods import RANDOM, STRATIFIED

MAX_ANCESTORS = 100
Draw = tuple[Any, ...]  # (test_fraction, seed) of an uploaded dataset's test split; empty if the upload had its own


def warnings_about(session: Session, spec: dict[str, Any]) -> list[str]:
    """What a user should know about the figures of a training with this spec: a line about `validation` and one about
    the test split at most."""
    own = JobSpec.stored(spec)
    upload, draw = _source(session, own.dataset)
    found: dict[str, str] = {}
    for job in ancestors(session, own):
        theirs = JobSpec.stored(job.spec)
        their_upload, their_draw = _source(session, theirs.dataset)
        if upload != their_upload:
            continue
        before = f"init_from: {job.id} was trained on"
        if draw != their_draw:
            found.setdefault(
                "test",
                f"{before} {theirs.dataset}, the same upload with another test split, so on images with which this job "
                "validates and tests: its accuracies may be too high. Upload with the same test_fraction and seed",
            )
            continue
        split = (job.result or {}).get("validation_split", RANDOM)
        if how_much := _seen(own, theirs, split):
            can_repeat = isinstance(theirs.validation, Fraction) and split == STRATIFIED
            action = "use the same validation and seed as that job" if can_repeat else "set validation to 'test'"
            found.setdefault(
                "validation",
                f"{before} {how_much} of the images that this job holds out for validation: val_accuracy may be too "
                f"high, and test_accuracy is not affected; {action} to validate with images that are new to it",
            )
    return list(found.values())


def ancestors(session: Session, spec: JobSpec) -> list[Job]:
    """The job that `init_from` names, the one that this job started from, and so on, as far as they still exist."""
    found: list[Job] = []
    while spec.init_from is not None and len(found) < MAX_ANCESTORS:
        job = session.get(Job, spec.init_from.job)
        if job is None or job.kind != JobSpec.kind:
            break
        found.append(job)
        spec = JobSpec.stored(job.spec)
    return found


def _source(session: Session, dataset: str) -> tuple[str, Draw]:
    """The dataset's content and how its test split was drawn. Two ids may be one upload with other fields."""
    row = dataset_store.find(session, dataset)
    if row is None:
        return dataset, ()
    return row.sha256, tuple(row.options.get(name) for name in ("test_fraction", "seed"))


def _seen(own: JobSpec, theirs: JobSpec, their_split: str) -> str | None:
    """How many of `own`'s held-out images `theirs` was trained on, in words; None if none. Both have one dataset."""
    if not isinstance(own.validation, Fraction):
        return None
    if not isinstance(theirs.validation, Fraction):
        return "all"
    same = (theirs.validation, theirs.seed, their_split) == (own.validation, own.seed, STRATIFIED)
    return None if same else "most" if theirs.validation.fraction < 0.5 else "some"
