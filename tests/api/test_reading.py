"""Events, metrics, loss curves and files of a job."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from dataclasses import replace
from typing import ClassVar

import fsspec
import pytest

from api.services import EXTENSION
from shared.artifacts import ArtifactStore
from shared.jobs.joblog import Line

CONTENT = bytes(range(256)) * 40


class TestEvents:
    def test_a_cursor_reads_every_line_once_and_in_order(self, client, hands, conforms):
        events = hands.submit()["links"]["events"]
        lease = hands.start()
        hands.append(lease, *(Line("log", f"line {i}", {}) for i in range(5)))
        seen, after = [], 0
        while True:
            page = client.get(f"{events}?after={after}&limit=3").json
            conforms(page, "EventList")
            seen += page["data"]
            after = page["next_after"]
            if not page["has_more"]:
                break
        assert [event["seq"] for event in seen] == list(range(1, 8))
        assert [event["message"] for event in seen][2:] == [f"line {i}" for i in range(5)]
        assert seen[0]["id"] == f"evt_{lease.job_id.removeprefix('job_')}_1"
        assert [event["attempt"] for event in seen[:3]] == [0, 1, 1]
        nothing_new = client.get(f"{events}?after={after}").json
        assert nothing_new == {"object": "list", "data": [], "next_after": after, "has_more": False}

    def test_a_type_is_picked_out(self, client, hands):
        events = hands.submit()["links"]["events"]
        hands.append(hands.start(), Line("log", "hello", {}))
        assert [event["type"] for event in client.get(f"{events}?type=log").json["data"]] == ["log"]

    def test_types_and_levels_are_picked_out_together(self, client, hands):
        events = hands.submit()["links"]["events"]
        hands.append(hands.start(), *(Line("log", level, {}, level) for level in ("info", "warning", "error")))
        found = client.get(f"{events}?type=log,warning&level=warning,error").json["data"]
        assert [event["message"] for event in found] == ["warning", "error"]

    def test_a_log_is_read_from_its_end_page_by_page(self, client, hands, conforms):
        events = hands.submit()["links"]["events"]
        hands.append(hands.start(), *(Line("log", f"line {i}", {}) for i in range(5)))
        seen, before = [], ""
        while True:
            page = client.get(f"{events}?last=true&limit=3{before}").json
            conforms(page, "EventList")
            seen = page["data"] + seen
            before = f"&before={page['data'][0]['seq']}"
            if not page["has_more"]:
                break
        assert [event["seq"] for event in seen] == list(range(1, 8))
        assert client.get(f"{events}?last=true&limit=3").json["next_after"] == 7

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("after=-1", "greater_than_equal"),
            ("level=debug", "literal_error"),
            ("last=perhaps", "bool_parsing"),
            ("after=99999999999999999999", "less_than"),
            ("type=metrics", "literal_error"),
            ("wait=61", "less_than_equal"),
            ("until=terminal", "extra_forbidden"),
        ],
    )
    def test_a_wrong_parameter_is_named(self, client, hands, problem, query, code):
        answer = client.get(f"{hands.submit()['links']['events']}?{query}")
        assert problem(answer, 422, "invalid_query")["errors"][0]["code"] == code


class TestMetrics:
    @pytest.fixture
    def job(self, hands):
        job = hands.submit()
        lease = hands.start()
        hands.point(lease, 50, 1, "batch", batch_loss=2.0)
        hands.point(lease, 90, 1, train_loss=1.5, val_accuracy=0.5)
        hands.point(lease, 180, 2, train_loss=0.1, val_accuracy=0.9)
        return {**job, "lease": lease}

    def test_points_are_step_epoch_value(self, client, job, conforms):
        body = client.get(job["links"]["metrics"]).json
        conforms(body, "Metrics")
        assert body == {
            "object": "metrics",
            "series": {
                "batch_loss": [[50, 1, 2.0]],
                "train_loss": [[90, 1, 1.5], [180, 2, 0.1]],
                "val_accuracy": [[90, 1, 0.5], [180, 2, 0.9]],
            },
        }

    def test_what_the_client_has_already_is_read_again_only_when_the_log_has_grown(self, client, hands, monkeypatch):
        metrics = hands.submit()["links"]["metrics"]
        lease = hands.start()
        hands.point(lease, 5, 1, train_loss=0.5)
        first = client.get(metrics)
        known = {"If-None-Match": first.headers["ETag"]}
        assert client.get(f"{metrics}?max_points=5", headers=known).status_code == 200
        assert client.get(metrics, headers={"Accept": "text/csv", **known}).status_code == 200
        with monkeypatch.context() as patch:
            patch.delattr("shared.jobs.curve_blocks.thinned")  # no points are read
            again = client.get(metrics, headers=known)
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        hands.point(lease, 10, 2, train_loss=0.4)
        assert len(client.get(metrics, headers=known).json["series"]["train_loss"]) == 2

    def test_keys_pick_series_and_one_without_points_is_empty(self, client, job):
        series = client.get(f"{job['links']['metrics']}?keys=train_loss,test_loss").json["series"]
        assert series == {"train_loss": [[90, 1, 1.5], [180, 2, 0.1]], "test_loss": []}

    def test_a_mistyped_key_is_guessed(self, client, job, problem):
        answer = client.get(f"{job['links']['metrics']}?keys=tran_loss")
        (error,) = problem(answer, 422, "invalid_query")["errors"]
        assert error["detail"] == "unknown metric 'tran_loss'; did you mean 'train_loss'?"

    def test_thinning_keeps_the_ends_and_the_extremes(self, client, hands, job):
        values = [1.0] * 200
        values[70], values[130] = 9.0, -9.0
        for i, value in enumerate(values):
            hands.point(job["lease"], 1000 + i, 3, "batch", batch_loss=value)
        points = client.get(f"{job['links']['metrics']}?keys=batch_loss&max_points=20").json["series"]["batch_loss"]
        assert len(points) <= 20
        assert points[0] == [50, 1, 2.0]
        assert points[-1][0] == 1199
        assert {9.0, -9.0} <= {value for _, _, value in points}

    def test_csv_has_one_line_per_step(self, client, job):
        answer = client.get(job["links"]["metrics"], headers={"Accept": "text/csv"})
        assert answer.mimetype == "text/csv"
        assert answer.headers["Vary"] == "Accept"
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [(row["step"], row["train_loss"]) for row in rows] == [("50", ""), ("90", "1.5"), ("180", "0.1")]

    def test_a_loss_that_is_not_finite_is_null(self, client, hands, job):
        hands.point(job["lease"], 270, 3, train_loss=float("inf"))
        answer = client.get(f"{job['links']['metrics']}?keys=train_loss")
        assert "Infinity" not in answer.text
        assert answer.json["series"]["train_loss"][-1] == [270, 3, None]

    @pytest.mark.parametrize(("format", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
    def test_the_picture_is_drawn_again_only_when_a_point_or_another_name_came(self, client, hands, job, format, magic):
        url = f"{job['links']['self']}/loss_curve.{format}"
        first = client.get(url)
        assert first.status_code == 200
        assert first.data.startswith(magic)
        known = {"If-None-Match": first.headers["ETag"]}
        again = client.get(url, headers=known)
        assert (again.status_code, again.data) == (304, b"")
        hands.point(job["lease"], 270, 3, train_loss=0.05)
        longer = client.get(url, headers=known)
        assert longer.status_code == 200
        client.patch(job["links"]["self"], json={"name": "another title"})
        renamed = client.get(url, headers={"If-None-Match": longer.headers["ETag"]})
        assert renamed.status_code == 200
        assert renamed.data != longer.data

    def test_a_picture_of_nothing_under_a_name_full_of_dollars_is_still_a_picture(self, client, hands):
        me = hands.submit(name="$x_{ and $")["links"]["self"]
        assert client.get(f"{me}/loss_curve.png").status_code == 200


class TestArtifacts:
    @pytest.fixture(params=["file", "memory"])
    def job(self, request, app, services, hands):
        if request.param == "memory":
            fsspec.filesystem("memory").store.clear()
            store = ArtifactStore("memory://gradq-tests")
            hands.services = replace(services, store=store)
            app.extensions[EXTENSION] = hands.services
        job = hands.submit()
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "model.safetensors", CONTENT), hands.store(lease, "a.csv", b"x")])
        return job

    def test_the_list_names_what_can_be_fetched(self, client, job, conforms):
        body = client.get(job["links"]["artifacts"]).json
        conforms(body, "ArtifactList")
        assert [file["name"] for file in body["data"]] == ["a.csv", "model.safetensors"]
        model = body["data"][1]
        assert model["sha256"] == hashlib.sha256(CONTENT).hexdigest()
        assert model["size_bytes"] == len(CONTENT)
        assert client.get(model["links"]["self"]).data == CONTENT

    def test_the_bytes_come_with_their_hash_and_a_file_name(self, client, job):
        answer = client.get(f"{job['links']['artifacts']}/model.safetensors")
        assert (answer.status_code, answer.data) == (200, CONTENT)
        assert answer.headers["ETag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
        assert answer.headers["Content-Disposition"] == "attachment; filename=model.safetensors"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.content_length == len(CONTENT)
        assert answer.mimetype == "application/octet-stream"

    @pytest.mark.parametrize(
        ("range", "expected"),
        [("bytes=100-199", CONTENT[100:200]), ("bytes=10000-", CONTENT[10000:]), ("bytes=-7", CONTENT[-7:])],
    )
    def test_a_range_is_served_alone(self, client, job, range, expected):
        answer = client.get(f"{job['links']['artifacts']}/model.safetensors", headers={"Range": range})
        assert (answer.status_code, answer.data) == (206, expected)
        assert answer.headers["Content-Range"].endswith(f"/{len(CONTENT)}")
        assert answer.content_length == len(expected)

    @pytest.mark.parametrize(
        "range",
        [
            "items=0-1",
            "bytes=abc",
            "bytes=0-1,3-4",
            "bytes=5-4",
            "bytes= 7-0",
            "bytes=99999-0",
            f"bytes={'9' * 5000}-",
            "bytes=-",
        ],
    )
    def test_a_range_that_is_not_served_is_passed_over(self, client, job, range):
        answer = client.get(f"{job['links']['artifacts']}/model.safetensors", headers={"Range": range})
        assert (answer.status_code, answer.data) == (200, CONTENT)

    def test_a_range_outside_is_a_416_that_says_how_long_the_file_is(self, client, job, problem):
        answer = client.get(f"{job['links']['artifacts']}/model.safetensors", headers={"Range": "bytes=99999-"})
        problem(answer, 416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"

    def test_a_download_resumes_only_with_the_same_file(self, client, job):
        url = f"{job['links']['artifacts']}/model.safetensors"
        etag = client.get(url).headers["ETag"]
        same = client.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
        assert (same.status_code, same.data) == (206, CONTENT[5:])
        other = client.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'})
        assert (other.status_code, other.data) == (200, CONTENT)

    def test_what_the_client_has_already_is_not_sent_again(self, client, job):
        url = f"{job['links']['artifacts']}/model.safetensors"
        answer = client.get(url, headers={"If-None-Match": client.get(url).headers["ETag"]})
        assert (answer.status_code, answer.data) == (304, b"")

    def test_head_tells_the_size_and_sends_nothing(self, client, job):
        answer = client.head(f"{job['links']['artifacts']}/model.safetensors")
        assert (answer.status_code, answer.data, answer.content_length) == (200, b"", len(CONTENT))

    @pytest.mark.parametrize("name", ["other", "..%2F..%2Fgradq.db", "%00"])
    def test_an_unknown_name_is_a_404(self, client, job, problem, name):
        problem(client.get(f"{job['links']['artifacts']}/{name}"), 404, "not_found")

    def test_a_file_that_is_gone_is_a_404(self, client, job, hands, problem):
        hands.services.store.remove_folder(job["id"])
        answer = client.get(f"{job['links']['artifacts']}/model.safetensors")
        assert "removed" in problem(answer, 404, "not_found")["detail"]


class TestZip:
    FILES: ClassVar = {"model.safetensors": bytes(range(256)) * 9000, "näme.json": b"{}", "empty.csv": b""}

    @pytest.fixture
    def job(self, hands):
        job = hands.submit()
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, name, content) for name, content in self.FILES.items()])
        return job

    def test_all_files_come_whole_and_stored_and_the_size_is_told_before(self, client, job):
        answer = client.get(job["links"]["artifacts_zip"])
        assert answer.status_code == 200
        assert answer.content_type == "application/zip"
        assert answer.headers["Content-Disposition"] == f"attachment; filename={job['id']}.zip"
        assert int(answer.headers["Content-Length"]) == len(answer.data)
        with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
            assert archive.testzip() is None
            assert {name: archive.read(f"{job['id']}/{name}") for name in self.FILES} == self.FILES
            assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}

    def test_what_the_client_has_already_is_not_sent_again(self, client, hands, job):
        etag = client.get(job["links"]["artifacts_zip"]).headers["ETag"]
        answer = client.get(job["links"]["artifacts_zip"], headers={"If-None-Match": etag})
        assert (answer.status_code, answer.data) == (304, b"")
        other = hands.submit()
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "model.safetensors", b"other")])
        assert client.get(other["links"]["artifacts_zip"]).headers["ETag"] != etag

    def test_one_file_is_open_at_a_time_and_none_afterwards(self, client, job, services, monkeypatch):
        opened = []

        def note(store, key):
            assert all(file.closed for file in opened)
            opened.append(store.fs.open(f"{store.root}/{key}", "rb"))
            return opened[-1]

        monkeypatch.setattr(type(services.store), "open", note)
        answer = client.get(job["links"]["artifacts_zip"])
        assert opened == []  # opened when it is read
        assert len(answer.data) > 256 * 9000
        assert len(opened) == 3
        assert all(file.closed for file in opened)

    def test_head_opens_nothing_and_tells_the_size(self, client, job, services, monkeypatch):
        size = len(client.get(job["links"]["artifacts_zip"]).data)
        monkeypatch.setattr(type(services.store), "open", lambda *_: pytest.fail("opened"))
        answer = client.head(job["links"]["artifacts_zip"])
        assert (answer.status_code, answer.data, answer.content_length) == (200, b"", size)

    def test_the_store_is_asked_once_for_all_files(self, client, job, services, monkeypatch):
        """Each question to an object store takes a round trip before the first byte is sent."""
        asked = []
        keys_of = type(services.store).keys_of
        monkeypatch.setattr(type(services.store), "keys_of", lambda *about: asked.append(about) or keys_of(*about))
        monkeypatch.setattr(type(services.store), "has", lambda *_: pytest.fail("asked for one file"))
        assert client.head(job["links"]["artifacts_zip"]).status_code == 200
        assert len(asked) == 1

    def test_a_store_that_is_not_a_folder_works_too(self, app, client, hands, services, tmp_path):
        store = ArtifactStore(f"memory://{tmp_path.name}")
        app.extensions[EXTENSION] = replace(services, store=store)
        hands.services = app.extensions[EXTENSION]
        job = hands.submit()
        lease = hands.start()
        hands.finish(lease, files=[hands.store(lease, "spec.json", b"{}")])
        answer = client.get(job["links"]["artifacts_zip"])
        with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
            assert archive.read(f"{job['id']}/spec.json") == b"{}"
        assert client.delete(job["links"]["self"]).json["freed_bytes"] == 2

    def test_a_job_without_files_is_a_404_of_its_own(self, client, hands, problem):
        job = hands.submit()
        assert "when the job ends" in problem(client.get(job["links"]["artifacts_zip"]), 404, "no_artifacts")["detail"]
        problem(client.get("/v1/jobs/job_0/artifacts.zip"), 404, "not_found")

    def test_files_that_are_gone_are_named_before_anything_is_sent(self, client, hands, job, problem):
        hands.services.store.remove_folder(job["id"])
        detail = problem(client.get(job["links"]["artifacts_zip"]), 404, "not_found")["detail"]
        assert "empty.csv, model.safetensors, näme.json" in detail
