"""Retrying a job, and changing its name, priority and labels, over HTTP on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from api.services import EXTENSION
from shared.db.tables import Job
from shared.jobs.states import JobState


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


class TestRetry:
    def test_a_failed_job_is_queued_again_under_its_id(self, client, hands, conforms):
        job = hands.submit(labels={"a": "b"})
        hands.finish(hands.start(), JobState.FAILED, reason={"code": "diverged", "detail": "the loss is nan"})
        answer = client.post(job["links"]["retry"])
        conforms(answer.json, "Job")
        assert (answer.status_code, answer.json["id"], answer.json["status"]) == (202, job["id"], "queued")
        assert (answer.json["queue"]["position"], answer.json["attempt"]) == (1, 1)
        assert [attempt["outcome"] for attempt in answer.json["attempts"]] == ["failed"]
        for name in ("status_reason", "result", "finished_at", "cancel_requested_at"):
            assert answer.json[name] is None, name
        messages = [line["message"] for line in client.get(job["links"]["events"]).json["data"]]
        assert messages[-1] == "the job failed; queued again on request"

    def test_a_cancelled_job_is_queued_again_and_the_doorbell_message_sent(self, app, client, services, hands):
        job = hands.submit()
        client.post(job["links"]["cancel"])
        rung = []

        class Bell:
            def ring(self) -> bool:
                rung.append(client.get(job["links"]["self"]).json["status"])
                return True

        app.extensions[EXTENSION] = replace(services, broker=Bell())
        assert client.post(job["links"]["retry"]).json["status"] == "queued"
        assert rung == ["queued"]
        assert hands.start().attempt == 1

    def test_its_files_stay_until_others_take_their_place(self, client, hands):
        job = hands.submit()
        lease = hands.start()
        hands.finish(lease, JobState.FAILED, files=[hands.store(lease, "spec.json", b"{}")])
        client.post(job["links"]["retry"])

        def names() -> list[str]:
            return [file["name"] for file in client.get(job["links"]["artifacts"]).json["data"]]

        assert names() == ["spec.json"]
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "model.json", b"{}")])
        assert names() == ["model.json"]
        assert client.delete(job["links"]["self"]).json["freed_bytes"] == 4  # the files of both attempts

    @pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
    def test_any_other_state_is_a_409_that_says_what_is_allowed(self, client, hands, problem, state):
        job = hands.submit()
        if state != "queued":
            lease = hands.start()
        if state == "succeeded":
            hands.finish(lease)
        body = problem(client.post(job["links"]["retry"]), 409, "wrong_state")
        assert body["state"] == state
        assert "retry" not in body["allowed"]

    def test_a_job_whose_dataset_was_deleted_is_unchanged(self, client, hands, problem, services):
        job = hands.submit()
        client.post(job["links"]["cancel"])
        gone = {**job["spec"], "dataset": "ds_" + "0" * 32}
        with services.database.write() as session:
            session.execute(update(Job).values(spec=gone))
        (error,) = problem(client.post(job["links"]["retry"]), 422, "invalid_spec")["errors"]
        assert (error["pointer"], error["code"]) == ("/dataset", "not_found")
        assert client.get(job["links"]["self"]).json["status"] == "cancelled"


class TestPatch:
    def patch(self, client, job: dict[str, Any], body: Any, **more: Any) -> Any:
        return client.patch(job["links"]["self"], json=body, **more)

    def test_priority_name_and_labels_change_and_the_log_says_from_what(self, client, hands, conforms):
        job = hands.submit(name="old", labels={"a": "1", "b": "2"})
        answer = self.patch(client, job, {"priority": 90, "name": "née", "labels": {"a": None, "c": "3"}})
        conforms(answer.json, "Job")
        assert answer.status_code == 200
        for shown in (answer.json, answer.json["spec"], client.get(job["links"]["self"]).json):
            wanted = ("née", 90, {"b": "2", "c": "3"})
            assert (shown["name"], shown["priority"], shown["labels"]) == wanted
        last = client.get(job["links"]["events"]).json["data"][-1]
        assert last["type"] == "log"
        assert 'name changed from "old" to "née"' in last["message"]
        assert last["data"]["changed"]["labels"] == {"from": {"a": "1", "b": "2"}, "to": {"b": "2", "c": "3"}}

    def test_what_is_not_named_stays_and_no_change_leaves_no_line(self, client, hands):
        job = hands.submit(name="n", labels={"a": "1"})
        for body in ({}, {"name": "n"}, {"labels": {}}, {"labels": {"b": None}}, {"priority": 50}):
            answer = self.patch(client, job, body)
            assert (answer.status_code, answer.json) == (200, job)
        assert len(client.get(job["links"]["events"]).json["data"]) == 1

    def test_null_takes_all_labels_away(self, client, hands):
        assert self.patch(client, hands.submit(labels={"a": "1"}), {"labels": None}).json["labels"] == {}

    def test_the_queue_follows_the_priority(self, client, hands):
        first, second = hands.submit(), hands.submit()
        self.patch(client, second, {"priority": 51})
        assert client.get(first["links"]["self"]).json["queue"]["position"] == 2
        assert hands.start().job_id == second["id"]

    def test_a_job_that_ended_is_still_named_and_labelled(self, client, hands):
        job = hands.submit()
        hands.finish(hands.start())
        answer = self.patch(client, job, {"name": "best of May", "labels": {"keep": "yes"}})
        assert (answer.json["name"], answer.json["status"]) == ("best of May", "succeeded")
        assert [j["id"] for j in client.get("/v1/jobs?label.keep=yes&name=best*").json["data"]] == [job["id"]]

    def test_a_merge_patch_may_be_called_so(self, client, hands, problem):
        job = hands.submit()
        sent = {"data": '{"priority": 1}', "content_type": "application/merge-patch+json"}
        assert client.patch(job["links"]["self"], **sent).json["priority"] == 1
        sent["content_type"] = "application/json-patch+json"
        problem(client.patch(job["links"]["self"], **sent), 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        ("body", "pointer", "words"),
        [
            ({"lr": 1}, "/lr", "fields that can be changed: name, priority, labels"),
            ({"nmae": "x"}, "/nmae", "fields that can be changed: name, priority, labels"),
            ({"status": "cancelled"}, "/status", "fields that can be changed: name, priority, labels"),
            ({"priority": 101}, "/priority", "less than or equal to 100, got 101"),
            ({"priority": "9"}, "/priority", "integer"),
            ({"priority": None}, "/priority", "integer"),
            ({"name": ""}, "/name", "at least 1"),
            ({"name": None}, "/name", "string"),
            ({"name": "a\u0000"}, "/name", "control characters"),
            ({"labels": {"": "x"}}, "/labels/", "at least 1"),
            ({"labels": {"k": 1}}, "/labels/k", "string"),
            ({"labels": {f"new {i}": "x" for i in range(16)}}, "/labels", "17 labels"),
            ([], "", "object"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named_and_nothing_changes(self, client, hands, problem, body, pointer, words):
        job = hands.submit(labels={"a": "1"})
        (error,) = problem(self.patch(client, job, body), 422, "invalid_body")["errors"]
        assert error["pointer"] == pointer
        assert words in error["detail"]
        assert client.get(job["links"]["self"]).json == job

    def test_all_wrong_fields_are_named_at_once(self, client, hands, problem):
        body = problem(self.patch(client, hands.submit(), {"lr": 1, "priority": -1}), 422, "invalid_body")
        assert {error["pointer"] for error in body["errors"]} == {"/lr", "/priority"}

    def test_if_match_keeps_a_change_from_what_was_not_read(self, client, hands, problem):
        job = hands.submit()
        etag = client.get(job["links"]["self"]).headers["ETag"]
        answer = self.patch(client, job, {"priority": 1}, headers={"If-Match": etag})
        assert answer.json["priority"] == 1
        problem(self.patch(client, job, {"priority": 2}, headers={"If-Match": etag}), 412, "precondition_failed")
        assert answer.headers["ETag"] == client.get(job["links"]["self"]).headers["ETag"] != etag
        assert client.get(job["links"]["self"]).json["priority"] == 1
        assert self.patch(client, job, {"priority": 3}, headers={"If-Match": "*"}).json["priority"] == 3

    def test_a_job_that_is_not_there_is_a_404(self, client, problem):
        problem(client.patch("/v1/jobs/job_0", json={}), 404, "not_found")
