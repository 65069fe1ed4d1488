"""Places for uploads and downloads: who gets one, and which requests need one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.people import bearer, token_for

from api.connections.client_socket import ClientSocket
from api.connections.places import Places
from api.waiting.transfers import EXTENSION, SMALL_BYTES
from shared.config import Settings

LARGE = "/static/any/plotly.js"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"transfers": 4})


@pytest.fixture
def places(app: Any) -> Places:
    found: Places = app.extensions[EXTENSION]
    return found


@pytest.fixture
def connection() -> Iterator[Callable[..., ClientSocket]]:
    """connection(is_body_incoming=False): the server's end of a new connection."""
    ends: list[socket.socket] = []

    def new(is_body_incoming: bool = False) -> ClientSocket:
        ours, theirs = socket.socketpair()
        ends.extend((client := ClientSocket(ours), theirs))
        client.is_body_incoming = is_body_incoming
        return client

    yield new
    for end in ends:
        end.close()


@pytest.fixture
def call(client: Any, connection: Callable[..., ClientSocket]) -> Callable[..., Any]:
    """call(method, path, …): a request on a new connection, which keeps its place: it is not answered by gunicorn."""

    def ask(method: str, path: str, is_body_incoming: bool = False, **options: Any) -> Any:
        environ = {"gunicorn.socket": connection(is_body_incoming)}
        return client.open(path, method=method, environ_overrides=environ, **options)

    return ask


def taken(places: Places) -> int:
    """Places taken, found by taking the others."""
    free = 0
    while places.enter("counter") is not None:
        free += 1
    return places.number - free


def test_one_owner_may_have_half_of_the_places(call, services):
    anna, bert = (bearer(token_for(services.database, owner, "submit")) for owner in ("anna", "bert"))
    statuses = [call("GET", LARGE, headers=anna).status_code for _ in range(3)]
    assert statuses == [200, 200, 503]
    assert [call("GET", LARGE, headers=bert).status_code for _ in range(3)] == [200, 200, 503]


def test_all_without_a_token_have_a_quarter(app, call):
    refused = [call("POST", "/session", is_body_incoming=True, data=b"").status_code for _ in range(2)]
    assert refused[0] != 503
    assert refused[1] == 503
    assert call("GET", LARGE).status_code == 200, "anonymous requests to a service without tokens are no strangers"


def test_a_refusal_says_when_to_retry(call, problem):
    for _ in range(4):
        call("GET", LARGE)
    answer = call("GET", LARGE)
    problem(answer, 503, "too_many_transfers")
    assert answer.headers["Retry-After"] == "2"
    assert "GRADQ_TRANSFERS" in answer.json["detail"]
    assert answer.headers["X-Request-Id"] == answer.json["request_id"]


@pytest.mark.parametrize(
    ("method", "path", "options", "expected"),
    [
        ("GET", "/healthz", {}, 0),
        ("GET", "/v1/jobs", {}, 0),
        ("HEAD", LARGE, {}, 0),
        ("GET", LARGE, {}, 1),
        ("GET", "/v1/openapi.json", {}, 1),
        ("POST", "/v1/jobs", {"json": {}}, 0),
        ("POST", "/v1/jobs", {"json": {}, "is_body_incoming": True}, 1),
        ("POST", "/v1/datasets", {"data": {"file": b""}, "is_body_incoming": True}, 1),
    ],
)
def test_only_what_may_wait_for_its_client_takes_a_place(call, places, method, path, options, expected):
    call(method, path, **options)
    assert taken(places) == expected


def test_small_responses_are_those_that_the_kernel_takes(client):
    """The two above are on different sides of the limit."""
    assert len(client.get("/v1/jobs").data) <= SMALL_BYTES < len(client.get("/v1/openapi.json").data)


def test_files_of_a_store_that_may_be_slow_take_a_place_whatever_their_size(call, places, hands, services, monkeypatch):
    hands.submit()
    lease = hands.start()
    hands.finish(lease, files=[hands.store(lease, "metrics.json", b"{}")])
    monkeypatch.setattr(type(services.store), "local_path", lambda self, key: None)
    assert call("GET", f"/v1/jobs/{lease.job_id}/artifacts/metrics.json").status_code == 200
    assert call("GET", f"/v1/jobs/{lease.job_id}/artifacts.zip").status_code == 200
    assert taken(places) == 2


def test_the_end_of_a_request_leaves_its_place(client, connection, places):
    ours = connection()
    client.get(LARGE, environ_overrides={"gunicorn.socket": ours})
    ours.end_request()
    assert taken(places) == 0


def test_without_gunicorn_nothing_is_limited(client):
    assert {client.get(LARGE).status_code for _ in range(6)} == {200}
