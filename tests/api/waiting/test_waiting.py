"""Long polls: which changes end the wait, and when a request does not wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from pydantic import SecretStr
from support.people import bearer, expire, revoke, token_for
from support.waiting import wait_for
from werkzeug.test import TestResponse

from api.app import create_app
from api.waiting.change_notifier import POLL_SECONDS
from api.waiting.long_polling import EXTENSION, LongPolls
from shared.config import Settings
from shared.db.database import Database
from shared.jobs import jobs, queue
from shared.jobs.joblog import Line
from shared.jobs.states import JobState

Ask = Callable[..., "Future[TestResponse]"]
ENOUGH = 60  # seconds, longer than the deadline: a response that comes only when they are over fails the test
DEADLINE = 20


@pytest.fixture
def settings(settings: Settings, database: Database) -> Settings:
    """The app on each kind of database."""
    return settings.model_copy(update={"database_url": SecretStr(database.url)})


@pytest.fixture
def long_polls(app: Flask) -> LongPolls:
    found: LongPolls = app.extensions[EXTENSION]
    return found


@pytest.fixture
def polls(long_polls: LongPolls, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The job ids of each poll of the notifier."""
    made: list[set[str]] = []
    poll = long_polls.notifier._poll

    def counted() -> bool:
        asked = set(long_polls.notifier._waiters)
        answered = poll()
        made.append(asked)
        return answered

    monkeypatch.setattr(long_polls.notifier, "_poll", counted)
    return made


@pytest.fixture
def ask(app: Flask, long_polls: LongPolls) -> Iterator[Ask]:
    """ask(url, **headers): the future response of a request in a thread of its own, which has begun to wait."""
    with ThreadPoolExecutor() as pool:

        def begin(url: str, **headers: str) -> Future[TestResponse]:
            before = waiting(long_polls)
            answer = pool.submit(lambda: app.test_client().get(url, headers=headers))
            wait_for(lambda: waiting(long_polls) > before or answer.done(), DEADLINE, "a request that waits")
            return answer

        yield begin
        long_polls.notifier.stopping = lambda: True  # ends the requests that are still held


@pytest.mark.parametrize(("how", "code"), [(revoke, "token_revoked"), (expire, "token_expired")])
def test_a_request_that_waits_ends_with_its_token(app: Flask, database: Database, hands, long_polls, how, code) -> None:
    token = token_for(database, "alice")
    job = app.test_client().post("/v1/jobs", json={}, headers=bearer(token)).json["id"]
    url = f"/v1/jobs/{job}?until=terminal&wait={ENOUGH}"
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lambda: app.test_client().get(url, headers=bearer(token)))
        wait_for(lambda: waiting(long_polls) or answer.done(), DEADLINE, "a request that waits")
        assert not answer.done()
        how(database, token)
        refused = answer.result(DEADLINE)
    assert (refused.status_code, refused.json["code"]) == (401, code)


def still_waits(answer: Future[TestResponse], polls: list[set[str]]) -> bool:
    """Whether it waits after two more polls; the first may have begun before the change."""
    before = len(polls)
    wait_for(lambda: answer.done() or len(polls) >= before + 2, DEADLINE, "two polls")
    return not answer.done()


def waiting(long_polls: LongPolls) -> int:
    return sum(map(len, long_polls.notifier._waiters.copy().values()))


class TestJob:
    def test_until_terminal_passes_over_what_comes_before(self, ask, hands, polls):
        job = hands.submit()
        answer = ask(f"{job['links']['self']}?wait={ENOUGH}&until=terminal")
        lease = hands.start()
        assert still_waits(answer, polls)
        hands.finish(lease, JobState.FAILED)
        assert answer.result(DEADLINE).json["status"] == "failed"

    def test_a_change_is_enough_without_until(self, ask, hands, conforms):
        job = hands.submit()
        answer = ask(f"{job['links']['self']}?wait={ENOUGH}")
        hands.start()
        answer = answer.result(DEADLINE)
        conforms(answer.json, "Job")
        assert answer.json["status"] == "running"

    def test_a_line_of_the_log_is_not_a_change_of_the_job(self, ask, hands, polls):
        job = hands.submit()
        lease = hands.start()
        answer = ask(f"{job['links']['self']}?wait={ENOUGH}")
        hands.append(lease, Line("log", "hello", {}))
        assert still_waits(answer, polls)
        hands.progress(lease, epoch=1, epochs=5, step=3, total_steps=9, examples_per_second=1.0)
        assert answer.result(DEADLINE).json["progress"]["step"] == 3

    @pytest.mark.parametrize("what", ["another is cancelled", "a worker comes", "a slot is taken"])
    def test_the_queue_around_a_job_is_part_of_it(self, client, ask, hands, what):
        first, second = hands.submit(), hands.submit()
        if what == "a slot is taken":
            hands.beat()
        before = client.get(second["links"]["self"]).json["queue"]
        answer = ask(f"{second['links']['self']}?wait={ENOUGH}")
        if what == "another is cancelled":
            client.post(first["links"]["cancel"])
        else:
            hands.beat(free_slots=0)
        assert answer.result(DEADLINE).json["queue"] != before

    def test_an_old_etag_gets_earlier_changes_at_once(self, client, ask, hands):
        me = hands.submit()["links"]["self"]
        etag = client.get(me).headers["ETag"]
        hands.start()
        answer = ask(f"{me}?wait={ENOUGH}", If_None_Match=etag).result(DEADLINE)
        assert (answer.status_code, answer.json["status"]) == (200, "running")

    def test_a_known_etag_waits_for_another(self, client, ask, hands, polls):
        me = hands.submit()["links"]["self"]
        answer = ask(f"{me}?wait={ENOUGH}", If_None_Match=client.get(me).headers["ETag"])
        assert still_waits(answer, polls)
        hands.start()
        assert answer.result(DEADLINE).json["status"] == "running"

    def test_a_known_etag_is_a_304_when_time_is_over(self, client, hands):
        me = hands.submit()["links"]["self"]
        answer = client.get(f"{me}?wait=0.15", headers={"If-None-Match": client.get(me).headers["ETag"]})
        assert (answer.status_code, answer.data) == (304, b"")

    def test_a_timeout_returns_the_current_state(self, client, hands):
        answer = client.get(f"{hands.submit()['links']['self']}?wait=0.15&until=terminal")
        assert (answer.status_code, answer.json["status"]) == (200, "queued")

    def test_until_alone_waits_too(self, ask, hands, polls):
        answer = ask(f"{hands.submit()['links']['self']}?until=terminal")
        assert still_waits(answer, polls)
        hands.finish(hands.start())
        assert answer.result(DEADLINE).json["terminal"]

    @pytest.mark.parametrize("until", ["", "&until=terminal"])
    def test_a_job_that_has_ended_is_not_waited_for(self, ask, hands, until):
        job = hands.submit()
        hands.finish(hands.start())
        answer = ask(f"{job['links']['self']}?wait={ENOUGH}{until}")
        assert answer.result(DEADLINE).json["terminal"]

    def test_an_ended_job_that_the_client_has_already_is_a_304_at_once(self, client, ask, hands):
        me = hands.submit()["links"]["self"]
        hands.finish(hands.start())
        answer = ask(f"{me}?wait={ENOUGH}", If_None_Match=client.get(me).headers["ETag"]).result(DEADLINE)
        assert answer.status_code == 304

    def test_a_job_deleted_meanwhile_is_a_404(self, ask, hands, polls, problem):
        me = hands.submit()["links"]["self"]
        lease = hands.start()
        answer = ask(f"{me}?wait={ENOUGH}")
        assert still_waits(answer, polls)
        with hands.services.database.write() as session:  # ended and deleted between two polls
            queue.finish(session, lease, JobState.CANCELLED, "cancelled")
            jobs.remove(session, lease.job_id)
        problem(answer.result(DEADLINE), 404, "not_found")

    def test_prefer_works_like_wait_and_is_confirmed(self, client, hands):
        me = hands.submit()["links"]["self"]
        hands.finish(hands.start())
        answer = client.get(f"{me}?until=terminal", headers={"Prefer": 'respond-async, Wait="20"; x=1, wait=5'})
        assert answer.headers["Preference-Applied"] == "wait=20"
        assert client.get(me, headers={"Prefer": "wait=900"}).headers["Preference-Applied"] == "wait=60"
        assert "Preference-Applied" not in client.get(f"{me}?wait=0", headers={"Prefer": "wait=20"}).headers
        assert "Preference-Applied" not in client.get(me, headers={"Prefer": "wait=soon, await=3"}).headers

    def test_a_preference_is_waited_for(self, ask, hands, polls):
        answer = ask(hands.submit()["links"]["self"], Prefer=f"wait={ENOUGH}")
        assert still_waits(answer, polls)
        hands.start()
        assert answer.result(DEADLINE).json["status"] == "running"

    @pytest.mark.parametrize(
        ("query", "pointer", "code"),
        [
            ("wait=-1", "/wait", "greater_than_equal"),
            ("wait=60.5", "/wait", "less_than_equal"),
            ("wait=nan", "/wait", "finite_number"),
            ("wait=soon", "/wait", "float_parsing"),
            ("wait=3&until=running", "/until", "literal_error"),
        ],
    )
    def test_a_wrong_parameter_is_named(self, client, hands, problem, query, pointer, code):
        answer = client.get(f"{hands.submit()['links']['self']}?{query}")
        (error,) = problem(answer, 422, "invalid_query")["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)


class TestPollInterval:
    @pytest.mark.parametrize(("left", "seconds"), [(0, "1"), (40, "1"), (45, "2"), (120, "3"), (10_000, "10")])
    def test_a_running_job_is_asked_again_by_the_time_that_is_left(self, client, hands, left, seconds):
        job = hands.submit(batch_size=1)
        hands.progress(hands.start(), epoch=1, epochs=5, step=0, total_steps=left, examples_per_second=10.0)
        assert client.get(job["links"]["self"]).headers["Retry-After"] == seconds

    def test_a_job_that_starts_or_stops_is_asked_again_soon_and_a_paused_one_late(self, client, hands):
        me = hands.submit()["links"]["self"]
        assert client.get(me).headers["Retry-After"] == "1"
        lease = hands.start()
        assert client.get(me).headers["Retry-After"] == "1"
        hands.progress(lease, epoch=1, epochs=5, step=0, total_steps=10_000, examples_per_second=1.0)
        client.post(f"{me}/pause")
        assert client.get(me).headers["Retry-After"] == "1"
        hands.release(lease)
        assert client.get(me).headers["Retry-After"] == "10"


class TestLog:
    def test_the_first_new_line_is_the_answer(self, ask, hands, polls, conforms):
        events = hands.submit()["links"]["events"]
        lease = hands.start()
        answer = ask(f"{events}?after=2&wait={ENOUGH}")
        assert still_waits(answer, polls)
        hands.append(lease, Line("log", "hello", {}))
        body = answer.result(DEADLINE).json
        conforms(body, "EventList")
        assert ([line["message"] for line in body["data"]], body["next_after"]) == (["hello"], 3)

    def test_a_line_of_another_type_is_not_waited_for(self, ask, hands, polls):
        events = hands.submit()["links"]["events"]
        lease = hands.start()
        answer = ask(f"{events}?after=2&type=metric&wait={ENOUGH}")
        hands.append(lease, Line("log", "hello", {}))
        assert still_waits(answer, polls)
        hands.point(lease, 5, 1, train_loss=0.5)
        assert [line["seq"] for line in answer.result(DEADLINE).json["data"]] == [4]

    def test_the_end_of_the_job_is_the_end_of_the_wait(self, ask, hands):
        events = hands.submit()["links"]["events"]
        lease = hands.start()
        answer = ask(f"{events}?after=2&type=checkpoint&wait={ENOUGH}")
        hands.finish(lease)
        assert answer.result(DEADLINE).json["data"] == []

    def test_what_is_there_already_is_sent_at_once(self, ask, hands):
        answer = ask(f"{hands.submit()['links']['events']}?wait={ENOUGH}")
        assert [line["seq"] for line in answer.result(DEADLINE).json["data"]] == [1]


class TestPlaces:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"held_requests": 1})

    def test_without_a_free_place_the_response_is_immediate_with_retry_after(self, ask, hands):
        job, other = hands.submit(), hands.submit()
        waiting_one = ask(f"{job['links']['self']}?wait={ENOUGH}")
        for url in (other["links"]["self"], f"{other['links']['events']}?after=1"):
            answer = ask(f"{url}{'&' if '?' in url else '?'}wait={ENOUGH}").result(DEADLINE)
            assert (answer.status_code, answer.headers["Retry-After"]) == (200, "2")
        assert not waiting_one.done()
        hands.start()
        waiting_one.result(DEADLINE)
        lease = hands.start()
        assert lease.job_id == other["id"]
        again = ask(f"{other['links']['self']}?wait={ENOUGH}")
        assert not again.done(), "the place was not released"

    def test_what_needs_no_wait_needs_no_place(self, ask, hands):
        ended, other = hands.submit(), hands.submit()
        hands.finish(hands.start())
        ask(f"{other['links']['self']}?wait={ENOUGH}")
        answer = ask(f"{ended['links']['self']}?wait={ENOUGH}&until=terminal").result(DEADLINE)
        assert "Retry-After" not in answer.headers


class TestShares:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"held_requests": 4})

    def test_one_owner_leaves_a_quarter_of_the_places_to_others(self, app, database):
        anna, bert = (bearer(token_for(database, owner, "submit")) for owner in ("anna", "bert"))
        long_polls: LongPolls = app.extensions[EXTENSION]

        def place(headers: dict[str, str]) -> Any:
            with app.test_request_context("/v1/whoami", headers=headers):
                app.preprocess_request()
                return long_polls.place()

        of_anna = [place(anna) for _ in range(4)]
        assert [found is not None for found in of_anna] == [True, True, True, False]
        of_bert = place(bert)
        assert of_bert is not None
        assert place(bert) is None, "all four are taken"
        of_bert.leave()
        assert place(anna) is None
        of_anna[0].leave()
        assert place(anna) is not None

    def test_anonymous_callers_may_take_all_places(self, app):
        long_polls: LongPolls = app.extensions[EXTENSION]
        with app.test_request_context("/v1/whoami"):
            app.preprocess_request()
            assert [long_polls.place() is not None for _ in range(5)] == [True, True, True, True, False]


class TestNotifier:
    def test_without_waiters_there_are_no_polls(self, ask, hands, long_polls, monkeypatch):
        job = hands.submit()
        answer = ask(f"{job['links']['self']}?wait={ENOUGH}")
        hands.start()
        answer.result(DEADLINE)
        asked = threading.Event()
        monkeypatch.setattr(long_polls.notifier, "_poll", lambda: asked.set() or True)
        assert not asked.wait(5 * POLL_SECONDS)

    def test_one_poll_is_for_all_waiters(self, ask, hands, polls):
        jobs = [hands.submit() for _ in range(3)]
        for job in jobs:
            ask(f"{job['links']['self']}?wait={ENOUGH}&until=terminal")
        wait_for(lambda: polls and polls[-1] == {job["id"] for job in jobs}, DEADLINE, "a poll for all of them")

    def test_a_process_that_shuts_down_holds_no_requests(self, ask, hands, long_polls):
        job = hands.submit()
        answer = ask(f"{job['links']['self']}?wait={ENOUGH}")
        long_polls.notifier.stopping = lambda: True
        assert answer.result(DEADLINE).json["status"] == "queued"
        again = ask(f"{job['links']['self']}?wait={ENOUGH}")
        assert again.result(DEADLINE).json["status"] == "queued"


def test_the_wait_ends_when_the_client_disconnects(app: Flask, client: Any, hands: Any) -> None:
    me = hands.submit()["links"]["self"]
    server_end, client_end = socket.socketpair()
    long_polls: LongPolls = app.extensions[EXTENSION]
    with ThreadPoolExecutor() as pool, server_end:
        environ = {"gunicorn.socket": server_end}
        answer = pool.submit(lambda: app.test_client().get(f"{me}?wait={ENOUGH}", environ_overrides=environ))
        wait_for(lambda: waiting(long_polls), DEADLINE, "a request that waits")
        client_end.close()
        assert answer.result(DEADLINE).json["status"] == "queued"


def test_a_connection_closed_during_the_check_for_disconnects_does_not_stop_the_notifier(
    app: Flask, client: Any, hands: Any
) -> None:
    """Between the list of waiters and the check of their sockets, one may have been answered and closed."""
    job = hands.submit()
    closed, other_end = socket.socketpair()
    closed.close()
    long_polls: LongPolls = app.extensions[EXTENSION]
    with ThreadPoolExecutor() as pool, other_end:
        pool.submit(long_polls.notifier.wait, job["id"], lambda fingerprint: False, ENOUGH, closed).result(DEADLINE)
        answer = pool.submit(lambda: app.test_client().get(f"{job['links']['self']}?wait={ENOUGH}"))
        wait_for(lambda: waiting(long_polls), DEADLINE, "a request that waits")
        hands.start()
        assert answer.result(DEADLINE).json["status"] == "running"


def test_an_outage_of_the_database_is_a_503_for_waiting_requests(tmp_path: Path, problem: Any) -> None:
    folder = tmp_path / "database"
    app = create_app(
        Settings(state_dir=tmp_path / "state", database_url=f"sqlite:///{folder}/gradq.db", allow_anonymous=True)
    )
    app.extensions["gradq"].database.migrate()
    client, long_polls = app.test_client(), app.extensions[EXTENSION]
    me = client.post("/v1/jobs", json={}).json["links"]["self"]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lambda: app.test_client().get(f"{me}?wait={ENOUGH}"))
        wait_for(lambda: waiting(long_polls), DEADLINE, "a request that waits")
        long_polls.notifier.database.close()
        folder.rename(tmp_path / "away")
        problem(answer.result(DEADLINE), 503, "database_away")


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(9, "Bad file descriptor"), MemoryError()])
def test_the_notifier_goes_on_after_any_error_and_wakes_those_who_wait(
    long_polls: LongPolls, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    notifier = long_polls.notifier
    with monkeypatch.context() as patched:
        patched.setattr(notifier, "_wake_disconnected", raising(error))
        patched.setattr(notifier, "_check_clients_at", 0.0)
        assert notifier.wait("job_1", lambda fingerprint: False, ENOUGH)
    assert notifier._thread is not None
    assert notifier._thread.is_alive()
    assert notifier.wait("job_1", lambda fingerprint: fingerprint is None, ENOUGH)  # the job does not exist


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
