"""The rows of the job list: what each row shows, read for a whole page of jobs in a few queries."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from api.access.auth import owner_filter
from api.dashboard.dataset_names import dataset_names
from api.dashboard.sparklines import Sparkline, sparklines_of
from api.dashboard.words import number
from api.jobs import job_list
from api.jobs.job_object import page_to_json
from api.openapi.schemas import JobFilter
from api.services import services
from api.waiting.job_fingerprint import Fingerprint, fingerprints_of
from shared.db.tables import Job
from shared.jobs.states import ALLOWED_ACTIONS, JobState
from shared.spec.job_spec import JobSpec

WIDTH, HEIGHT = 96, 22  # of a sparkline, in its own units
RECENT = 1000  # succeeded jobs from which a page offers some to choose from


@dataclass(frozen=True)
class Row:
    """One job as its row shows it. `version` is a hash of all that is shown: rows of the same version look the same."""

    job: dict[str, Any]  # the job object of the API
    version: str
    owner: str | None  # None where the reader sees only their own jobs
    created_at: datetime
    dataset: str  # its name
    net: str
    way: str  # how gradients are computed: manual or autograd; for other kinds of jobs, the kind
    rounds: str  # unit of the progress: epoch, epochs, batch or batches
    device: str
    accuracy: float | None
    accuracy_of: str  # the data that it was measured on: validation or test
    loss: float | None  # of training: the result's, or the last epoch's
    losses: Sequence[float]
    seconds: float | None  # from its first start to its end
    actions: Sequence[str]

    @property
    def sparkline(self) -> str:
        """The losses as the points of an SVG polyline, WIDTH by HEIGHT units."""
        low, high = min(self.losses), max(self.losses)
        across, down = WIDTH / max(len(self.losses) - 1, 1), (HEIGHT - 3) / ((high - low) or 1)
        return " ".join(f"{i * across:.1f},{1.5 + (high - loss) * down:.1f}" for i, loss in enumerate(self.losses))

    @property
    def words(self) -> str:
        """The sparkline in words, for screen readers."""
        return f"loss from {self.losses[0]:.3g} to {self.losses[-1]:.3g}"


def rows_of(session: Session, page: Sequence[Job]) -> list[Row]:
    looks = fingerprints_by_id(session, [job.id for job in page])
    sparklines = sparklines_of(session, page)
    objects = page_to_json(session, page)
    names = dataset_names(session, [job.spec for job in page])
    return [
        _row(job, shown, names[job.spec.get("dataset", "")], sparklines.get(job.id, Sparkline()), looks.get(job.id))
        for job, shown in zip(page, objects, strict=True)
    ]


def fingerprints_by_id(session: Session, job_ids: Sequence[str]) -> dict[str, Fingerprint]:
    return fingerprints_of(session, job_ids, services().settings.lease_seconds) if job_ids else {}


def version_of(look: Fingerprint | None) -> str:
    return hashlib.sha256(repr(look).encode()).hexdigest()[:16]


def counts(session: Session, wanted: JobFilter, visible_to: str | None) -> dict[str, int | str]:
    """Number of the wanted jobs in each state; a text such as `10 000+` where there are at least as many."""
    found = job_list.counts(session, wanted, visible_to)
    return {state: f"{number(some.jobs)}+" if some.at_least else some.jobs for state, some in found.items()}


def recently_succeeded(visible_to: str | None) -> list[ColumnElement[bool]]:
    """Conditions that limit a query to the newest `RECENT` succeeded jobs of one owner, or of all for None. What a page
    offers to choose from is looked for among these: to compare all jobs would take longer with each one."""
    owned = [] if visible_to is None else [Job.owner == visible_to]
    newest = select(Job.id).where(*owned, Job.state == JobState.SUCCEEDED).order_by(Job.id.desc()).limit(RECENT)
    return [Job.id.in_(select(newest.subquery().c.id))]


def _row(job: Job, shown: dict[str, Any], dataset: str, sparkline: Sparkline, look: Fingerprint | None) -> Row:
    result = job.result or {}
    tested = result.get("test_accuracy")
    return Row(
        job=shown,
        version=version_of(look),
        owner=job.owner if owner_filter() is None else None,
        created_at=job.created_at,
        dataset=dataset,
        net=net_of(job.spec),
        way=job.spec["gradients"] if job.kind == JobSpec.kind else job.kind.replace("_", " "),
        rounds=_rounds(job),
        device=(shown["attempts"] or [{"device": ""}])[-1]["device"],
        accuracy=sparkline.accuracy if tested is None else tested,
        accuracy_of="validation" if tested is None else "test",
        loss=result.get("train_loss", sparkline.loss),
        losses=sparkline.losses,
        seconds=(job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None,
        actions=ALLOWED_ACTIONS[shown["status"]],
    )


def _rounds(job: Job) -> str:
    one, many = ("epoch", "epochs") if job.kind == JobSpec.kind else ("batch", "batches")
    return one if (job.progress or {}).get("epochs") == 1 else many


def net_of(spec: dict[str, Any]) -> str:
    """The architecture in short: mlp 30, cnn 16-32-64, resnet18; empty for a job of an unknown kind without one"""
    if "architecture" not in spec:
        return ""
    found = spec["architecture"]
    if "name" in found:
        return str(found["name"])
    sizes = "-".join(map(str, [*found.get("channels", []), *found.get("hidden", [])]))
    return f"{found['type']} {sizes}".strip()
