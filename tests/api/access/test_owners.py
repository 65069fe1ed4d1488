"""Owners cannot access each other's objects through any route; admins and anonymous callers access all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from support.images import npz, small
from support.people import client_for

from api.app import create_app
from api.services import EXTENSION, Services
from shared import tokens
from shared.config import Settings
from shared.db.database import Database
from shared.jobs.states import JobState


@pytest.fixture
def app(database: Database, settings: Settings) -> Iterator[Flask]:
    """On each kind of database; callers without a token are anonymous and access all objects."""
    app = create_app(settings.model_copy(update={"database_url": SecretStr(database.url)}))
    yield app
    app.extensions[EXTENSION].database.close()


@pytest.fixture
def alice(app: Flask) -> FlaskClient:
    return client_for(app, "alice")


@pytest.fixture
def bob(app: Flask) -> FlaskClient:
    return client_for(app, "bob")


@pytest.fixture
def admin(app: Flask) -> FlaskClient:
    return client_for(app, "carol", "admin")


def submit(client: FlaskClient, **body: Any) -> str:
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


def listed(client: FlaskClient, query: str = "") -> list[str]:
    return [job["id"] for job in client.get(f"/v1/jobs{query}").json["data"]]


def upload(client: FlaskClient, content: bytes, name: str) -> Any:
    return client.post("/v1/datasets", data={"file": (io.BytesIO(content), f"{name}.npz")})


def uploaded(client: FlaskClient) -> list[str]:
    return [row["id"] for row in client.get("/v1/datasets").json["data"] if row["source"] == "upload"]


class TestJobs:
    def test_a_job_has_the_tokens_owner_and_the_list_shows_it(self, alice, bob, admin, client):
        mine, theirs, nobodys = submit(alice), submit(bob), submit(client)
        assert alice.get(f"/v1/jobs/{mine}").json["owner"] == "alice"
        assert (listed(alice), listed(bob)) == ([mine], [theirs])
        assert listed(admin) == listed(client) == [nobodys, theirs, mine]
        assert listed(admin, "?owner=bob") == [theirs]
        assert listed(alice, "?owner=bob") == []
        assert client.get(f"/v1/jobs/{nobodys}").json["owner"] is None

    def test_several_tokens_have_one_owner(self, app, alice):
        job = submit(alice)
        assert client_for(app, "alice", "read").get(f"/v1/jobs/{job}").status_code == 200

    def test_pages_contain_only_ones_own_jobs(self, alice, bob):
        mine = []
        for _ in range(3):
            submit(bob)
            mine.append(submit(alice))
            submit(bob)
        seen, query = [], "?limit=1"
        while True:
            page = alice.get(f"/v1/jobs{query}").json
            seen += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                break
            query = f"?limit=1&after={page['last_id']}"
        assert seen == mine[::-1]
        assert listed(alice, f"?after={submit(bob)}") == mine[::-1]

    def test_the_cached_response_of_an_ended_job_is_not_sent_to_another_owner(self, alice, bob, hands):
        job = submit(alice)
        hands.finish(hands.start())
        for _ in range(2):  # the second response is cached
            assert alice.get(f"/v1/jobs/{job}").status_code == 200
        etag = alice.get(f"/v1/jobs/{job}").headers["ETag"]
        assert bob.get(f"/v1/jobs/{job}").status_code == 404
        assert bob.get(f"/v1/jobs/{job}", headers={"If-None-Match": etag}).status_code == 404

    def test_a_bulk_call_by_ids_does_not_find_anothers(self, alice, bob, problem):
        mine, theirs = submit(alice), submit(bob)
        outcomes = alice.post("/v1/jobs/bulk", json={"action": "cancel", "ids": [mine, theirs]}).json["data"]
        assert [outcome["ok"] for outcome in outcomes] == [True, False]
        assert outcomes[1]["error"] == {"code": "not_found", "detail": f"job {theirs} not found"}
        assert bob.get(f"/v1/jobs/{theirs}").json["status"] == "queued"

    @pytest.mark.parametrize("filter", [{}, {"owner": "bob"}])
    def test_a_bulk_call_by_filter_takes_ones_own(self, alice, bob, admin, filter):
        mine, theirs = submit(alice), submit(bob)
        done = alice.post("/v1/jobs/bulk", json={"action": "cancel", "filter": filter}).json["data"]
        assert [outcome["id"] for outcome in done] == ([mine] if not filter else [])
        assert bob.get(f"/v1/jobs/{theirs}").json["status"] == "queued"
        done = admin.post("/v1/jobs/bulk", json={"action": "cancel", "filter": {"owner": "bob"}}).json["data"]
        assert [outcome["id"] for outcome in done] == [theirs]

    @pytest.mark.parametrize("query", ["", "?dry_run=true"])
    def test_anothers_weights_begin_no_job(self, alice, bob, admin, hands, problem, query):
        job = submit(alice)
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "model.safetensors", b"x")])
        body = {"init_from": {"job": job}}
        refused = bob.post(f"/v1/jobs{query}", json=body)
        assert problem(refused, 422, "invalid_spec")["errors"] == [
            {"pointer": "/init_from/job", "code": "not_found", "detail": f"job {job} not found"}
        ]
        for who in (alice, admin):
            assert who.post(f"/v1/jobs{query}", json=body).status_code in (200, 202)

    def test_a_reproduction_belongs_to_the_caller(self, alice, admin, hands):
        job = submit(alice)
        hands.finish(hands.start())
        assert admin.post(f"/v1/jobs/{job}/reproduce").json["owner"] == "carol"
        again = alice.post(f"/v1/jobs/{job}/reproduce").json
        assert (again["owner"], again["reproduces"]) == ("alice", job)

    def test_owners_delete_their_own_jobs_and_admins_any(self, alice, bob, admin, hands):
        mine, theirs = submit(alice), submit(bob)
        for _ in range(2):
            hands.finish(hands.start(), JobState.FAILED)
        assert bob.delete(f"/v1/jobs/{mine}").status_code == 404
        assert alice.delete(f"/v1/jobs/{mine}").status_code == 200
        assert admin.delete(f"/v1/jobs/{theirs}").status_code == 200

    def test_workers_show_ones_own_jobs_and_of_others_their_number(self, alice, bob, admin, hands):
        mine, theirs = submit(alice), submit(bob)
        hands.start()
        hands.start()
        hands.beat()

        def seen(client: FlaskClient) -> tuple[set[str], int]:
            (worker,) = client.get("/v1/workers").json["data"]
            return set(worker["running"]), worker["others_running"]

        assert seen(alice) == ({mine}, 1)
        assert seen(bob) == ({theirs}, 1)
        assert seen(admin) == ({mine, theirs}, 0)
        assert theirs not in alice.get("/v1/queues").text


class TestKeys:
    def test_a_key_is_its_owners(self, alice, bob):
        key = {"Idempotency-Key": "nightly"}
        mine, theirs = (who.post("/v1/jobs", json={}, headers=key).json["id"] for who in (alice, bob))
        assert mine != theirs
        again = alice.post("/v1/jobs", json={}, headers=key)
        assert (again.json["id"], again.headers["Idempotent-Replayed"]) == (mine, "true")

    def test_a_response_to_an_admin_is_not_replayed_to_a_lesser_token_of_the_same_owner(self, app, bob, problem):
        theirs, key = submit(bob), {"Idempotency-Key": "sweep"}
        body = {"action": "cancel", "ids": [theirs]}
        admin, lesser = client_for(app, "alice", "admin"), client_for(app, "alice")
        assert admin.post("/v1/jobs/bulk", json=body, headers=key).json["succeeded"] == 1
        problem(lesser.post("/v1/jobs/bulk", json=body, headers=key), 422, "idempotency_key_reused")


class TestDatasets:
    @pytest.fixture
    def shared(self, alice, bob) -> str:
        """A dataset that both have uploaded, under different names."""
        content = npz(**small())
        one, other = upload(alice, content, "cats"), upload(bob, content, "dogs")
        assert one.status_code == other.status_code == 201, "to bob it is new"
        assert (one.json["name"], other.json["name"]) == ("cats", "dogs")
        assert one.json["id"] == other.json["id"]
        return str(one.json["id"])

    def test_anothers_upload_is_not_there(self, alice, bob, admin, problem):
        dataset = upload(alice, npz(**small()), "cats").json["id"]
        assert (uploaded(alice), uploaded(bob), uploaded(admin)) == ([dataset], [], [dataset])
        for submit_to in ("/v1/jobs", "/v1/jobs?dry_run=true", "/v1/gradient-checks", "/v1/walks"):
            refused = bob.post(submit_to, json={"dataset": dataset})
            assert [wrong["pointer"] for wrong in problem(refused, 422, "invalid_spec")["errors"]] == ["/dataset"]
            assert alice.post(submit_to, json={"dataset": dataset}).status_code in (200, 202)

    def test_the_same_upload_is_stored_once_and_shows_each_their_own_name(self, alice, bob, services, shared):
        assert [who.get(f"/v1/datasets/{shared}").json["name"] for who in (alice, bob)] == ["cats", "dogs"]
        assert upload(bob, npz(**small()), "birds").status_code == 200
        assert bob.get(f"/v1/datasets/{shared}").json["name"] == "dogs"
        assert len(list(folder_of(services).iterdir())) == 1

    def test_files_are_deleted_with_the_last_owners_reference(self, alice, bob, services, shared):
        gone = alice.delete(f"/v1/datasets/{shared}")
        assert (gone.status_code, gone.json["freed_bytes"]) == (200, 0)
        assert alice.get(f"/v1/datasets/{shared}").status_code == 404
        assert alice.delete(f"/v1/datasets/{shared}").status_code == 404
        assert bob.post("/v1/jobs", json={"dataset": shared}).status_code == 202
        assert bob.post("/v1/jobs/bulk", json={"action": "cancel", "filter": {}}).json["succeeded"] == 1
        assert bob.delete(f"/v1/datasets/{shared}").json["freed_bytes"] > 0
        assert list(folder_of(services).rglob("*.npy")) == []

    def test_an_admin_deletes_it_for_all_owners(self, alice, bob, admin, shared):
        assert admin.delete(f"/v1/datasets/{shared}").json["freed_bytes"] > 0
        assert uploaded(alice) == uploaded(bob) == []

    def test_ones_own_job_keeps_it_and_anothers_only_from_the_last(self, alice, bob, admin, shared, problem):
        mine = submit(alice, dataset=shared)
        body = problem(alice.delete(f"/v1/datasets/{shared}"), 409, "dataset_in_use")
        assert body["jobs"] == [mine]
        assert bob.delete(f"/v1/datasets/{shared}").status_code == 200, "alice holds it"
        alice.post(f"/v1/jobs/{mine}/cancel")
        anothers = submit(admin, dataset=shared)
        body = problem(alice.delete(f"/v1/datasets/{shared}"), 409, "dataset_in_use")
        assert (body["jobs"], anothers in body["detail"]) == ([], False)

    def test_a_job_is_not_retried_with_a_dataset_that_its_owner_has_deleted(self, alice, bob, shared, problem):
        mine = submit(alice, dataset=shared)
        alice.post(f"/v1/jobs/{mine}/cancel")
        alice.delete(f"/v1/datasets/{shared}")
        problem(alice.post(f"/v1/jobs/{mine}/retry"), 422, "invalid_spec")
        assert alice.get(f"/v1/jobs/{mine}").json["status"] == "cancelled"


def folder_of(services: Services) -> Any:
    return services.store.local_path("datasets")


def test_a_tokens_use_is_noted_once_a_minute(app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, written = client_for(app, "alice"), []
    real = tokens.note_use
    monkeypatch.setattr(tokens, "note_use", lambda *args: (written.append(args), real(*args)))
    for _ in range(5):
        assert alice.get("/v1/jobs").status_code == 200
    assert len(written) == 1
    with services.database.read() as session:
        assert [token.last_used_at is not None for token in tokens.list_all(session)] == [True]


def test_whoami_shows_owner_scopes_and_token(app, alice, admin, client, conforms):
    for who, owner, scopes in (
        (alice, "alice", ["read", "submit"]),
        (admin, "carol", ["read", "submit", "admin"]),
        (client, None, ["read", "submit", "admin"]),
    ):
        body = who.get("/v1/whoami").json
        conforms(body, "WhoAmI")
        assert (body["owner"], body["scopes"], body["token_id"] is None) == (owner, scopes, owner is None)
