"""Long polls and streams of a real API under gunicorn: how many are held, and how they end."""

from __future__ import annotations

import json
import random
import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.api_alone import Api, answer, head_of
from support.service import Service
from support.streams import ACCEPT, Sent, sent
from support.waiting import wait_for

# a few seconds of training with a line every few milliseconds
TALKATIVE: dict[str, Any] = {"architecture": "linear", "batch_size": 4, "epochs": 60, "lr": 0.01, "seed": 3}
READERS = 50


class TestCutAndResumed:
    def test_streams_and_pages_that_are_cut_at_random_bring_every_line_once(self, steady: Service) -> None:
        job = steady.submit(**TALKATIVE)
        with ThreadPoolExecutor() as pool:
            streamed = pool.submit(self.stream, steady, job, random.Random(1))
            paged = pool.submit(self.pages, steady, job, random.Random(2))
            streamed, paged = streamed.result(90), paged.result(90)
        assert streamed == paged == steady.events(job["id"])
        assert len(streamed) > 100

    def stream(self, service: Service, job: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
        """Disconnect after some events, and continue with Last-Event-ID."""
        seen: list[dict[str, Any]] = []
        headers = dict(ACCEPT)
        while True:
            left = rng.randint(1, 40)
            with service.http.stream("GET", job["links"]["events"], headers=headers) as answer:
                for event in sent(answer.iter_lines()):
                    if event.type == "end":
                        assert event == Sent(None, "end", {"status": "succeeded"})
                        return seen
                    assert (event.id, event.type) == (event.data["seq"], event.data["type"])
                    seen.append(event.data)
                    headers["Last-Event-ID"] = str(event.id)
                    left -= 1
                    if left == 0:
                        break

    def pages(self, service: Service, job: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
        """Read the pages; at random, request one again as if its response had been lost."""
        seen: list[dict[str, Any]] = []
        after = 0
        while True:
            query = {"after": after, "limit": rng.randint(1, 40), "wait": rng.choice([0.01, 10])}
            page = service.http.get(job["links"]["events"], params=query).json()
            if rng.random() < 0.2:
                continue
            seen += page["data"]
            after = page["next_after"]
            if seen and seen[-1]["data"].get("status") == "succeeded":
                return seen


def is_silent(connection: socket.socket) -> bool:
    """Whether nothing has been received yet."""
    return not select.select([connection], [], [], 0)[0]


def read_to_end(stream: socket.socket) -> str:
    """Read up to the empty chunk that ends a response without Content-Length."""
    got = b""
    while not got.endswith(b"0\r\n\r\n"):
        more = stream.recv(1 << 16)
        assert more, "the connection was closed"
        got += more
    return got.decode()


def test_a_hundred_long_polls_are_held_while_jobs_are_submitted(start_api: Callable[..., Api]) -> None:
    api = start_api(GRADQ_HELD_REQUESTS=str(2 * READERS))  # in any one of its processes, if they all reach it
    job = api.http.post("/v1/jobs", json={}).json()
    me, events = job["links"]["self"], job["links"]["events"]
    streams = [api.stream(events) for _ in range(READERS)]
    polls = [api.ask(f"{me}?wait=60&until=terminal") for _ in range(READERS)]
    heads = [head_of(stream) for stream in streams]
    assert all(head.startswith("HTTP/1.1 200 ") for head in heads), heads
    for _ in range(2 * READERS):
        assert api.http.post("/v1/jobs", json={"name": "meanwhile"}).status_code == 202
    assert all(map(is_silent, polls)), "a poll was answered too early"
    assert api.http.post(f"{me}/cancel").json()["status"] == "cancelled"
    for poll in polls:
        assert head_of(poll).startswith("HTTP/1.1 200 ")
    for stream in streams:
        assert 'event: end\ndata: {"status":"cancelled"}' in read_to_end(stream)


def test_past_the_bound_streams_are_refused_and_polls_are_answered(start_api: Callable[..., Api]) -> None:
    api = start_api("--workers", "1", GRADQ_HELD_REQUESTS="2")
    job = api.http.post("/v1/jobs", json={}).json()
    events, me = job["links"]["events"], job["links"]["self"]
    assert admitted(api, events)
    assert admitted(api, events)
    refused = api.http.get(events, headers=ACCEPT)
    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
    answered = api.http.get(me, params={"wait": 60, "until": "terminal"})
    assert (answered.status_code, answered.json()["status"]) == (200, "queued")
    assert int(answered.headers["Retry-After"]) > 0


def test_clients_that_disconnect_make_room(start_api: Callable[..., Api]) -> None:
    api = start_api("--workers", "1", GRADQ_HELD_REQUESTS="2")
    events = api.http.post("/v1/jobs", json={}).json()["links"]["events"]
    gone = [admitted(api, events), admitted(api, events)]
    assert admitted(api, events) is None
    for stream in gone:
        assert stream is not None
        stream.close()
    for _ in gone:
        wait_for(lambda: admitted(api, events), 20, "the place of a client that disconnected", every=0.2)


def admitted(api: Api, events: str) -> socket.socket | None:
    """A stream that is held; None if all places are taken."""
    stream = api.stream(events)
    if "HTTP/1.1 200 " in head_of(stream):
        return stream
    stream.close()
    return None


def test_sigterm_ends_held_requests_at_once(start_api: Callable[..., Api]) -> None:
    api = start_api()
    job = api.http.post("/v1/jobs", json={}).json()
    stream = api.stream(job["links"]["events"])
    poll = api.ask(f"{job['links']['self']}?wait=60&until=terminal", "Connection: close")
    assert "HTTP/1.1 200 " in head_of(stream)
    api.part.process.terminate()
    assert "event: end" not in read_to_end(stream), "the job has not ended"
    assert "HTTP/1.1 200 " in head_of(poll)
    api.part.process.wait(20)
    log = api.part.log.read_text()
    assert "SIGKILL" not in log, log


CHUNKED = (
    b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"ZZ\r\n{}\r\n0\r\n\r\n"
)


def test_malformed_http_is_a_problem_too(steady: Service) -> None:
    for sent_bytes, status, code in (
        (b"GARBAGE\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/jobs?name=" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "request_uri_too_long"),
        (
            b"GET /v1/jobs HTTP/1.1\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n",
            431,
            "request_header_fields_too_large",
        ),
        (CHUNKED % (b"/v1/jobs", b"application/json"), 400, "bad_request"),
        (CHUNKED % (b"/v1/datasets", b"multipart/form-data; boundary=b"), 400, "bad_request"),
    ):
        where = steady.http.base_url
        with socket.create_connection((where.host, where.port), timeout=20) as connection:
            connection.sendall(sent_bytes)
            response = answer(connection)
        assert response.status == status, sent_bytes[:80]
        assert response.headers["Content-Type"] == "application/problem+json"
        body = json.loads(response.read())
        assert (body["status"], body["code"]) == (status, code)
        assert body["request_id"] == response.headers["X-Request-Id"]
