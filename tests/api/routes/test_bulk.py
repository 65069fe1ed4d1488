"""Bulk calls on both databases: one outcome per job, in one transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, update
from support.store import at_once

from api.services import EXTENSION
from shared import file_removals
from shared.db.tables import EventRow, Job
from shared.errors import StoreUnavailable
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def bulk(client, conforms):
    def call(action: str, **which: Any) -> dict[str, Any]:
        answer = client.post("/v1/jobs/bulk", json={"action": action, **which})
        assert answer.status_code == 200, answer.text
        conforms(answer.json, "BulkAnswer")
        body: dict[str, Any] = answer.json
        return body

    return call


def submit_many(services, n: int, **fields: Any) -> list[str]:
    spec = JobSpec.parse(fields)
    with services.database.write() as session:
        return [jobs.create(session, spec).id for _ in range(n)]


def statuses(body: dict[str, Any]) -> list[Any]:
    return [outcome.get("status") or outcome["error"]["code"] for outcome in body["data"]]


class TestIds:
    def test_each_job_has_an_outcome_in_the_order_of_the_ids(self, client, hands, bulk):
        running, done, queued = (hands.submit(priority=p) for p in (90, 80, 70))
        hands.start()
        hands.finish(hands.start())
        ids = [queued["id"], "job_0", done["id"], running["id"]]
        body = bulk("cancel", ids=ids)
        assert [outcome["id"] for outcome in body["data"]] == ids
        assert statuses(body) == ["cancelled", "not_found", "wrong_state", "cancelling"]
        assert [outcome["ok"] for outcome in body["data"]] == [True, False, False, True]
        refused = body["data"][2]["error"]
        assert (refused["state"], refused["allowed"]) == ("succeeded", ["delete", "reproduce"])
        assert "cannot cancel a job that is succeeded" in refused["detail"]
        assert (body["succeeded"], body["failed"], body["has_more"]) == (2, 2, False)
        assert "freed_bytes" not in body

    def test_pause_resume_retry(self, client, hands, bulk):
        ids = [hands.submit()["id"] for _ in range(2)]
        hands.start(), hands.start()
        assert statuses(bulk("pause", ids=ids)) == ["pausing"] * 2
        assert statuses(bulk("resume", ids=ids)) == ["running"] * 2
        assert statuses(bulk("retry", ids=ids)) == ["wrong_state"] * 2
        queued = hands.submit()["id"]
        client.post(f"/v1/jobs/{queued}/cancel")
        assert statuses(bulk("retry", ids=[queued])) == ["queued"]

    def test_a_job_that_is_named_twice_is_done_once(self, client, hands, bulk):
        job = hands.submit()
        body = bulk("cancel", ids=[job["id"]] * 2)
        assert statuses(body) == ["cancelled"] * 2
        assert len(client.get(job["links"]["events"]).json["data"]) == 2

    def test_an_error_rolls_back_the_changes_of_its_own_job_only(self, client, hands, bulk, services):
        good, bad = hands.submit(), hands.submit()
        bulk("cancel", ids=[good["id"], bad["id"]])
        spec = {**bad["spec"], "dataset": "ds_" + "0" * 32}
        with services.database.write() as session:
            session.execute(update(Job).where(Job.id == bad["id"]).values(spec=spec))
        body = bulk("retry", ids=[bad["id"], good["id"]])
        assert statuses(body) == ["invalid_spec", "queued"]
        assert body["data"][0]["error"]["errors"][0]["pointer"] == "/dataset"
        assert client.get(bad["links"]["self"]).json["status"] == "cancelled"
        assert len(client.get(bad["links"]["events"]).json["data"]) == 2

    def test_delete_frees_the_files(self, client, hands, bulk, services):
        ids, paths = [], []
        for size in (10, 20):
            ids.append(hands.submit()["id"])
            lease = hands.start()
            file = hands.store(lease, "spec.json", b"x" * size)
            hands.finish(lease, files=[file])
            paths.append(services.store.local_path(file.key))
        paths[0].with_name("left by a lost attempt.part").write_bytes(b"y" * 100)
        body = bulk("delete", ids=[*ids, hands.submit()["id"]])
        assert statuses(body) == ["deleted", "deleted", "wrong_state"]
        assert body["freed_bytes"] == 130
        assert not any(services.store.local_path(job_id).exists() for job_id in ids)
        with services.database.read() as session:
            assert session.scalar(select(func.count()).select_from(Job)) == 1

    def test_files_that_cannot_be_removed_are_not_counted_as_freed(self, hands, bulk, services, monkeypatch):
        """They are listed for the leader, and a store that is away is asked once, not for each job."""
        ids = [hands.submit()["id"] for _ in range(3)]
        for _ in ids:
            lease = hands.start()
            hands.finish(lease, files=[hands.store(lease, "spec.json", b"{}")])
        asked = []

        def fail(store, key):
            asked.append(key)
            raise StoreUnavailable(key)

        monkeypatch.setattr(type(services.store), "remove_folder", fail)
        assert bulk("delete", ids=ids)["freed_bytes"] == 0
        assert len(asked) == 1
        with services.database.read() as session:
            assert sorted(file_removals.oldest(session, 9)) == sorted(ids)

    def test_a_doorbell_message_is_sent_for_each_job_that_is_queued_again(self, app, client, services, hands, bulk):
        ids = [hands.submit()["id"] for _ in range(3)]
        bulk("cancel", ids=ids)
        rung = []

        class Bell:
            def ring(self) -> bool:
                rung.append(client.get("/v1/jobs?status=queued").json["data"])
                return True

        app.extensions[EXTENSION] = replace(services, broker=Bell())
        bulk("retry", ids=[*ids, "job_0"])
        assert [len(queued) for queued in rung] == [3, 3, 3]

    def test_two_calls_that_name_the_same_jobs_in_opposite_order_both_end(self, bulk, services):
        ids = submit_many(services, 30)
        for action in ("cancel", "retry", "cancel", "retry"):
            there, back = at_once(lambda a=action: bulk(a, ids=ids), lambda a=action: bulk(a, ids=ids[::-1]))
            done = [sum(outcome["ok"] for outcome in body["data"]) for body in (there, back)]
            assert sorted(done) == ([30, 30] if action == "cancel" else [0, 30])


class TestFilter:
    def test_only_what_it_matches_and_the_action_suits(self, hands, bulk, client):
        hands.submit(priority=99, labels={"team": "a"})
        hands.start()
        waiting = hands.submit(name="mnist-1", labels={"team": "a"})["id"]
        other = hands.submit(name="mnist-2", labels={"team": "b"})["id"]
        body = bulk("cancel", filter={"labels": {"team": "a"}, "status": ["queued", "failed"], "name": "MNIST-*"})
        assert [outcome["id"] for outcome in body["data"]] == [waiting]
        body = bulk("cancel", filter={})
        assert [outcome["status"] for outcome in body["data"]] == ["cancelled", "cancelling"]
        assert body["data"][0]["id"] == other
        assert bulk("cancel", filter={})["data"] == []  # already done
        assert bulk("retry", filter={"status": ["cancelled"], "labels": {"team": "b"}})["data"][0]["id"] == other

    def test_a_pause_leaves_alone_what_pauses_or_is_cancelled(self, hands, bulk, client):
        ids = [hands.submit()["id"] for _ in range(3)]
        leases = [hands.start() for _ in ids]
        client.post(f"/v1/jobs/{ids[0]}/cancel")
        client.post(f"/v1/jobs/{ids[1]}/pause")
        assert [outcome["id"] for outcome in bulk("pause", filter={})["data"]] == [ids[2]]
        hands.release(leases[2])
        assert [outcome["id"] for outcome in bulk("resume", filter={})["data"]] == [ids[2], ids[1]]

    @pytest.mark.long
    def test_more_than_a_thousand_take_several_calls(self, services, bulk, client):
        newest_first = submit_many(services, 1050)[::-1]
        first = bulk("cancel", filter={"status": ["queued"]})
        assert [outcome["id"] for outcome in first["data"]] == newest_first[:1000]
        assert (first["has_more"], first["last_id"]) == (True, newest_first[999])
        rest = bulk("cancel", filter={"status": ["queued"], "after": first["last_id"]})
        assert [outcome["id"] for outcome in rest["data"]] == newest_first[1000:]
        assert not rest["has_more"]
        with services.database.read() as session:
            assert session.scalar(select(func.count()).where(Job.state == JobState.CANCELLED)) == 1050
            assert session.scalar(select(func.count()).select_from(EventRow)) == 2 * 1050


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"action": "cancel"}, "/ids"),
        ({"action": "cancel", "ids": ["job_0"], "filter": {}}, "/ids"),
        ({"action": "cancel", "ids": []}, "/ids"),
        ({"action": "cancel", "ids": ["job_0"] * 1001}, "/ids"),
        ({"action": "cancel", "ids": [1]}, "/ids/0"),
        ({"action": "cancel", "ids": ["job_0\u0000"]}, "/ids/0"),
        ({"action": "explode", "ids": ["job_0"]}, "/action"),
        ({"ids": ["job_0"]}, "/action"),
        ({"action": "cancel", "filter": {"stats": "queued"}}, "/filter/stats"),
        ({"action": "cancel", "filter": {"limit": 3}}, "/filter/limit"),
        ({"action": "cancel", "filter": {"status": ["done"]}}, "/filter/status/0"),
        ({"action": "cancel", "filter": {"status": "queued"}}, "/filter/status"),
        ({"action": "cancel", "filter": {"name": "a\u0000b"}}, "/filter/name"),
        ({"action": "cancel", "filter": {"created_after": "yesterday"}}, "/filter/created_after"),
        ({"action": "cancel", "filters": {}}, "/filters"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_and_nothing_is_done(client, hands, problem, body, pointer):
    job = hands.submit()
    errors = problem(client.post("/v1/jobs/bulk", json=body), 422, "invalid_body")["errors"]
    assert [error["pointer"] for error in errors][:1] == [pointer]
    assert client.get(job["links"]["self"]).json["status"] == "queued"
