"""A service that other hosts can reach: every request needs a token, owners have no access to what others own, and no
token is written to a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from support.people import bearer
from support.service import GRADQ, Part, listening_url
from support.waiting import wait_for

PATHS = ("/readyz", "/metrics", "/docs", "/v1/openapi.json", "/v1/version", "/v1/jobs", "/v1/workers", "/nothing")
ADMIN = "admin-token-of-this-test-" + "0123456789abcdef"


def environment(state: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    settings = {"STATE_DIR": str(state), "SLOTS": "1", "THREADS_PER_SLOT": "1", "DOWNLOAD": "false", **more}
    return {**kept, **{f"GRADQ_{name}": value for name, value in settings.items()}}


def token(state: Path, *arguments: str) -> str:
    command = [*GRADQ, "token", "create", *arguments]
    return subprocess.run(command, env=environment(state), check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def parts() -> Iterator[list[Part]]:
    started: list[Part] = []
    yield started
    for part in reversed(started):
        part.stop(60)


@pytest.mark.long
def test_a_service_on_every_address_requires_a_token_also_on_loopback(tmp_path: Path, parts: list[Part]) -> None:
    state = tmp_path / "state"
    command = [*GRADQ, "up", "--host", "0.0.0.0", "--port", "0"]
    refused = subprocess.run(command, env=environment(state), capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "gradq token create" in refused.stderr
    assert not state.exists()

    alice, bob = token(state, "alice"), token(state, "bob")
    part = Part(command, environment(state), tmp_path / "up.log")
    parts.append(part)
    url = wait_for(lambda: ready_url(part), 90, "the service")

    with httpx2.Client(base_url=url, timeout=20) as http:
        assert {path: http.get(path).status_code for path in PATHS} == dict.fromkeys(PATHS, 401)
        assert http.get("/healthz").status_code == 200
        assert http.post("/v1/jobs", json={"epochs": 1}).status_code == 401

        job = http.post("/v1/jobs", json={"epochs": 1}, headers=bearer(alice)).json()
        query = {"until": "terminal", "wait": 60}
        ended = http.get(job["links"]["self"], params=query, headers=bearer(alice), timeout=70).json()
        assert ended["status"] == "succeeded", ended
        for name in ("self", "events", "metrics", "artifacts", "artifacts_zip", "loss_curve"):
            assert http.get(job["links"][name], headers=bearer(alice)).status_code == 200
            assert http.get(job["links"][name], headers=bearer(bob)).status_code == 404

        stream = {"Accept": "text/event-stream", **bearer(bob)}
        waits = http.post("/v1/jobs", json={"device": "cuda"}, headers=bearer(bob)).json()
        with http.stream("GET", waits["links"]["events"], headers=stream, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith("id:")) == "id: 1"
            revoke = [*GRADQ, "token", "revoke", "bob"]
            subprocess.run(revoke, env=environment(state), check=True, capture_output=True)
            assert not any(line.startswith("event: end") for line in lines)
        assert http.get("/v1/jobs", headers=bearer(bob)).json()["code"] == "token_revoked"

    part.stop(60)
    secrets = [text.split("_", 2)[2].encode() for text in (alice, bob)]
    for file in [tmp_path / "up.log", *(path for path in state.rglob("*") if path.is_file())]:
        assert not any(secret in file.read_bytes() for secret in secrets), file


def ready_url(part: Part) -> str | None:
    assert part.alive, part.said()
    return next((line.split()[1] for line in part.said().splitlines() if line.startswith("ready ")), None)


def test_gunicorn_started_by_hand_requires_a_token_unless_its_socket_is_local(
    tmp_path: Path, parts: list[Part]
) -> None:
    """The address of the socket decides, not the program that binds it."""
    state, path = tmp_path / "state", tmp_path / "api.sock"
    token(state, "alice")
    server = [sys.executable, "-m", "gunicorn", "api.app:create_app()", "--no-control-socket", "--bind"]
    env = environment(state, REDIS_URL=f"redis+socket://{tmp_path}/nobody.sock", ADMIN_TOKEN=ADMIN)
    configured = ["--config", "python:api.server"]

    everywhere = Part([*server, "0.0.0.0:0", *configured], env, tmp_path / "everywhere.log")
    unconfigured = Part([*server, "127.0.0.1:0"], env, tmp_path / "unconfigured.log")
    private = Part([*server, f"unix:{path}", *configured], env, tmp_path / "private.log")
    parts += [everywhere, unconfigured, private]
    for part in (everywhere, unconfigured):
        url = wait_for(lambda part=part: listening_url(part), 60, "gunicorn").replace("0.0.0.0", "127.0.0.1")
        wait_for(lambda url=url: answers(url), 60, "the API")
        assert httpx2.get(f"{url}/v1/version").status_code == 401
        assert httpx2.get(f"{url}/v1/whoami", headers=bearer(ADMIN)).json()["owner"] == "admin"

    wait_for(path.exists, 60, "the socket")
    transport = httpx2.HTTPTransport(uds=str(path))
    with httpx2.Client(transport=transport, base_url="http://localhost", timeout=30) as http:
        assert http.get("/v1/version").status_code == 200
    for part in parts:
        assert ADMIN not in part.said()
        for process in part.family():
            assert ADMIN not in " ".join(process.cmdline())


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz").status_code == 200
    except httpx2.TransportError:
        return False
