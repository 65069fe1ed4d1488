"""The newest jobs that match a filter, and how many match, read through indexes.

Each condition of a filter has a source: a query for the ids of the jobs that meet it, which reads one range of an
index, or one for each of a few states. A list with one condition reads the beginning of that range. With several, the
page is often full of the newest `FEW` jobs. Else the sources are counted up to `SMALL`: if one of them is small, its
jobs are read and the other conditions checked on them. If all are large, one is read from its newest job on, `WINDOW`
jobs at a time, until the page is full.

So the time of a list does not depend on the number of jobs, with two exceptions: conditions that each are met by more
than `SMALL` jobs, and together by hardly any; and a time of creation, of whose range an index entry per job is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, func, literal, select, union_all
from sqlalchemy.orm import Session

from api.jobs.job_filter import after, between, conditions, like, shows
from api.openapi import schemas
from shared.db.tables import Job, JobLabel, JobName
from shared.jobs import search_rows
from shared.jobs.states import JobState

FEW, SMALL, WINDOW = 500, 2000, 1000  # jobs
MOST_COUNTED = 10_000  # jobs of one state; more are counted as "at least"
PROBED_GRAMS = 8  # of a pattern of names, the rarest of which is used

JOBS, LABELS = Job.__table__.c, JobLabel.__table__.c
SHOWN = ("id", "owner", "state", "name", "created_at", "cancel_requested_at", "pause_requested_at")
CHECKED = tuple(JOBS[name] for name in SHOWN)  # the columns that conditions compare; the large ones are not read


@dataclass(frozen=True)
class Part:
    """One range of an index: the jobs with these conditions, whose ids are in the column `id`."""

    id: ColumnElement[str]
    where: Sequence[ColumnElement[bool]]

    def ids(self) -> Select[Any]:
        return select(self.id.label("id")).where(*self.where)

    def jobs(self) -> Select[Any]:
        own = [] if self.id is JOBS.id else [JOBS.id == self.id]
        return select(*CHECKED).where(*self.where, *own)


@dataclass(frozen=True)
class Source:
    """The jobs that meet one condition, each in one part. `large`: they are not to be counted."""

    parts: Sequence[Part]
    large: bool = False

    def page(self, limit: int) -> Select[Any]:
        """The query for the newest ids, in order."""
        if len(self.parts) == 1:
            (part,) = self.parts
            return part.ids().order_by(part.id.desc()).limit(limit)
        newest = [part.ids().order_by(part.id.desc()).limit(limit).subquery() for part in self.parts]
        merged = union_all(*(select(one.c.id) for one in newest)).subquery()
        return select(merged.c.id).order_by(merged.c.id.desc()).limit(limit)

    def some(self, most: int) -> Subquery:
        """At most this many of the ids, in any order."""
        if len(self.parts) == 1:
            return self.parts[0].ids().limit(most).subquery()
        some = [part.ids().limit(most).subquery() for part in self.parts]
        return select(union_all(*(select(one.c.id) for one in some)).subquery().c.id).limit(most).subquery()

    def jobs(self, most: int) -> Subquery:
        """The newest `most` of the jobs."""
        newest = [part.jobs().order_by(part.id.desc()).limit(most).subquery() for part in self.parts]
        if len(newest) == 1:
            return newest[0]
        merged = union_all(*(select(one) for one in newest)).subquery()
        return select(merged).order_by(merged.c.id.desc()).limit(most).subquery()


@dataclass(frozen=True)
class Found:
    """How many jobs of a state match. `at_least`: there may be more."""

    jobs: int
    at_least: bool = False


def newest(session: Session, wanted: schemas.JobFilter, visible_to: str | None, limit: int) -> list[str]:
    """The ids of the newest `limit` jobs that match, newest first. `visible_to`: only this owner's jobs; None: the jobs
    of all owners."""
    if not _can_match(wanted, visible_to):
        return []
    ordered = _ordered(wanted, visible_to)
    if len(ordered) <= 1 and not _has_others(wanted):
        (only,) = ordered or [_every(wanted)]
        return list(session.scalars(only.page(limit)))
    found = _matching(session, _every(wanted).jobs(FEW), wanted, visible_to, limit)
    if len(found) == limit:
        return found
    small = _small_one(session, [*ordered, *_others(session, wanted)])
    if small is not None:
        return _matching(session, small, wanted, visible_to, limit)
    return _windows(session, wanted, visible_to, limit)


def _windows(session: Session, wanted: schemas.JobFilter, visible_to: str | None, limit: int) -> list[str]:
    """As `newest`, for a filter of whose conditions each is met by many jobs."""
    if not _ordered(wanted, visible_to) and not between(JOBS.created_at, wanted):
        (names,) = _others(session, wanted)
        return list(session.scalars(names.page(limit)))  # from indexes alone
    found: list[str] = []
    later, most = _from_its_newest(session, wanted), WINDOW
    while True:
        window = (_ordered(later, visible_to) or [_every(later)])[0].jobs(most)
        found += _matching(session, window, wanted, visible_to, limit - len(found))
        last, jobs = session.execute(select(func.min(window.c.id), func.count())).one()
        if len(found) == limit or jobs < most:
            return found
        later, most = later.model_copy(update={"after": last}), 2 * most


def _matching(
    session: Session, jobs: Subquery, wanted: schemas.JobFilter, visible_to: str | None, limit: int
) -> list[str]:
    """The ids of the newest `limit` of these jobs that match."""
    found = select(jobs.c.id).where(*conditions(jobs.c, wanted, visible_to))
    return list(session.scalars(found.order_by(jobs.c.id.desc()).limit(limit)))


def jobs_of(session: Session, ids: Sequence[str]) -> list[Job]:
    """The jobs with these ids, in their order, without those that have been deleted."""
    found = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))} if ids else {}
    return [found[job_id] for job_id in ids if job_id in found]


def counts(session: Session, wanted: schemas.JobFilter, visible_to: str | None) -> dict[str, Found]:
    """How many of the jobs that match are in each state; states without any are left out. `wanted` has no
    status and no cursor."""
    if not _can_match(wanted, visible_to):
        return {}
    owner = visible_to or wanted.owner
    if not wanted.labels and not _has_others(wanted):
        numbers = session.execute(_states(owner)).tuples()
        return {state: Found(min(jobs, MOST_COUNTED), jobs > MOST_COUNTED) for state, jobs in numbers if jobs}
    small = _small_one(session, [*_ordered(wanted, visible_to), *_others(session, wanted)])
    jobs = _every(_from_its_newest(session, wanted)).jobs(WINDOW) if small is None else small
    query = select(jobs.c.state, func.count()).where(*conditions(jobs.c, wanted, visible_to)).group_by(jobs.c.state)
    found = dict(session.execute(query).tuples().all())
    if small is not None:
        return {state: Found(number) for state, number in found.items()}
    return {state: Found(found.get(state, 0), at_least=True) for state in JobState}


def _small_one(session: Session, sources: Sequence[Source]) -> Subquery | None:
    """The jobs of the smallest source; None if each has `SMALL` jobs or more."""
    some = [source.some(SMALL) for source in sources if not source.large]
    place, jobs = _smallest(session, some) if some else (0, SMALL)
    if jobs == SMALL:
        return None
    return select(*CHECKED).where(JOBS.id.in_(select(some[place].c.id))).limit(SMALL).subquery()


def _from_its_newest(session: Session, wanted: schemas.JobFilter) -> schemas.JobFilter:
    """The same filter, whose pages begin with the newest job of its time of creation."""
    if wanted.created_before is None:  # the newest job of all is as good
        return wanted
    times = [*between(JOBS.created_at, wanted), *after(JOBS.id, wanted)]
    # not of the column itself: the database would look for it from the newest job on
    last = session.scalar(select(func.max(JOBS.id.concat(""))).where(*times))
    return wanted.model_copy(update={"after": f"{last}0"})  # which is behind that id and before all that follow it


def _can_match(wanted: schemas.JobFilter, visible_to: str | None) -> bool:
    return visible_to is None or wanted.owner in (None, visible_to)


def _ordered(wanted: schemas.JobFilter, visible_to: str | None) -> list[Source]:
    """A source for each condition whose jobs an index has in the order of their ids."""
    owner = visible_to or wanted.owner
    owned = [] if owner is None else [JOBS.owner == owner]
    mine = after(JOBS.id, wanted)
    found = []
    if wanted.status:
        parts = [Part(JOBS.id, [*owned, shows(JOBS, status), *mine]) for status in dict.fromkeys(wanted.status)]
        found.append(Source(parts))
    elif owned:
        found.append(Source([Part(JOBS.id, [*owned, *mine])]))
    for key, value in wanted.labels.items():
        pair = [LABELS.key == key, LABELS.value == value]
        found.append(Source([Part(LABELS.job_id, [*pair, *after(LABELS.job_id, wanted)])]))
    return found


def _has_others(wanted: schemas.JobFilter) -> bool:
    return _names(wanted) or bool(between(JOBS.created_at, wanted))


def _names(wanted: schemas.JobFilter) -> bool:
    return wanted.name is not None and wanted.name.strip("*") != ""


def _others(session: Session, wanted: schemas.JobFilter) -> list[Source]:
    """A source for each of the other conditions: name and time of creation."""
    found, mine = [], after(JOBS.id, wanted)
    if wanted.name is not None and _names(wanted):
        named, large = _named(session, wanted.name)
        found.append(Source([Part(JOBS.id, [named, *mine])], large))
    if times := between(JOBS.created_at, wanted):
        found.append(Source([Part(JOBS.id, [*times, *mine])]))
    return found


def _named(session: Session, pattern: str) -> tuple[ColumnElement[bool], bool]:
    """Condition for the jobs whose name matches: that it is one of those that have the rarest of some of the pattern's
    grams, and match. And whether there are `SMALL` names with that gram."""
    texts = [text for text in pattern.split("*") if text]
    whole = sorted({gram for text in texts for gram in search_rows.grams(text) if len(gram) == search_rows.LENGTH})
    probed = whole[:: len(whole) // PROBED_GRAMS + 1] or [max(texts, key=len)]
    names = [search_rows.names_with(gram) for gram in probed]
    rarest, number = _smallest(session, [one.limit(SMALL).subquery() for one in names])
    match = JobName.id.in_(names[rarest]), JobName.name.ilike(like(pattern), escape="\\")
    if number == SMALL:
        return JOBS.name.in_(select(JobName.name).where(*match)), True
    return JOBS.name.in_(session.scalars(select(JobName.name).where(*match)).all()), False


def _smallest(session: Session, some: Sequence[Subquery]) -> tuple[int, int]:
    """Which of these limited queries has the fewest rows, and how many."""
    numbers = session.execute(select(*(select(func.count()).select_from(one).scalar_subquery() for one in some))).one()
    return min(enumerate(numbers), key=lambda found: found[1])


def _every(wanted: schemas.JobFilter) -> Source:
    """All jobs that follow the page before."""
    return Source([Part(JOBS.id, after(JOBS.id, wanted))])


def _states(owner: str | None) -> Any:
    """The number of jobs in each state, up to one more than `MOST_COUNTED`."""
    owned = [] if owner is None else [JOBS.owner == owner]
    some = {state: select(JOBS.id).where(*owned, JOBS.state == state).limit(MOST_COUNTED + 1) for state in JobState}
    return union_all(
        *(select(literal(str(state)), func.count()).select_from(one.subquery()) for state, one in some.items())
    )
