"""The filter of job lists and bulk calls as SQL conditions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field
from sqlalchemy import ColumnElement, and_, exists, func, or_
from sqlalchemy.orm import Session

from api.http.requests import LABELS, CommaList, Query
from api.openapi import schemas
from shared.db.tables import Job
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


EqualKey = Annotated[LabelKey, AfterValidator(_compared_for_equality)]


class ListQuery(schemas.JobFilter, Query):
    status: Annotated[tuple[schemas.Status, ...], CommaList] = Field((), description="any of these")
    labels: dict[EqualKey, LabelValue] = Field({}, alias=LABELS, max_length=16, description="value of the label KEY")
    limit: Annotated[int, Field(ge=1, le=100)] = 20


def matching(session: Session, wanted: schemas.JobFilter, visible_to: str | None) -> list[ColumnElement[bool]]:
    """Conditions for the jobs that match `wanted`. `visible_to`: only this owner's jobs; None: the jobs of all owners.

    Ids begin with the time of creation, so lists are ordered by primary key, and a cursor stays valid when its job is
    deleted.
    """
    found = [_has_label(session, key, value) for key, value in wanted.labels.items()]
    if visible_to is not None:
        found.append(Job.owner == visible_to)
    if wanted.owner is not None:
        found.append(Job.owner == wanted.owner)
    if wanted.status:
        found.append(shows_one_of(wanted.status))
    if wanted.name is not None:
        found.append(Job.name.ilike(_like(wanted.name), escape="\\"))
    if wanted.created_after is not None:
        found.append(Job.created_at > wanted.created_after)
    if wanted.created_before is not None:
        found.append(Job.created_at < wanted.created_before)
    if wanted.after is not None:
        found.append(Job.id < wanted.after)
    return found


def shows_one_of(statuses: Iterable[str]) -> ColumnElement[bool]:
    return or_(*(_shows(status) for status in statuses))


def _shows(status: str) -> ColumnElement[bool]:
    """Condition for the rows whose shown status, as of `shown_status`, is this one."""
    cancel, pause = Job.cancel_requested_at, Job.pause_requested_at
    requested = {
        "cancelling": (cancel.is_not(None),),
        "pausing": (cancel.is_(None), pause.is_not(None)),
        "running": (cancel.is_(None), pause.is_(None)),
    }
    if status in requested:
        return and_(Job.state == JobState.RUNNING, *requested[status])
    return Job.state == status


def _like(pattern: str) -> str:
    for special in "\\%_":
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")


def _has_label(session: Session, key: str, value: str) -> ColumnElement[bool]:
    if session.get_bind().dialect.name == "postgresql":
        return Job.labels[key].as_string() == value
    # SQLite's JSON paths cannot address keys that JSON escapes, such as é or a quote
    pair = func.json_each(Job.labels).table_valued("key", "value")
    return exists().where(pair.c.key == key, pair.c.value == value)
