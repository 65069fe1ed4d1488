"""A broker with foreign messages, or that returns errors: the worker rejects the messages, runs nothing of them, finds
queued jobs without the broker, says so, and receives doorbell messages again when the broker is well."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from support.broker_faults import FAULTS, RESPONSES, lying_server
from support.promtool import value
from support.service import Service
from support.waiting import wait_for

from shared.broker import DOORBELL, QUEUE


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


def message(body: bytes, content_type: str, task: str = DOORBELL) -> str:
    """A message as kombu writes it into a Redis list, with the headers that a worker reads."""
    headers = {"lang": "py", "task": task, "id": str(uuid4()), "argsrepr": "()", "kwargsrepr": "{}"}
    properties = {
        **{"correlation_id": headers["id"], "delivery_mode": 2, "priority": 0, "delivery_tag": str(uuid4())},
        **{"delivery_info": {"exchange": "", "routing_key": QUEUE}, "body_encoding": "base64"},
    }
    content = base64.b64encode(body).decode()
    whole = {"body": content, "content-encoding": "binary", "content-type": content_type, "headers": headers}
    return json.dumps({**whole, "properties": properties})


def broker_of(service: Service) -> dict[str, Any]:
    """The state of the connection to the broker that the worker reports."""
    (worker,) = service.live_workers()
    found: dict[str, Any] = worker["broker"]
    return found


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-yaml", "text/plain"])
def test_a_message_that_is_not_json_is_rejected(steady: Service, tmp_path: Path, content_type: str) -> None:
    mark = tmp_path / "unpickled"
    refused = broker_of(steady)["rejected"]
    with Redis(unix_socket_path=str(steady.socket)) as redis:
        redis.lpush(QUEUE, message(pickle.dumps(([], {}, Evil(mark))), content_type))
        wait_for(lambda: redis.llen(QUEUE) == 0, 30, "the worker to take the message")
    wait_for(lambda: broker_of(steady)["rejected"] > refused, 30, "the worker to reject it")
    assert steady.wait(steady.submit(epochs=1)["id"])["status"] == "succeeded"
    assert not mark.exists()
    assert steady.worker.alive


def test_json_that_is_not_a_doorbell_message_neither_ends_the_worker_nor_returns(steady: Service) -> None:
    strange: list[tuple[str, Any]] = [
        *(("os.system", [["true"], {}, {}]), (DOORBELL, [["job_1"], {"x": 1}, {}])),
        *(
            (DOORBELL, "no list"),
            (DOORBELL, "abc"),
            (DOORBELL, None),
            (DOORBELL, [1, 2, 3]),
            (DOORBELL, [[], [], 7, 8]),
        ),
    ]
    with Redis(unix_socket_path=str(steady.socket)) as redis:
        for task, body in strange:
            redis.lpush(QUEUE, message(json.dumps(body).encode(), "application/json", task))
        wait_for(lambda: redis.llen(QUEUE) == 0, 30, "the worker to reject the messages")
    assert steady.wait(steady.submit(epochs=1)["id"])["status"] == "succeeded"
    assert steady.worker.alive
    assert "message rejected" in steady.worker.said()


def test_elements_that_are_not_messages_are_dropped_and_restart_neither_worker_nor_connection(steady: Service) -> None:
    wait_for(lambda: broker_of(steady)["ok"], 30, "the worker to be connected")
    before, process = broker_of(steady), steady.worker.process.pid
    well: dict[str, Any] = json.loads(message(b"[[], {}, {}]", "application/json"))
    garbage = [
        *(b"", b"\xff\xfe", b"garbage", b"null", b"7", b"[1]", b"{}", b'{"body": null}', b"[" * 100_000),
        *(json.dumps({**well, name: value}).encode() for name in well for value in (None, 7, [], {}, "x")),
        json.dumps({**well, "properties": {**well["properties"], "delivery_tag": ["a"]}}).encode(),
        json.dumps({**well, "properties": {**well["properties"], "delivery_info": None}}).encode(),
        json.dumps({**well, "properties": {**well["properties"], "body_encoding": "rot13"}}).encode(),
    ]
    with Redis(unix_socket_path=str(steady.socket)) as redis:
        redis.lpush(QUEUE, *garbage, *[b"more than Celery takes before it waits"] * 20)
        wait_for(lambda: redis.llen(QUEUE) == 0, 30, "the worker to take all of it")
    wait_for(lambda: broker_of(steady)["rejected"] >= before["rejected"] + len(garbage), 30, "the worker to count it")
    assert steady.wait(steady.submit(epochs=1)["id"])["status"] == "succeeded"
    assert steady.worker.process.pid == process
    assert steady.worker.alive
    after = broker_of(steady)
    assert (after["ok"], after["errors"]) == (True, before["errors"])
    assert steady.worker.said().count("message rejected") < len(garbage), "one line per 5 s"


@pytest.mark.parametrize(
    "name",
    [
        *("read-only replica", "queue of another type"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("command not permitted", "password required")),
    ],
)
def test_with_a_broker_that_returns_errors_the_worker_goes_on_says_so_and_comes_back(
    steady: Service, name: str
) -> None:
    fault, process = FAULTS[name], steady.worker.process.pid
    wait_for(lambda: broker_of(steady)["ok"], 30, "the worker to be connected")
    running = steady.submit(epochs=10_000)
    steady.wait_until(running["id"], lambda job: job["status"] == "running", 60, "the start of the first job")
    with Redis(unix_socket_path=str(steady.socket)) as redis:
        try:
            fault.begin(redis)
            queued = steady.submit(epochs=1)
            steady.cancel(running["id"])
            assert steady.wait(running["id"])["attempt"] == 1, "the running job was not interrupted"
            assert steady.wait(queued["id"])["status"] == "succeeded"
            # first the connection breaks, and only the next one gets the reason
            wait_for(lambda: (broker_of(steady)["detail"] or "").startswith(fault.word), 30, "the worker to say so")
            assert not broker_of(steady)["ok"]
            ready = steady.http.get("/readyz").json()
            assert (ready["ready"], ready["broker"], ready["workers_without_broker"]) == (True, "away", 1)
            assert ready["broker_detail"].startswith(fault.word)
            text = steady.http.get("/metrics").text
            assert value(text, "gradq_worker_broker_ok", worker=steady.live_workers()[0]["id"]) == 0
        finally:
            fault.end(redis)
    wait_for(lambda: broker_of(steady)["ok"], 30, "the worker to come back by itself")
    assert steady.http.get("/readyz").json()["workers_without_broker"] == 0
    assert steady.worker.alive
    assert steady.worker.process.pid == process


@pytest.mark.long
@pytest.mark.parametrize("name", ["HTTP", "always OK", "malformed length", "CLUSTERDOWN", "more than it sends"])
def test_a_worker_of_a_server_that_is_not_a_redis_runs_jobs_and_stops_in_time(tmp_path: Path, name: str) -> None:
    with lying_server(RESPONSES[name]) as url:
        service = Service(tmp_path, {"GRADQ_REDIS_URL": url})
        service.migrate()
        service.start_api()
        service.start_worker()
        assert service.wait(service.submit(epochs=1)["id"])["status"] == "succeeded"
        wait_for(lambda: broker_of(service)["errors"] >= 2, 30, "two tries to connect")
        assert not broker_of(service)["ok"]
        assert service.worker.stop() == 0
        service.close()
