"""What lies in the queue and is no bell: a worker refuses it, runs nothing of it, and hears the next bell."""

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
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


def message(body: bytes, content_type: str, task: str = DOORBELL) -> str:
    """As kombu puts it into a Redis list, with headers that a worker acts upon."""
    headers = {"lang": "py", "task": task, "id": str(uuid4()), "argsrepr": "()", "kwargsrepr": "{}"}
    properties = {
        **{"correlation_id": headers["id"], "delivery_mode": 2, "priority": 0, "delivery_tag": str(uuid4())},
        **{"delivery_info": {"exchange": "", "routing_key": QUEUE}, "body_encoding": "base64"},
    }
    content = base64.b64encode(body).decode()
    whole = {"body": content, "content-encoding": "binary", "content-type": content_type, "headers": headers}
    return json.dumps({**whole, "properties": properties})


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-yaml", "text/plain"])
def test_a_message_that_is_not_json_is_refused_and_harms_nothing(
    steady: Service, tmp_path: Path, content_type: str
) -> None:
    mark = tmp_path / "unpickled"
    refused = steady.worker.said().count("ContentDisallowed")
    with Redis(unix_socket_path=str(steady.socket)) as redis:
        redis.lpush(QUEUE, message(pickle.dumps(([], {}, Evil(mark))), content_type))
        wait_for(lambda: redis.llen(QUEUE) == 0, 30, "the worker to take the message")
    wait_for(lambda: steady.worker.said().count("ContentDisallowed") > refused, 30, "the worker to refuse it")
    assert steady.wait(steady.submit(epochs=1)["id"])["status"] == "succeeded"
    assert not mark.exists()
    assert steady.worker.alive


def test_json_that_is_no_bell_ends_no_worker_and_does_not_come_back(steady: Service) -> None:
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
        wait_for(lambda: redis.llen(QUEUE) == redis.hlen("unacked") == 0, 30, "the worker to be rid of the messages")
    assert steady.wait(steady.submit(epochs=1)["id"])["status"] == "succeeded"
    assert steady.worker.alive
    assert "message rejected" in steady.worker.said()
