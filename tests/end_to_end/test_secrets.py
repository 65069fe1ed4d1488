"""No password leaves the environment: a real service with marked passwords has errors of all kinds, and is searched.

Searched are its logs at level DEBUG, every file that it wrote, its responses, the output of commands, a backup, and
the command lines of all its processes while it runs.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
from psycopg import sql
from support.postgres import Postgres, free_port, require_postgres
from support.service import GRADQ, Part, Service
from support.waiting import wait_for

DATABASE, BROKER, WRONG, ADMIN = (f"MARK{n}-w0rd:of@{n}" for n in range(1, 5))
MARKS = [
    spelling.encode()
    for word in (DATABASE, BROKER, WRONG, ADMIN)
    for spelling in (word, quote(word, safe=""), quote(word), base64.b64encode(word.encode()).decode(), word[:5])
]

pytestmark = [pytest.mark.long, pytest.mark.postgres, pytest.mark.redis]


class Guarded(Service):
    """A service with a PostgreSQL and a Redis that require passwords; their own files are not searched."""

    def __init__(self, folder: Path, secrets: Path, postgres: Postgres) -> None:
        self.secrets, self.port = secrets, free_port()
        self.postgres = postgres
        super().__init__(
            folder,
            {
                "GRADQ_DATABASE_URL": postgres.url,
                "GRADQ_REDIS_URL": f"redis://:{quote(BROKER, safe='')}@127.0.0.1:{self.port}/0",
                "GRADQ_ADMIN_TOKEN": ADMIN * 3,
                "GRADQ_LOG_LEVEL": "DEBUG",
            },
        )

    def start_broker(self, wait: bool = True, password: str = BROKER) -> Part:
        from gradq.local.broker_process import find_binary

        lines = ["bind 127.0.0.1", f"port {self.port}", f'requirepass "{password}"', f"dir {self.secrets}", 'save ""']
        (self.secrets / "redis.conf").write_text("\n".join(lines))
        self.broker = self._part([find_binary(), str(self.secrets / "redis.conf")], "broker")
        if wait:
            wait_for(self.broker_answers, 20, "the broker")
        return self.broker

    def say(self, *words: str, **environment: str) -> str:
        """The output of a command, whatever its exit code."""
        ran = subprocess.run(
            [*GRADQ, *words], env={**self.env, **environment}, capture_output=True, text=True, timeout=120
        )
        return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    require_postgres()
    with Postgres(password=DATABASE) as postgres:
        service = Guarded(tmp_path_factory.mktemp("guarded"), tmp_path_factory.mktemp("secrets"), postgres)
        yield service.start()
        service.close()


def marks_in(content: bytes) -> list[str]:
    return [mark.decode() for mark in MARKS if mark in content]


def marks_of_files(folder: Path) -> dict[str, list[str]]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with suppress(OSError):  # a run folder may be removed meanwhile
                found[str(path.relative_to(folder))] = marks_in(path.read_bytes())
    assert len(found) > 3
    return {name: marks for name, marks in found.items() if marks}


def command_lines(service: Guarded) -> bytes:
    lines = []
    for part in service.parts:
        for process in part.family():
            with suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()).encode())
    assert len(lines) >= 4  # API with its server processes, worker with its trainer server, broker
    return b"\n".join(lines)


def accidents(service: Guarded) -> str:
    """Requests of every kind, also failing ones; returns all responses."""
    http, said = service.http, []
    job = service.wait(service.submit(epochs=1)["id"])
    failed = service.wait(service.submit(dataset="mnist", epochs=1)["id"])
    assert failed["status"] == "failed"
    for path in ("/healthz", "/readyz", "/metrics", "/v1/workers", "/v1/queues", "/v1/version", "/v1/jobs", "/docs"):
        said.append(http.get(path).text)
    for one in (job, failed):
        said += [http.get(f"/v1/jobs/{one['id']}{more}").text for more in ("", "/events?limit=1000", "/artifacts")]
    said.append(http.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}).text)
    said.append(http.post("/v1/datasets", files={"file": b"junk"}).text)
    return "\n".join(said)


def other_passwords(service: Guarded) -> None:
    """Change the password of both stores and close their connections."""
    assert service.broker is not None
    service.broker.kill()
    service.start_broker(wait=False, password="another word")
    change_password(service, "another word", DATABASE)


def change_password(service: Guarded, to: str, known: str) -> None:
    address = service.postgres.url.replace("+psycopg", "").replace(quote(DATABASE), quote(known))
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier("gradq"), sql.Literal(to)))
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


@pytest.mark.timeout(400)
def test_no_file_response_or_output_holds_a_password(guarded: Guarded) -> None:
    assert marks_in((guarded.secrets / "redis.conf").read_bytes())  # the search finds a password that is there
    said = accidents(guarded)
    lines = command_lines(guarded)
    backup = guarded.folder / "whole.tar"
    said += guarded.say("backup", str(backup))
    assert backup.exists()
    for verb in (["doctor", "--json"], ["ps"]):
        said += guarded.say(*verb, GRADQ_URL=str(guarded.http.base_url))
    other_passwords(guarded)
    wait_for(lambda: guarded.http.get("/v1/jobs").status_code == 503, 60, "the API to lose its database")
    said += guarded.http.get("/readyz").text + guarded.http.post("/v1/jobs", json={}).text
    wait_for(lambda: "authentication failed" in guarded.log_of("worker"), 60, "the worker to be rejected")
    for verb in (["doctor"], ["migrate"], ["backup", str(guarded.folder / "none.tar")]):
        said += guarded.say(*verb, GRADQ_URL=str(guarded.http.base_url))
    lines += command_lines(guarded)
    assert "authentication failed" in said
    assert not marks_in(said.encode())
    assert not marks_in(lines)
    assert not marks_of_files(guarded.folder)


SECRET = quote(WRONG, safe="")
BROKEN = [
    ("worker", {"GRADQ_DATABASE_URL": f"postgresql+psycopg:/{WRONG}"}),
    ("api", {"GRADQ_DATABASE_URL": f"postgresql+psycopg:/{WRONG}"}),
    ("migrate", {"GRADQ_DATABASE_URL": f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/d"}),
    ("doctor", {"GRADQ_DATABASE_URL": f"postgresql+psycopg://127.0.0.1:1/d?user=u&password={SECRET}"}),
    ("api", {"GRADQ_DATABASE_URL": f"mysterydb://u:{SECRET}@h/d"}),
    ("doctor", {"GRADQ_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:99999/0"}),
    ("worker", {"GRADQ_REDIS_URL": f"redis://h/{WRONG}"}),
    ("api", {"GRADQ_ARTIFACTS_URL": f"s4://key:{SECRET}@bucket"}),
    ("doctor", {"GRADQ_ARTIFACTS_URL": f"s4://key:{SECRET}@bucket"}),
    ("worker", {"GRADQ_SLOTS": WRONG}),
]


def test_a_setting_that_is_wrong_is_named_and_not_repeated(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    started = []
    for number, (verb, broken) in enumerate(BROKEN):
        state = {"GRADQ_STATE_DIR": str(tmp_path / str(number)), "GRADQ_LOG_LEVEL": "DEBUG"}
        words = [verb, "--port", "0"] if verb == "api" else [verb]
        started.append(Part([*GRADQ, *words], {**plain, **state, **broken}, tmp_path / f"{number}.log"))
    try:
        for part, (verb, broken) in zip(started, BROKEN, strict=True):
            wait_for(lambda part=part: not part.alive, 120, f"{verb} with {[*broken]} to give up")
            said = part.said()
            assert part.process.returncode != 0, said
            assert len(said) > 20
            assert not marks_in(said.encode()), said
    finally:
        for part in started:
            for process in part.family():
                with suppress(psutil.Error):
                    process.kill()
            part.process.wait()
