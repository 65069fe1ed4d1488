"""No list, filter or count takes more work in a service with four times as many jobs."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from api.dashboard import job_rows
from api.jobs import job_list
from api.services import Services
from benchmarks.growth import BODIES, CALLS, PAGES, fill
from shared.db.database import Database

FEW, MANY = 5000, 20_000  # jobs: more than a list may read of them, and four times as many
# what a list reads at most, in proportion to these numbers: a twentieth of what it is for 100 000 jobs
LIMITS = {"FEW": 25, "SMALL": 100, "WINDOW": 50, "MOST_COUNTED": 100}
STEPS = 10  # of SQLite's virtual machine, between two counts
READS = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
MORE = 1.3  # times as much work is as much: indexes are deeper, and there are more queued jobs
# an entry of an index for each job of the range: `created before` reads half of all, and nothing else of them
OF_A_RANGE = {"created before"}


class Work:
    """Counts what the statements of a request take: steps of SQLite's virtual machine, or the rows that PostgreSQL's
    nodes read. Keeps the plans."""

    def __init__(self, database: Database) -> None:
        self.database, self.steps = database, 0
        self.plans: list[tuple[str, str]] = []  # statement, plan
        event.listen(database.engine, "before_cursor_execute", self._before)
        event.listen(database.engine, "after_cursor_execute", self._after)

    def _before(self, connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        driver = connection.connection.driver_connection
        if not READS.match(statement):
            return
        if self.database.is_sqlite:
            plan = driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            self.plans.append((statement, "\n".join(line[3] for line in plan)))
            driver.set_progress_handler(self._count, STEPS)
        elif "jobs" in statement or "audit" in statement:
            with driver.cursor() as explains:
                explains.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
                (answer,) = explains.fetchone()
            plan = answer[0]["Plan"]
            self.plans.append((statement, json.dumps(plan)))
            self.steps += sum(rows_of(plan))

    def _after(self, connection: Any, *rest: Any) -> None:
        if isinstance(driver := connection.connection.driver_connection, sqlite3.Connection):
            driver.set_progress_handler(None, STEPS)

    def _count(self) -> int:
        self.steps += STEPS
        return 0

    def of(self, client: FlaskClient, name: str, call: str) -> tuple[int, list[tuple[str, str]]]:
        method, path = call.split() if " " in call else ("GET", call)
        headers = {"Accept": "text/html"} if path in PAGES else {}
        self.steps, self.plans = 0, []
        answer = client.open(path, method=method, headers=headers, json=BODIES.get(name))
        assert answer.status_code == 200, answer.text
        return self.steps, self.plans


def rows_of(node: dict[str, Any]) -> Iterator[float]:
    """The rows that each node of a plan has returned, and those that it has read and not returned."""
    removed = sum(node.get(f"Rows Removed by {by}", 0) for by in ("Filter", "Index Recheck", "Join Filter"))
    yield (node["Actual Rows"] + removed) * node["Actual Loops"]
    for below in node.get("Plans", ()):
        yield from rows_of(below)


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def growth(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[int, int, list[tuple[str, str]]]]:
    """By call: its work with few jobs and with many, and the plans of its statements with many."""
    for name, jobs in LIMITS.items():
        monkeypatch.setattr(job_list, name, jobs)
    monkeypatch.setattr(job_rows, "RECENT", 50)
    oldest = fill(services.database, FEW)
    work = Work(services.database)
    calls = {name: call.format(oldest=oldest) for name, call in CALLS.items()}
    for name, call in calls.items():
        work.of(client, name, call)  # what is read once and kept
    few = {name: work.of(client, name, call)[0] for name, call in calls.items()}
    fill(services.database, MANY, FEW)
    return {name: (few[name], *work.of(client, name, call)) for name, call in calls.items()}


def test_no_call_takes_more_work_with_four_times_as_many_jobs(growth, services: Services) -> None:
    least = 8000 if services.database.is_sqlite else 500  # steps, rows: below it a call is quick in any case
    slow = {
        name: (few, many)
        for name, (few, many, _) in growth.items()
        if many > max(MORE * few, least) and name not in OF_A_RANGE
    }
    assert not slow, growth[next(iter(slow))][2]
    for name in OF_A_RANGE:
        _, many, plans = growth[name]
        assert many < (12 if services.database.is_sqlite else 3) * MANY, plans


def test_no_statement_reads_or_sorts_a_whole_table(growth, services: Services) -> None:
    """Whatever the numbers are: SQLite plans without statistics."""
    if not services.database.is_sqlite:
        pytest.skip("PostgreSQL plans by its statistics, which the other test shows")
    for name, (_, _, plans) in growth.items():
        for statement, plan in plans:
            for line in plan.splitlines():
                assert not re.fullmatch(r"SCAN (jobs|job_labels|audit)( AS \w+)?", line.strip()), (
                    name,
                    statement,
                    plan,
                )
