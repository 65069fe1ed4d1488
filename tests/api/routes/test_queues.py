"""GET /v1/queues on both databases: jobs by requested device, and why they wait."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from shared.db.tables import Job, database_now

GPU = {"devices": {"kinds": ["cpu", "cuda"], "slots": [{"kind": "cuda", "name": "cuda:0", "uuid": "GPU-1"}]}}


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def queues(client, conforms):
    def ask() -> dict[str, dict[str, Any]]:
        body = client.get("/v1/queues").json
        conforms(body, "QueueList")
        return {queue["name"]: queue for queue in body["data"]}

    return ask


def test_without_jobs_and_workers_there_are_no_queues(queues):
    assert queues() == {}


def test_a_live_worker_s_queues_are_listed_though_they_are_empty(hands, queues):
    hands.beat()
    assert list(queues()) == ["auto", "cpu"]
    empty = {"queued": 0, "running": 0, "paused": 0, "oldest_queued_at": None, "reasons": []}
    assert queues()["cpu"] == {"object": "queue", "name": "cpu", **empty, "slots": 2, "free_slots": 1}
    hands.beat("w2", slots=8, free_slots=8, **GPU)
    assert {name: (queue["slots"], queue["free_slots"]) for name, queue in queues().items()} == {
        "auto": (10, 9),
        "cpu": (10, 9),
        "cuda": (8, 8),
    }
    hands.beat("w2", slots=8, free_slots=8, draining=True, **GPU)
    assert "cuda" not in queues()


def test_a_queue_counts_its_jobs_and_says_since_when_the_first_waits(client, hands, queues):
    running, paused, oldest = (hands.submit(device="cpu") for _ in range(3))
    for job in (running, paused):
        lease = hands.start()
        if job is paused:
            client.post(job["links"]["pause"])
            hands.release(lease)
    hands.submit(device="cpu", priority=99)
    cpu = queues()["cpu"]
    assert (cpu["queued"], cpu["running"], cpu["paused"]) == (2, 1, 1)
    assert cpu["oldest_queued_at"] == oldest["created_at"]


def test_each_reason_to_wait_has_the_number_of_its_jobs(hands, queues, services):
    late = hands.submit(max_attempts=9)
    hands.submit(), hands.submit(device="cuda")
    reason = {"code": "no_live_worker", "detail": "no worker is alive; start one with `gradq worker`", "jobs": 2}
    assert queues()["auto"]["reasons"] == [reason]
    assert queues()["cuda"]["reasons"] == [{**reason, "jobs": 1}]
    hands.beat()
    with services.database.write() as session:
        session.execute(update(Job).where(Job.id == late["id"]).values(not_before=database_now(60)))
    waits, backs_off = queues()["auto"]["reasons"]
    assert waits == {"code": "starting", "detail": "a slot is free; it starts within seconds", "jobs": 1}
    hands.submit()
    (waits, _) = queues()["auto"]["reasons"]
    assert waits == {"code": "waiting_for_device", "detail": "1 of 2 slots free", "jobs": 2}
    assert (backs_off["code"], backs_off["jobs"]) == ("retry_backoff", 1)
    assert backs_off["detail"].startswith("retried from 20")
    (cuda,) = queues()["cuda"]["reasons"]
    assert (cuda["code"], cuda["jobs"]) == ("no_such_device", 1)
    assert (queues()["cuda"]["slots"], queues()["cuda"]["free_slots"]) == (0, 0)


def test_what_has_ended_is_in_no_queue(client, hands, queues):
    hands.submit(device="cuda")
    client.post("/v1/jobs/bulk", json={"action": "cancel", "filter": {}})
    assert queues() == {}
