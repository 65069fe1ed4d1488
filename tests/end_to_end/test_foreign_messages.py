"""Foreign messages in the queue: a worker rejects them, runs nothing of them, and takes the next doorbell message."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
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


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-yaml", "text/plain"])
def test_a_message_that_is_not_json_is_rejected(steady: Service, tmp_path: Path, content_type: str) -> None:
    mark = tmp_path / "unpickled"
    refused = steady.worker.said().count("ContentDisallowed")
    with Redis(unix_socket_path=str(steady.socket)) as redis:
        redis.lpush(QUEUE, message(pickle.dumps(([], {}, Evil(mark))), content_type))
        wait_for(lambda: redis.llen(QUEUE) == 0, 30, "the worker to take the message")
    wait_for(lambda: steady.worker.said().count("ContentDisallowed") > refused, 30, "the worker to reject it")
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
        wait_for(lambda: redis.llen(QUEUE) == redis.hlen("unacked") == 0, 30, "the worker to reject the messages")
    assert steady.wait(steady.submit(epochs=1)["id"])["status"] == "succeeded"
    assert steady.worker.alive
    assert "message rejected" in steady.worker.said()
