"""`gradq doctor`: deliberate faults, each reported by its check, with a fix."""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from redis import Redis
from sqlalchemy import text
from support.broker_faults import FAULTS, RESPONSES, lying_server
from support.images import npz, small
from support.waiting import wait_for
from typer.testing import CliRunner

from gradq.cli import app
from gradq.commands.checkups import examine, machine
from gradq.commands.checkups.finding import Finding
from gradq.commands.checkups.targets import Targets
from gradq.local.broker_process import BrokerServer, embedded_broker
from gradq.local.children import Child
from gradq.local.instance import only_one
from shared import heartbeat, workers
from shared.broker import Broker
from shared.config import Settings
from shared.datasets.catalog import DATASETS
from shared.db.migrate import alembic_config
from shared.db.tables import Worker
from shared.errors import StoreUnavailable
from shared.version import VERSION

NOBODY = "http://127.0.0.1:1"
WORKER = {"host": "here", "pid": 1, "slots": 2, "free_slots": 1, "devices": {"kinds": ["cpu"]}, "draining": False}


class Report:
    def __init__(self, exit_code: int, stdout: str) -> None:
        self.exit_code = exit_code
        self.body = json.loads(stdout)
        self.checks: dict[str, dict[str, Any]] = {row["check"]: row for row in self.body["checks"]}

    def __getitem__(self, check: str) -> dict[str, Any]:
        return self.checks[check]

    def wrong(self) -> dict[str, str]:
        return {name: row["verdict"] for name, row in self.checks.items() if row["verdict"] != "ok"}


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Report]:
    """doctor(URL=…, REDIS_URL=…): the report of a machine with these settings alone."""
    for name in [name for name in os.environ if name.startswith("GRADQ_")]:
        monkeypatch.delenv(name)

    def examine(**environment: str) -> Report:
        given = {"STATE_DIR": str(tmp_path / "state"), "URL": NOBODY, **environment}
        result = CliRunner().invoke(
            app, ["doctor", "--json"], env={f"GRADQ_{name}": value for name, value in given.items()}
        )
        report = Report(result.exit_code, result.stdout)
        for row in report.checks.values():
            assert (row["mend"] is None) == (row["verdict"] == "ok"), row
            assert "the check itself failed" not in row["detail"]
        assert report.body["ok"] == (result.exit_code == 0) == ("problem" not in report.wrong().values())
        return report

    return examine


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[BrokerServer]:
    server = embedded_broker(Settings(state_dir=tmp_path / "redis"))
    assert server is not None
    child = Child("broker", server.command, os.environ, tmp_path / "broker.log")
    child.start()
    wait_for(Broker(server.url).ping, 20, "the broker")
    yield server
    child.stop(10, lambda: False)
    server.clear()


def add_worker(api, **values: Any) -> None:
    row = Worker(id="w1@here", version=VERSION, started_at=datetime.now(UTC), **{**WORKER, **values})
    with api.database.write() as session:
        workers.heartbeat(session, row)


def test_with_nothing_running_it_says_how_to_start_and_leaves_no_trace(doctor, tmp_path: Path):
    report = doctor()
    assert (report.exit_code, report.wrong()) == (1, {"api": "problem"})
    assert "gradq up" in report["api"]["mend"]
    assert "is free" in report["port"]["detail"]
    assert report["versions"]["facts"]["gradq"] == VERSION
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").mkdir(mode=0o700)
    assert doctor().wrong() == {"api": "problem"}
    assert list((tmp_path / "state").iterdir()) == []


def test_a_service_that_is_whole_gets_a_clean_bill(doctor, api, redis):
    add_worker(api)
    here = {"STATE_DIR": str(api.settings.state_dir), "URL": api.url}
    report = doctor(**here, REDIS_URL=redis.url)
    assert report.wrong() == {"api": "warning"}, "the API of this test has no broker"
    assert report["database"]["facts"]["quick_check"] == "ok"
    assert report["broker"]["facts"]["maxmemory_policy"] == "noeviction"
    assert report["workers"]["detail"] == "1 worker, 1 of 2 slots free, cpu"
    assert report["clock"]["detail"] == "agrees with the service"
    assert "digits" in report["datasets"]["detail"]


def test_it_finds_the_service_in_the_state_folder_by_itself(api, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("GRADQ_URL", raising=False)
    with only_one(api.settings.state_dir, api.url):
        environment = {"GRADQ_REDIS_URL": f"redis+socket://{tmp_path}/nobody.sock"}
        result = CliRunner().invoke(app, ["doctor", "--json", "--state", str(api.settings.state_dir)], env=environment)
    report = Report(result.exit_code, result.stdout)
    assert report["api"]["facts"]["url"] == api.url
    assert f"pid {os.getpid()}" in report["state folder"]["detail"]


def test_people_read_the_verdict_and_under_it_the_way_out(doctor):
    result = CliRunner().invoke(app, ["doctor"], env={"GRADQ_URL": NOBODY, "GRADQ_STATE_DIR": "/nowhere/at/all"})
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("problem  api: no answer from"))
    assert lines[at + 1].startswith("         → Start it with `gradq up`")
    assert lines[-1] == "1 problem, no warning"
    assert "\x1b" not in result.stdout


# --- the stores -------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_dead_is_a_problem_with_a_way_out(doctor, tmp_path: Path):
    report = doctor(REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert report["broker"]["verdict"] == "problem"
    assert "Start Redis there, or correct GRADQ_REDIS_URL" in report["broker"]["mend"]
    assert "secret" not in json.dumps(report.body)


@pytest.mark.parametrize("name", ["read-only replica", "queue of another type", "memory full", "command not permitted"])
def test_a_broker_that_returns_errors_is_a_problem(doctor, redis, name):
    with Redis.from_url(f"unix://{redis.socket}") as client:
        FAULTS[name].begin(client)
        found = doctor(REDIS_URL=redis.url)["broker"]
        FAULTS[name].end(client)
    assert found["verdict"] == "problem"
    assert f"cannot be used: {FAULTS[name].word}: Redis " in found["detail"]
    assert doctor(REDIS_URL=redis.url)["broker"]["verdict"] == "ok"


@pytest.mark.parametrize("name", ["HTTP", "always OK", "LOADING", "malformed length"])
def test_a_broker_that_is_not_a_redis_is_a_problem(doctor, name):
    with lying_server(RESPONSES[name]) as url:
        found = doctor(REDIS_URL=url)["broker"]
    assert found["verdict"] == "problem"
    assert found["detail"].startswith(url)


def test_a_worker_that_receives_no_messages_is_warned_of(doctor, api, tmp_path: Path):
    broker = {"ok": False, "detail": "READONLY: Redis is a read-only replica", "errors": 1, "rejected": 0}
    add_worker(api, devices={"kinds": ["cpu"], "slots": [], "broker": broker})
    for url in (api.url, NOBODY):  # by the API's answer, and by the row
        found = doctor(STATE_DIR=str(api.settings.state_dir), URL=url)["workers"]
        assert found["verdict"] == "warning"
        assert "w1@here receives no messages and polls the database: READONLY" in found["detail"]


def test_a_broker_that_may_evict_is_warned_of(doctor, redis):
    with Redis.from_url(f"unix://{redis.socket}") as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    report = doctor(REDIS_URL=redis.url)
    assert report["broker"]["verdict"] == "warning"
    assert "CONFIG SET maxmemory-policy noeviction" in report["broker"]["mend"]


def test_a_database_without_tables_with_old_ones_and_with_newer_ones(doctor, empty_database):
    where = {"DATABASE_URL": empty_database.url}
    with empty_database.write() as session:
        session.execute(text("SELECT 1"))
    assert "has no tables" in doctor(**where)["database"]["detail"]
    empty_database.migrate()
    report = doctor(**where)
    assert report["database"]["verdict"] == "ok"
    assert empty_database.is_sqlite or report["clock"]["detail"] == "agrees with the database"
    with empty_database.engine.execution_options(gradq_writes=True).begin() as connection:
        command.downgrade(alembic_config(connection), "-1")
    report = doctor(**where)
    assert report["database"]["verdict"] == "problem"
    assert "gradq migrate" in report["database"]["mend"]
    with empty_database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "upgrade this one" in doctor(**where)["database"]["mend"]


def test_a_database_that_is_away_is_named_without_its_password(doctor):
    report = doctor(DATABASE_URL="postgresql+psycopg://gradq:secret@127.0.0.1:1/gradq")
    assert report["database"]["verdict"] == "problem"
    assert "Start PostgreSQL at 127.0.0.1:1" in report["database"]["mend"]
    assert "secret" not in json.dumps(report.body)


def test_a_database_with_broken_pages_is_called_damaged(doctor, api):
    api.submit()
    api.database.checkpoint_wal()
    api.database.close()
    path = api.settings.state_dir / "gradq.db"
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    path.with_name("gradq.db-wal").unlink(missing_ok=True)
    path.with_name("gradq.db-shm").unlink(missing_ok=True)
    found = doctor(STATE_DIR=str(api.settings.state_dir))["database"]
    assert found["verdict"] == "problem"
    assert "damaged" in found["detail"]
    assert "backup" in found["mend"]


def test_a_store_that_cannot_be_written_is_a_problem(doctor, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    report = doctor(ARTIFACTS_URL=f"file://{tmp_path}/file")
    assert report["artifacts"]["verdict"] == "problem"
    assert "GRADQ_ARTIFACTS_URL" in report["artifacts"]["mend"]
    (tmp_path / "folder").mkdir()
    report = doctor(ARTIFACTS_URL=f"file://{tmp_path}/folder")
    assert report["artifacts"]["facts"]["free_bytes"] > 0
    assert list((tmp_path / "folder").iterdir()) == []


def test_files_of_a_data_set_that_are_missing_are_named(doctor, tmp_path: Path):
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    *there, missing = DATASETS["mnist"].files
    for name in there:
        (folder / f"{name}.gz").touch()
    report = doctor(DATA_DIR=str(tmp_path / "data"))
    assert report["datasets"]["verdict"] == "warning"
    assert f"mnist lacks MNIST/raw/{missing} in {tmp_path}/data" in report["datasets"]["detail"]
    (folder / missing).touch()
    assert doctor(DATA_DIR=str(tmp_path / "data"))["datasets"]["verdict"] == "ok"
    report = doctor(DATA_DIR=str(tmp_path / "data"), DOWNLOAD="false")
    assert "fashion_mnist, kmnist, cifar10" in report["datasets"]["detail"]
    assert "GRADQ_DOWNLOAD=true" in report["datasets"]["mend"]


def test_an_uploaded_data_set_that_has_lost_a_file_is_named(doctor, api, tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(npz(**small()))
    dataset_id = api.client.add_dataset(tmp_path / "a.npz")["id"]
    here = {"STATE_DIR": str(api.settings.state_dir)}
    assert doctor(**here)["datasets"]["verdict"] == "ok"
    next((api.settings.state_dir / "artifacts").rglob("train_labels.npy")).unlink()
    found = doctor(**here)["datasets"]
    assert found["facts"]["lost_uploads"] == {dataset_id: ["train_labels.npy"]}
    assert "gradq datasets rm" in found["mend"]


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_state_folder_that_cannot_be_is_a_problem_and_an_open_one_a_warning(doctor, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file", tmp_path / "file" / "state"):
        report = doctor(STATE_DIR=str(place))
        assert report["state folder"]["verdict"] == "problem"
        assert "GRADQ_STATE_DIR" in report["state folder"]["mend"]
    (tmp_path / "open").mkdir(mode=0o755)
    report = doctor(STATE_DIR=str(tmp_path / "open"))
    assert report["state folder"]["verdict"] == "warning"
    assert report["state folder"]["mend"] == f"Run `chmod 700 {tmp_path / 'open'}`."


def test_unusable_gpus_are_a_warning(doctor, monkeypatch):
    monkeypatch.setattr(machine, "gpus_here", lambda: (["NVIDIA H100"], None))
    monkeypatch.setattr(machine, "version", lambda package: "2.13.0+cpu")
    report = doctor()
    assert report["devices"]["verdict"] == "warning"
    assert "is a CPU build" in report["devices"]["detail"]
    monkeypatch.setattr(machine, "version", lambda package: "2.13.0+cu130")
    assert doctor()["devices"]["detail"].endswith("CPU cores, NVIDIA H100")
    with answering(service(host=platform.node())) as url:
        report = doctor(URL=url)
    assert report["devices"]["verdict"] == "warning"
    assert "the worker here offers no GPU" in report["devices"]["detail"]


def test_a_package_that_is_missing_is_named(doctor, monkeypatch):
    def nothing_of_torch(package: str) -> str:
        if package == "torch":
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(machine, "version", nothing_of_torch)
    assert doctor()["versions"]["detail"] == "not installed: torch"


# --- the service ------------------------------------------------------------------------------------------------------


@contextmanager
def answering(bodies: dict[str, Any], ahead: timedelta = timedelta()) -> Iterator[str]:
    """A server with these answers and another clock."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(bodies.get(self.path, {})).encode()
            self.send_response(200 if self.path in bodies else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + ahead, usegmt=True)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def service(**worker: Any) -> dict[str, Any]:
    row = {"id": "w1@gpu1", "version": VERSION, **WORKER, **worker}
    return {
        "/v1/version": {"version": VERSION, "python": "3.11.7", "api": "v1"},
        "/readyz": {"ready": True, "database": "ok", "broker": "ok", "workers": 1},
        "/healthz": {"status": "ok"},
        "/v1/workers": {"data": [row]},
        "/v1/datasets": {"data": [{"id": "mnist", "available": False, "missing_files": ["MNIST/raw/a"]}]},
    }


@pytest.mark.parametrize(("hours", "words"), [(1, "3600 s ahead of"), (-1, "3600 s behind")])
def test_clocks_that_disagree_are_warned_of(doctor, hours, words):
    with answering(service(), timedelta(hours=hours)) as url:
        report = doctor(URL=url)
    assert report["clock"]["verdict"] == "warning"
    said = int(report["clock"]["detail"].split("clock is ")[1].split(" s ")[0])
    assert abs(said - 3600) <= 2
    assert words.split(" s ")[1] in report["clock"]["detail"]
    assert "set-ntp" in report["clock"]["mend"]


def test_a_service_elsewhere_is_asked_for_its_workers_and_datasets(doctor):
    with answering(service()) as url:
        report = doctor(URL=url)
    assert report.wrong() == {"datasets": "warning"}
    assert f"mnist lacks MNIST/raw/a in the data folder of {url}" in report["datasets"]["detail"]
    assert report["api"]["detail"] == f"{url} accepts jobs, gradq {VERSION}"


@pytest.mark.parametrize(
    ("used", "limit", "verdict", "words"),
    [
        (5_000_000, None, "ok", "5.0 MB stored, without a limit"),
        (890_000_000, 10**9, "ok", "890.0 MB of 1.0 GB stored (89 %)"),
        (900_000_000, 10**9, "warning", "900.0 MB of 1.0 GB stored (90 %)"),
        (10**9, 10**9, "problem", "no further job or dataset is accepted"),
    ],
)
def test_an_owner_who_stores_nearly_all_that_it_may_is_told(doctor, used, limit, verdict, words):
    who = {"owner": "ann", "scopes": ["read"], "token_id": "tok_1"}
    storage = {"used_bytes": used, "limit_bytes": limit, "artifacts": used}
    with answering({**service(), "/v1/whoami": {**who, "storage": storage}}) as url:
        found = doctor(URL=url)["storage"]
    assert found["verdict"] == verdict
    assert words in found["detail"]
    assert found["facts"]["storage"] == storage
    assert verdict == "ok" or "gradq rm" in found["mend"]


@pytest.mark.parametrize(
    ("worker", "words"),
    [({"draining": True}, "all are draining"), ({"version": "0.0.9"}, "w1@gpu1 is gradq 0.0.9")],
)
def test_workers_that_do_not_help_are_warned_of(doctor, worker, words):
    with answering(service(**worker)) as url:
        report = doctor(URL=url)
    assert report["workers"]["verdict"] == "warning"
    assert words in report["workers"]["detail"]


def test_a_worker_here_that_runs_without_maintenance_is_a_problem(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "MEMORY", tmp_path)
    heartbeat.start(tmp_path / "state")
    heartbeat.beat("cpu")
    with answering(service()) as url:
        assert doctor(URL=url)["workers"]["verdict"] == "ok"
        now = time.monotonic()
        monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now + 1000)
        report = doctor(URL=url)
    heartbeat.end()
    assert report["workers"]["verdict"] == "problem"
    assert "maintenance loop has not for 10" in report["workers"]["detail"]
    assert "Restart it" in report["workers"]["mend"]


def test_no_worker_is_a_warning_that_says_what_to_start(doctor, api):
    report = doctor(URL=api.url)
    assert report["workers"]["verdict"] == "warning"
    assert "gradq worker" in report["workers"]["mend"]


def test_another_program_at_the_address_is_told_apart_from_silence(doctor):
    with answering({}) as url:
        report = doctor(URL=url)
    assert "not a gradq service" in report["api"]["detail"]
    assert "is in use by another program" in report["port"]["detail"]
    assert "--port 0" in report["port"]["mend"]


def test_a_service_without_its_database_is_a_problem(doctor):
    bodies = service() | {"/v1/version": {"version": "0.0.9", "python": "3", "api": "v1"}}
    del bodies["/readyz"]
    with answering(bodies) as url:
        assert "cannot accept jobs" in doctor(URL=url)["api"]["detail"]
    bodies["/readyz"] = service()["/readyz"]
    with answering(bodies) as url:
        report = doctor(URL=url)
    assert (report["api"]["verdict"], "0.0.9" in report["api"]["mend"]) == ("warning", True)


def test_an_address_that_is_none_is_a_finding_and_no_traceback(doctor):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        report = doctor(URL=f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert report["api"]["verdict"] == "problem"
    assert doctor(URL="nonsense")["api"]["verdict"] == "problem"
    assert doctor(URL="http://127.0.0.1:99999999")["port"]["verdict"] == "problem"


# --- passwords --------------------------------------------------------------------------------------------------------


def test_no_finding_has_a_password(doctor, monkeypatch):
    class Refused:
        def __init__(self, url: str, answer_seconds: float) -> None:
            pass

        def local_path(self, key: str) -> None:
            return None

        def probe(self) -> None:
            raise StoreUnavailable("RuntimeError: Bucket create failed 'key:hush1@bucket', signed with hush4")

    monkeypatch.setattr("gradq.commands.checkups.artifact_store.ArtifactStore", Refused)
    report = doctor(
        URL="http://me:hush2@127.0.0.1:1",
        ARTIFACTS_URL="s3://key:hush1@bucket/?secret_key=hush4",
        REDIS_URL="redis://:hush3@127.0.0.1:1/0",
        TOKEN="hush5hush5",
        ADMIN_TOKEN="hush6" * 8,
    )
    assert report["artifacts"]["detail"].endswith(
        "RuntimeError: Bucket create failed 'key:***@bucket', signed with ***"
    )
    assert report["api"]["facts"]["url"] == "http://me:***@127.0.0.1:1"
    assert "hush" not in json.dumps(report.body)


def test_a_check_that_fails_shows_no_password(monkeypatch, tmp_path):
    def broken(_: Targets) -> Finding:
        raise RuntimeError("no connection to s3://key:hush@bucket, key hush", {"a": 1})

    targets = Targets(Settings(state_dir=tmp_path, artifacts_url="s3://key:hush@bucket"), None, None)
    monkeypatch.setattr("gradq.commands.checkups.CHECKS", {"broken": broken})
    (finding,) = examine(targets)
    assert finding.detail == (
        "the check itself failed: RuntimeError: ('no connection to s3://key:***@bucket, key ***', {'a': 1})"
    )


@pytest.mark.parametrize("url", ["http://[::1", "http://::1]:8080", "http://[v1.x]", "http://h:port", "http://"])
def test_an_address_that_cannot_be_parsed_is_a_finding(doctor, url):
    report = doctor(URL=url)
    assert report["api"]["verdict"] == "problem"
    assert report["port"]["verdict"] in ("ok", "problem")
