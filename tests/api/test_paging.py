"""Pages of the job list on both databases: while jobs are submitted, and with a constant number of queries."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, update
from support.waiting import wait_for

from shared.db.tables import Job
from shared.jobs import joblog, jobs
from shared.spec.job_spec import JobSpec


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


def submit_many(services, n: int, **fields: Any) -> list[str]:
    spec = JobSpec.parse(fields)
    with services.database.write() as session:
        return [jobs.create(session, spec).id for _ in range(n)]


def test_two_hundred_jobs_come_once_each_while_others_are_submitted(app, client, services):
    """At least one job is submitted between two pages, and none may shift the next page."""
    there = submit_many(services, 200)
    new: list[str] = []
    done = threading.Event()

    def submit() -> None:
        other = app.test_client()
        while not done.is_set():
            new.append(other.post("/v1/jobs", json={}).json["id"])

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        seen, url = [], "/v1/jobs?limit=7"
        while url:
            answer = client.get(url)
            seen += [job["id"] for job in answer.json["data"]]
            url = answer.headers.get("Link", "<>").partition("<")[2].partition(">")[0]
            before = len(new)
            wait_for(lambda n=before: len(new) > n or not thread.is_alive(), 30, "another job")
    finally:
        done.set()
        thread.join()
    assert len(seen) == len(set(seen))
    assert [job_id for job_id in seen if job_id in set(there)] == there[::-1]
    assert len(new) > 25


def test_a_page_takes_as_many_queries_as_one_job(client, hands, services):
    hands.beat()
    submit_many(services, 1)
    statements: list[str] = []

    def note(_connection, _cursor, statement: str, *_: Any) -> None:
        statements.append(statement)

    def queries(limit: int) -> int:
        statements.clear()
        assert len(client.get(f"/v1/jobs?limit={limit}").json["data"]) == limit
        return sum(statement.startswith("SELECT") for statement in statements)

    event.listen(services.database.engine, "before_cursor_execute", note)
    one = queries(1)
    submit_many(services, 99)
    hands.start(), hands.start()
    # two more: for the attempts of running jobs, and whether several owners wait
    assert queries(100) <= one + 2 <= 6


def test_each_job_of_a_page_has_the_queue_position_that_it_has_alone(client, hands):
    hands.beat()
    ids = [hands.submit(priority=p)["id"] for p in (50, 50, 90, 10, 0, 100)]
    hands.start()
    listed = {job["id"]: job["queue"] for job in client.get("/v1/jobs").json["data"]}
    assert listed == {job_id: client.get(f"/v1/jobs/{job_id}").json["queue"] for job_id in ids}
    assert [listed[job_id] and listed[job_id]["position"] for job_id in ids] == [2, 3, 1, 4, 5, None]


def test_created_before_and_after_cut_out_a_span(client, hands, services):
    ids = [hands.submit()["id"] for _ in range(3)]
    for hours, job_id in zip((3, 2, 1), ids, strict=True):
        with services.database.write() as session:
            session.execute(
                update(Job).where(Job.id == job_id).values(created_at=joblog.now() - timedelta(hours=hours))
            )

    def at(hours: float) -> str:
        return (joblog.now() - timedelta(hours=hours)).isoformat()

    def found(**query: str) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", query_string=query).json["data"]]

    assert found(created_before=at(1.5)) == [ids[1], ids[0]]
    assert found(created_before=at(1.5), created_after=at(2.5)) == [ids[1]]
