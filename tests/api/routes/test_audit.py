"""The audit log over HTTP: one entry per change, in its transaction, and one per call refused for a token's scope."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.services import Services
from shared import tokens
from shared.jobs import jobs
from shared.tokens import Scope

Get = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def bearer(services: Services) -> Callable[[str, Scope], dict[str, str]]:
    def make(owner: str, scope: Scope) -> dict[str, str]:
        with services.database.write() as session:
            _, text = tokens.create(session, f"{owner}-{scope}", owner, scope, datetime.now(UTC) + timedelta(days=1))
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
def entries(client: FlaskClient) -> Get:
    """The entries as (action, object, status), oldest first."""

    def get(**query: Any) -> list[dict[str, Any]]:
        answer = client.get("/v1/audit", query_string={"limit": 100, **query})
        assert answer.status_code == 200, answer.text
        return list(reversed(answer.json["data"]))

    return get


def compact(entries: list[dict[str, Any]]) -> list[tuple[str, str | None, int | None]]:
    return [(entry["action"], entry["object_id"], entry["status"]) for entry in entries]


def test_every_change_of_a_job_leaves_one_entry(client: FlaskClient, entries: Get, bearer: Any) -> None:
    alice = bearer("alice", "submit")
    job = client.post("/v1/jobs", json={}, headers={**alice, "X-Request-Id": "mine"}).json["id"]
    client.patch(f"/v1/jobs/{job}", json={"priority": 7}, headers=alice)
    client.post(f"/v1/jobs/{job}/cancel", headers=alice)
    client.post(f"/v1/jobs/{job}/retry", headers=alice)
    client.post("/v1/jobs/bulk", json={"action": "cancel", "ids": [job, "job_nobody"]}, headers=alice)
    client.delete(f"/v1/jobs/{job}", headers=alice)
    found = entries()
    assert compact(found) == [
        ("jobs.submit", job, 202),
        ("steering.patch", job, 200),
        ("steering.cancel", job, 202),
        ("steering.retry", job, 202),
        ("bulk.cancel", job, 200),
        ("jobs.delete", job, 200),
    ]
    assert {entry["owner"] for entry in found} == {"alice"}
    assert {entry["address"] for entry in found} == {"127.0.0.1"}
    assert found[0]["request_id"] == "mine"
    assert len({entry["token_id"] for entry in found}) == 1


def test_what_changes_nothing_leaves_none(client: FlaskClient, entries: Get) -> None:
    client.post("/v1/jobs", json={"lr": -1})
    client.post("/v1/jobs?dry_run=true", json={})
    client.post("/v1/jobs/job_nobody/cancel")
    client.get("/v1/jobs")
    assert entries() == []
    key = {"Idempotency-Key": "one"}
    first = client.post("/v1/jobs", json={}, headers=key).json["id"]
    assert client.post("/v1/jobs", json={}, headers=key).headers["Idempotent-Replayed"] == "true"
    assert compact(entries()) == [("jobs.submit", first, 202)]


def test_calls_that_are_accepted_and_change_nothing_leave_none(client: FlaskClient, entries: Get) -> None:
    job = client.post("/v1/jobs", json={"name": "n"}).json["id"]
    client.post(f"/v1/jobs/{job}/cancel")
    before = entries()
    assert client.post(f"/v1/jobs/{job}/cancel").status_code == 202
    for body in ({}, {"name": "n"}, {"labels": {}}):
        assert client.patch(f"/v1/jobs/{job}", json=body).status_code == 200
    bulk = client.post("/v1/jobs/bulk", json={"action": "cancel", "ids": [job] * 3}).json
    assert [outcome["ok"] for outcome in bulk["data"]] == [True] * 3
    assert entries() == before
    assert len(before) == 2


def test_a_change_whose_entry_cannot_be_written_is_rolled_back(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the table is full")

    monkeypatch.setattr("shared.audit.note", broken)
    assert client.post("/v1/jobs", json={}).status_code == 500
    assert client.get("/v1/jobs").json["data"] == []


def test_refusals_with_a_token_are_recorded_and_those_without_are_not(
    client: FlaskClient, entries: Get, bearer: Any
) -> None:
    reader = bearer("bob", "read")
    assert client.post("/v1/jobs/job_1/cancel", headers=reader).status_code == 403
    assert client.get("/v1/audit", headers=reader).status_code == 403
    assert client.post("/v1/jobs", json={}, headers={"Authorization": "Bearer gq_no_no"}).status_code == 401
    assert client.post("/v1/jobs", json={}, headers={"Origin": "https://evil.example"}).status_code == 403
    found = entries()
    assert compact(found) == [("steering.cancel", "job_1", 403), ("audit.index", None, 403)]
    assert {entry["owner"] for entry in found} == {"bob"}


@pytest.mark.parametrize("name", ["a%00b", "job_1%0aforged", "%3Cb%3E", "%ff", "x" * 65])
def test_a_refusal_names_no_object_if_the_path_has_no_valid_id(
    client: FlaskClient, entries: Get, bearer: Any, name: str, problem: Any
) -> None:
    reader = bearer("bob", "read")
    problem(client.post(f"/v1/jobs/{name}/cancel", headers=reader), 403, "insufficient_scope")
    problem(client.delete(f"/v1/datasets/{name}", headers=reader), 403, "insufficient_scope")
    assert compact(entries()) == [("steering.cancel", None, 403), ("datasets.delete", None, 403)]


def test_changes_of_datasets_are_recorded_too(client: FlaskClient, entries: Get) -> None:
    file = io.BytesIO()
    x, y = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 2
    np.savez(file, x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    again = file.getvalue()
    made = client.post("/v1/datasets", data={"file": (io.BytesIO(again), "a.npz")}).json["id"]
    client.post("/v1/datasets", data={"file": (io.BytesIO(again), "a.npz")})
    client.delete(f"/v1/datasets/{made}")
    assert compact(entries()) == [
        ("datasets.add", made, 201),
        ("datasets.add", made, 200),
        ("datasets.delete", made, 200),
    ]


def test_pages_and_filters(client: FlaskClient, entries: Get) -> None:
    made = [client.post("/v1/jobs", json={}).json["id"] for _ in range(5)]
    seen, after = [], None
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = client.get("/v1/audit", query_string=query).json
        seen += [entry["object_id"] for entry in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == made[::-1]
    assert compact(entries(object=made[2])) == [("jobs.submit", made[2], 202)]
    assert entries(owner="alice") == entries(action="jobs.delete") == entries(since="2099-01-01T00:00:00Z") == []
    assert client.get("/v1/audit?sinse=1").status_code == 422


def test_a_full_queue_is_a_429(client: FlaskClient, services: Services, bearer: Any) -> None:
    object.__setattr__(services.settings, "max_queued_jobs", 2)
    alice, bob = bearer("alice", "submit"), bearer("bob", "submit")
    made = [client.post("/v1/jobs", json={}, headers=alice).json["id"] for _ in range(2)]
    refused = client.post("/v1/jobs", json={}, headers=alice)
    assert (refused.status_code, refused.json["code"]) == (429, "too_many_queued_jobs")
    assert (refused.json["queued"], refused.json["limit"]) == (2, 2)
    assert int(refused.headers["Retry-After"]) > 0
    assert client.post("/v1/jobs", json={}, headers=bob).status_code == 202
    assert client.post("/v1/jobs", json={}).status_code == 202  # an anonymous caller's
    with services.database.write() as session:
        jobs.request_cancel(session, made[0])
    assert client.post("/v1/jobs", json={}, headers=alice).status_code == 202
    assert client.post(f"/v1/jobs/{made[0]}/retry", headers=alice).status_code == 429
    outcome = client.post("/v1/jobs/bulk", json={"action": "retry", "ids": [made[0]]}, headers=alice).json["data"][0]
    assert (outcome["ok"], outcome["error"]["code"]) == (False, "too_many_queued_jobs")


def test_paused_jobs_cannot_be_resumed_into_a_full_queue(
    client: FlaskClient, services: Services, bearer: Any, hands: Any
) -> None:
    object.__setattr__(services.settings, "max_queued_jobs", 1)
    alice = bearer("alice", "submit")
    job = client.post("/v1/jobs", json={}, headers=alice).json["id"]
    lease = hands.start()
    client.post(f"/v1/jobs/{job}/pause", headers=alice)
    other = client.post("/v1/jobs", json={}, headers=alice).json["id"]
    taken_back = client.post(f"/v1/jobs/{job}/resume", headers=alice)
    assert (taken_back.status_code, taken_back.json["status"]) == (202, "running")  # it is running, not queued
    client.post(f"/v1/jobs/{job}/pause", headers=alice)
    hands.release(lease)
    refused = client.post(f"/v1/jobs/{job}/resume", headers=alice)
    assert (refused.status_code, refused.json["code"]) == (429, "too_many_queued_jobs")
    outcome = client.post("/v1/jobs/bulk", json={"action": "resume", "ids": [job]}, headers=alice).json["data"][0]
    assert (outcome["ok"], outcome["error"]["code"]) == (False, "too_many_queued_jobs")
    assert client.get(f"/v1/jobs/{job}", headers=alice).json["status"] == "paused"
    client.post(f"/v1/jobs/{other}/cancel", headers=alice)
    assert client.post(f"/v1/jobs/{job}/resume", headers=alice).json["status"] == "queued"
