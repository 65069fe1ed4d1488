"""A list has exactly the newest jobs that match, whichever way it was read."""

from __future__ import annotations

import random
import re
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from support.store import read, submit, write

from api.jobs import job_list
from api.jobs.job_filter import ListQuery
from shared.db.database import Database
from shared.db.tables import Job
from shared.jobs import joblog, jobs
from shared.jobs.states import JobState

JOBS, FILTERS = 120, 400
NAMES = ("mnist", "MNIST ä", "mnist sweep", "a_b", "a%b", "x", "Sweep 7", "ab\\c")
PATTERNS = (
    *NAMES,
    "*",
    "**",
    "*i*",
    "*nis*",
    "mni*p",
    "*_*",
    "*%*",
    "x*",
    "*\\*",
    "*SWEEP*",
    "nothing",
    "*zz*",
    "m*s*e",
)
STATES = (*[JobState.SUCCEEDED] * 6, JobState.FAILED, JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED)
AT = joblog.now().replace(microsecond=0)


def shown(job: Job) -> str:
    return jobs.status_of(job)


def matches(job: Job, wanted: ListQuery, visible_to: str | None) -> bool:
    pattern = ".*".join(map(re.escape, (wanted.name or "*").split("*")))
    return (
        (visible_to is None or job.owner == visible_to)
        and (wanted.owner is None or job.owner == wanted.owner)
        and (not wanted.status or shown(job) in wanted.status)
        and re.fullmatch(pattern, job.name, re.IGNORECASE | re.DOTALL) is not None
        and wanted.labels.items() <= job.labels.items()
        and (wanted.created_after is None or job.created_at > wanted.created_after)
        and (wanted.created_before is None or job.created_at < wanted.created_before)
        and (wanted.after is None or job.id < wanted.after)
    )


@pytest.fixture
def found(database: Database) -> list[Job]:
    """Jobs of all states and owners, newest first. Their times of creation are not in the order of their ids, as after
    a change of the clock."""
    rng = random.Random(7)
    for number in range(JOBS):
        labels = {"team": rng.choice("aab"), **({"run": str(number % 40)} if rng.random() < 0.5 else {})}
        job_id = submit(database, name=rng.choice(NAMES), labels=labels)
        values: dict[str, Any] = {"state": rng.choice(STATES), "owner": rng.choice((None, "ada", "bob"))}
        values["created_at"] = AT + timedelta(seconds=number + rng.choice((0, 0, 0, -50, 50)))
        if values["state"] == JobState.RUNNING:
            values[rng.choice(("cancel_requested_at", "pause_requested_at", "started_at"))] = AT
        write(
            database,
            lambda session, change: session.execute(change),
            update(Job).where(Job.id == job_id).values(values),
        )
    return list(read(database, lambda session: session.scalars(select(Job).order_by(Job.id.desc())).all()))


def some_filter(rng: random.Random, found: list[Job]) -> ListQuery:
    given: dict[str, Any] = {
        "status": tuple(
            rng.sample(("succeeded", "failed", "running", "pausing", "cancelling", "queued"), rng.choice((1, 2)))
        ),
        "owner": rng.choice(("ada", "bob", "eve")),
        "name": rng.choice(PATTERNS),
        "label.": rng.choice(({"team": "a"}, {"team": "a", "run": "7"}, {"run": "3"}, {"team": "x"})),
        "created_after": AT + timedelta(seconds=rng.randrange(-60, JOBS + 60)),
        "created_before": AT + timedelta(seconds=rng.randrange(-60, JOBS + 60)),
        "after": rng.choice(found).id,
    }
    names = rng.sample(list(given), rng.choice((0, 1, 1, 2, 2, 3, 4)))
    return ListQuery.model_validate({name: given[name] for name in names})


@pytest.mark.parametrize(("few", "small", "window"), [(500, 2000, 1000), (2, 15, 4), (1, 1, 1)])
def test_a_list_has_the_newest_jobs_that_match(
    database: Database, found: list[Job], monkeypatch: pytest.MonkeyPatch, few: int, small: int, window: int
) -> None:
    for name, limit in (("FEW", few), ("SMALL", small), ("WINDOW", window)):
        monkeypatch.setattr(job_list, name, limit)
    rng = random.Random(few)
    for _ in range(FILTERS):
        wanted, visible_to, limit = some_filter(rng, found), rng.choice((None, None, "ada")), rng.choice((1, 5, 21))
        expected = [job for job in found if matches(job, wanted, visible_to)]
        with database.read() as session:
            ids = job_list.newest(session, wanted, visible_to, limit)
            assert ids == [job.id for job in expected[:limit]], wanted
            every = wanted.model_copy(update={"status": (), "after": None})
            counts = job_list.counts(session, every, visible_to)
        of_all = [job for job in found if matches(job, every, visible_to)]
        numbers = Counter(job.state for job in of_all)
        for state in JobState:
            some = counts.get(state, job_list.Found(0))
            assert some.jobs <= numbers[state] if some.at_least else some.jobs == numbers[state], (wanted, state)


def test_more_jobs_than_are_counted_are_at_least_as_many(
    database: Database, found: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "MOST_COUNTED", 20)
    counts = read(database, job_list.counts, ListQuery(), None)
    assert counts["succeeded"] == job_list.Found(20, at_least=True)
    assert counts["failed"] == job_list.Found(sum(job.state == "failed" for job in found))
