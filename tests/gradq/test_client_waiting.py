"""Waiting for a job and following its log, with services of each kind and connections that break anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.faults import CUT, Asked, FaultyServer, Step, answers, cut, faulty, problem, stream

from gradq import (
    ApiError,
    BadAnswer,
    Client,
    ClientError,
    Event,
    JobFailed,
    NotFound,
    ServerError,
    Unreachable,
    WaitTimeout,
)
from gradq.client import events, waiting
from gradq.client.transport import Blocking

UNKNOWN = problem(422, "invalid_query", errors=[{"pointer": "/wait", "code": "not_built", "detail": "not built"}])
NO_STREAM = problem(406, "not_acceptable")
FULL = problem(503, "too_many_streams", Retry_After="5")


def job(status: str = "running", **more: Any) -> dict[str, Any]:
    terminal = status in ("succeeded", "failed", "cancelled")
    return {"object": "job", "id": "job_1", "name": "a", "status": status, "terminal": terminal, **more}


def row(seq: int, type: str = "log", **data: Any) -> dict[str, Any]:
    line = {"id": f"evt_1_{seq}", "seq": seq, "attempt": 1, "type": type, "level": "info", "message": f"line {seq}"}
    return {**line, "data": data, "created_at": "2026-11-23T12:00:00.000Z"}


def rows(*seqs: int, has_more: bool = False, after: int = 0) -> bytes:
    data = [row(seq) for seq in seqs]
    return answers({"object": "list", "data": data, "next_after": [after, *seqs][-1], "has_more": has_more})


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client requested; the tests do not sleep."""
    pauses: list[float] = []

    async def sleep(_: Blocking, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(Blocking, "sleep", sleep)
    return pauses


@contextmanager
def talk(*steps: Step, **options: Any) -> Iterator[tuple[FaultyServer, Client]]:
    """A server that does `steps`, and a client of it."""
    with faulty(*steps) as server, Client(server.url, **options) as client:
        yield server, client


# --- wait -------------------------------------------------------------------------------------------------------------


def test_a_wait_is_a_question_that_the_service_holds(slept):
    with talk(answers(job()), answers(job("succeeded"))) as (server, client):
        assert client.job("job_1").wait().status == "succeeded"
    assert server.asked[1].query == {"wait": "30.0", "until": "terminal"}
    assert slept == []


def test_a_service_that_answers_at_once_is_asked_at_its_own_interval(slept):
    soon = answers(job(), Retry_After="3")
    with talk(soon, soon, answers(job()), answers(job("failed"))) as (server, client):
        assert client.job("job_1").wait().status == "failed"
    assert slept == [3, waiting.POLL_SECONDS]
    assert len(server.asked) == 4


def test_a_service_that_cannot_hold_is_asked_without(slept):
    with talk(answers(job()), UNKNOWN, answers(job(), Retry_After="2"), answers(job("succeeded"))) as (server, client):
        client.job("job_1").wait()
    assert [asked.query for asked in server.asked[2:]] == [{}, {}]
    assert slept == [2]


def test_poll_asks_every_so_many_seconds(slept):
    with talk(answers(job(), Retry_After="9"), answers(job()), answers(job("succeeded"))) as (server, client):
        client.job("job_1").wait(poll=0.25)
    assert [asked.query for asked in server.asked] == [{}, {}, {}]
    assert slept == [0.25]


def test_a_timeout_is_a_timeout_error_that_holds_the_job_as_it_is():
    with talk(answers(job("queued")), answers(job("running"))) as (_, client):
        held = client.job("job_1")
        with pytest.raises(TimeoutError, match="job_1 is running after 0 s of waiting") as caught:
            held.wait(timeout=0)
    assert isinstance(caught.value, WaitTimeout)
    assert caught.value.job is held
    assert held.status == "running"


def test_a_wait_for_an_ended_job_asks_once():
    with talk(answers(job("cancelled"))) as (server, client):
        assert client.job("job_1", fetch=False).wait(timeout=0).status == "cancelled"
    assert len(server.asked) == 1


def test_check_makes_an_exception_of_a_job_that_failed():
    failed = job("failed", status_reason={"code": "diverged", "detail": "loss is nan"})
    with (
        talk(answers(failed)) as (_, client),
        pytest.raises(JobFailed, match=r"job_1 failed \(diverged: loss is nan\)") as caught,
    ):
        client.job("job_1").wait(check=True)
    assert caught.value.job["status"] == "failed"


def test_a_wait_outlives_a_service_that_is_away_for_a_while(slept):
    """Longer than any other call, since the service answered before."""
    away = [CUT, problem(503, "database_away", Retry_After="2")] * 6
    with talk(answers(job()), answers(job()), *away, answers(job("succeeded")), retries=2) as (server, client):
        assert client.job("job_1").wait().status == "succeeded"
    assert len(server.asked) == 15


def test_a_wait_through_an_absence_is_over_when_its_time_is(monkeypatch):
    """Neither retries nor another long poll exceed it."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(Blocking, "sleep", clock.sleep)
    with talk(answers(job()), answers(job()), CUT) as (server, client), pytest.raises(WaitTimeout):
        client.job("job_1").wait(timeout=7)
    assert 7 <= clock.now < 7.1
    waits = [float(asked.query["wait"]) for asked in server.asked[1:] if "wait" in asked.query]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 6.9 > waits[-1]


class Clock:
    """A clock that only pauses advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


PAGE = b"<html><head><title>502 Bad Gateway</title></head></html>"
AWAY = [
    *[CUT, answers(PAGE, 502), answers(PAGE, 503), answers(PAGE, 504), answers(PAGE, 200)],
    *[answers({"detail": "Not Found"}, 404), *(answers(PAGE, status) for status in (404, 408, 500, 520))],
    *[problem(503, "database_away"), problem(429, "rate_limited"), answers(PAGE, 503, Retry_After="40")],
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    monkeypatch.setattr(Blocking, "sleep", found.sleep)
    return found


@pytest.mark.parametrize("outage", AWAY)
def test_a_wait_outlives_an_outage_from_its_first_look_on(clock, outage):
    """Also one that is longer than the retries of any other call take."""

    def step(_: Asked) -> bytes:
        return outage if clock.now < 45 else answers(job("succeeded"))

    with talk(answers(job()), step) as (_, client):
        assert client.job("job_1").wait().status == "succeeded"
    assert clock.now >= 45


@pytest.mark.parametrize("outage", AWAY)
def test_a_wait_gives_up_after_a_minute_with_the_error(clock, outage):
    with talk(answers(job()), outage) as (_, client), pytest.raises((Unreachable, ApiError)):
        client.job("job_1").wait()
    assert 60 <= clock.now < 110  # a last Retry-After may be added


@pytest.mark.parametrize("outage", AWAY)
def test_a_wait_during_an_outage_ends_with_its_timeout_and_says_why(clock, outage):
    with talk(answers(job()), outage) as (_, client), pytest.raises(WaitTimeout) as caught:
        client.job("job_1").wait(timeout=7)
    assert isinstance(caught.value.__cause__, ClientError)
    assert 7 <= clock.now < 7.1
    with talk(answers(job())) as (_, client), pytest.raises(WaitTimeout) as caught:
        client.job("job_1").wait(timeout=0)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("outage", [CUT, answers(PAGE, 502), answers(PAGE, 503), answers(PAGE, 504)])
def test_a_handle_without_an_answer_waits_out_an_outage_too(clock, outage):
    def step(_: Asked) -> bytes:
        return outage if clock.now < 45 else answers(job("succeeded"))

    with talk(step) as (_, client):
        assert client.job("job_1", fetch=False).wait().status == "succeeded"
    clock.now = 0.0
    with talk(step) as (_, client):
        assert client.job("job_1", patience=60).status == "succeeded"
    clock.now = 0.0
    with talk(outage) as (_, client), pytest.raises((Unreachable, ApiError)):
        client.job("job_1", fetch=False).wait(timeout=20)
    assert 20 <= clock.now < 40


def test_a_wrong_address_is_not_waited_for(clock):
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        client.job("job_1", fetch=False).wait()
    assert clock.now < 5
    with talk(answers(PAGE)) as (_, client), pytest.raises(BadAnswer):
        client.job("job_1", fetch=False).wait()
    assert clock.now < 30
    with talk(answers(PAGE, 404)) as (_, client), pytest.raises(NotFound):
        client.job("job_1", fetch=False).wait()
    assert clock.now < 60


@pytest.mark.parametrize("refusal", [answers(PAGE, 401), answers(PAGE, 403), answers(PAGE, 407), answers(PAGE, 413)])
def test_what_a_proxy_refuses_is_not_waited_for(clock, refusal):
    with talk(answers(job()), refusal) as (server, client), pytest.raises(ApiError):
        client.job("job_1").wait()
    assert (len(server.asked), clock.now) == (2, 0.0)


@pytest.mark.parametrize("refusal", [problem(404, "not_found"), problem(500, "internal_error")])
def test_what_gradq_refuses_is_not_waited_for(clock, refusal):
    with talk(answers(job()), refusal) as (server, client), pytest.raises(ApiError):
        client.job("job_1").wait()
    assert (len(server.asked), clock.now) == (2, 0.0)


def test_a_service_that_restarts_right_after_a_submit_is_waited_for(clock):
    with faulty(answers(job(), 202)) as server:
        client = Client(server.url)
        held = client.submit()
    with client, pytest.raises(Unreachable):  # the port is closed now
        held.wait()
    assert clock.now >= 60


@pytest.mark.parametrize("outage", [CUT, answers(PAGE, 502), answers(PAGE, 504)])
def test_a_log_is_followed_through_an_outage_from_its_first_line_on(clock, outage):
    def step(asked: Asked) -> bytes:
        if clock.now < 45:
            return outage
        return stream(row(1), row(2)) if asked.path.endswith("/events") else answers(job("succeeded"))

    with talk(answers(job()), step) as (_, client):
        assert seqs(client.job("job_1").watch()) == [1, 2]


def test_a_wait_does_not_outlive_a_job_that_is_deleted():
    with talk(answers(job()), answers(job()), problem(404, "not_found")) as (_, client), pytest.raises(NotFound):
        client.job("job_1").wait()


# --- refresh ---------------------------------------------------------------------------------------------------------


def test_a_refresh_with_a_wait_is_back_as_soon_as_the_job_has_changed(slept):
    same = answers(job(), ETag='"1"')
    with talk(answers(job()), same, answers(b"", 304), answers(job("paused"), ETag='"2"')) as (server, client):
        assert client.job("job_1").refresh(wait=50).status == "paused"
    assert [asked.headers.get("if-none-match") for asked in server.asked] == [None, None, '"1"', '"1"']
    assert "wait" not in server.asked[1].query  # what changed before the question is told at once
    assert 29 < float(server.asked[2].query["wait"]) <= 30
    assert slept == [waiting.POLL_SECONDS]  # the 304 came at once


def test_a_refresh_with_a_wait_tells_at_once_what_it_has_missed():
    with talk(answers(job()), answers(job("pausing"))) as (server, client):
        assert client.job("job_1").refresh(wait=50).status == "pausing"
    assert len(server.asked) == 2


def test_a_refresh_with_a_wait_asks_at_intervals_where_nothing_is_held(slept):
    steps = (answers(job()), answers(job(), Retry_After="2"), UNKNOWN, answers(job()), answers(job("failed")))
    with talk(*steps) as (server, client):
        assert client.job("job_1").refresh(wait=50).status == "failed"
    assert slept == [waiting.POLL_SECONDS]
    assert [asked.query for asked in server.asked[3:]] == [{}, {}]


# --- watch ------------------------------------------------------------------------------------------------------------


def seqs(found: Iterator[Event]) -> list[int]:
    return [event.seq for event in found]


def ended(*steps: Step) -> tuple[Step, ...]:
    """The job, the answers for its log, and the ended job."""
    return (answers(job()), *steps, answers(job("succeeded")))


@pytest.mark.parametrize("chunked", [True, False])
def test_a_log_is_a_stream_until_its_end(chunked):
    lines = stream(row(1, "status", status="queued"), row(2, "metric", step=50, epoch=1, metrics={"batch_loss": 0.5}))
    with talk(*ended(lines)) as (server, client):
        held = client.job("job_1")
        queued, point = held.watch()
    assert (queued.seq, queued.type, queued.status, queued.message) == (1, "status", "queued", "line 1")
    assert (point.step, point.epoch, point.metrics) == (50, 1, {"batch_loss": 0.5})
    assert server.asked[1].headers["accept"] == "text/event-stream"
    assert held.status == "succeeded"  # it was looked at again


@pytest.mark.parametrize("chunked", [True, False])
def test_a_stream_that_is_cut_goes_on_behind_the_last_line(chunked):
    first, second = stream(row(1), row(2), end=None, chunked=chunked), stream(row(2), row(3), end=None, chunked=chunked)
    gateway = problem(502, "bad_gateway")
    with talk(*ended(first, CUT, gateway, second, stream(row(4)))) as (server, client):
        assert seqs(client.job("job_1").watch()) == [1, 2, 3, 4]
    cursors = [asked.headers["last-event-id"] for asked in server.asked[1:-1]]
    assert cursors == ["0", "2", "2", "2", "3"]
    assert [asked.query["after"] for asked in server.asked[1:-1]] == cursors


def test_a_stream_cut_at_every_byte_gives_each_line_once():
    whole = stream(*(row(seq) for seq in range(1, 4)), chunked=False)
    places = range(0, len(whole.partition(b"\r\n\r\n")[2]), 7)
    each = [ended(cut(whole, place), _behind_the_cursor) for place in places]
    with talk(*(step for steps in each for step in steps)) as (server, client):
        for place in places:
            assert seqs(client.job("job_1").watch()) == [1, 2, 3], place
    assert len(server.asked) >= 4 * len(places)


def _behind_the_cursor(asked: Asked) -> bytes:
    return stream(*(row(seq) for seq in range(int(asked.headers["last-event-id"]) + 1, 4)))


@pytest.mark.parametrize("refusal", [NO_STREAM, FULL, answers({"object": "list"})])
def test_without_a_stream_pages_from_the_same_cursor_are_read(refusal):
    broken = stream(row(1), end=None)
    pages = (
        rows(2, 3, has_more=True),
        rows(4),
        answers(job()),
        rows(5, after=4),
        answers(job("failed")),
        rows(after=5),
    )
    with talk(*ended(broken, refusal, *pages)) as (server, client):
        assert seqs(client.job("job_1").watch()) == [1, 2, 3, 4, 5]
    asked = [asked.query for asked in server.asked if asked.path.endswith("/events")][2:]
    assert [query["after"] for query in asked] == ["1", "3", "4", "5"]
    assert [query.get("wait") for query in asked] == ["30.0", "30.0", "30.0", None]


def test_lines_written_between_the_last_page_and_the_end_are_not_missed():
    """The state is read before the page that is taken for the last."""
    with talk(*ended(NO_STREAM, rows(1), answers(job("succeeded")), rows(2, 3, after=1))) as (_, client):
        assert seqs(client.job("job_1").watch()) == [1, 2, 3]


def test_a_service_that_holds_nothing_is_asked_for_pages_at_an_interval(slept):
    pages = (
        UNKNOWN,
        rows(1),
        answers(job()),
        rows(after=1),
        answers(job()),
        rows(2),
        answers(job("failed")),
        rows(after=2),
    )
    with talk(*ended(NO_STREAM, *pages)) as (_, client):
        assert seqs(client.job("job_1").watch()) == [1, 2]
    assert slept == [waiting.POLL_SECONDS]


def test_a_type_is_asked_for_by_name_and_a_cursor_from_the_start():
    with talk(*ended(stream(row(8, "metric")))) as (server, client):
        assert seqs(client.job("job_1").watch(after=7, type="metric")) == [8]
    assert server.asked[1].query == {"after": "7", "type": "metric"}


def test_a_service_that_never_comes_back_ends_the_watching(monkeypatch):
    monkeypatch.setattr(events, "PATIENCE_SECONDS", 0.0)
    with talk(answers(job()), stream(row(1), end=None), CUT, retries=2) as (_, client):
        watching: Any = client.job("job_1").watch()
        assert next(watching).seq == 1
        with pytest.raises(Unreachable):
            next(watching)


def test_without_a_service_watching_ends_soon(slept):
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        next(client.job("job_1", fetch=False).watch())


def test_an_error_inside_the_service_ends_the_watching():
    with talk(answers(job()), problem(500, "internal_error")) as (_, client), pytest.raises(ServerError):
        list(client.job("job_1").watch())


def test_who_stops_looking_hangs_up():
    """The stream's connection is closed when the loop ends, not at garbage collection."""
    with talk(answers(job()), stream(row(1), row(2), end=None)) as (_, client):
        watching: Any = client.job("job_1").watch()
        assert next(watching).seq == 1
        watching.close()
        transport: Any = client._calls.sender.transport
        assert transport._http._transport._pool.connections == []


def test_a_job_that_is_deleted_ends_the_stream():
    with (
        talk(answers(job()), stream(row(1), end="null"), problem(404, "not_found")) as (_, client),
        pytest.raises(NotFound),
    ):
        list(client.job("job_1").watch())
