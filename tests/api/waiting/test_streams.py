"""A job's log as server-sent events: each line once and in order, and an event `end` with the final status."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from support.people import bearer, expire, revoke, token_for

from api.waiting import streams
from api.waiting.long_polling import EXTENSION
from shared.errors import DatabaseAway
from shared.jobs.joblog import Line
from shared.jobs.states import JobState

STREAM = {"Accept": "text/event-stream"}


def parse(text: str) -> list[dict[str, str]]:
    """The fields of each block of a stream; a comment has an empty field name."""
    return [dict(line.partition(":")[::2] for line in block.splitlines()) for block in text.split("\n\n") if block]


def events(text: str) -> list[dict[str, Any]]:
    return [
        {"type": block["event"].strip(), **json.loads(block["data"]), "id": block.get("id", "").strip()}
        for block in parse(text)
        if "event" in block
    ]


@pytest.fixture
def ended(hands) -> dict[str, Any]:
    """A job with a log of ten lines."""
    job = hands.submit()
    lease = hands.start()
    hands.append(lease, *(Line("log", f"line {i}\nand µ", {"i": i}) for i in range(6)))
    hands.point(lease, 5, 1, train_loss=float("inf"))
    hands.finish(lease, JobState.FAILED, reason={"code": "diverged", "detail": "…"})
    return job


class TestEnded:
    def test_the_stream_is_the_page_and_an_end(self, client, ended):
        page = client.get(ended["links"]["events"]).json["data"]
        answer = client.get(ended["links"]["events"], headers=STREAM)
        assert answer.status_code == 200
        assert answer.content_type == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache, no-transform"
        assert answer.headers["X-Accel-Buffering"] == "no"
        blocks = parse(answer.text)
        assert blocks[0] == {"retry": " 1000"}
        assert [json.loads(block["data"]) for block in blocks[1:-1]] == page
        assert [(int(block["id"]), block["event"].strip()) for block in blocks[1:-1]] == [
            (line["seq"], line["type"]) for line in page
        ]
        assert blocks[-1] == {"event": " end", "data": ' {"status":"failed"}'}

    @pytest.mark.parametrize("page", [1, 4, 9])
    def test_a_long_log_comes_in_pieces_that_leave_nothing_out(self, client, ended, monkeypatch, page):
        whole = client.get(ended["links"]["events"], headers=STREAM).text
        monkeypatch.setattr(streams, "PAGE", page)
        assert client.get(ended["links"]["events"], headers=STREAM).text == whole

    def test_last_event_id_resumes_and_takes_precedence_over_after(self, client, ended):
        def ids(query: str, **headers: str) -> list[str]:
            return [
                e["id"] for e in events(client.get(ended["links"]["events"] + query, headers=STREAM | headers).text)
            ]

        assert ids("") == [*map(str, range(1, 11)), ""]
        assert ids("?after=7") == ["8", "9", "10", ""]
        assert ids("?after=7", **{"Last-Event-ID": "9"}) == ["10", ""]
        assert ids("?after=7", **{"Last-Event-ID": ""}) == ["8", "9", "10", ""]
        assert ids("", **{"Last-Event-ID": "10"}) == [""]

    def test_a_type_is_picked_out(self, client, ended):
        answer = client.get(f"{ended['links']['events']}?type=metric", headers=STREAM)
        assert [event["type"] for event in events(answer.text)] == ["metric", "end"]
        answer = client.get(f"{ended['links']['events']}?type=log,status&level=error", headers=STREAM)
        assert [event["type"] for event in events(answer.text)] == ["status", "end"]

    def test_head_starts_no_stream(self, client, ended, app):
        answer = client.head(ended["links"]["events"], headers=STREAM)
        assert (answer.status_code, answer.data) == (200, b"")

    @pytest.mark.parametrize(
        ("query", "headers", "pointer"),
        [
            ("", {"Last-Event-ID": "evt_3"}, "/Last-Event-ID"),
            ("", {"Last-Event-ID": "99999999999"}, "/Last-Event-ID"),
            ("?wait=3", {}, "/wait"),
            ("?limit=3", {}, "/limit"),
            ("?last=true", {}, "/last"),
            ("?before=9", {}, "/before"),
            ("?after=x", {}, "/after"),
        ],
    )
    def test_what_a_stream_does_not_take_is_named(self, client, ended, problem, query, headers, pointer):
        answer = client.get(ended["links"]["events"] + query, headers=STREAM | headers)
        assert [error["pointer"] for error in problem(answer, 422, "invalid_query")["errors"]] == [pointer]

    def test_a_job_that_is_not_there_is_a_404(self, client, problem):
        problem(client.get("/v1/jobs/job_1/events", headers=STREAM), 404, "not_found")


class TestRunning:
    @pytest.fixture
    def stream(self, client, hands) -> Iterator[Any]:
        """stream(url): the pieces of a response as they are sent."""
        opened = []

        def begin(url: str) -> Iterator[str]:
            answer = client.get(url, headers=STREAM)
            opened.append(answer)
            return (piece.decode() for piece in answer.iter_encoded())

        yield begin
        for answer in opened:
            answer.close()

    def test_lines_come_as_they_are_written(self, stream, hands):
        job = hands.submit()
        pieces = stream(job["links"]["events"])
        assert next(pieces) == "retry: 1000\n\n"
        assert [event["message"] for event in events(next(pieces))] == ["job queued"]
        lease = hands.start()
        assert [event["data"]["status"] for event in events(next(pieces))] == ["running"]
        hands.append(lease, Line("log", "hello", {}))
        assert [event["message"] for event in events(next(pieces))] == ["hello"]
        hands.finish(lease)
        assert [event.get("status") for event in events(next(pieces))] == [None, "succeeded"]
        assert list(pieces) == []

    def test_a_job_that_is_deleted_ends_its_stream(self, client, stream, hands, monkeypatch):
        monkeypatch.setattr(streams, "PAGE", 1)  # so that there are lines left to send when it is deleted
        job = hands.submit()
        hands.finish(hands.start())
        pieces = stream(job["links"]["events"])
        assert [next(pieces) for _ in range(2)][1].startswith("id: 1\n")
        assert client.delete(job["links"]["self"]).status_code == 200
        assert [(event["type"], event["status"]) for event in events("".join(pieces))] == [("end", None)]

    def test_silence_is_filled_with_comments(self, stream, hands, monkeypatch):
        monkeypatch.setattr(streams, "COMMENT_SECONDS", 0.05)
        pieces = stream(hands.submit()["links"]["events"])
        assert [next(pieces) for _ in range(4)][2:] == [":\n\n", ":\n\n"]

    def test_a_process_that_shuts_down_ends_the_stream_without_an_end_event(self, app, stream, hands):
        pieces = stream(hands.submit()["links"]["events"])
        assert len([next(pieces) for _ in range(2)]) == 2
        app.extensions[EXTENSION].notifier.stopping = lambda: True
        assert "".join(pieces) == ""


class TestPlaces:
    @pytest.fixture
    def settings(self, settings):
        return settings.model_copy(update={"held_requests": 1})

    def test_without_a_free_place_a_stream_is_refused_with_retry_after(self, client, hands, problem):
        url = hands.submit()["links"]["events"]
        first = client.get(url, headers=STREAM)
        second = client.get(url, headers=STREAM)
        problem(second, 503, "too_many_streams")
        assert second.headers["Retry-After"] == "2"
        first.close()
        third = client.get(url, headers=STREAM)
        assert third.status_code == 200
        third.close()


@pytest.mark.parametrize("how", [revoke, expire])
def test_a_stream_ends_with_its_token_and_does_not_say_that_the_job_has(app, services, how):
    """No further lines are sent; the client reconnects and is refused."""
    token = token_for(services.database, "alice")
    client = app.test_client()
    job = client.post("/v1/jobs", json={}, headers=bearer(token)).json
    answer = client.get(job["links"]["events"], headers=STREAM | bearer(token))
    pieces = (piece.decode() for piece in answer.iter_encoded())
    assert [next(pieces) for _ in range(2)][1].startswith("id: 1\n")
    how(services.database, token)
    assert set(pieces) <= {":\n\n"}
    answer.close()
    assert client.get(job["links"]["events"], headers=STREAM | bearer(token)).status_code == 401


class TestDatabase:
    @pytest.fixture
    def settings(self, settings, tmp_path):
        url = SecretStr(f"sqlite:///{tmp_path / 'database' / 'gradq.db'}")
        return settings.model_copy(update={"database_url": url})

    def test_an_outage_of_the_database_is_waited_for(self, client, hands, services, tmp_path, monkeypatch):
        monkeypatch.setattr(streams, "COMMENT_SECONDS", 0.05)
        answer = client.get(hands.submit()["links"]["events"], headers=STREAM)
        pieces = (piece.decode() for piece in answer.iter_encoded())
        assert [next(pieces) for _ in range(2)][1].startswith("id: 1\n")
        services.database.close()  # else the pool would keep using its open files
        (tmp_path / "database").rename(tmp_path / "away")
        assert [next(pieces) for _ in range(3)] == [":\n\n"] * 3
        (tmp_path / "away").rename(tmp_path / "database")
        hands.finish(hands.start())
        assert [event["type"] for event in events("".join(pieces))] == ["status", "status", "end"]
        answer.close()

    def test_an_outage_at_the_end_of_a_read_loses_no_line(self, client, ended, services, monkeypatch):
        read, reads = services.database.read, []

        @contextlib.contextmanager
        def breaks_off_once():
            with read() as session:
                yield session
                reads.append(session)
            if len(reads) == 2:  # the first read is before the stream begins
                raise DatabaseAway("the connection ended before the transaction did")

        page = client.get(ended["links"]["events"]).json["data"]
        monkeypatch.setattr(services.database, "read", breaks_off_once)
        answer = client.get(ended["links"]["events"], headers=STREAM)
        assert [event["seq"] for event in events(answer.text)[:-1]] == [line["seq"] for line in page]
        assert len(reads) > 2
