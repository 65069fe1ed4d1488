"""Submitting, listing, showing, cancelling and deleting jobs over HTTP."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar, get_args

import pytest
from sqlalchemy import update

from api.routes import jobs as view
from api.services import EXTENSION
from shared import file_removals
from shared.artifacts import artifact_key, checkpoint_key
from shared.db.tables import Job
from shared.errors import StoreUnavailable
from shared.jobs import joblog, queue
from shared.jobs.states import JobState

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class TestSubmit:
    def test_the_response_has_the_job_and_its_location(self, client, conforms):
        answer = client.post("/v1/jobs", json={"architecture": "mlp", "lr": 0.1, "epochs": 5, "gradients": "manual"})
        assert answer.status_code == 202
        job = answer.json
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
        conforms(job, "Job")
        assert job["status"] == "queued"
        assert job["spec"]["gradients"] == "manual"
        mlp = {"type": "mlp", "hidden": [30], "activation": "relu", "dropout": 0.0, "batch_norm": False}
        assert job["spec"]["architecture"] == mlp
        assert isinstance(job["spec"]["seed"], int)
        assert TIME.fullmatch(job["created_at"])
        assert client.get(job["links"]["self"]).json == job

    def test_keys_are_in_the_order_of_the_contract(self, hands):
        assert list(hands.submit()) == [
            *("object", "id", "name", "kind", "status", "terminal", "status_reason", "spec", "attempt", "attempts"),
            *("queue", "progress", "result", "reproduces", "labels", "priority", "owner", "created_at"),
            *("started_at", "finished_at", "cancel_requested_at", "pause_requested_at", "links"),
        ]

    def test_curl_without_a_content_type_works(self, client):
        form = "application/x-www-form-urlencoded"
        answer = client.post("/v1/jobs", data='{"architecture":"mlp","epochs":2}', content_type=form)
        assert answer.status_code == 202
        assert answer.json["spec"]["epochs"] == 2

    def test_a_broker_that_is_away_is_no_error_and_costs_less_than_a_second(self, client):
        took = []
        for _ in range(4):
            began = time.perf_counter()
            assert client.post("/v1/jobs", json={}).status_code == 202
            took.append(time.perf_counter() - began)
        assert min(took) < 1  # the machine may be busy

    def test_the_doorbell_message_is_sent_after_the_commit(self, app, client, services):
        seen = []

        class Bell:
            def ring(self) -> bool:
                with services.database.read() as session:
                    seen.append(session.query(Job).count())
                return True

        app.extensions[EXTENSION] = replace(services, broker=Bell())
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
            (b'{"lr": 1, "lr": 2}', 'duplicate key "lr"'),
            (b'{"loss": {"clamp": 1, "clamp": 2}}', 'duplicate key "clamp"'),
            (b'{"name": "\xff"}', "UTF-8"),
            (b"[" * 100_000, "nested"),
            (b'{"seed": ' + b"1" * 5000 + b"}", "number"),
        ],
    )
    def test_what_is_not_json_is_a_400_that_says_why(self, client, problem, body, why):
        answer = client.post("/v1/jobs", data=body, content_type="application/json")
        assert why in problem(answer, 400, "bad_request")["detail"]

    def test_a_byte_order_mark_before_the_body_is_ignored(self, client, problem):
        for kind in ("application/json", "application/x-www-form-urlencoded"):
            answer = client.post("/v1/jobs", data=b'\xef\xbb\xbf{"lr": 0.5}', content_type=kind)
            assert (answer.status_code, answer.json["spec"]["lr"]) == (202, 0.5)
        twice = b'\xef\xbb\xbf\xef\xbb\xbf{"lr": 0.5}'
        problem(client.post("/v1/jobs", data=twice, content_type="application/json"), 400, "bad_request")

    @pytest.mark.parametrize(
        "body",
        [
            *("[]", "3", "null", '{"lr": 1e999}', '{"name": "a\\u0000b"}', '{"name": "\\ud800"}'),
            *('{"dataset": "ds_\\u0000"}', '{"dataset": "ds_\\ud800"}', '{"init_from": {"job": "\\ud800"}}'),
        ],
    )
    def test_json_that_is_not_a_spec_is_a_422(self, client, problem, body):
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

    @pytest.mark.parametrize("coding", ["gzip", "br", "zstd, gzip", "deflate"])
    def test_a_packed_body_is_a_415_that_says_so_and_is_never_unpacked(self, client, problem, coding):
        packed = {"Content-Encoding": coding}
        for path, kind in (("/v1/jobs", "application/json"), ("/v1/datasets", "multipart/form-data; boundary=b")):
            answer = client.post(path, data=b"{}", content_type=kind, headers=packed)
            assert "without Content-Encoding" in problem(answer, 415, "unsupported_media_type")["detail"]
        assert client.post("/v1/jobs", json={}, headers={"Content-Encoding": "identity"}).status_code == 202

    def test_a_body_over_the_limit_of_the_route_is_a_413(self, client, problem):
        body = json.dumps({"name": "x" * (1 << 20)})
        answer = client.post("/v1/jobs", data=body, content_type="application/json")
        problem(answer, 413, "payload_too_large")

    def test_a_body_in_chunks_is_refused_rather_than_cut_off(self, client, problem):
        # as gunicorn marks a body without Content-Length
        chunks = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        small = io.BytesIO(b'{"epochs": 2}')
        answer = client.post("/v1/jobs", input_stream=small, content_type="application/json", environ_overrides=chunks)
        assert answer.json["spec"]["epochs"] == 2
        large = io.BytesIO(b'{"epochs": 2}' + b" " * (1 << 20) + b"and more")
        answer = client.post("/v1/jobs", input_stream=large, content_type="application/json", environ_overrides=chunks)
        problem(answer, 413, "payload_too_large")

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
        assert body["detail"] == "job job_0 not found"

    def test_a_queued_job_has_its_position_and_the_reason_to_wait(self, client, hands):
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

    def test_an_attempt_that_starts_after_another_has_no_time_left_until_it_has_a_speed(self, client, hands):
        job, lease = hands.submit(batch_size=10), hands.start()
        done = {"epoch": 1, "epochs": 5, "step": 50, "total_steps": 100}
        hands.progress(lease, **done, examples_per_second=1.0)
        client.post(job["links"]["pause"])
        hands.release(lease)
        client.post(job["links"]["resume"])
        lease = hands.start()
        resumed = client.get(job["links"]["self"])
        assert (resumed.json["progress"]["step"], resumed.json["progress"]["eta_seconds"]) == (50, None)
        assert resumed.headers["Retry-After"] == "1"
        hands.progress(lease, **done, examples_per_second=100.0)
        assert client.get(job["links"]["self"]).json["progress"]["eta_seconds"] == 5.0

    def test_the_time_left_of_a_check_counts_parameters_and_not_batches(self, client, hands):
        """10 of 20 batches of 8 examples are left, at 16 examples per second; each has 4 parameters."""
        job = client.post("/v1/gradient-checks", json={"batches": 20, "batch_size": 8}).json
        hands.progress(hands.start(), epoch=10, epochs=20, step=40, total_steps=80, examples_per_second=16.0)
        assert client.get(job["links"]["self"]).json["progress"]["eta_seconds"] == 5.0

    def test_a_speed_that_is_not_known_yet_gives_no_time_left(self, client, hands):
        job = hands.submit()
        hands.progress(hands.start(), epoch=1, epochs=5, step=0, total_steps=100, examples_per_second=0.0)
        progress = client.get(job["links"]["self"]).json["progress"]
        assert (progress["percent"], progress["eta_seconds"]) == (0.0, None)

    def test_a_job_that_succeeded_shows_its_result_and_no_wait(self, client, hands, conforms, results):
        job = hands.submit()
        lease = hands.start()
        done = {"epoch": 5, "epochs": 5, "step": 100, "total_steps": 100, "examples_per_second": 10.0}
        hands.finish(lease, result={**results["succeeded"], "val_loss": float("nan")}, progress=done)
        answer = client.get(job["links"]["self"])
        conforms(answer.json, "Job")
        assert "NaN" not in answer.text
        assert answer.json["result"] == {**results["succeeded"], "val_loss": None}
        assert (answer.json["status"], answer.json["terminal"]) == ("succeeded", True)
        assert (answer.json["progress"]["percent"], answer.json["progress"]["eta_seconds"]) == (100.0, None)
        assert answer.json["attempts"][0]["outcome"] == "succeeded"
        assert "Retry-After" not in answer.headers

    def test_a_failed_job_shows_the_reason(self, client, hands, conforms):
        job = hands.submit()
        reason = {"code": "diverged", "detail": "the loss is nan"}
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

    def test_cancelling_and_running_are_different_filters(self, client, hands):
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

    OPERATORS = ("team!", "score>", "score<", "team~", "team^", "team*", "score>5", "a<b", "!")
    WORDS = ("team[ne]", "score[gte]", "score[LT]", "team[in]", "team[like]", "team[eq]")

    @pytest.mark.parametrize("key", [*OPERATORS, *WORDS])
    def test_a_label_that_is_not_compared_for_equality_is_refused(self, client, hands, problem, key):
        hands.submit(labels={"team": "vision", "score": "7"})
        (error,) = problem(client.get("/v1/jobs", query_string={f"label.{key}": "5"}), 422, "invalid_query")["errors"]
        assert (error["pointer"], error["code"]) == (f"/label.{key.replace('~', '~0')}", "value_error")
        assert error["detail"].startswith("labels are compared with `=` alone: label.KEY=VALUE")
        shown = client.get("/", query_string={f"label.{key}": "5"}, headers={"Accept": "text/html"})
        assert shown.status_code == 422

    @pytest.mark.parametrize("key", ["a!b", "a*b", "$", "~a", "100%", "a-b", "a.b", "a[0]", "[ne]a"])
    def test_a_sign_within_a_key_is_a_letter_like_any_other(self, client, hands, key):
        job = hands.submit(labels={key: "1"})["id"]
        assert [one["id"] for one in client.get("/v1/jobs", query_string={f"label.{key}": "1"}).json["data"]] == [job]

    def test_two_labels_must_both_hold(self, client, hands):
        both = hands.submit(labels={"a": "1", "b": "2"})["id"]
        hands.submit(labels={"a": "1"})
        assert self.ids(client, "label.a=1&label.b=2") == [both]

    def test_created_after_keeps_the_newer_ones(self, client, hands, services):
        old, new = hands.submit()["id"], hands.submit()["id"]
        with services.database.write() as session:
            session.execute(update(Job).where(Job.id == old).values(created_at=joblog.now() - timedelta(hours=2)))
        since = (joblog.now() - timedelta(hours=1)).isoformat().replace("+00:00", "Z")
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
            ("wait=3", "/wait", "extra_forbidden"),
            ("after=job_1' OR 1=1", "/after", "string_pattern_mismatch"),
            ("name=a%00b", "/name", "nul"),
            ("label.a%00=b", "/label.a\x00", "nul"),
            ("created_after=yesterday", "/created_after", "datetime_from_date_parsing"),
            ("created_after=1764000000.5", "/created_after", "value_error"),
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

    def test_a_running_job_is_cancelling_until_its_worker_has_stopped_it(self, client, hands):
        cancel = hands.submit()["links"]["cancel"]
        lease = hands.start()
        for _ in range(2):  # a second request changes nothing
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
        assert (body["state"], body["allowed"]) == ("succeeded", ["delete", "reproduce"])

    def test_a_job_that_is_not_there_is_a_404(self, client, problem):
        problem(client.post("/v1/jobs/job_0/cancel"), 404, "not_found")


class TestPauseAndResume:
    def test_a_running_job_shows_pausing_and_then_paused_and_then_waits_again(self, client, hands, conforms):
        job = hands.submit()
        lease = hands.start()
        pause, resume = job["links"]["pause"], job["links"]["resume"]
        for _ in range(2):  # a second request changes nothing
            answer = client.post(pause)
            conforms(answer.json, "Job")
            assert (answer.status_code, answer.json["status"], answer.json["terminal"]) == (202, "pausing", False)
            assert TIME.fullmatch(answer.json["pause_requested_at"])
        hands.release(lease)
        answer = client.post(pause)
        assert (answer.status_code, answer.json["status"], answer.json["queue"]) == (202, "paused", None)
        assert answer.json["attempts"][0]["outcome"] == "paused"
        answer = client.post(resume)
        conforms(answer.json, "Job")
        assert (answer.status_code, answer.json["status"], answer.json["queue"]["position"]) == (202, "queued", 1)
        assert answer.json["pause_requested_at"] is None

    def test_resume_sends_the_doorbell_message(self, app, client, services, hands):
        job = hands.submit()
        lease = hands.start()
        client.post(job["links"]["pause"])
        hands.release(lease)
        rung = []

        class Bell:
            def ring(self) -> bool:
                rung.append(client.get(job["links"]["self"]).json["status"])
                return True

        app.extensions[EXTENSION] = replace(services, broker=Bell())
        client.post(job["links"]["resume"])
        assert rung == ["queued"]

    def test_a_pending_request_to_pause_is_withdrawn(self, client, hands):
        job = hands.submit()
        hands.start()
        client.post(job["links"]["pause"])
        answer = client.post(job["links"]["resume"])
        assert (answer.status_code, answer.json["status"]) == (202, "running")

    @pytest.mark.parametrize("action", ["pause", "resume"])
    def test_any_other_state_is_a_409_that_says_what_is_allowed(self, client, hands, problem, action):
        job = hands.submit()
        body = problem(client.post(job["links"][action]), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == ("queued", ["cancel"])
        lease = hands.start()
        client.post(job["links"]["cancel"])
        body = problem(client.post(job["links"][action]), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == ("cancelling", ["cancel"])
        hands.finish(lease, JobState.FAILED)
        body = problem(client.post(job["links"][action]), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == ("failed", ["delete", "retry"])
        problem(client.post(f"/v1/jobs/job_0/{action}"), 404, "not_found")

    def test_a_paused_job_is_not_deleted_and_cancelled_at_once(self, client, hands, problem):
        job = hands.submit()
        lease = hands.start()
        client.post(job["links"]["pause"])
        hands.release(lease)
        body = problem(client.delete(job["links"]["self"]), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == ("paused", ["cancel", "pause", "resume"])
        answer = client.post(job["links"]["cancel"])
        assert (answer.status_code, answer.json["status"]) == (202, "cancelled")

    def test_paused_and_pausing_are_filters(self, client, hands):
        paused, pausing, running = (hands.submit() for _ in range(3))
        lease = hands.start()
        hands.start(), hands.start()
        for job in (paused, pausing):
            client.post(job["links"]["pause"])
        hands.release(lease)

        def ids(status: str) -> list[str]:
            return [job["id"] for job in client.get(f"/v1/jobs?status={status}").json["data"]]

        assert ids("paused") == [paused["id"]]
        assert ids("pausing") == [pausing["id"]]
        assert ids("running") == [running["id"]]
        assert ids("paused,pausing") == [pausing["id"], paused["id"]]


class TestReproduce:
    def test_a_new_job_has_the_same_spec_and_names_its_original(self, client, hands, conforms):
        job = hands.submit(name="n" * 128, seed=7, labels={"a": "b"}, gradients="manual")
        hands.finish(hands.start(), result={})
        answer = client.post(job["links"]["reproduce"])
        conforms(answer.json, "Job")
        again = answer.json
        assert answer.status_code == 202
        assert answer.headers["Location"] == again["links"]["self"] != job["links"]["self"]
        assert (again["status"], again["reproduces"]) == ("queued", job["id"])
        assert again["name"] == "n" * 117 + " reproduced"
        assert {**again["spec"], "name": job["name"]} == job["spec"]

    def test_only_a_training_that_succeeded_can_be_repeated(self, client, hands, problem):
        job = hands.submit()
        body = problem(client.post(job["links"]["reproduce"]), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == ("queued", ["cancel"])
        hands.finish(hands.start(), JobState.FAILED)
        problem(client.post(job["links"]["reproduce"]), 409, "wrong_state")
        check = client.post("/v1/gradient-checks", json={}).json
        hands.finish(hands.start())
        body = problem(client.post(check["links"]["reproduce"]), 409, "wrong_state")
        assert body["allowed"] == ["delete"]
        assert "a gradient check does not train and cannot be reproduced" in body["detail"]
        problem(client.post("/v1/jobs/job_0/reproduce"), 404, "not_found")


class TestGradientChecks:
    def test_a_check_is_a_job_of_its_own_kind(self, client, hands, conforms, results):
        answer = client.post("/v1/gradient-checks", json={"architecture": "cnn", "batches": 2})
        assert answer.status_code == 202
        conforms(answer.json, "Job")
        assert (answer.json["kind"], answer.json["spec"]["batches"]) == ("gradient_check", 2)
        assert answer.headers["Location"] == answer.json["links"]["self"]
        assert [job["kind"] for job in client.get("/v1/jobs").json["data"]] == ["gradient_check"]
        hands.finish(hands.start(), result=results["gradient_check"])
        conforms(client.get(answer.json["links"]["self"]).json, "Job")

    def test_its_fields_are_those_of_a_check(self, client, problem):
        body = problem(client.post("/v1/gradient-checks", json={"lr": 1, "batches": 0}), 422, "invalid_spec")
        assert {error["pointer"] for error in body["errors"]} == {"/lr", "/batches"}

    def test_it_has_no_curve_and_its_picture_says_so(self, client):
        links = client.post("/v1/gradient-checks", json={}).json["links"]
        assert client.get(links["metrics"]).json["series"] == {}
        picture, waiting = (client.get(f"{me}/loss_curve.svg") for me in (links["self"], self.training(client)))
        assert picture.status_code == 200
        assert picture.data != waiting.data

    def training(self, client) -> str:
        return client.post("/v1/jobs", json={}).json["links"]["self"]


class TestWalks:
    def test_a_walk_is_a_job_of_its_own_kind(self, client, hands, conforms, results):
        answer = client.post("/v1/walks", json={"architecture": "linear", "batch": 2})
        assert answer.status_code == 202
        conforms(answer.json, "Job")
        assert (answer.json["kind"], answer.json["spec"]["batch"]) == ("walk", 2)
        assert answer.headers["Location"] == answer.json["links"]["self"]
        hands.finish(hands.start(), result=results["walk"])
        conforms(client.get(answer.json["links"]["self"]).json, "Job")

    def test_its_fields_are_those_of_a_walk(self, client, problem):
        body = problem(client.post("/v1/walks", json={"lr": 1, "batch_size": 65}), 422, "invalid_spec")
        assert {error["pointer"] for error in body["errors"]} == {"/lr", "/batch_size"}

    def test_it_can_begin_with_the_weights_of_a_finished_job_of_the_same_net(self, client, hands, problem):
        job = hands.submit()
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "model.safetensors", b"weights")])
        origin = {"init_from": {"job": job["id"]}}
        assert client.post("/v1/walks", json=origin).json["spec"]["init_from"] == origin["init_from"]
        body = problem(client.post("/v1/walks", json={**origin, "architecture": "linear"}), 422, "invalid_spec")
        (error,) = body["errors"]
        assert error["pointer"] == "/init_from/job"
        assert "has another architecture" in error["detail"]

    def test_it_has_neither_a_curve_nor_anything_to_reproduce(self, client, hands, problem):
        links = client.post("/v1/walks", json={}).json["links"]
        assert client.get(links["metrics"]).json["series"] == {}
        assert client.get(f"{links['self']}/loss_curve.svg").status_code == 200
        hands.finish(hands.start())
        body = problem(client.post(links["reproduce"]), 409, "wrong_state")
        assert "a walk does not train and cannot be reproduced" in body["detail"]


class TestInitFrom:
    def finished(self, hands, files=("model.safetensors",), **spec) -> str:
        job = hands.submit(**spec)
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, name, b"weights") for name in files])
        return job["id"]

    def test_a_finished_job_of_the_same_net_is_taken(self, client, hands):
        origin = self.finished(hands, seed=1)
        answer = client.post("/v1/jobs", json={"init_from": {"job": origin}, "lr": 0.5, "gradients": "manual"})
        assert answer.status_code == 202
        assert answer.json["spec"]["init_from"] == {"job": origin}

    def refusal(self, client, problem, origin: str, **spec) -> dict:
        answers = [client.post(f"/v1/jobs{q}", json={"init_from": {"job": origin}, **spec}) for q in ("", "?dry_run=1")]
        bodies = [problem(answer, 422, "invalid_spec")["errors"] for answer in answers]
        assert bodies[0] == bodies[1]
        (error,) = bodies[0]
        assert error["pointer"] == "/init_from/job"
        return error

    def test_any_other_is_refused_with_the_reason(self, client, hands, problem):
        nobody = "job_" + "0" * 32
        assert self.refusal(client, problem, nobody)["code"] == "not_found"
        origin = self.finished(hands)
        other = self.refusal(client, problem, origin, architecture={"type": "mlp", "hidden": [31]})
        assert '"hidden":[30]' in other["detail"]
        assert "1x8x8 in 10 classes" in self.refusal(client, problem, origin, dataset="mnist")["detail"]
        assert "no model.safetensors" in self.refusal(client, problem, self.finished(hands, files=()))["detail"]
        check = client.post("/v1/gradient-checks", json={}).json["id"]
        assert "gradient check" in self.refusal(client, problem, check)["detail"]
        hands.finish(hands.start())
        queued = hands.submit()["id"]
        assert "is queued" in self.refusal(client, problem, queued)["detail"]

    def test_a_preset_that_continues_another_requires_init_from(self, client, problem):
        body = problem(client.post("/v1/jobs", json={"preset": "article/sgd"}), 422, "invalid_spec")
        (error,) = body["errors"]
        assert error["pointer"] == "/init_from/job"
        assert "article/basic-optimizer" in error["detail"]


class TestDryRun:
    def test_nothing_is_stored_and_the_whole_spec_comes_back(self, client, conforms):
        answer = client.post("/v1/jobs?dry_run=true", json={"epochs": 2, "batch_size": 100})
        assert answer.status_code == 200
        conforms(answer.json, "DryRun")
        assert answer.json["spec"]["seed"] >= 0
        assert (answer.json["parameters"], answer.json["steps"]) == (64 * 30 + 30 + 30 * 10 + 10, 2 * 15)
        assert answer.json["estimated_seconds"] > 0
        assert answer.json["estimated_memory_bytes"] > 1797 * 64 * 4
        assert "counted" in answer.json["basis"]
        assert client.get("/v1/jobs").json["data"] == []

    def test_false_is_a_job_and_anything_else_is_refused(self, client, problem):
        assert client.post("/v1/jobs?dry_run=false", json={}).status_code == 202
        problem(client.post("/v1/jobs?dry_run=perhaps", json={}), 422, "invalid_query")
        problem(client.post("/v1/jobs?dry_run=true", json={"lr": 0}), 422, "invalid_spec")

    def test_finished_jobs_like_it_say_how_long_it_takes(self, client, hands):
        for speed, spec in ((1000.0, {}), (3000.0, {}), (2000.0, {}), (9.0, {"batch_size": 8}), (9.0, {"lr": 0.2})):
            hands.submit(seed=1, **spec)
            device = "cpu" if speed > 9 or "lr" not in spec else "cuda:0"
            hands.finish(hands.start(), result={"examples_per_second": speed, "device": device})
        body = client.post("/v1/jobs?dry_run=true", json={"epochs": 100}).json
        assert "2000 examples per second, the median of 3 finished jobs" in body["basis"]
        assert body["estimated_seconds"] == pytest.approx(100 * 1455 / 2000, rel=0.05)


class TestPresets:
    def test_each_is_listed_with_its_whole_spec_and_the_figures_of_the_article(self, client, conforms):
        body = client.get("/v1/presets").json
        conforms(body, "PresetList")
        by_name = {preset["name"]: preset for preset in body["data"]}
        two = by_name["article/two-layer"]
        assert two["article"]["last_val_accuracy"] == 0.9674
        assert (two["spec"]["lr"], two["spec"]["epochs"], two["spec"]["priority"]) == (0.001, 40, 50)
        assert by_name["article/sgd"]["continues"] == "article/basic-optimizer"
        assert not {"seed", "name"} & two["spec"].keys()
        assert client.post("/v1/jobs", json=two["spec"]).status_code == 202

    def test_a_job_of_a_preset_shows_the_article_s_figures_and_no_other_does(self, client, conforms):
        job = client.post("/v1/jobs", json={"preset": "article/two-layer"}).json
        conforms(job, "Job")
        assert job["article"]["last_val_accuracy"] == 0.9674
        assert "article" not in client.post("/v1/jobs", json={}).json

    @pytest.mark.parametrize(
        ("change", "shown"), [({"epochs": 3}, True), ({"dataset": "digits"}, False), ({"lr": 1}, False)], ids=str
    )
    def test_the_article_s_figures_are_not_held_against_another_run(self, client, change, shown):
        job = client.post("/v1/jobs", json={"preset": "article/two-layer", **change}).json
        assert ("article" in job) is shown


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

    def test_the_freed_bytes_are_those_on_the_disk(self, client, hands, services, tmp_path):
        """Including checkpoints and half-written files of a lost attempt, which have no row."""
        job = hands.submit()
        lease = hands.start()
        for key, size in ((checkpoint_key(job["id"], 1, 100), 300), (artifact_key(job["id"], 1, "half.part"), 50)):
            path = tmp_path / "file"
            path.write_bytes(b"x" * size)
            file = services.store.put(key, path)
            if size == 300:
                with services.database.write() as session:
                    queue.add_checkpoint(session, lease, file, 100, 1, 2)
        hands.finish(lease, JobState.FAILED)
        assert client.delete(job["links"]["self"]).json["freed_bytes"] == 350
        assert not services.store.local_path(job["id"]).exists()

    @pytest.mark.parametrize("running", [False, True])
    def test_an_unfinished_job_is_a_409(self, client, hands, problem, running):
        job = hands.submit()
        if running:
            hands.start()
        body = problem(client.delete(job["links"]["self"]), 409, "wrong_state")
        assert (body["state"], body["allowed"]) == (
            ("running", ["cancel", "pause"]) if running else ("queued", ["cancel"])
        )

    def test_files_that_cannot_be_removed_are_not_counted_as_freed(self, client, hands, services, monkeypatch):
        job = hands.submit()
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "spec.json", b"{}")])

        def fail(store, key):
            raise StoreUnavailable(key)

        monkeypatch.setattr(type(services.store), "remove_folder", fail)
        assert client.delete(job["links"]["self"]).json["freed_bytes"] == 0
        with services.database.read() as session:
            assert file_removals.oldest(session, 9) == [job["id"]]


def test_every_state_has_a_filter_and_a_name_in_the_schema():
    shown = set(get_args(view.schemas.Status))
    assert shown == {state.value for state in JobState} | {"cancelling", "pausing"}
