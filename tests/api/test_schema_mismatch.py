"""The API on a database whose schema is of another version: not ready, and 503 instead of 500."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, text

from api.app import create_app
from api.services import Services
from shared.config import Settings
from shared.db import migrate
from shared.db.database import Database

OLDER = [migrate.known()[0], *migrate.known()[-3:-1]]
TOO_OLD = ["0001", "0006", "0008"]  # without columns or tables that requests read


def at(database: Database, revision: str) -> None:
    """Say that the schema is at this revision, without a change of the tables."""
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def expire(services: Services) -> None:
    """Let the last check of the schema no longer count."""
    services.schema._found = (services.schema._found[0], 0.0)


@pytest.fixture
def live(client: FlaskClient) -> FlaskClient:
    client.application.testing = False
    assert client.get("/readyz").status_code == 200
    return client


@pytest.mark.parametrize("revision", [*OLDER, "0099", "abc"])
def test_an_api_whose_schema_has_changed_is_not_ready_and_names_the_revision(
    live: FlaskClient, services: Services, problem: Callable[..., dict[str, Any]], revision: str
) -> None:
    at(services.database, revision)
    assert live.get("/readyz").status_code == 200, "the last check counts for some seconds"
    expire(services)
    answer = live.get("/readyz")
    body = problem(answer, 503, "database_away")
    assert (body["ready"], body["database"]) == (False, "away")
    assert f"revision {revision}" in body["database_detail"]
    assert ("gradq migrate" in body["database_detail"]) == (revision in OLDER)
    assert body["database_detail"] in body["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    at(services.database, migrate.known()[-1])
    expire(services)
    assert live.get("/readyz").json["database"] == "ok"


@pytest.mark.parametrize("revision", TOO_OLD)
def test_a_query_that_fails_on_another_schema_is_a_503(
    live: FlaskClient, services: Services, problem: Callable[..., dict[str, Any]], revision: str
) -> None:
    services.database.migrate(revision)
    answers = [live.post("/v1/jobs", json={}), live.get("/v1/audit"), live.get("/v1/jobs"), live.get("/v1/workers")]
    answers += [live.get("/v1/datasets"), live.get("/v1/queues"), live.post("/v1/jobs/job_1/cancel")]
    assert {answer.status_code for answer in answers} <= {200, 202, 404, 503}
    failed = [answer for answer in answers if answer.status_code == 503]
    assert failed
    for answer in failed:
        assert f"revision {revision}" in problem(answer, 503, "database_away")["detail"]
        assert int(answer.headers["Retry-After"]) > 0
    services.database.migrate()
    assert live.post("/v1/jobs", json={}).status_code == 202


def test_a_query_that_fails_on_the_right_schema_is_still_a_500(live: FlaskClient, services: Services, problem) -> None:
    with services.database.write() as session:
        session.execute(text("DROP TABLE workers"))
    problem(live.get("/v1/workers"), 500, "internal_error")


def test_a_database_without_tables_is_named(settings: Settings, problem) -> None:
    client = create_app(settings).test_client()
    client.application.testing = False
    assert "no tables of gradq; run `gradq migrate`" in problem(client.get("/readyz"), 503, "database_away")["detail"]
    assert "gradq migrate" in problem(client.post("/v1/jobs", json={}), 503, "database_away")["detail"]


def test_requests_do_not_read_the_revision(live: FlaskClient, services: Services) -> None:
    statements: list[str] = []
    event.listen(services.database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    expire(services)
    for _ in range(3):
        live.post("/v1/jobs", json={})
        live.get("/v1/jobs")
    assert statements
    assert not [statement for statement in statements if "alembic_version" in statement]
    for _ in range(5):
        live.get("/readyz")
    assert len([statement for statement in statements if "alembic_version" in statement]) == 1
