"""The initial content of the Submit page: the defaults, a preset, a copy of another job's spec, or a spec from the
query string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.access.auth import owner_filter
from api.dashboard.frame import page
from api.dashboard.job_rows import recently_succeeded
from api.dashboard.spec_form import Choices, groups
from api.http.requests import Query, from_json, parse_query
from api.services import services
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.tables import Job
from shared.errors import FieldError, InvalidQuery, InvalidSpec, NotFound
from shared.jobs import jobs
from shared.spec.job_spec import JobSpec
from shared.spec.presets import PRESETS

DRAWN = {"name", "seed"}  # generated for each job where they are not given
RECENT = 50  # finished jobs suggested for `init_from`


class SubmitPageQuery(Query):
    source: str | None = Field(None, alias="from", description="a job whose spec is copied")
    preset: str | None = None
    spec: str | None = Field(None, description="JSON")


@dataclass(frozen=True)
class Start:
    """`values`: content of the fields; `preset`: sent in addition to them; `job`: the job they were copied from."""

    values: dict[str, Any]
    preset: str | None = None
    job: Job | None = None


def answer() -> Response:
    query = parse_query(SubmitPageQuery)
    with services().database.read() as session:
        start = begin(session, query)
        base = defaults(start.preset)
        choices = Choices({"/dataset": _datasets(session)}, {"/init_from/job": _finished(session)})
    return page(
        "submit",
        groups=groups({**base, **start.values}, base, choices),
        base=base,
        start=start,
        preset=PRESETS.get(start.preset or ""),
        presets=[(preset, figures(preset.article)) for preset in PRESETS.values()],
    )


def begin(session: Session, query: SubmitPageQuery) -> Start:
    """Raises NotFound for an unknown job or preset, InvalidQuery for a spec that is not valid."""
    if query.source is not None:
        jobs.check_owner(session, query.source, owner_filter())
        return _copy(jobs.get(session, query.source))
    if query.preset is not None:
        if query.preset not in PRESETS:
            raise NotFound(f"preset '{query.preset[:80]}' not found; there are: {', '.join(PRESETS)}")
        return Start({}, query.preset)
    if query.spec is not None:
        return _given(from_json(query.spec.encode()))
    return Start({})


def _copy(job: Job) -> Start:
    """The seed is copied too, so that it is the same run until a field is changed; a generated name is not copied."""
    if job.kind != JobSpec.kind:
        detail = f"{job.id} is a {job.kind.replace('_', ' ')}; this form submits trainings only"
        raise InvalidQuery([FieldError("/from", "conflict", detail)])
    values = dict(job.spec)
    if (values.get("name") or "").endswith(JobSpec.stored(job.spec).ending_of_names()):
        del values["name"]
    return Start(values, values.get("preset"), job)


def _given(body: Any) -> Start:
    try:
        spec = JobSpec.parse(body, dataset_store.finder(services().database, owner_filter()))
    except InvalidSpec as error:
        raise InvalidQuery([FieldError(f"/spec{e.pointer}", e.code, e.detail) for e in error.errors]) from error
    left_out = DRAWN - body.keys()
    return Start({key: value for key, value in spec.to_json().items() if key not in left_out}, spec.preset)


def defaults(preset: str | None) -> dict[str, Any]:
    """The values that the service uses for fields that a body does not have."""
    fields = PRESETS[preset].spec if preset in PRESETS else {}
    return JobSpec.model_validate({"preset": preset, **fields}).model_dump(mode="json", exclude=DRAWN)


def figures(article: dict[str, Any]) -> str:
    """The article's figures in short: `validation 0.3074 → 0.3113`. Accuracies are from 0 to 1."""
    parts = []
    if "untrained_accuracy" in article:
        parts.append(f"untrained {article['untrained_accuracy']:.4f}")
    curve = article.get("val_accuracy", [])
    first = article.get("first_val_accuracy", curve[0] if len(curve) > 1 else None)
    last = article.get("last_val_accuracy", curve[-1] if curve else None)
    ways = [f"{value:.4f}" for value in (first, last) if value is not None]
    if ways:
        parts.append("validation " + " → ".join(ways))
    if loss := article.get("train_loss"):
        parts.append(f"loss {loss[0]:g} → {loss[-1]:g}")
    return ", ".join(parts)


# --- values to choose from --------------------------------------------------------------------------------------------


def _datasets(session: Session) -> list[tuple[str, str]]:
    settings = services().settings
    found = []
    for info in DATASETS.values():
        missing = bool(info.missing_files(settings.datasets_dir))
        note = (", downloaded by the first job" if settings.download else ", not on this machine") if missing else ""
        found.append((info.name, f"{info.name}: {info.description}{note}"))
    for row in dataset_store.list_visible(session, owner_filter()):
        channels, height, width = row.facts["shape"]
        look = f"{height}x{width} {'grey' if channels == 1 else 'colour'}, {len(row.facts['classes'])} classes"
        found.append((row.id, f"{dataset_store.as_owned(row, owner_filter()).name}: uploaded, {look}"))
    return found


def _finished(session: Session) -> list[tuple[str, str]]:
    succeeded = (Job.kind == JobSpec.kind, *recently_succeeded(owner_filter()))
    wanted = select(Job.id, Job.name).where(*succeeded)
    return [(id, name) for id, name in session.execute(wanted.order_by(Job.id.desc()).limit(RECENT))]
