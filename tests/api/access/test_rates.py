"""Rate limits per token, counted in a real Redis over all processes, or in the process while Redis is unreachable."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis.exceptions import ResponseError
from support.broker_faults import FAULTS, RESPONSES, lying_server, trickling_server
from support.postgres import free_port
from support.redis_server import Server, redis_server

from api.app import create_app
from api.services import EXTENSION
from shared import tokens
from shared.config import Settings
from shared.db.database import Database

HOURLY = {"rate_reads": "5/hour", "rate_changes": "2/hour"}  # longer than any test runs


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as started:
        yield started


@pytest.fixture
def settings(settings: Settings, server: Server) -> Settings:
    server.client.flushall()
    return Settings(**{**settings.model_dump(), **HOURLY, "redis_url": server.url, "allow_anonymous": None})


@pytest.fixture
def bearer(app: Flask) -> Callable[[str], dict[str, str]]:
    def make(owner: str) -> dict[str, str]:
        with app.extensions[EXTENSION].database.write() as session:
            _, text = tokens.create(session, owner, owner, "submit", None)
        return {"Authorization": f"Bearer {text}"}

    return make


def statuses(client: FlaskClient, times: int, headers: dict[str, str], path: str = "/v1/jobs") -> list[int]:
    return [client.get(path, headers=headers).status_code for _ in range(times)]


def test_the_call_beyond_the_rate_is_refused_until_the_time_is_over(client: FlaskClient, bearer) -> None:
    alice, bob = bearer("alice"), bearer("bob")
    assert statuses(client, 5, alice) == [200] * 5
    refused = client.get("/v1/jobs", headers=alice)
    assert (refused.status_code, refused.json["code"], refused.mimetype) == (
        429,
        "rate_limited",
        "application/problem+json",
    )
    assert "5 per 1 hour" in refused.json["detail"]
    assert 0 < int(refused.headers["Retry-After"]) <= 3601
    assert statuses(client, 1, bob) == [200]
    assert client.get("/healthz").status_code == 200


def test_reads_and_changes_are_counted_apart_and_over_all_routes(client: FlaskClient, bearer) -> None:
    alice = bearer("alice")
    assert client.post("/v1/jobs", json={}, headers=alice).status_code == 202
    assert client.post("/v1/jobs/bulk", json={"action": "cancel", "ids": []}, headers=alice).status_code != 429
    assert client.post("/v1/jobs", json={}, headers=alice).status_code == 429
    paths = ("/v1/jobs", "/v1/workers", "/v1/version", "/v1/jobs/job_nobody", "/nowhere")
    assert 429 not in [client.get(path, headers=alice).status_code for path in paths]
    assert statuses(client, 1, alice, "/v1/queues") == [429]


def test_processes_count_together(app: Flask, settings: Settings, bearer) -> None:
    alice, both = bearer("alice"), [app.test_client(), create_app(settings).test_client()]
    found = [both[turn % 2].get("/v1/jobs", headers=alice).status_code for turn in range(6)]
    assert found == [200] * 5 + [429]


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL], ids=["frozen", "killed"])
def test_without_redis_this_process_counts_and_no_call_fails(settings, new_sqlite, fault: signal.Signals) -> None:
    new_sqlite(settings.database).close()
    with redis_server() as server:
        app = create_app(settings.model_copy(update={"redis_url": type(settings.redis_url)(server.url)}))
        database: Database = app.extensions[EXTENSION].database
        with database.write() as session:
            _, text = tokens.create(session, "alice", "alice", "submit", None)
        client, alice = app.test_client(), {"Authorization": f"Bearer {text}"}
        assert statuses(client, 3, alice) == [200] * 3
        server.process.send_signal(fault)
        assert statuses(client, 6, alice) == [200] * 5 + [429]


def test_a_redis_that_never_was_reachable_fails_no_call(settings: Settings, new_sqlite) -> None:
    new_sqlite(settings.database).close()
    away = type(settings.redis_url)(f"redis://127.0.0.1:{free_port()}/0")
    app = create_app(settings.model_copy(update={"redis_url": away}))
    with app.extensions[EXTENSION].database.write() as session:
        _, text = tokens.create(session, "alice", "alice", "submit", None)
    assert statuses(app.test_client(), 6, {"Authorization": f"Bearer {text}"}) == [200] * 5 + [429]


@pytest.mark.parametrize(
    "name", ["read-only replica", "queue of another type", "command not permitted", "password required", "memory full"]
)
def test_a_redis_that_returns_errors_fails_no_call(client: FlaskClient, bearer, server: Server, name: str) -> None:
    alice = bearer("alice")
    assert statuses(client, 2, alice) == [200] * 2
    FAULTS[name].begin(server.client)
    try:
        assert set(statuses(client, 5, alice)) <= {200, 429}
        assert client.post("/v1/jobs", json={}, headers=alice).status_code == 202
        assert client.get("/readyz", headers=bearer("bob")).json["broker_detail"].startswith(FAULTS[name].word)
    finally:
        FAULTS[name].end(server.client)
    assert client.get("/readyz", headers=bearer("carol")).json["broker"] == "ok"


@pytest.mark.parametrize("name", ["HTTP", "LOADING", "nonsense", "always OK", "malformed length"])
def test_a_server_that_is_not_a_redis_fails_no_call(settings: Settings, new_sqlite, name: str) -> None:
    new_sqlite(settings.database).close()
    with lying_server(RESPONSES[name]) as url:
        app = create_app(settings.model_copy(update={"redis_url": type(settings.redis_url)(url)}))
        with app.extensions[EXTENSION].database.write() as session:
            _, text = tokens.create(session, "alice", "alice", "submit", None)
        client, alice = app.test_client(), {"Authorization": f"Bearer {text}"}
        assert client.post("/v1/jobs", json={}, headers=alice).status_code == 202
        assert statuses(client, 3, alice) == [200] * 3
        assert client.get("/readyz", headers=alice).json["broker"] == "away"


def test_a_server_that_sends_a_byte_now_and_then_holds_no_request(settings: Settings, new_sqlite) -> None:
    new_sqlite(settings.database).close()
    answers: list[int] = []
    with trickling_server(b"+", 0.1) as url:
        app = create_app(settings.model_copy(update={"redis_url": type(settings.redis_url)(url)}))
        with app.extensions[EXTENSION].database.write() as session:
            _, text = tokens.create(session, "alice", "alice", "submit", None)
        alice = {"Authorization": f"Bearer {text}"}
        post = lambda: answers.append(app.test_client().post("/v1/jobs", json={}, headers=alice).status_code)
        thread = threading.Thread(target=post, daemon=True)  # a request that hangs fails the test and not the run
        thread.start()
        thread.join(60)
        assert answers == [202]


def test_an_error_of_redis_while_another_thread_begins_to_count_here_fails_no_call(app: Flask, bearer) -> None:
    """Flask-Limiter raises it then, unless it is told not to."""
    (limiter,) = app.extensions["limiter"]
    alice = bearer("alice")

    def hit(*_: object, **__: object) -> bool:
        limiter._storage_dead = True
        raise ResponseError("an error that is not of the connection")

    limiter._limiter.hit = hit
    assert statuses(app.test_client(), 1, alice) == [200]


def test_none_counts_nothing(settings: Settings, new_sqlite) -> None:
    new_sqlite(settings.database).close()
    app = create_app(settings.model_copy(update={"rate_reads": "none"}))
    with app.extensions[EXTENSION].database.write() as session:
        _, text = tokens.create(session, "alice", "alice", "submit", None)
    assert statuses(app.test_client(), 12, {"Authorization": f"Bearer {text}"}) == [200] * 12


def test_calls_without_a_token_are_not_counted(settings: Settings, new_sqlite, server: Server) -> None:
    new_sqlite(settings.database).close()
    app = create_app(settings.model_copy(update={"allow_anonymous": True}))
    assert statuses(app.test_client(), 12, {}) == [200] * 12
    assert server.client.keys() == []


def test_wrong_tokens_are_limited_per_address_and_valid_ones_are_not_affected(client: FlaskClient, bearer) -> None:
    wrong, good = {"Authorization": "Bearer gq_guess_guess"}, bearer("alice")
    assert statuses(client, 20, wrong) == [401] * 20
    refused = client.get("/v1/jobs", headers=wrong)
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert client.post("/session", json={"token": "gq_guess_guess"}).status_code == 429
    assert statuses(client, 1, good) == [200]
    assert client.get("/v1/jobs").status_code == 401  # a missing token is not a wrong one
    elsewhere = client.get("/v1/jobs", headers=wrong, environ_base={"REMOTE_ADDR": "10.0.0.9"})
    assert elsewhere.status_code == 401


@pytest.mark.parametrize("rate", ["5", "0/second", "5/fortnight", "-1/second", "5/second; 3/minute"])
def test_a_malformed_rate_is_refused_at_the_start(rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.errors import ConfigurationError

    monkeypatch.setenv("GRADQ_RATE_READS", rate)
    with pytest.raises(ConfigurationError, match="GRADQ_RATE_READS"):
        Settings.from_env()
