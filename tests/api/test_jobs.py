"""Submitting, listing, showing, cancelling and deleting jobs over HTTP."""

from __future__ import annotations

import io
import json
import re
import time
from datetime import timedelta
from typing import ClassVar

import pytest
from sqlalchemy import update

from api import jobs as view
from api.services import EXTENSION
from shared import jobs
from shared.states import JobState
from shared.tables import Job

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class TestSubmit:
    def test_answers_with_the_whole_job_and_where_it_lies(self, client, conforms):
        answer = client.post("/v1/jobs", json={"architecture": "mlp", "lr": 0.1, "epochs": 5, "gradients": "manual"})
        assert answer.status_code == 202
        job = answer.json
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
        conforms(job, "Job")
        assert job["status"] == "queued"
        assert job["spec"]["gradients"] == "manual"
        assert job["spec"]["architecture"] == {"type": "mlp", "hidden": [30], "activation": "relu"}
        assert isinstance(job["spec"]["seed"], int)
        assert TIME.fullmatch(job["created_at"])
        assert client.get(job["links"]["self"]).json == job

    def test_keys_stand_in_the_order_of_the_contract(self, hands):
        assert list(hands.submit()) == [
            *("object", "id", "name", "status", "terminal", "status_reason", "spec", "attempt", "attempts", "queue"),
            *("progress", "result", "labels", "priority", "created_at", "started_at", "finished_at"),
            *("cancel_requested_at", "links"),
        ]

    def test_curl_without_a_content_type_works(self, client):
        form = "application/x-www-form-urlencoded"
        answer = client.post("/v1/jobs", data='{"architecture":"mlp","epochs":2}', content_type=form)
        assert answer.status_code == 202
        assert answer.json["spec"]["epochs"] == 2

    def test_a_broker_that_is_away_is_no_error_and_costs_less_than_a_second(self, client):
        client.post("/v1/jobs", json={})
        began = time.perf_counter()
        assert client.post("/v1/jobs", json={}).status_code == 202
        assert time.perf_counter() - began < 1

    def test_the_bell_rings_after_the_commit(self, app, client, services):
        seen = []

        class Bell:
            def ring(self) -> bool:
                with services.database.read() as session:
                    seen.append(session.query(Job).count())
                return True

        app.extensions[EXTENSION] = type(services)(services.settings, services.database, Bell(), services.store)
        client.post("/v1/jobs", json={})
        assert seen == [1]

    def test_all_wrong_fields_are_named_at_once(self, client, problem):
        wrong = {"lr": -1, "epochs": 0, "optimiser": "sgd", "architecture": "transformer"}
        body = problem(client.post("/v1/jobs", json=wrong), 422, "invalid_spec")
        details = {error["pointer"]: error["detail"] for error in body["errors"]}
        assert details.keys() == {"/lr", "/epochs", "/optimiser", "/architecture"}
        assert details["/lr"] == "must be greater than 0, got -1"
        assert details["/optimiser"] == "unknown field; did you mean 'optimizer'?"
        assert "'mlp'" in details["/architecture"]
        assert body["detail"] == "4 fields are wrong"
        assert body["instance"] == "/v1/jobs"
        assert client.get("/v1/jobs").json["data"] == []

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (b"{", "not JSON"),
            (b"", "not JSON"),
            (b'{"lr": NaN}', "NaN"),
            (b'{"lr": 1, "lr": 2}', '"lr" stands twice'),
            (b'{"loss": {"clamp": 1, "clamp": 2}}', '"clamp" stands twice'),
            (b'{"name": "\xff"}', "UTF-8"),
            (b"[" * 100_000, "nested"),
            (b'{"seed": ' + b"1" * 5000 + b"}", "number"),
        ],
    )
    def test_what_is_not_json_is_a_400_that_says_why(self, client, problem, body, why):
        answer = client.post("/v1/jobs", data=body, content_type="application/json")
        assert why in problem(answer, 400, "bad_request")["detail"]

    @pytest.mark.parametrize(
        "body", ["[]", "3", "null", '{"name": "a\\u0000b"}', '{"name": "\\ud800"}', '{"lr": 1e999}']
    )
    def test_json_that_is_no_spec_is_a_422(self, client, problem, body):
        answer = client.post("/v1/jobs", data=body, content_type="application/json")
        assert problem(answer, 422, "invalid_spec")["errors"]

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ("{}", "text/plain"),
            ("{}", None),
            ("architecture=mlp", "application/x-www-form-urlencoded"),
            ("{}", "multipart/form-data; boundary=x"),
        ],
    )
    def test_other_media_types_are_a_415(self, client, problem, body, kind):
        problem(client.post("/v1/jobs", data=body, content_type=kind), 415, "unsupported_media_type")

    def test_a_body_over_a_mebibyte_is_a_413(self, client, problem):
        body = json.dumps({"name": "x" * (1 << 20)})
        answer = client.post("/v1/jobs", data=body, content_type="application/json")
        problem(answer, 413, "payload_too_large")

    def test_a_body_in_chunks_is_refused_rather_than_cut_off(self, client, problem):
        # as gunicorn marks a body whose length nobody told
        chunks = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        small = io.BytesIO(b'{"epochs": 2}')
        answer = client.post("/v1/jobs", input_stream=small, content_type="application/json", environ_overrides=chunks)
        assert answer.json["spec"]["epochs"] == 2
        large = io.BytesIO(b'{"epochs": 2}' + b" " * (1 << 20) + b"and more")
        answer = client.post("/v1/jobs", input_stream=large, content_type="application/json", environ_overrides=chunks)
        problem(answer, 413, "payload_too_large")

    def test_a_dry_run_is_refused_rather_than_run(self, client, problem):
        body = problem(client.post("/v1/jobs?dry_run=true", json={}), 422, "invalid_query")
        assert body["errors"] == [
            {
                "pointer": "/dry_run",
                "code": "not_built",
                "detail": "'dry_run' is in the contract, but not built for this call",
            }
        ]
        assert client.get("/v1/jobs").json["data"] == []

    def test_an_idempotency_key_is_refused_rather_than_ignored(self, client, problem):
        answer = client.post("/v1/jobs", json={}, headers={"Idempotency-Key": "abc"})
        assert problem(answer, 422, "not_built")["errors"][0]["pointer"] == "/Idempotency-Key"
        assert client.get("/v1/jobs").json["data"] == []

    @pytest.mark.parametrize(
        "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}]
    )
    def test_a_page_of_another_site_may_not_submit(self, client, problem, headers):
        problem(client.post("/v1/jobs", data="{}", headers=headers), 403, "forbidden")

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}])
    def test_our_own_page_may_submit(self, client, headers):
        assert client.post("/v1/jobs", json={}, headers=headers).status_code == 202


class TestShow:
    def test_a_job_that_is_not_there_is_a_404(self, client, problem):
        body = problem(client.get("/v1/jobs/job_0"), 404, "not_found")
        assert body["detail"] == "there is no job job_0"

    def test_a_queued_job_says_where_it_stands_and_why_it_waits(self, client, hands):
        hands.submit(priority=60)
        second = hands.submit()
        assert second["queue"]["position"] == 2
        assert second["queue"]["reason"]["code"] == "no_live_worker"
        hands.beat()
        assert client.get(second["links"]["self"]).json["queue"]["reason"] == {
            "code": "waiting_for_device",
            "detail": "1 job ahead, 1 of 2 slots free",
        }

    def test_a_running_job_shows_attempt_progress_and_time_left(self, client, hands, conforms):
        job = hands.submit(batch_size=64, epochs=10)
        lease = hands.start()
        hands.progress(lease, epoch=3, epochs=10, step=2814, total_steps=9380, examples_per_second=100_000.0)
        job = client.get(job["links"]["self"]).json
        conforms(job, "Job")
        assert (job["status"], job["terminal"], job["queue"], job["attempt"]) == ("running", False, None, 1)
        assert job["progress"] == {
            "epoch": 3,
            "epochs": 10,
            "step": 2814,
            "total_steps": 9380,
            "percent": 30.0,
            "examples_per_second": 100_000.0,
            "eta_seconds": 4.2,  # (9380 - 2814) * 64 / 100 000
        }
        (attempt,) = job["attempts"]
        assert (attempt["worker"], attempt["device"], attempt["outcome"]) == ("w1", "cpu", None)
        assert TIME.fullmatch(attempt["started_at"])

    def test_a_speed_that_is_not_known_yet_gives_no_time_left(self, client, hands):
        job = hands.submit()
        hands.progress(hands.start(), epoch=1, epochs=5, step=0, total_steps=100, examples_per_second=0.0)
        progress = client.get(job["links"]["self"]).json["progress"]
        assert (progress["percent"], progress["eta_seconds"]) == (0.0, None)

    def test_a_job_that_succeeded_shows_its_result_and_no_wait(self, client, hands, conforms):
        job = hands.submit()
        lease = hands.start()
        done = {"epoch": 5, "epochs": 5, "step": 100, "total_steps": 100, "examples_per_second": 10.0}
        hands.finish(lease, result={"val_accuracy": 0.97, "val_loss": float("nan")}, progress=done)
        answer = client.get(job["links"]["self"])
        conforms(answer.json, "Job")
        assert "NaN" not in answer.text
        assert answer.json["result"] == {"val_accuracy": 0.97, "val_loss": None}
        assert (answer.json["status"], answer.json["terminal"]) == ("succeeded", True)
        assert (answer.json["progress"]["percent"], answer.json["progress"]["eta_seconds"]) == (100.0, None)
        assert answer.json["attempts"][0]["outcome"] == "succeeded"
        assert "Retry-After" not in answer.headers

    def test_a_failed_job_shows_the_reason(self, client, hands, conforms):
        job = hands.submit()
        reason = {"code": "diverged", "detail": "the loss is nan", "step": 3}
        hands.finish(hands.start(), JobState.FAILED, reason=reason)
        job = client.get(job["links"]["self"]).json
        conforms(job, "Job")
        assert (job["status"], job["status_reason"]) == ("failed", reason)

    def test_what_the_client_has_already_is_not_sent_again(self, client, hands):
        me = hands.submit()["links"]["self"]
        first = client.get(me)
        assert first.headers["Retry-After"] == "1"
        again = client.get(me, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        hands.start()
        assert client.get(me, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


class TestList:
    def ids(self, client, query: str) -> list[str]:
        answer = client.get(f"/v1/jobs?{query}")
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json["data"]]

    def test_pages_follow_one_another_from_the_newest_on(self, client, hands, conforms):
        newest_first = [hands.submit()["id"] for _ in range(5)][::-1]
        seen, url, pages = [], "/v1/jobs?limit=2&status=queued,failed", 0
        while url:
            answer = client.get(url)
            conforms(answer.json, "JobList")
            page = [job["id"] for job in answer.json["data"]]
            assert (answer.json["first_id"], answer.json["last_id"]) == (page[0], page[-1])
            link = answer.headers.get("Link")
            assert answer.json["has_more"] == (link is not None)
            seen, pages = seen + page, pages + 1
            url = re.fullmatch(r'<(.*)>; rel="next"', link)[1] if link else None
        assert (seen, pages) == (newest_first, 3)

    def test_the_cursor_of_a_deleted_job_still_works(self, client, hands):
        first, second = hands.submit()["id"], hands.submit()["id"]
        client.post(f"/v1/jobs/{second}/cancel")
        assert client.delete(f"/v1/jobs/{second}").status_code == 200
        assert self.ids(client, f"after={second}") == [first]

    def test_an_empty_list_has_no_ends(self, client, conforms):
        empty = client.get("/v1/jobs").json
        conforms(empty, "JobList")
        assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}

    def test_cancelling_and_running_are_told_apart(self, client, hands):
        stopping, going, waiting = (hands.submit()["id"] for _ in range(3))
        hands.start(), hands.start()
        client.post(f"/v1/jobs/{stopping}/cancel")
        assert self.ids(client, "status=cancelling") == [stopping]
        assert self.ids(client, "status=running") == [going]
        assert self.ids(client, "status=cancelling,queued") == [waiting, stopping]

    @pytest.mark.parametrize(
        ("pattern", "matches"),
        [
            ("mnist-1", True),
            ("mnist-*", True),
            ("*-1", True),
            ("MNIST*", True),
            ("mnist", False),
            ("mnist_1", False),
            ("mnist%", False),
            ("mnist-1\\", False),
        ],
    )
    def test_a_star_is_the_only_wildcard_in_a_name(self, client, hands, pattern, matches):
        job = hands.submit(name="mnist-1")["id"]
        answer = client.get("/v1/jobs", query_string={"name": pattern})
        assert [found["id"] for found in answer.json["data"]] == ([job] if matches else [])

    @pytest.mark.parametrize("pattern", ["50%_a\\b", "50%*", "*_a*", "*\\b"])
    def test_what_is_special_to_sql_is_a_letter_like_any_other(self, client, hands, pattern):
        job = hands.submit(name="50%_a\\b")["id"]
        hands.submit(name="50 xaxb")
        found = client.get("/v1/jobs", query_string={"name": pattern}).json["data"]
        assert [one["id"] for one in found] == [job]

    LABELS: ClassVar = {"team": "vision", "tëam": "é", 'a"b': "1", "a.b": "x'y", "$": "%"}

    @pytest.mark.parametrize("key", LABELS)
    def test_a_label_is_found_by_key_and_value_whatever_they_are(self, client, hands, key):
        job = hands.submit(labels=self.LABELS)["id"]
        hands.submit(labels={"other": self.LABELS[key]})
        found = client.get("/v1/jobs", query_string={f"label.{key}": self.LABELS[key]}).json["data"]
        assert [one["id"] for one in found] == [job]
        assert client.get("/v1/jobs", query_string={f"label.{key}": "no"}).json["data"] == []

    def test_two_labels_must_both_hold(self, client, hands):
        both = hands.submit(labels={"a": "1", "b": "2"})["id"]
        hands.submit(labels={"a": "1"})
        assert self.ids(client, "label.a=1&label.b=2") == [both]

    def test_created_after_keeps_the_newer_ones(self, client, hands, services):
        old, new = hands.submit()["id"], hands.submit()["id"]
        with services.database.write() as session:
            session.execute(update(Job).where(Job.id == old).values(created_at=jobs.now() - timedelta(hours=2)))
        since = (jobs.now() - timedelta(hours=1)).isoformat().replace("+00:00", "Z")
        assert self.ids(client, f"created_after={since}") == [new]

    @pytest.mark.parametrize(
        ("query", "pointer", "code"),
        [
            ("limit=0", "/limit", "greater_than_equal"),
            ("limit=101", "/limit", "less_than_equal"),
            ("limit=x", "/limit", "int_parsing"),
            ("limit=1&limit=2", "/limit", "repeated"),
            ("limt=3", "/limt", "extra_forbidden"),
            ("labels=x", "/labels", "extra_forbidden"),
            ("status=done", "/status", "literal_error"),
            ("status=paused", "/status", "not_built"),
            ("wait=3", "/wait", "not_built"),
            ("after=job_1' OR 1=1", "/after", "string_pattern_mismatch"),
            ("name=a%00b", "/name", "nul"),
            ("label.a%00=b", "/label.a\x00", "nul"),
            ("created_after=yesterday", "/created_after", "datetime_from_date_parsing"),
            ("created_after=0001-01-01T00:00:00%2B10:00", "/created_after", "value_error"),
        ],
    )
    def test_a_wrong_parameter_is_named(self, client, problem, query, pointer, code):
        (error,) = problem(client.get(f"/v1/jobs?{query}"), 422, "invalid_query")["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)

    def test_a_mistyped_parameter_is_guessed(self, client, problem):
        (error,) = problem(client.get("/v1/jobs?limt=3"), 422, "invalid_query")["errors"]
        assert error["detail"] == "unknown parameter; did you mean 'limit'?"


class TestCancel:
    def test_a_queued_job_is_cancelled_at_once(self, client, hands, conforms):
        answer = client.post(hands.submit()["links"]["cancel"])
        assert answer.status_code == 202
        conforms(answer.json, "Job")
        assert (answer.json["status"], answer.json["terminal"]) == ("cancelled", True)
        assert answer.json["status_reason"]["code"] == "cancelled_by_user"

    def test_a_running_job_is_cancelling_until_its_worker_lets_go(self, client, hands):
        cancel = hands.submit()["links"]["cancel"]
        lease = hands.start()
        for _ in range(2):  # a second wish changes nothing
            answer = client.post(cancel)
            assert (answer.status_code, answer.json["status"], answer.json["terminal"]) == (202, "cancelling", False)
            assert TIME.fullmatch(answer.json["cancel_requested_at"])
        hands.finish(lease, JobState.CANCELLED)
        answer = client.post(cancel)
        assert (answer.status_code, answer.json["status"]) == (202, "cancelled")

    def test_a_job_that_ended_otherwise_is_a_409_that_says_what_is_allowed(self, client, hands, problem):
        cancel = hands.submit()["links"]["cancel"]
        hands.finish(hands.start())
        body = problem(client.post(cancel), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == ("succeeded", ["delete"])

    def test_a_job_that_is_not_there_is_a_404(self, client, problem):
        problem(client.post("/v1/jobs/job_0/cancel"), 404, "not_found")


class TestDelete:
    def test_frees_rows_and_bytes(self, client, hands, services, conforms):
        job = hands.submit()
        lease = hands.start()
        file = hands.store(lease, "model.safetensors", b"x" * 1234)
        path = services.store.local_path(file.key)
        hands.finish(lease, files=[file])
        assert path.is_file()
        answer = client.delete(job["links"]["self"])
        conforms(answer.json, "DeletedJob")
        assert (answer.json["deleted"], answer.json["freed_bytes"]) == (True, 1234)
        assert not path.exists()
        assert not services.store.local_path(job["id"]).exists()
        for link in ("self", "events", "metrics", "artifacts"):
            assert client.get(job["links"][link]).status_code == 404

    @pytest.mark.parametrize("running", [False, True])
    def test_a_job_that_goes_on_is_a_409(self, client, hands, problem, running):
        job = hands.submit()
        if running:
            hands.start()
        body = problem(client.delete(job["links"]["self"]), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == ("running" if running else "queued", ["cancel"])

    def test_files_that_cannot_be_removed_are_not_counted_as_freed(self, client, hands, services, monkeypatch):
        job = hands.submit()
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "spec.json", b"{}")])

        def fail(store, job_id):
            raise PermissionError(job_id)

        monkeypatch.setattr(type(services.store), "remove_job", fail)
        assert client.delete(job["links"]["self"]).json["freed_bytes"] == 0


def test_every_state_has_a_filter_and_a_name_in_the_schema():
    shown = set(view.schemas.Status.__args__)
    assert shown == {state.value for state in JobState} | {"cancelling"}
