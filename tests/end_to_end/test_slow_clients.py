"""Clients that send or read slowly, or not at all, against a real API with few threads: other requests are answered."""

from __future__ import annotations

import hashlib
import itertools
import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from support.api_alone import Api, answer, head_of
from support.waiting import wait_for

THREADS, TRANSFERS = 2, 2
MANY = 4 * (THREADS + TRANSFERS)  # clients: several times as many as threads
LARGE = "/static/any/plotly.js"  # some 4 MB, which no buffer between the two processes takes
BODY = json.dumps({"name": "slow"}).encode()
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
UPLOAD = (
    b"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 1000000\r\n\r\n--b\r\n"
)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
HALVES = {
    "nothing": b"",
    "half a request line": b"GET /heal",
    "a request line": b"GET /healthz HTTP/1.1\r\n",
    "half a header": HEALTH + b"Authorization: Bea",
    "all but the empty line": HEALTH,
    "half a small body": WHOLE[:-5],
    "a body that never comes": POST + b"Content-Length: 100\r\n\r\n",
}


@pytest.fixture(scope="module")
def few_threads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("slow")
    settings = {"GRADQ_TRANSFERS": str(TRANSFERS), "GRADQ_HELD_REQUESTS": "0"}
    api = Api(
        folder, "--workers", "1", "--threads", str(THREADS), GRADQ_REDIS_URL=f"redis+socket://{folder}/b", **settings
    )
    yield api
    api.close()


@pytest.fixture
def api(few_threads: Api) -> Iterator[Api]:
    yield few_threads
    while few_threads.connections:
        few_threads.connections.pop().close()
    wait_for(lambda: has_free_place(few_threads), 20, "the places of the clients that disconnected", every=0.2)


def has_free_place(api: Api) -> bool:
    return api.http.get(LARGE, headers={"Accept-Encoding": "identity"}).status_code == 200


def assert_others_are_served(api: Api) -> None:
    """On new connections: a fifth of a second on an idle machine; the timeout is 20 s."""
    for _ in range(3):
        with httpx2.Client(base_url=api.url, timeout=20) as other:
            assert other.get("/healthz").status_code == 200
            assert other.post("/v1/jobs", json={"name": "other"}).status_code == 202


def stalled(api: Api, path: str = LARGE) -> socket.socket:
    """A client that has asked for a large file, and reads nothing but the head of the response."""
    connection = api.connect(receive_buffer=4096)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("kind", HALVES)
def test_half_sent_requests_take_no_thread(api: Api, kind: str) -> None:
    for _ in range(MANY):
        api.connect().sendall(HALVES[kind])
    assert_others_are_served(api)


def test_a_request_that_arrives_byte_by_byte_is_served(api: Api) -> None:
    connection = api.connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in WHOLE:
        connection.sendall(bytes([byte]))
    response = answer(connection)
    assert (response.status, json.loads(response.read())["name"]) == (202, "slow")


def test_clients_that_do_not_close_their_connection_stop_nobody(api: Api) -> None:
    for _ in range(MANY):
        connection = api.connect()
        connection.sendall(HEALTH + b"Connection: close\r\n\r\n")
        assert answer(connection).read() == b'{"status":"ok"}\n'
    assert_others_are_served(api)


def test_large_bodies_that_do_not_come_take_the_places_of_transfers_alone(api: Api) -> None:
    senders = [api.connect() for _ in range(MANY)]
    for sender in senders:
        sender.sendall(UPLOAD)

    def answered() -> list[socket.socket]:
        return select.select(senders, [], [], 0)[0]

    wait_for(lambda: len(answered()) == MANY - TRANSFERS, 20, "answers to those that have no place")
    for response in map(answer, answered()):
        assert (response.status, json.loads(response.read())["code"]) == (503, "too_many_transfers")
        assert int(response.headers["Retry-After"]) > 0
    assert_others_are_served(api)


@pytest.mark.parametrize("name", ["Transfer-Encoding: chunked", "Content-Length: 16\r\nExpect: 100-continue"])
def test_bodies_whose_length_or_time_is_open_take_places_too(api: Api, name: str) -> None:
    for _ in range(MANY):
        api.connect().sendall(POST + name.encode() + b"\r\n\r\n")
    assert_others_are_served(api)


def test_a_body_that_is_sent_when_it_is_asked_for_is_received(api: Api) -> None:
    connection = api.connect()
    connection.sendall(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(BODY))
    assert head_of(connection) == "HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(BODY)
    assert answer(connection).status == 202


def test_readers_that_stall_take_the_places_of_transfers_alone(api: Api) -> None:
    readers = [stalled(api) for _ in range(MANY)]
    heads = sorted(head_of(reader) for reader in readers)  # by their status
    assert [head.split()[1] for head in heads] == ["200"] * TRANSFERS + ["503"] * (MANY - TRANSFERS)
    assert all("retry-after: 2" in head.lower() for head in heads[TRANSFERS:])
    assert_others_are_served(api)


def test_a_slow_reader_gets_every_byte(api: Api) -> None:
    expected = hashlib.sha256(api.http.get(LARGE, headers={"Accept-Encoding": "identity"}).content).hexdigest()
    response = answer(stalled(api))
    pieces = iter(lambda: response.read(50_000), b"")
    assert hashlib.sha256(b"".join(pieces)).hexdigest() == expected


def test_head_requests_and_unchanged_files_need_no_place(api: Api) -> None:
    for _ in range(TRANSFERS):
        head_of(stalled(api))
    response = api.http.head(LARGE)
    assert (response.status_code, int(response.headers["Content-Length"]) > 1_000_000) == (200, True)
    assert api.http.get(LARGE).status_code == 503


def test_requests_sent_at_once_are_answered_in_turn(api: Api) -> None:
    connection = api.connect()
    connection.sendall(HEALTH + b"\r\n" + WHOLE + HEALTH)
    wait_for(lambda: connection.recv(9999, socket.MSG_PEEK).count(b"HTTP/1.1 ") == 2, 20, "two responses")
    first = answer(connection)
    assert (first.status, first.read()) == (200, b'{"status":"ok"}\n')
    second = answer(connection)
    assert (second.status, json.loads(second.read())["name"]) == (202, "slow")
    connection.sendall(b"\r\n")  # the third was incomplete so far
    assert answer(connection).status == 200


def test_many_requests_on_one_connection_are_answered_though_nothing_is_read(api: Api) -> None:
    """Their responses exceed the buffers: the connection takes a place, or is closed."""
    for _ in range(MANY):
        connection = api.connect(receive_buffer=4096)
        connection.setblocking(False)
        request = (HEALTH + b"\r\n") * 100
        for _ in itertools.takewhile(lambda sent: sent < 200, itertools.count()):
            try:
                connection.send(request)
            except OSError:
                break
    assert_others_are_served(api)


def test_a_head_without_an_end_is_refused(api: Api) -> None:
    connection = api.connect()
    connection.sendall(HEALTH + b"X-A: b\r\n" * 10_000)
    response = answer(connection)
    assert (response.status, json.loads(response.read())["code"]) == (431, "request_header_fields_too_large")


@pytest.mark.parametrize("body", [b"zz\r\n", b"0\r\nno trailer\r\n\r\n"], ids=["no size", "no trailer"])
def test_a_request_has_one_response_though_its_body_turns_out_to_be_malformed_after_it(api: Api, body: bytes) -> None:
    """Another one would be taken for that of the next request on this connection."""
    connection = api.connect()
    connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    response = answer(connection)
    assert response.status == 404
    response.read()
    connection.settimeout(5)
    assert connection.recv(100) == b"", "a second response"


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Script-Name"])
def test_a_header_does_not_replace_the_path(api: Api, name: str) -> None:
    response = answer(api.ask("/x/metrics", f"{name}: /x"))
    assert (response.status, response.headers["X-Content-Type-Options"]) == (404, "nosniff")


def test_a_process_may_open_as_many_files_as_its_connections_need(api: Api) -> None:
    soft, hard = psutil.Process(api.part.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft >= min(hard, 8192)


@pytest.fixture
def silent_store(tmp_path: Path) -> Iterator[Api]:
    """An API whose object store accepts connections and does not answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as store:
        settings = {
            "GRADQ_TRANSFERS": str(TRANSFERS),
            "GRADQ_HELD_REQUESTS": "0",
            "GRADQ_ARTIFACTS_URL": "s3://bucket/store",
            "GRADQ_REDIS_URL": f"redis+socket://{tmp_path}/b",
            "GRADQ_RATE_CHANGES": "none",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.getsockname()[1]}",
        }
        api = Api(tmp_path, "--workers", "1", "--threads", str(THREADS), **settings)
        yield api
        api.close()


@pytest.mark.long
def test_deletions_from_a_store_that_does_not_answer_take_the_places_of_transfers_alone(silent_store: Api) -> None:
    api, connections = silent_store, []
    for _ in range(MANY):
        job = api.http.post("/v1/jobs", json={}).json()["links"]["self"]
        assert api.http.post(f"{job}/cancel").json()["status"] == "cancelled"
        connections.append(api.connect())
        connections[-1].sendall(f"DELETE {job} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def answered() -> list[socket.socket]:
        return select.select(connections, [], [], 0)[0]

    wait_for(lambda: len(answered()) == MANY - TRANSFERS, 10, "answers to those that have no place")
    for response in map(answer, answered()):
        assert (response.status, json.loads(response.read())["freed_bytes"]) == (200, 0)
    assert_others_are_served(api)
