"""Places for uploads and downloads: who gets one, and which requests need one."""

from __future__ import annotations

import functools
import io
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from support.people import bearer, token_for
from support.waiting import wait_for

from api.connections.client_socket import ClientSocket
from api.connections.places import Places
from api.waiting.transfers import EXTENSION, SHARE, SMALL_BYTES
from shared import file_removals
from shared.config import Settings

LARGE = "/static/any/plotly.js"
IMAGES = {"images": [[[0.0]]]}
OTHER = {"If-None-Match": '"other"'}


def npz(first: int = 0) -> io.BytesIO:
    """An upload; another one for another `first` pixel."""
    images, labels, file = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2, io.BytesIO()
    images[0, 0, 0] = first
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    file.seek(0)
    return file


# calls that ask the store, with the links of TestStore: those that fail without it, and those that do not
REFUSED: dict[str, Callable[..., Any]] = {
    "download": lambda call, links: call("GET", links["file"]),
    "download, unless it is known": lambda call, links: call("GET", links["file"], headers=OTHER),
    "range": lambda call, links: call("GET", links["file"], headers={"Range": "bytes=0-0"}),
    "head": lambda call, links: call("HEAD", links["file"]),
    "zip": lambda call, links: call("GET", links["zip"]),
    "zip, unless it is known": lambda call, links: call("GET", links["zip"], headers=OTHER),
    "head of a zip": lambda call, links: call("HEAD", links["zip"]),
    "samples": lambda call, links: call("GET", links["samples"]),
    "head of samples": lambda call, links: call("HEAD", links["samples"]),
    "predict": lambda call, links: call("POST", f"{links['job']}/predict", json=IMAGES),
    "upload": lambda call, links: call("POST", "/v1/datasets", data={"file": (npz(first=9), "b.npz")}),
    "walk": lambda call, links: call("GET", links["walk"]),
}
PUT_OFF: dict[str, Callable[..., Any]] = {
    "delete a job": lambda call, links: call("DELETE", links["job"]),
    "delete a dataset": lambda call, links: call("DELETE", links["dataset"]),
    "delete in bulk": lambda call, links: call(
        "POST", "/v1/jobs/bulk", json={"action": "delete", "ids": [links["other"]]}
    ),
}
DOORS = REFUSED | PUT_OFF


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"transfers": 4})


@pytest.fixture
def places(app: Any) -> Places:
    found: Places = app.extensions[EXTENSION]
    return found


@pytest.fixture
def connection() -> Iterator[Callable[..., ClientSocket]]:
    """connection(is_body_incoming=False): the server's end of a new connection; connection.read(ours, size): receive at
    the other end."""
    ends: list[socket.socket] = []

    def new(is_body_incoming: bool = False) -> ClientSocket:
        ours, theirs = socket.socketpair()
        ends.extend((client := ClientSocket(ours), theirs))
        client.is_body_incoming = is_body_incoming
        return client

    def read(client: ClientSocket, size: int) -> None:
        theirs = ends[ends.index(client) + 1]
        while size > 0 and (received := theirs.recv(size)):
            size -= len(received)

    new.read = read  # type: ignore[attr-defined]
    yield new
    for end in ends:
        end.close()


def ask(client: Any, ours: ClientSocket, method: str, path: str, **options: Any) -> Any:
    """A request on this connection, of which `ours` is the server's end."""
    return client.open(path, method=method, environ_overrides={"gunicorn.socket": ours}, **options)


@pytest.fixture
def anna(client, services) -> dict[str, str]:
    """Her token, with which `client` and `hands` call too."""
    found = bearer(token_for(services.database, "anna", "submit"))
    client.environ_base["HTTP_AUTHORIZATION"] = found["Authorization"]
    return found


@pytest.fixture
def links(anna, client, hands) -> dict[str, str]:
    """Paths of an ended job with small files, of an ended walk, and of an uploaded dataset; ids of two jobs."""
    jobs = []
    for _ in range(2):
        jobs.append(hands.submit())
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, name, b"{}") for name in ("model.json", "model.safetensors")])
    job, other = jobs
    walk = client.post("/v1/walks", json={}).json
    lease = hands.start()
    hands.finish(lease, files=[hands.store(lease, "walk.json", b"{}")])
    dataset = client.post("/v1/datasets", data={"file": (npz(), "a.npz")}).json
    return {
        "id": job["id"],
        "other": other["id"],
        "job": job["links"]["self"],
        "file": f"{job['links']['artifacts']}/model.json",
        "zip": job["links"]["artifacts_zip"],
        "walk": f"/learn?job={walk['id']}",
        "dataset": dataset["links"]["self"],
        "samples": dataset["links"]["samples"],
    }


@pytest.fixture
def call(client: Any, connection: Callable[..., ClientSocket]) -> Callable[..., Any]:
    """call(method, path, …): a request on a new connection, which keeps its place: it is not answered by gunicorn."""

    def send(method: str, path: str, is_body_incoming: bool = False, **options: Any) -> Any:
        return ask(client, connection(is_body_incoming), method, path, **options)

    return send


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
    assert [call("GET", LARGE).status_code for _ in range(4)] == [200] * 4, "anonymous use may have all"
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


class TestStore:
    """A store that is not a folder of this machine may be slow or not answer: whatever asks it needs a place."""

    @pytest.fixture
    def asked(self, links, services) -> list[str]:
        """The calls of a store that is not a local folder; it has what was stored before."""
        store, calls = services.store, []

        class Counted:
            protocol = "s3"

            def __init__(self, real: Any) -> None:
                self.real = real

            def __getattr__(self, name: str) -> Any:
                calls.append(name)
                return getattr(self.real, name)

        store.fs, store.is_local = Counted(store.fs), False
        return calls

    @pytest.fixture
    def busy(self, places) -> None:
        """Anna has as many places as an owner may have; half of them are free for others."""
        while places.enter("anna", SHARE) is not None:
            pass
        assert places.in_use == places.number // 2

    def test_what_asks_it_takes_a_place(self, client, connection, links, asked, places):
        found = {}
        for door, send in DOORS.items():
            asked.clear()
            ours = connection()
            send(functools.partial(ask, client, ours), links)
            found[door] = (bool(asked), places.in_use)
            ours.end_request()
        assert found == dict.fromkeys(DOORS, (True, 1))
        assert places.in_use == 0

    def test_without_a_place_it_is_not_asked(self, call, links, asked, busy):
        answers = {door: send(call, links) for door, send in REFUSED.items()}
        found = {door: (answer.status_code, answer.headers.get("Retry-After")) for door, answer in answers.items()}
        assert found == dict.fromkeys(REFUSED, (503, "2"))
        assert asked == []

    def test_a_deletion_without_a_place_leaves_the_files_for_later(self, call, links, asked, busy, services):
        answers = {door: send(call, links) for door, send in PUT_OFF.items()}
        found = {door: (answer.status_code, answer.json["freed_bytes"]) for door, answer in answers.items()}
        assert found == dict.fromkeys(PUT_OFF, (200, 0))
        assert asked == []
        with services.database.read() as session:
            keys = file_removals.oldest(session, 9)
        assert [key.partition("/")[0] for key in keys] == [links["id"], "datasets", links["other"]]
        assert all(services.store.keys_of(key) for key in keys)

    def test_that_limit_is_one_owner_s(self, client, connection, links, asked, busy, services):
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token_for(services.database, 'root', 'admin')}"
        for send in DOORS.values():
            ours = connection()
            answer = send(functools.partial(ask, client, ours), links)
            assert answer.json["freed_bytes"] > 0 if send in PUT_OFF.values() else answer.status_code != 503
            ours.end_request()

    def test_a_local_folder_needs_none(self, call, links, places, busy):
        for send in DOORS.values():
            answer = send(call, links)
            assert answer.json["freed_bytes"] > 0 if send in PUT_OFF.values() else answer.status_code != 503
        assert places.in_use == places.number // 2

    def test_what_the_client_has_already_is_known_from_the_row(self, client, call, links, services):
        etags = {name: client.get(links[name]).headers["ETag"] for name in ("file", "zip", "samples")}
        services.store.fs, services.store.is_local = None, False  # any call raises
        for name, etag in etags.items():
            for method, more in itertools.product(("GET", "HEAD"), ({}, {"Range": "bytes=0-0"})):
                answer = call(method, links[name], headers={"If-None-Match": etag, **more})
                assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", etag), name

    @pytest.mark.parametrize("tag", ['"other"', "*", 'W/"other"'])
    def test_a_file_that_the_client_does_not_want_is_no_body_and_no_length(self, call, links, tag):
        """A length without a body keeps the client waiting for it."""
        for name in ("file", "zip", "samples"):
            answer = call("GET", links[name], headers={"If-Match": tag})
            assert int(answer.headers.get("Content-Length", 0)) == len(answer.data), name
            assert answer.status_code in (200, 412), name

    @pytest.mark.parametrize(("kind", "most"), [("predictions", 1), ("deletions", 2)])
    def test_one_that_does_not_answer_keeps_an_owner_s_share_of_threads(
        self, app, client, hands, links, anna, connection, places, services, kind, most
    ):
        """Of six calls some wait, one of those for a model; the others are answered meanwhile."""
        ended = [client.post(f"{hands.submit()['links']['self']}/cancel").json["links"]["self"] for _ in range(6)]
        answers: SimpleQueue[int] = SimpleQueue()
        go_on = threading.Event()

        class Silent:
            protocol = "s3"

            def __getattr__(self, name: str) -> Any:
                return self.wait

            def wait(self, *_: Any, **__: Any) -> None:
                go_on.wait(60)
                raise OSError("no answer")

        services.store.fs, services.store.is_local = Silent(), False

        def send(job: str) -> None:
            call = functools.partial(ask, app.test_client(), connection(), headers=anna)
            if kind == "deletions":
                answers.put(call("DELETE", job).status_code)
            else:
                answers.put(call("POST", f"{links['job']}/predict", json=IMAGES).status_code)

        senders = [threading.Thread(target=send, args=(job,)) for job in ended]
        for sender in senders:
            sender.start()
        try:
            early = [answers.get(timeout=30) for _ in range(6 - most)]
            assert (places.in_use, answers.qsize()) == (most, 0)
        finally:
            go_on.set()
            for sender in senders:
                sender.join()
        assert early + [answers.get() for _ in range(most)] == [200 if kind == "deletions" else 503] * 6


@pytest.mark.parametrize("path", ["events", "/"])
def test_a_stream_that_has_waited_for_its_client_goes_on_without_a_place(client, connection, hands, places, path):
    """Not so a download; of a stream, only the write that waits has a place."""
    stream, download = connection(), connection()
    path = hands.submit()["links"]["events"] if path == "events" else path
    answer = ask(client, stream, "GET", path, headers={"Accept": "text/event-stream"})
    assert answer.mimetype == "text/event-stream"
    ask(client, download, "GET", "/v1/jobs")

    def read(ours: ClientSocket) -> None:
        wait_for(lambda: places.in_use, 30, "a write that waits")
        connection.read(ours, 1 << 23)

    for ours, expected in ((stream, 0), (download, 1)):
        reader = threading.Thread(target=read, args=(ours,), daemon=True)
        reader.start()
        ours.sendall(bytes(1 << 23))  # more than the buffers take
        reader.join()
        assert places.in_use == expected
    answer.close()


def test_the_response_to_a_long_poll_is_no_stream(client, connection, hands, places):
    ours = connection()
    assert ask(client, ours, "GET", f"{hands.submit()['links']['self']}?wait=0.01").status_code == 200
    assert ours.enter()
    ours.sendall(b"its head")
    assert places.in_use == 1


def test_the_end_of_a_request_leaves_its_place(client, connection, places):
    ours = connection()
    client.get(LARGE, environ_overrides={"gunicorn.socket": ours})
    ours.end_request()
    assert taken(places) == 0


def test_without_gunicorn_nothing_is_limited(client):
    assert {client.get(LARGE).status_code for _ in range(6)} == {200}


@pytest.mark.parametrize(
    ("kind", "ends"), [("a job", 0), ("a long poll", 1), ("a stream", 1), ("a prediction", 1), ("an upload", 1)]
)
def test_requests_that_may_wait_end_their_turns(client, connection, hands, links, kind, ends):
    ours = connection(is_body_incoming=kind == "an upload")
    ended: list[str] = []
    ours.on_waiting = lambda: ended.append(kind)
    job = hands.submit()["links"]
    method, path, options = {
        "a job": ("GET", job["self"], {}),
        "a long poll": ("GET", f"{job['self']}?wait=0.01", {}),
        "a stream": ("GET", job["events"], {"headers": {"Accept": "text/event-stream"}}),
        "a prediction": ("POST", f"{links['job']}/predict", {"json": IMAGES}),
        "an upload": ("POST", "/v1/jobs", {"json": {}}),
    }[kind]
    answer = ask(client, ours, method, path, **options)
    answer.close()
    assert len(ended) == ends


def test_the_owner_of_a_request_is_told_to_its_connection(client, connection, anna):
    ours = connection()
    assert ask(client, ours, "GET", "/v1/jobs", headers=anna).status_code == 200
    assert ours.owner == "anna"
