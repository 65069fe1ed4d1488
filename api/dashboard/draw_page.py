"""Data of the Draw page: the finished jobs whose model can classify a drawing, and why a requested one cannot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote

from flask import Response
from sqlalchemy import Float, case, cast, func, select
from sqlalchemy.orm import Session

from api.access.auth import owner_filter
from api.dashboard.dataset_names import DatasetNames
from api.dashboard.frame import page
from api.dashboard.job_rows import recently_succeeded
from api.http.requests import Query, parse_query
from api.services import services
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS, DatasetInfo
from shared.db.tables import Job
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec

OF_DIGITS = ("mnist", "digits")  # datasets of digits, listed first and in this order
MOST = 50  # jobs in the list


class DrawQuery(Query):
    job: str | None = None


@dataclass(frozen=True)
class Reader:
    """A job whose model can classify drawings."""

    id: str
    name: str
    dataset: str
    architecture: str
    accuracy: float | None
    height: int
    width: int
    classes: tuple[str, ...]

    @property
    def manner(self) -> str:
        """How js/digitise.js turns a drawing into an image: as the images of `mnist` or of `digits` were made."""
        return "digits" if self.dataset == "digits" else "mnist"


def answer() -> Response:
    query = parse_query(DrawQuery)
    with services().database.read() as session:
        grey, names = _grey(session)
        readers = _readers(session, grey)
        wanted = _wanted(session, query.job)
        why_not = _why_not(wanted, grey, names) if wanted else None
        if wanted and not why_not and all(reader.id != wanted.id for reader in readers):
            readers = [*readers, _reader(wanted, grey)]
    readers = _sorted(readers)
    chosen = next((reader for reader in readers if wanted and reader.id == wanted.id), readers[0] if readers else None)
    by_dataset = [(names[name], list(those)) for name, those in groupby(readers, lambda reader: reader.dataset)]
    return page("draw", groups=by_dataset, chosen=chosen, wanted=wanted, why_not=why_not, form=_form())


def _wanted(session: Session, job_id: str | None) -> Job | None:
    if job_id is None:
        return None
    jobs.check_owner(session, job_id, owner_filter())
    return jobs.get(session, job_id)


def _grey(session: Session) -> tuple[dict[str, DatasetInfo], DatasetNames]:
    """The datasets with one channel, by the name or id that a spec gives; and the names of all uploaded ones by id."""
    rows = dataset_store.list_visible(session, owner_filter())
    uploaded = {row.id: dataset_store.info_of(row) for row in rows}
    names = DatasetNames({row.id: dataset_store.as_owned(row, owner_filter()).name for row in rows})
    return {name: info for name, info in {**DATASETS, **uploaded}.items() if info.shape[0] == 1}, names


def _readers(session: Session, grey: dict[str, DatasetInfo]) -> list[Reader]:
    """At most MOST jobs: those trained on digits first, within a dataset the highest test accuracy first."""
    dataset = Job.spec["dataset"].as_string()
    wanted = select(Job).where(
        Job.kind == JobSpec.kind,
        *recently_succeeded(owner_filter()),
        dataset.in_(grey),
        Job.spec[("architecture", "type")].as_string() != "torchvision",  # POST …/predict does not compute these
    )
    accuracy = func.coalesce(cast(Job.result["test_accuracy"].as_string(), Float), -1.0)
    order = (
        case({name: place for place, name in enumerate(OF_DIGITS)}, value=dataset, else_=len(OF_DIGITS)),
        accuracy.desc(),
    )
    return [_reader(job, grey) for job in session.scalars(wanted.order_by(*order, Job.id.desc()).limit(MOST))]


def _sorted(readers: Sequence[Reader]) -> list[Reader]:
    """Grouped by dataset: digits first, then by the best accuracy of the dataset; within a group the best job first."""
    best: dict[str, float] = {}
    for reader in readers:
        best[reader.dataset] = max(best.get(reader.dataset, -1), reader.accuracy or -1)

    def rank(reader: Reader) -> tuple[Any, ...]:
        place = OF_DIGITS.index(reader.dataset) if reader.dataset in OF_DIGITS else len(OF_DIGITS)
        return place, -best[reader.dataset], reader.dataset, -(reader.accuracy or -1)

    return sorted(readers, key=rank)


def _reader(job: Job, grey: dict[str, DatasetInfo]) -> Reader:
    info = grey[job.spec["dataset"]]
    _, height, width = info.shape
    return Reader(
        id=job.id,
        name=job.name,
        dataset=job.spec["dataset"],
        architecture=job.spec["architecture"]["type"],
        accuracy=(job.result or {}).get("test_accuracy"),
        height=height,
        width=width,
        classes=info.classes,
    )


def _why_not(job: Job, grey: dict[str, DatasetInfo], names: DatasetNames) -> str | None:
    if job.kind != JobSpec.kind:
        return f"is a {job.kind.replace('_', ' ')}, which does not train a model"
    if job.state != JobState.SUCCEEDED:
        return f"is {jobs.status_of(job)}; its model is available once it has succeeded"
    if job.spec["dataset"] not in grey:
        return f"was trained on {names[job.spec['dataset']]}, whose images are in colour, or which has been deleted"
    if job.spec["architecture"]["type"] == "torchvision":
        return "is a torchvision model, which the service does not run for predictions; use its model.onnx"
    return None


def _form() -> str:
    """Address of a Submit form filled in with a job that could classify digits: trained on MNIST where it is on disk or
    can be downloaded, otherwise on scikit-learn's digits."""
    settings = services().settings
    mnist = settings.download or not DATASETS["mnist"].missing_files(settings.datasets_dir)
    net = {"type": "cnn", "channels": [16, 32], "hidden": [64]} if mnist else {"type": "mlp", "hidden": [64]}
    spec = {
        "name": "reads digits",
        "dataset": "mnist" if mnist else "digits",
        "architecture": net,
        "epochs": 2 if mnist else 30,
    }
    return "/submit?spec=" + quote(json.dumps(spec))
