"""The filter of job lists and bulk calls as SQL conditions."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from sqlalchemy import ColumnElement, and_, exists, or_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from api.http.requests import LABELS, CommaList, Query
from api.openapi import schemas
from shared.db.tables import JobLabel
from shared.jobs.states import JobState
from shared.spec.job_spec import LabelKey, LabelValue

# `label.team!=x` is the key `team!` with the value `x`, and `label.team[ne]=x` the key `team[ne]`
OPERATOR = re.compile(
    r"[<>]|[!~^*]$|\[(eq|neq?|[gl]te?|n?in|not|i?like|regex|contains|exists)\]$", re.ASCII | re.IGNORECASE
)


def _compared_for_equality(key: str) -> str:
    """Refuses a parameter that is meant as another comparison, which would otherwise match nothing."""
    if OPERATOR.search(key):
        raise ValueError(
            "labels are compared with `=` alone: label.KEY=VALUE; filter the list for other comparisons, or for a key "
            "that ends like one"
        )
    return key


Columns = ReadOnlyColumnCollection[str, Any]
EqualKey = Annotated[LabelKey, AfterValidator(_compared_for_equality)]


class ListQuery(schemas.JobFilter, Query):
    status: Annotated[tuple[schemas.Status, ...], CommaList] = Field((), description="any of these")
    labels: dict[EqualKey, LabelValue] = Field({}, alias=LABELS, max_length=16, description="value of the label KEY")
    limit: Annotated[int, Field(ge=1, le=100)] = 20


def conditions(job: Columns, wanted: schemas.JobFilter, visible_to: str | None) -> list[ColumnElement[bool]]:
    """Conditions for the jobs that match `wanted`. `job`: columns of the table, or of a subquery of it. `visible_to`:
    only this owner's jobs; None: the jobs of all owners.
    """
    found: list[ColumnElement[bool]] = [
        exists().where(JobLabel.key == key, JobLabel.value == value, JobLabel.job_id == job.id)
        for key, value in wanted.labels.items()
    ]
    if visible_to is not None:
        found.append(job.owner == visible_to)
    if wanted.owner is not None:
        found.append(job.owner == wanted.owner)
    if wanted.status:
        found.append(or_(*(shows(job, status) for status in wanted.status)))
    if wanted.name is not None:
        found.append(job.name.ilike(like(wanted.name), escape="\\"))
    return [*found, *between(job.created_at, wanted), *after(job.id, wanted)]


def between(created_at: Any, wanted: schemas.JobFilter) -> list[ColumnElement[bool]]:
    """Conditions for the time of creation."""
    found = [] if wanted.created_after is None else [created_at > wanted.created_after]
    return found if wanted.created_before is None else [*found, created_at < wanted.created_before]


def after(job_id: Any, wanted: schemas.JobFilter) -> list[ColumnElement[bool]]:
    """Conditions for the pages that follow the one before. Ids begin with the time of creation, so lists are in the
    order of ids, and a cursor stays valid when its job is deleted."""
    return [] if wanted.after is None else [job_id < wanted.after]


def shows(job: Columns, status: str) -> ColumnElement[bool]:
    """Condition for the rows whose shown status, as of `shown_status`, is this one."""
    cancel, pause = job.cancel_requested_at, job.pause_requested_at
    requested = {
        "cancelling": (cancel.is_not(None),),
        "pausing": (cancel.is_(None), pause.is_not(None)),
        "running": (cancel.is_(None), pause.is_(None)),
    }
    if status in requested:
        return and_(job.state == JobState.RUNNING, *requested[status])
    return job.state == status


def like(pattern: str) -> str:
    """SQL's pattern for a name's, in which `*` is any text; the escape character is a backslash."""
    for special in "\\%_":
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")
