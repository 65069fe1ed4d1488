"""What one owner may take, over HTTP: bytes stored, uploads at once, the priority of jobs; and what the API tells of
other owners' jobs."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from limits import RateLimitItemPerHour
from support.people import client_for, id_of, token_for
from werkzeug.test import TestResponse

from api.changes import audit_log
from api.services import Services
from api.uploads.staging import staging
from shared import tokens
from shared.config import UNLIMITED
from shared.db.tables import AuditRow
from shared.errors import TooManyUploads
from shared.jobs import jobs, queue, stored_bytes
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec

LIMIT = 1_000_000


@pytest.fixture
def alice(app: Flask) -> FlaskClient:
    return client_for(app, "alice")


@pytest.fixture
def bob(app: Flask) -> FlaskClient:
    return client_for(app, "bob")


@pytest.fixture
def limited(services: Services) -> None:
    object.__setattr__(services.settings, "max_owner_bytes", LIMIT)


def npz(examples: int = 20, value: int = 0, compressed: bool = False) -> bytes:
    """A dataset of 28 x 28 pixels, whose decoded files have some 784 bytes an example."""
    file = io.BytesIO()
    x, y = np.full((examples, 28, 28), value, np.uint8), np.arange(examples) % 2
    x[0] = 255 - value
    (np.savez_compressed if compressed else np.savez)(file, x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    return file.getvalue()


def upload(who: FlaskClient, content: bytes) -> TestResponse:
    return who.post("/v1/datasets", data={"file": (io.BytesIO(content), "a.npz")})


def use(services: Services, owner: str | None, size: int) -> None:
    with services.database.write() as session:
        stored_bytes.add(session, owner, "artifacts", size)


def stored(who: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = who.get("/v1/whoami").json["storage"]
    return found


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("path", ["jobs", "gradient-checks", "walks"])
def test_an_owner_at_the_limit_submits_nothing_and_others_do(
    alice: FlaskClient, bob: FlaskClient, client: FlaskClient, services: Services, problem: Any, path: str
) -> None:
    use(services, "alice", LIMIT)
    body = problem(alice.post(f"/v1/{path}", json={}), 409, "owner_storage_full")
    assert (body["used_bytes"], body["limit_bytes"]) == (LIMIT, LIMIT)
    assert body["used"] == {"artifacts": LIMIT, "checkpoints": 0, "datasets": 0, "logs": 0, "audit": 0}
    assert bob.post(f"/v1/{path}", json={}).status_code == 202
    assert client.post(f"/v1/{path}", json={}).status_code == 202  # anonymous use is another owner
    use(services, None, LIMIT)
    problem(client.post(f"/v1/{path}", json={}), 409, "owner_storage_full")


@pytest.mark.usefixtures("limited")
def test_no_other_call_queues_or_grows_a_job_of_an_owner_at_the_limit(
    alice: FlaskClient, services: Services, problem: Any, hands: Any
) -> None:
    done, paused, pausing = (alice.post("/v1/jobs", json={}).json["id"] for _ in range(3))
    hands.finish(hands.start(), JobState.SUCCEEDED)
    lease = hands.start()
    alice.post(f"/v1/jobs/{paused}/pause")
    hands.release(lease)
    hands.start()
    alice.post(f"/v1/jobs/{pausing}/pause")
    cancelled = alice.post("/v1/jobs", json={}).json["id"]
    alice.post(f"/v1/jobs/{cancelled}/cancel")
    use(services, "alice", LIMIT)
    for job_id, action in ((done, "reproduce"), (paused, "resume"), (pausing, "resume"), (cancelled, "retry")):
        problem(alice.post(f"/v1/jobs/{job_id}/{action}"), 409, "owner_storage_full")
    problem(alice.patch(f"/v1/jobs/{done}", json={"name": "another"}), 409, "owner_storage_full")
    for action, job_id in (("retry", cancelled), ("resume", paused)):
        (outcome,) = alice.post("/v1/jobs/bulk", json={"action": action, "ids": [job_id]}).json["data"]
        assert outcome["error"]["code"] == "owner_storage_full"
    assert alice.delete(f"/v1/jobs/{done}").status_code == 200
    assert alice.get(f"/v1/jobs/{cancelled}").json["status"] == "cancelled"


@pytest.mark.usefixtures("limited")
def test_an_owner_sees_what_they_store_and_may_store_and_room_comes_back_with_a_delete(
    alice: FlaskClient, bob: FlaskClient, services: Services
) -> None:
    made = upload(alice, npz()).json
    assert stored(alice) == {
        **{"used_bytes": made["size_bytes"], "limit_bytes": LIMIT, "datasets": made["size_bytes"]},
        **{"artifacts": 0, "checkpoints": 0, "logs": 0, "audit": 0},
    }
    assert stored(bob)["used_bytes"] == 0
    use(services, "alice", LIMIT - made["size_bytes"])
    assert alice.post("/v1/jobs", json={}).status_code == 409
    alice.delete(f"/v1/datasets/{made['id']}")
    assert alice.post("/v1/jobs", json={}).status_code == 202
    object.__setattr__(services.settings, "max_owner_bytes", UNLIMITED)
    assert stored(alice)["limit_bytes"] is None


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("room", [0, 3000])
def test_an_upload_larger_than_the_room_is_refused_before_any_of_it_is_stored(
    alice: FlaskClient, bob: FlaskClient, services: Services, problem: Any, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(services, "alice", LIMIT - room)
    written: list[object] = []
    monkeypatch.setattr("api.uploads.multipart._Receiver._begin_file", lambda *_: written.append(_))
    problem(upload(alice, npz()), 409, "owner_storage_full")
    assert written == []
    assert stored(alice)["datasets"] == 0
    monkeypatch.undo()
    assert upload(bob, npz()).status_code == 201


@pytest.mark.usefixtures("limited")
def test_an_upload_without_a_length_is_refused_while_it_arrives(
    alice: FlaskClient, services: Services, problem: Any
) -> None:
    use(services, "alice", LIMIT - 3000)
    boundary, content = "b", npz()
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n'.encode()
        + content
        + f"\r\n--{boundary}--\r\n".encode()
    )
    answer = alice.post(
        "/v1/datasets",
        input_stream=io.BytesIO(body),
        content_type=f"multipart/form-data; boundary={boundary}",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    problem(answer, 409, "owner_storage_full")
    assert not services.settings.uploads_dir.exists()


@pytest.mark.usefixtures("limited")
def test_an_upload_that_unpacks_to_more_than_the_room_leaves_nothing(
    alice: FlaskClient, services: Services, problem: Any
) -> None:
    content = npz(500, compressed=True)
    assert len(content) < 50_000
    use(services, "alice", LIMIT - 50_000)
    problem(upload(alice, content), 409, "owner_storage_full")
    assert stored(alice)["datasets"] == 0
    assert not list(services.settings.state_dir.glob("artifacts/datasets/*"))


@pytest.mark.usefixtures("limited")
def test_an_upload_that_another_owner_has_made_counts_too(
    alice: FlaskClient, bob: FlaskClient, services: Services, problem: Any
) -> None:
    content = npz(500, compressed=True)
    made = upload(bob, content).json
    use(services, "alice", LIMIT - 50_000)
    problem(upload(alice, content), 409, "owner_storage_full")
    assert alice.get(f"/v1/datasets/{made['id']}").status_code == 404
    assert stored(bob)["datasets"] == made["size_bytes"]


@pytest.mark.parametrize("others", [0, 3])
def test_an_owner_has_a_number_of_uploads_at_once_over_all_processes(
    alice: FlaskClient, services: Services, problem: Any, others: int
) -> None:
    folder, most = services.settings.uploads_dir, services.settings.max_owner_uploads
    with _several(folder, "alice", most - 1), _several(folder, "bob", others):
        assert upload(alice, npz(20, 1)).status_code == 201
        with staging(folder, "alice"):
            body = problem(upload(alice, npz(20, 2)), 429, "too_many_uploads")
            assert (body["uploads"], body["limit"]) == (most, most)
            with pytest.raises(TooManyUploads), staging(folder, "alice", most):
                pass
    assert upload(alice, npz(20, 3)).status_code == 201
    assert not folder.exists()


def _several(folder: Path, owner: str, number: int) -> ExitStack:
    stack = ExitStack()
    for _ in range(number):
        stack.enter_context(staging(folder, owner))
    return stack


# --- priority ---------------------------------------------------------------------------------------------------------


def above(body: dict[str, Any]) -> bool:
    return [(wrong["pointer"], wrong["code"]) for wrong in body["errors"]] == [("/priority", "above_token_limit")]


@pytest.mark.parametrize("path", ["jobs", "jobs?dry_run=true", "gradient-checks", "walks"])
def test_a_token_submits_jobs_up_to_its_highest_priority(alice: FlaskClient, problem: Any, path: str) -> None:
    assert alice.get("/v1/whoami").json["max_priority"] == tokens.USUAL_MAX_PRIORITY == 50
    assert alice.post(f"/v1/{path}", json={}).status_code in (200, 202)
    assert alice.post(f"/v1/{path}", json={"priority": 50}).status_code in (200, 202)
    assert above(problem(alice.post(f"/v1/{path}", json={"priority": 51}), 422, "invalid_spec"))
    assert above(problem(alice.post(f"/v1/{path}", json={"priority": 100}), 422, "invalid_spec"))


def test_no_change_and_no_second_run_gets_around_a_token_s_highest_priority(
    app: Flask, alice: FlaskClient, services: Services, problem: Any, hands: Any
) -> None:
    urgent, paused, cancelled = (alice.post("/v1/jobs", json={}).json["id"] for _ in range(3))
    for job_id in (urgent, paused, cancelled):
        assert above(problem(alice.patch(f"/v1/jobs/{job_id}", json={"priority": 51}), 422, "invalid_body"))
    admin = client_for(app, "root", "admin")
    for job_id in (urgent, paused, cancelled):
        assert admin.patch(f"/v1/jobs/{job_id}", json={"priority": 90}).json["priority"] == 90
    hands.finish(hands.start(), JobState.SUCCEEDED)
    lease = hands.start()
    alice.post(f"/v1/jobs/{paused}/pause")
    hands.release(lease)
    alice.post(f"/v1/jobs/{cancelled}/cancel")
    for job_id, action in ((urgent, "reproduce"), (paused, "resume"), (cancelled, "retry")):
        assert above(problem(alice.post(f"/v1/jobs/{job_id}/{action}"), 422, "invalid_spec"))
    for job_id, action in ((paused, "resume"), (cancelled, "retry")):
        (outcome,) = alice.post("/v1/jobs/bulk", json={"action": action, "ids": [job_id]}).json["data"]
        assert above(outcome["error"])
    assert alice.patch(f"/v1/jobs/{cancelled}", json={"name": "same priority"}).status_code == 200
    assert alice.patch(f"/v1/jobs/{cancelled}", json={"priority": 50}).status_code == 200
    assert alice.post(f"/v1/jobs/{cancelled}/retry").status_code == 202


@pytest.mark.parametrize(("given", "highest"), [(10, 10), (0, 0), (100, 100), (70, 70)])
def test_a_token_has_the_highest_priority_that_it_was_made_with(
    app: Flask, services: Services, given: int, highest: int
) -> None:
    with services.database.write() as session:
        _, text = tokens.create(session, "t", "alice", "submit", None, given)
    who = app.test_client()
    who.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {text}"
    assert who.post("/v1/jobs", json={"priority": highest}).status_code == 202
    assert highest == 100 or who.post("/v1/jobs", json={"priority": highest + 1}).status_code == 422


def test_admins_anonymous_use_and_tokens_of_before_have_the_whole_range(
    app: Flask, client: FlaskClient, services: Services
) -> None:
    before = token_for(services.database, "alice")
    with services.database.write() as session:
        row = session.get(tokens.Token, id_of(before))
        assert row is not None
        row.max_priority = None  # as the migration leaves it
    for who in (client, client_for(app, "root", "admin")):
        assert who.post("/v1/jobs", json={"priority": 100}).status_code == 202
    assert client.post("/v1/jobs", json={"priority": 100}, headers={"Authorization": f"Bearer {before}"}).json


# --- refused calls ----------------------------------------------------------------------------------------------------


def test_refused_calls_of_a_token_add_a_bounded_number_of_audit_entries(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry each up to the limit and one that counts the others, of 15 refusals as of 40."""
    assert audit_log.REFUSALS.amount == 100
    monkeypatch.setattr(audit_log, "REFUSALS", RateLimitItemPerHour(10))
    reader, other = client_for(app, "alice", "read"), client_for(app, "bob", "read")

    def entries(owner: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.get(f"/v1/audit?owner={owner}&limit=100").json["data"]
        return found

    for number, refusals in ((15, 15), (40, 25)):
        for _ in range(refusals):
            assert reader.post("/v1/jobs/job_1/cancel").status_code == 403
        found = entries("alice")
        assert len(found) == 11
        assert sum(entry["count"] for entry in found) == number
        assert (found[0]["action"], found[0]["status"], found[0]["count"]) == ("more_refusals", 403, number - 10)
        assert {(entry["action"], entry["count"]) for entry in found[1:]} == {("steering.cancel", 1)}
    other.post("/v1/jobs", json={})
    assert [(entry["action"], entry["count"]) for entry in entries("bob")] == [("jobs.submit", 1)]


def test_the_entry_that_counts_refusals_is_added_again_when_it_has_been_deleted(
    app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "REFUSALS", RateLimitItemPerHour(1))
    reader = client_for(app, "alice", "read")

    def counts() -> list[int]:
        with services.database.read() as session:
            return [row.count for row in session.query(AuditRow).order_by(AuditRow.id)]

    for _ in range(4):
        reader.delete("/v1/jobs/job_1")
    assert counts() == [1, 3]
    with services.database.write() as session:
        session.query(AuditRow).delete()
    reader.delete("/v1/jobs/job_1")
    reader.delete("/v1/jobs/job_1")
    assert counts() == [2]


# --- what the API tells -----------------------------------------------------------------------------------------------


def test_an_estimate_uses_the_speeds_of_jobs_that_the_caller_may_see(
    app: Flask, alice: FlaskClient, bob: FlaskClient, client: FlaskClient, services: Services
) -> None:
    spec = {"dataset": "digits", "epochs": 3, "seed": 1, "device": "cpu"}
    alice.post("/v1/jobs", json=spec)
    with services.database.write() as session:
        job = queue.claim(session, "w", "cpu", ["auto", "cpu"], 30)
        assert job is not None
        result = {"examples_per_second": 29428.0, "device": "cpu"}
        queue.finish(session, queue.lease_of(job), JobState.SUCCEEDED, "done", result=result)

    def basis(who: FlaskClient) -> str:
        text: str = who.post("/v1/jobs?dry_run=true", json=spec).json["basis"]
        return text

    assert "29428" in basis(alice)
    assert "29428" not in basis(bob)
    assert basis(bob) == basis(client_for(app, "carol"))
    for who in (client, client_for(app, "root", "admin"), client_for(app, "alice", name="second")):
        assert "29428" in basis(who)
    with services.database.read() as session:
        parsed = JobSpec.parse(spec)
        assert jobs.speeds_like(session, parsed, "cpu", "alice") == jobs.speeds_like(session, parsed, "cpu", None)
        assert jobs.speeds_like(session, parsed, "cpu", "bob") == []
