"""The app on SQLite in a temporary folder, with its broker unreachable; and a fake worker that moves jobs through
states."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from api.app import create_app
from api.openapi.document import RESPONSE_EXAMPLES
from api.services import EXTENSION, Services
from shared import workers
from shared.artifacts import StoredFile, artifact_key
from shared.config import Settings
from shared.db.database import Database
from shared.db.tables import Worker
from shared.jobs import joblog, queue
from shared.jobs.joblog import Line
from shared.jobs.queue import Lease
from shared.jobs.states import JobState


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path,
        data_dir=tmp_path / "data",
        redis_url=f"redis+socket://{tmp_path}/nobody.sock",
        allow_anonymous=True,
    )


@pytest.fixture
def app(settings: Settings, new_sqlite: Callable[[str], Database]) -> Flask:
    new_sqlite(settings.database).close()
    return create_app(settings)


@pytest.fixture
def app_on_each_database(database: Database, settings: Settings) -> Iterator[Flask]:
    """For modules that test both databases: `def app(app_on_each_database): return app_on_each_database`."""
    app = create_app(settings.model_copy(update={"database_url": SecretStr(database.url)}))
    yield app
    app.extensions[EXTENSION].database.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def services(app: Flask) -> Services:
    found: Services = app.extensions[EXTENSION]
    return found


class Hands:
    """Changes rows and files as a worker does."""

    def __init__(self, client: FlaskClient, services: Services, folder: Path) -> None:
        self.client, self.services, self.folder = client, services, folder

    def submit(self, **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/jobs", json=fields)
        assert answer.status_code == 202, answer.text
        body: dict[str, Any] = answer.json
        return body

    def start(self, worker: str = "w1") -> Lease:
        with self.services.database.write() as session:
            job = queue.claim(session, worker, "cpu", ["auto", "cpu"], 30)
            assert job is not None
            return queue.lease_of(job)

    def append(self, lease: Lease, *lines: Line) -> None:
        with self.services.database.write() as session:
            queue.append(session, lease, lines)

    def point(self, lease: Lease, step: int, epoch: int, series: str = "epoch", **values: float) -> None:
        data = {"step": step, "epoch": epoch, "series": series, "metrics": values}
        self.append(lease, Line("metric", "", data, series=series, step=step))

    def progress(self, lease: Lease, **progress: Any) -> None:
        with self.services.database.write() as session:
            queue.renew(session, lease, 30, progress)

    def store(self, lease: Lease, name: str, content: bytes) -> StoredFile:
        path = self.folder / name
        path.write_bytes(content)
        return self.services.store.put(artifact_key(lease.job_id, lease.attempt, name), path)

    def finish(self, lease: Lease, state: JobState = JobState.SUCCEEDED, **more: Any) -> None:
        with self.services.database.write() as session:
            queue.finish(session, lease, state, f"job {state}", **more)

    def release(self, lease: Lease) -> None:
        with self.services.database.write() as session:
            queue.release(session, lease, "stopped", outcome="paused")

    def beat(self, name: str = "w1", **changes: Any) -> None:
        values: dict[str, Any] = {
            "id": name,
            "host": "here",
            "pid": 7,
            "slots": 2,
            "free_slots": 1,
            "draining": False,
            "devices": {"kinds": ["cpu"], "slots": [{"kind": "cpu", "name": "cpu", "uuid": None}]},
            "version": "0.2.0",
            "started_at": joblog.now(),
        }
        with self.services.database.write() as session:
            workers.heartbeat(session, Worker(**{**values, **changes}))


@pytest.fixture
def hands(client: FlaskClient, services: Services, tmp_path: Path) -> Hands:
    folder = tmp_path / "files"
    folder.mkdir()
    return Hands(client, services, folder)


@pytest.fixture(scope="session")
def results() -> dict[str, Any]:
    """Results of the recorded jobs, by the name of the recording."""
    jobs = json.loads((RESPONSE_EXAMPLES / "Job.json").read_text())
    return {name: job["result"] for name, job in jobs.items()}


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Components of the OpenAPI document, which is the same for all settings."""
    app = create_app(Settings(state_dir=tmp_path_factory.mktemp("document"), allow_anonymous=True))
    found: dict[str, Any] = app.test_client().get("/v1/openapi.json").json["components"]
    return found


@pytest.fixture(scope="session")
def conforms(components: dict[str, Any]):
    """Validate a response against the schema of this name in the OpenAPI document."""

    @functools.cache
    def validator(name: str) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components})

    def check(answer: Any, name: str) -> None:
        validator(name).validate(answer)

    return check


@pytest.fixture
def problem(conforms):
    """Check that a response is a valid problem with this status and code; return its body."""

    def check(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
        assert answer.status_code == status, answer.text
        assert answer.content_type == "application/problem+json"
        body: dict[str, Any] = answer.json
        conforms(body, "Problem")
        assert (body["status"], body["code"]) == (status, code)
        assert body["type"] == f"/problems/{code.replace('_', '-')}"
        assert body["request_id"] == answer.headers["X-Request-Id"]
        return body

    return check
