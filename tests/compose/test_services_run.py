"""Runs the commands, environments and health checks of docker-compose.yml, as support/compose.py describes."""

from __future__ import annotations

import hashlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry
from support.compose import Composed
from support.service import PATIENCE
from support.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.postgres, pytest.mark.redis]

ARTIFACTS = {
    *("model.safetensors", "model.json", "loss_curve.png", "loss_curve.svg", "metrics.csv", "metrics.json"),
    *("spec.json", "environment.json", "confusion_matrix.json", "predictions.png", "gradient_check.json"),
}


@pytest.fixture(scope="module")
def unhealthy_at_first(composed: Composed) -> set[str]:
    """The services whose health checks must fail while they do not run."""
    return {name for name in composed.checked if not composed.healthy(name)}


@pytest.fixture
def running(composed: Composed, unhealthy_at_first: set[str]) -> Composed:
    """All services, up also where the test before has left them down."""
    if not composed.is_up:
        composed.up()
    return composed


@pytest.fixture
def http(running: Composed) -> Iterator[httpx2.Client]:
    token = (running.secrets / "admin_token").read_text()
    with httpx2.Client(base_url=running.url, timeout=20, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def submit(http: httpx2.Client, **body: Any) -> str:
    answer = http.post("/v1/jobs", json={"architecture": "mlp", "device": "cpu", "seed": 1, **body})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def job(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
    return found


def ended(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    return wait_for(lambda: (found := job(http, job_id))["terminal"] and found, PATIENCE, f"the end of {job_id}")


def test_every_health_check_fails_while_its_service_does_not_run(
    composed: Composed, unhealthy_at_first: set[str]
) -> None:
    assert unhealthy_at_first == {"postgres", "redis", "api", "worker"} == set(composed.checked)


def test_all_services_get_healthy_in_the_order_of_their_conditions(running: Composed) -> None:
    assert all(running.healthy(name) for name in running.checked)
    assert running.processes["migrate"].returncode == 0


def test_a_job_trains_and_its_artifacts_reach_the_client_whole(http: httpx2.Client) -> None:
    found = ended(http, submit(http, gradients="manual", epochs=2))
    assert found["status"] == "succeeded", found["status_reason"]
    artifacts = http.get(f"/v1/jobs/{found['id']}/artifacts").raise_for_status().json()["data"]
    assert {artifact["name"] for artifact in artifacts} >= ARTIFACTS
    for artifact in artifacts:
        content = http.get(f"/v1/jobs/{found['id']}/artifacts/{artifact['name']}").raise_for_status().content
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"], artifact["name"]


def test_jobs_and_files_are_in_the_volumes_and_nowhere_else(running: Composed, http: httpx2.Client) -> None:
    job_id = ended(http, submit(http, epochs=1))["id"]
    assert list((running.folder / "volumes" / "artifacts" / job_id).rglob("model.safetensors"))
    assert not list((running.folder / "tmpfs").rglob("*.safetensors"))
    assert not list(running.folder.rglob("*.db"))


def test_redis_requires_its_password_and_evicts_nothing(running: Composed) -> None:
    password = (running.secrets / "redis_password").read_text()
    never = Retry(NoBackoff(), 0)
    with Redis(port=running.ports["6379"], retry=never) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    with Redis(port=running.ports["6379"], password=password, decode_responses=True) as client:
        for name, value in {"appendonly": "yes", "maxmemory-policy": "noeviction"}.items():
            assert client.config_get(name) == {name: value}


def test_without_a_token_only_the_health_check_answers(running: Composed) -> None:
    paths = ("/healthz", "/readyz", "/metrics", "/v1/jobs", "/docs", "/nothing")
    assert [httpx2.get(running.url + path).status_code for path in paths] == [200, *[401] * (len(paths) - 1)]


def test_no_secret_shows_in_a_list_of_processes(running: Composed) -> None:
    names = ("redis_password", "postgres_password", "admin_token")
    passwords = [(running.secrets / name).read_text() for name in names]
    for process in running.processes.values():
        if process.poll() is None:
            with open(f"/proc/{process.pid}/cmdline", encoding="utf-8") as file:
                shown = file.read()
            assert not any(password in shown for password in passwords)


def test_a_stopped_worker_is_unhealthy_and_healthy_again_once_continued(running: Composed) -> None:
    worker = running.processes["worker"]
    worker.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: not running.healthy("worker"), PATIENCE, "the health check to notice")
    finally:
        worker.send_signal(signal.SIGCONT)
    wait_for(lambda: running.healthy("worker"), PATIENCE, "the worker to be healthy again")


def test_a_job_that_was_submitted_while_redis_was_away_runs_when_it_is_back(
    running: Composed, http: httpx2.Client
) -> None:
    assert running.stop("redis") == 0
    job_id = submit(http, epochs=1)
    running.start("redis")
    assert ended(http, job_id)["status"] == "succeeded"


def test_a_job_resumes_after_down_and_up(running: Composed, http: httpx2.Client) -> None:
    job_id = submit(http, epochs=10_000)
    wait_for(lambda: (job(http, job_id)["progress"] or {}).get("epoch", 0) > 2, PATIENCE, "the third epoch")

    codes = running.down()

    assert codes == dict.fromkeys(running.services, 0)
    for port in (*running.ports.values(), running.postgres.port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is still in use"

    running.up()

    # on a busy machine an attempt may be lost on the way, because its trainer does not start in time
    found = wait_for(
        lambda: (j := job(http, job_id))["attempt"] >= 2 and j["status"] == "running" and j, PATIENCE, "another attempt"
    )
    assert found["attempts"][-1]["resumed_from_step"] > 0
    assert http.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    assert ended(http, job_id)["status"] == "cancelled"
    assert running.down() == dict.fromkeys(running.services, 0)
