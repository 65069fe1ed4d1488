"""The real API on a loopback port with SQLite in a temporary folder, the actions of a worker, and the command line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from werkzeug.serving import make_server

from api.app import create_app
from gradq.cli import app
from gradq.client.blocking import Client
from shared.artifacts import ArtifactStore, artifact_key
from shared.config import Settings
from shared.db.database import Database
from shared.jobs import queue
from shared.jobs.joblog import Line
from shared.jobs.queue import Lease
from shared.jobs.states import JobState


class Api:
    """A served API, and what a worker would do to its rows and files."""

    def __init__(self, url: str, settings: Settings, database: Database) -> None:
        self.url, self.settings, self.database = url, settings, database
        self.client = Client(url)

    def submit(self, **spec: Any) -> str:
        return str(self.client.submit(spec)["id"])

    def start(self) -> Lease:
        with self.database.write() as session:
            job = queue.claim(session, "w1", "cpu", ["auto", "cpu"], 60)
            assert job is not None
            return queue.lease_of(job)

    def point(self, lease: Lease, step: int, epoch: int, **values: float) -> None:
        data = {"step": step, "epoch": epoch, "series": "epoch", "metrics": values}
        with self.database.write() as session:
            queue.append(session, lease, [Line("metric", "", data, series="epoch", step=step)])

    def release(self, lease: Lease) -> None:
        with self.database.write() as session:
            queue.release(session, lease, "stopped", outcome="paused")

    def finish(
        self,
        lease: Lease,
        state: JobState = JobState.SUCCEEDED,
        files: dict[str, bytes] | None = None,
        **more: Any,
    ) -> None:
        stored, folder = [], self.settings.state_dir / "made"
        folder.mkdir(exist_ok=True)
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)
            key = artifact_key(lease.job_id, lease.attempt, name)
            stored.append(ArtifactStore(self.settings.artifacts).put(key, folder / name))
        reason = {"code": "diverged", "detail": "loss is nan"} if state is JobState.FAILED else None
        result = {"train_loss": 0.25, "test_accuracy": 0.9, **more} if state is JobState.SUCCEEDED else more or None
        with self.database.write() as session:
            queue.finish(session, lease, state, f"job {state}", reason=reason, result=result, files=stored)

    def ended(self, state: JobState = JobState.SUCCEEDED, **spec: Any) -> str:
        """A job that has been through its whole life."""
        job_id = self.submit(**spec)
        self.finish(self.start(), state)
        return job_id


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state", redis_url=f"redis+socket://{tmp_path}/nobody.sock", allow_anonymous=True
    )


@pytest.fixture
def api(settings: Settings, new_sqlite: Callable[[str], Database]) -> Iterator[Api]:
    settings.make_state_dir()
    database = new_sqlite(settings.database)
    server = make_server("127.0.0.1", 0, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    served = Api(f"http://127.0.0.1:{server.server_port}", settings, database)
    yield served
    served.client.close()
    server.shutdown()
    thread.join()
    server.server_close()
    database.close()


@pytest.fixture
def gradq(api: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """gradq("ps", "--json"): the command in this process, against the served API."""
    monkeypatch.setenv("GRADQ_URL", api.url)
    monkeypatch.delenv("GRADQ_TOKEN", raising=False)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": "80"})

    return run
