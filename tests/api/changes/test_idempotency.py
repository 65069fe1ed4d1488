"""Idempotency-Key on both databases: a repeated POST gets the first response, and is executed once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask import Flask
from sqlalchemy import func, select, update
from support.images import npz, small
from support.service import Service
from support.waiting import wait_for
from werkzeug.test import TestResponse

from api.changes import idempotency as idempotency_of_requests
from api.routes import jobs as view
from shared import idempotency
from shared.db.database import Database
from shared.db.tables import IdempotencyKey, Job, database_now
from shared.errors import DatabaseAway
from shared.jobs.states import JobState

ROOT = Path(__file__).parents[3]


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def send(client) -> Callable[..., TestResponse]:
    def send(path: str = "/v1/jobs", key: str = "k", **more: Any) -> TestResponse:
        return client.post(path, headers={"Idempotency-Key": key}, **({"json": {}} | more))

    return send


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def run_out(database: Database) -> None:
    with database.write() as session:
        session.execute(update(IdempotencyKey).values(until=database_now(-1)))


def assert_replayed(again: TestResponse, first: TestResponse) -> None:
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert (again.status_code, again.data) == (first.status_code, first.data)
    for name in ("Location", "Content-Type"):
        assert again.headers.get(name) == first.headers.get(name)


# --- the same request again -------------------------------------------------------------------------------------------


def test_a_submission_that_is_sent_again_makes_one_job(send, database, hands) -> None:
    first = send(json={"name": "née", "epochs": 2})
    assert first.status_code == 202
    hands.start()  # the stored response does not change
    again = send(json={"name": "née", "epochs": 2})
    assert_replayed(again, first)
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert count(database) == 1
    assert send(key="another").json["id"] != first.json["id"]


def test_a_dry_run_a_gradient_check_and_a_walk_are_answered_as_before_too(send, database) -> None:
    for path in ("/v1/jobs?dry_run=true", "/v1/gradient-checks", "/v1/walks"):
        first = send(path, key=path)
        assert_replayed(send(path, key=path), first)
    assert count(database) == 2


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry", "reproduce"])
def test_a_steering_call_that_is_sent_again_is_done_once(send, client, hands, database, action) -> None:
    me = hands.submit()["links"]["self"]
    if action != "cancel":
        lease = hands.start()
    if action == "resume":
        client.post(f"{me}/pause")
        hands.release(lease)
    if action in ("retry", "reproduce"):
        hands.finish(lease, JobState.FAILED if action == "retry" else JobState.SUCCEEDED)
    first = send(f"{me}/{action}")
    assert first.status_code == 202, first.text
    log = client.get(f"{me}/events").json["data"]
    assert_replayed(send(f"{me}/{action}"), first)
    assert client.get(f"{me}/events").json["data"] == log
    assert count(database) == (2 if action == "reproduce" else 1)


def test_an_answer_outlives_its_job(send, client, hands) -> None:
    me = hands.submit()["links"]["self"]
    first = send(f"{me}/cancel")
    assert client.delete(me).status_code == 200
    assert_replayed(send(f"{me}/cancel"), first)


def test_a_bulk_call_that_is_sent_again_says_what_was_freed(send, hands) -> None:
    ids = []
    for size in (10, 20):
        ids.append(hands.submit()["id"])
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "spec.json", b"x" * size)])
    body = {"action": "delete", "ids": ids}
    first = send("/v1/jobs/bulk", json=body)
    assert (first.json["succeeded"], first.json["freed_bytes"]) == (2, 30)
    assert_replayed(send("/v1/jobs/bulk", json=body), first)


@pytest.mark.parametrize("action", ["cancel", "delete", "retry"])
def test_a_response_that_is_too_large_to_be_stored_is_refused_before_the_change(
    send, client, hands, problem, monkeypatch, action
) -> None:
    job = hands.submit()
    if action != "cancel":
        client.post(f"{job['links']['self']}/cancel")
    before = client.get(job["links"]["self"]).json
    monkeypatch.setattr(idempotency_of_requests, "MAX_KEPT_BYTES", 2000)
    body = {"action": action, "ids": [job["id"], *["job_0"] * 50]}
    detail = problem(send("/v1/jobs/bulk", json=body), 413, "payload_too_large")["detail"]
    assert "nothing was changed" in detail
    assert client.get(job["links"]["self"]).json == before
    assert client.post("/v1/jobs/bulk", json=body).json["succeeded"] == 1  # without a key


def test_an_upload_that_is_sent_again_is_answered_as_before(send) -> None:
    def upload(**fields: str) -> TestResponse:  # each with a new boundary
        form = {"file": (io.BytesIO(npz(**small())), "a.npz"), **fields}
        return send("/v1/datasets", data=form, json=None, content_type="multipart/form-data")

    first = upload(name="one")
    assert first.status_code == 201, first.text
    assert_replayed(upload(name="one"), first)
    assert upload(name="two").json["code"] == "idempotency_key_reused"


def test_an_upload_whose_response_is_too_large_to_be_stored_is_answered_with_its_dataset_each_time(
    send, client, monkeypatch
) -> None:
    def upload(key: str, **fields: str) -> TestResponse:
        content = npz(**small(classes=[sign * 60 for sign in "🐈🐕🐁🐎"]))
        form = {"file": (io.BytesIO(content), "a.npz"), **fields}
        return send("/v1/datasets", key, data=form, json=None, content_type="multipart/form-data")

    monkeypatch.setattr(idempotency_of_requests, "MAX_KEPT_BYTES", 2000)
    first, again, other = upload("k"), upload("k"), upload("l")
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 200], first.text
    assert len(first.data) > 2000
    assert first.json == again.json == other.json
    assert first.headers["Location"] == again.headers["Location"] == first.json["links"]["self"]
    assert "Idempotent-Replayed" not in again.headers
    uploaded = [row for row in client.get("/v1/datasets").json["data"] if row["source"] == "upload"]
    assert [row["id"] for row in uploaded] == [first.json["id"]]
    assert upload("k", seed="2").status_code == 201, "the key is free"
    monkeypatch.setattr(idempotency_of_requests, "MAX_KEPT_BYTES", len(again.data))
    kept = upload("m")
    assert_replayed(upload("m"), kept)


def test_a_dry_run_whose_response_is_too_large_to_be_stored_is_made_again(send, database, monkeypatch) -> None:
    monkeypatch.setattr(idempotency_of_requests, "MAX_KEPT_BYTES", 100)
    answers = [send("/v1/jobs?dry_run=true") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert all("Idempotent-Replayed" not in answer.headers for answer in answers)
    assert count(database) == 0


@pytest.mark.parametrize("path", ["/v1/walks", "pause", "resume", "retry", "reproduce"])
def test_a_change_whose_response_is_too_large_to_be_stored_is_not_made(
    send, client, hands, problem, database, monkeypatch, path
) -> None:
    if not path.startswith("/"):
        me = hands.submit()["links"]["self"]
        if path == "pause":
            hands.start()
        elif path == "resume":
            lease = hands.start()
            client.post(f"{me}/pause")
            hands.release(lease)
        elif path in ("retry", "reproduce"):
            hands.finish(hands.start(), JobState.FAILED if path == "retry" else JobState.SUCCEEDED)
        path = f"{me}/{path}"
    before = client.get("/v1/jobs").json["data"]
    with monkeypatch.context() as patch:
        patch.setattr(idempotency_of_requests, "MAX_KEPT_BYTES", 100)
        assert "nothing was changed" in problem(send(path), 413, "payload_too_large")["detail"]
        assert client.get("/v1/jobs").json["data"] == before
    assert send(path).status_code == 202, "the key is free"


def test_every_post_takes_a_key_and_says_so(app, send) -> None:
    posts = [rule.rule for rule in app.url_map.iter_rules() if "POST" in rule.methods and rule.rule != "/session"]
    assert len(posts) == 11
    refused = {rule: send(rule.replace("<job_id>", "job_0"), key="x" * 256) for rule in posts}
    assert {answer.json["code"] for answer in refused.values()} == {"invalid_header"}
    paths = app.test_client().get("/v1/openapi.json").json["paths"]
    for rule in posts:
        names = [p["name"] for p in paths[rule.replace("<job_id>", "{job_id}")]["post"]["parameters"]]
        assert "Idempotency-Key" in names, rule


# --- another request, or an error -------------------------------------------------------------------------------------


def test_a_key_stands_for_one_body_and_one_address(send, problem, database) -> None:
    send(json={"epochs": 1})
    for path, body in (
        ("/v1/jobs", {"epochs": 2}),
        ("/v1/jobs?dry_run=true", {"epochs": 1}),
        ("/v1/gradient-checks", {"epochs": 1}),
    ):
        problem(send(path, json=body), 422, "idempotency_key_reused")
    assert count(database) == 1


def test_an_error_leaves_the_key_free(send, problem, hands, client) -> None:
    problem(send(json={"lr": -1}), 422, "invalid_spec")
    problem(send(data="{", json=None, content_type="application/json"), 400, "bad_request")
    problem(send(data="{}", json=None, content_type="text/plain"), 415, "unsupported_media_type")
    first = send(json={"epochs": 1})
    assert first.status_code == 202
    me = first.json["links"]["self"]
    problem(send(f"{me}/pause", key="p"), 409, "wrong_state")
    hands.start()
    assert send(f"{me}/pause", key="p").json["status"] == "pausing"


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_invalid_key_is_refused(send, problem, key) -> None:
    (error,) = problem(send(key=key), 422, "invalid_header")["errors"]
    assert error["pointer"] == "/Idempotency-Key"
    assert f"got {len(key)}" in error["detail"]


def test_the_longest_key_and_one_with_spaces_and_accents_work(send) -> None:
    for key in ("x" * 255, "an id, with spaces", "é"):
        first = send(key=key)
        assert_replayed(send(key=key), first)


def test_other_methods_do_not_look_at_it(client, hands) -> None:
    me, header = hands.submit()["links"]["self"], {"Idempotency-Key": ""}
    assert client.get(me, headers=header).status_code == 200
    assert client.patch(me, json={"priority": 1}, headers=header).status_code == 200
    client.post(f"{me}/cancel")
    assert client.delete(me, headers=header).status_code == 200


# --- at the same time, and cut off ------------------------------------------------------------------------------------


@pytest.fixture
def slow_parse(monkeypatch):
    """Makes the next submission wait between the claim of its key and its change, until it is released."""
    arrived, go, parse, lock = threading.Event(), threading.Event(), view.parse_json, threading.Lock()

    def wait() -> Any:
        if lock.acquire(blocking=False):
            arrived.set()
            assert go.wait(30)
        return parse()

    monkeypatch.setattr(view, "parse_json", wait)
    yield arrived, go
    go.set()


def test_a_second_request_during_the_first_is_told_when_to_retry(send, problem, slow_parse, database) -> None:
    arrived, go = slow_parse
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send)
        assert arrived.wait(30)
        answer = send()
        problem(answer, 409, "idempotency_in_progress")
        assert int(answer.headers["Retry-After"]) > 0
        problem(send(json={"epochs": 1}), 422, "idempotency_key_reused")
        go.set()
        answered = first.result(30)
    assert_replayed(send(), answered)
    assert count(database) == 1


def test_of_a_slow_request_and_the_one_that_replaced_it_one_makes_the_job(send, problem, slow_parse, database) -> None:
    arrived, go = slow_parse
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(send)
        assert arrived.wait(30)
        run_out(database)
        quick = send()
        assert quick.status_code == 202
        go.set()
        problem(slow.result(30), 409, "idempotency_in_progress")
    assert_replayed(send(), quick)
    assert count(database) == 1


DYING = """
import os, sys
from api.app import create_app
from shared import idempotency
from shared.broker import Broker
from shared.config import Settings
from shared.jobs import jobs

def die(*_, **__):
    os._exit(9)

def die_after(function):
    def dying(*arguments):
        function(*arguments)
        die()
    return dying

moment = sys.argv[3]
if moment == "before the effect":
    jobs.create = die
elif moment == "before the answer":
    jobs.create = die_after(jobs.create)
elif moment == "before the commit":
    idempotency.settle = die_after(idempotency.settle)
elif moment == "after the commit":
    Broker.ring = die
state, database, _ = sys.argv[1:]
settings = Settings(state_dir=state, database_url=database, redis_url="redis://127.0.0.1:1", allow_anonymous=True)
app = create_app(settings)
app.test_client().post("/v1/jobs", json={}, headers={"Idempotency-Key": "k"})
"""


@pytest.mark.parametrize(
    ("moment", "was_done"),
    [
        ("before the effect", False),
        ("before the answer", False),
        ("before the commit", False),
        ("after the commit", True),
    ],
)
def test_a_process_that_is_killed_at_any_moment_makes_the_job_once(
    send, problem, database, tmp_path, moment, was_done
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", DYING, str(tmp_path / "state"), database.url, moment]
    died = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=150)
    assert died.returncode == 9, died.stderr[-2000:]
    assert count(database) == int(was_done)
    if not was_done:
        problem(send(), 409, "idempotency_in_progress")  # the claim has not expired yet
        run_out(database)
        assert "Idempotent-Replayed" not in send().headers
    assert send().headers["Idempotent-Replayed"] == "true"
    assert count(database) == 1


def test_a_key_that_cannot_be_released_expires(send, problem, services, monkeypatch, database) -> None:
    def fail(*_: Any) -> None:
        raise DatabaseAway("gone")

    with monkeypatch.context() as broken:
        broken.setattr(idempotency, "release", fail)
        problem(send(json={"lr": -1}), 422, "invalid_spec")  # the error of the view, not the one of the release
    problem(send(json={"lr": -1}), 409, "idempotency_in_progress")
    run_out(database)
    assert send().status_code == 202


@pytest.fixture
def served(database: Database, tmp_path: Path) -> Iterator[str]:
    """A real server in a separate process, without broker and worker."""
    service = Service(tmp_path, {"GRADQ_DATABASE_URL": database.url})
    service.start_api()
    yield str(service.http.base_url)
    service.close()


def test_a_key_that_many_connections_send_at_once_makes_one_job(served, database) -> None:
    many = 8
    barrier = threading.Barrier(many)

    def submit(key: str) -> httpx2.Response:
        with httpx2.Client(base_url=served, timeout=30) as http:
            barrier.wait(30)

            def answered() -> httpx2.Response | None:
                answer = http.post("/v1/jobs", json={"name": "one"}, headers={"Idempotency-Key": key})
                if answer.status_code == 409:
                    assert answer.json()["code"] == "idempotency_in_progress"
                    assert int(answer.headers["Retry-After"]) > 0
                    return None
                return answer

            return wait_for(answered, 30, "an answer that is none of 409")

    with ThreadPoolExecutor(many) as pool:
        for round in range(3):
            answers = list(pool.map(submit, [f"key {round}"] * many))
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.text for answer in answers}) == 1
            assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert count(database) == 3
