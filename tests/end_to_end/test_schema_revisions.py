"""API and worker as processes on a database whose schema is of another version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text, update
from support.service import Part, Service
from support.waiting import wait_for

from shared.db import migrate
from shared.db.database import Database
from shared.db.tables import Job

NEWEST = migrate.known()[-1]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Service]:
    """A service of which no part is started; its database is at the newest revision."""
    service = Service(tmp_path)
    service.migrate()
    yield service
    service.close()


def at(service: Service, revision: str) -> None:
    """Say that the schema is at this revision, without a change of the tables."""
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    database.close()


def refused(part: Part) -> str:
    wait_for(lambda: not part.alive, 60, "the process to end")
    assert part.process.returncode == 1
    assert "Traceback" not in part.said()
    return part.said()


@pytest.mark.parametrize("revision", ["0001", pytest.param("0099", marks=pytest.mark.long)])
def test_api_and_worker_do_not_start_on_the_schema_of_another_version(folder: Service, revision: str) -> None:
    at(folder, revision)
    for part in (folder._gradq("api", "--port", "0"), folder._gradq("worker")):
        said = refused(part)
        assert f"at revision {revision}" in said
        assert ("gradq migrate" if revision == "0001" else "docs/operations.md") in said
        assert "Listening" not in said


@pytest.mark.long
def test_api_and_worker_do_not_start_without_tables(folder: Service) -> None:
    (folder.state / "gradq.db").unlink()
    for part in (folder._gradq("api", "--port", "0"), folder._gradq("worker")):
        assert "no tables of gradq; run `gradq migrate`" in refused(part)


@pytest.mark.long
def test_a_worker_finishes_its_job_and_takes_no_other_while_the_schema_is_of_another_version(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(GRADQ_SLOTS="2")
    running = service.submit(epochs=10_000)
    service.wait_until(running["id"], lambda job: job["status"] == "running", 60, "the start of the first job")
    at(service, "0099")
    wait_for(lambda: service.live_workers()[0]["draining"], 30, "the worker to say that it takes no jobs")
    wait_for(lambda: service.http.get("/readyz").status_code == 503, 30, "the API not to be ready")
    assert "0099" in service.http.get("/readyz").json()["database_detail"]
    waits = service.submit(epochs=1)
    assert service.job(waits["id"])["queue"]["reason"]["code"] == "no_live_worker"
    service.cancel(running["id"])
    assert service.wait(running["id"])["status"] == "cancelled"
    assert service.job(waits["id"])["status"] == "queued"
    at(service, NEWEST)
    assert service.wait(waits["id"])["status"] == "succeeded"
    assert "no jobs are taken" in service.worker.said()


@pytest.mark.long
def test_a_worker_passes_over_a_job_of_a_kind_that_it_does_not_know(start_service: Callable[..., Service]) -> None:
    service = start_service()
    first = service.submit(epochs=10_000)
    unknown = service.submit(epochs=1)
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")
    with database.write() as session:
        session.execute(update(Job).where(Job.id == unknown["id"]).values(kind="distillation", spec={}, priority=90))
    database.close()
    last = service.submit(epochs=1)
    service.cancel(first["id"])
    assert service.wait(last["id"])["status"] == "succeeded"
    waiting = service.job(unknown["id"])
    assert (waiting["status"], waiting["queue"]["reason"]["code"]) == ("queued", "no_worker_for_kind")
    service.cancel(unknown["id"])
