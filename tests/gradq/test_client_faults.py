"""The client when the network or the service fails: what is retried, how often, and what is raised."""

from __future__ import annotations

import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from support.faults import CUT, answers, cut, cutting, faulty, problem

from gradq import (
    ApiError,
    BadAnswer,
    Client,
    DatasetInUse,
    Forbidden,
    InvalidSpec,
    KeyReused,
    NotFound,
    RateLimited,
    RequestInProgress,
    ServerError,
    ServiceUnavailable,
    TooLarge,
    Unauthorized,
    Unreachable,
    WrongState,
)
from gradq.client import problems, sender
from gradq.client.sender import Retries
from gradq.client.transport import Blocking

JOB = {"object": "job", "id": "job_1", "name": "a", "status": "queued", "terminal": False}
BUSY = problem(503, "database_away", Retry_After="2")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client requested; the tests do not sleep."""
    pauses: list[float] = []

    async def sleep(_: Blocking, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(Blocking, "sleep", sleep)
    return pauses


# --- what is sent again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [CUT, cut(answers(JOB), 5), BUSY, problem(429, "slow_down"), problem(502, "x")])
def test_what_is_lost_on_the_way_is_sent_again_under_the_same_key(slept, lost):
    with faulty(lost, lost, answers(JOB, 202)) as server, Client(server.url) as client:
        assert client.submit(lr=0.1)["id"] == "job_1"
    assert len({asked.key for asked in server.asked}) == 1
    assert {asked.body for asked in server.asked} == {b'{"lr":0.1}'}
    assert (len(server.asked), len(slept)) == (3, 2)


def test_each_call_has_a_key_of_its_own_and_a_caller_may_bring_one():
    with faulty(answers(JOB, 202)) as server, Client(server.url) as client:
        client.submit()
        client.submit()
        client.submit(idempotency_key="mine")
        client.job("job_1").cancel()
    keys = [asked.key for asked in server.asked]
    assert keys[2:] == ["mine", None, keys[4]]
    assert len({keys[0], keys[1], keys[4]}) == 3


def test_what_changes_nothing_is_sent_again_without_a_key(slept):
    seen = answers({"object": "predictions", "predictions": [], "classes": []})
    with faulty(CUT, answers({"object": "dry_run"}), CUT, seen) as server, Client(server.url) as client:
        client.dry_run(lr=0.1)
        client.job("job_1", fetch=False).predict([[0.0]])
    assert [asked.key for asked in server.asked] == [None] * 4


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_an_answer_that_would_be_the_same_again_is_not_asked_for_again(slept, status):
    with faulty(problem(status, "no")) as server, Client(server.url) as client, pytest.raises(ApiError):
        client.submit()
    assert (len(server.asked), slept) == (1, [])


def test_so_many_retries_and_no_more(slept):
    with faulty(BUSY) as server, Client(server.url, retries=3) as client, pytest.raises(ServiceUnavailable) as caught:
        client.job("job_1")
    assert len(server.asked) == 4
    assert caught.value.tries == 4
    with faulty(CUT) as server, Client(server.url, retries=0) as client, pytest.raises(Unreachable):
        client.job("job_1")
    assert len(server.asked) == 1


def test_a_request_that_is_still_under_way_is_waited_for(slept):
    """The first try's connection broke, and the service is still executing it under the same key."""
    under_way = problem(409, "idempotency_in_progress", Retry_After="1")
    with faulty(CUT, under_way, under_way, answers(JOB, 202)) as server, Client(server.url, retries=1) as client:
        assert client.submit()["id"] == "job_1"
    assert len({asked.key for asked in server.asked}) == 1


def test_a_request_under_way_is_not_waited_for_for_ever():
    under_way = problem(409, "idempotency_in_progress", Retry_After="0")
    with faulty(under_way) as server, Client(server.url, timeout=0.3) as client, pytest.raises(RequestInProgress):
        client.submit()
    assert len(server.asked) > 1


def test_a_delete_whose_answer_was_lost_is_no_error(slept):
    gone = problem(404, "not_found")
    with faulty(CUT, gone) as server, Client(server.url) as client:
        assert client.job("job_1", fetch=False).delete() == 0
    with faulty(gone) as server, Client(server.url) as client, pytest.raises(NotFound):
        client.job("job_1", fetch=False).delete()
    assert len(server.asked) == 1


def test_a_404_of_a_proxy_is_no_sign_of_a_deleted_job(slept):
    with faulty(answers(JOB), CUT, answers(b"<html>", 404)) as server, Client(server.url) as client:
        client.job("job_1")
        with pytest.raises(NotFound):
            client.job("job_1", fetch=False).delete()
    assert len(server.asked) > 3


def test_an_upload_is_read_from_its_start_again(slept, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"0123456789" * 1000)
    with faulty(CUT, answers({"object": "dataset", "id": "ds_1"}, 201)) as server, Client(server.url) as client:
        client.add_dataset(tmp_path / "a.npz", name="mine")
    assert all(b"0123456789" * 1000 in asked.body and b"mine" in asked.body for asked in server.asked)
    assert len(server.asked) == 2


# --- when -------------------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_a_bound_and_are_drawn_from_all_below_it():
    away = Unreachable("http://x", "cut", refused=False)
    bounds = [Retries(20, 30, draw=lambda: 1.0).pause(away, tries, 0, 0) for tries in range(1, 9)]
    assert bounds == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    policy = Retries(20, 30, draw=random.Random(1).random)
    drawn = [policy.pause(away, 6, 0, 0) or 0.0 for _ in range(200)]
    assert 0 <= min(drawn) < 0.5 < 5.9 < max(drawn) < 6.4


def test_a_retry_after_is_the_least_that_is_waited(slept):
    with faulty(BUSY, answers(JOB)) as server, Client(server.url) as client:
        client.job("job_1")
    [pause] = slept
    assert 2 <= pause <= 2 + sender.FIRST_PAUSE_SECONDS


def test_a_retry_after_may_be_a_date(slept):
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    with faulty(problem(429, "slow_down", Retry_After=at), answers(JOB)) as server, Client(server.url) as client:
        client.job("job_1")
    assert 15 < slept[0] < 21


def test_a_retry_after_beyond_the_timeout_is_the_callers_to_decide_about(slept):
    later = problem(429, "slow_down", Retry_After="3600")
    with faulty(later) as server, Client(server.url) as client, pytest.raises(RateLimited) as caught:
        client.job("job_1")
    assert (caught.value.retry_after, slept, len(server.asked)) == (3600, [], 1)


def test_without_a_service_the_client_gives_up_soon():
    tries = []
    policy = Retries(5, 30, draw=lambda: 1.0)
    refused, waited = Unreachable("http://x", "refused"), 0.0
    while (pause := policy.pause(refused, len(tries) + 1, waited, 0)) is not None:
        tries.append(pause)
        waited += pause
    assert sum(tries) <= 2 * sender.REFUSED_SECONDS
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable, match=r"cannot reach http://127.0.0.1:1"):
        client.submit()


def test_a_service_that_comes_a_moment_late_is_met(monkeypatch):
    """It listens only after the first try was refused."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    serving: list[threading.Thread] = []

    async def start_it(_: Blocking, seconds: float) -> None:
        if not serving:
            serving.append(
                threading.Thread(target=_answer_once, args=(listening := socket.create_server(("127.0.0.1", port)),))
            )
            assert listening
            serving[0].start()

    monkeypatch.setattr(Blocking, "sleep", start_it)
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.job("job_1")["id"] == "job_1"
    serving[0].join()


def _answer_once(listening: socket.socket) -> None:
    with listening, listening.accept()[0] as connection:
        connection.recv(65536)
        connection.sendall(answers(JOB))


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://[::1", "http://"])
def test_what_is_no_address_is_said_at_once(url):
    with pytest.raises(Unreachable, match="not an address"):
        Client(url)


# --- one submit, one job ----------------------------------------------------------------------------------------------


def test_fifty_submits_whose_answers_are_lost_are_fifty_jobs(api, monkeypatch):
    monkeypatch.setattr(sender, "FIRST_PAUSE_SECONDS", 0.02)
    with cutting(api.url) as proxy, Client(proxy.url) as client, ThreadPoolExecutor(4) as pool:
        told = [job.id for job in pool.map(lambda n: client.submit(name=f"cut {n}", epochs=1), range(50))]
    assert proxy.cuts == 50
    assert len(set(told)) == 50
    assert {job.id for job in api.client.jobs(name="cut *")} == set(told)


# --- what is heard ----------------------------------------------------------------------------------------------------

KINDS = [
    (401, "unauthorized", Unauthorized),
    (403, "forbidden", Forbidden),
    (404, "not_found", NotFound),
    (409, "wrong_state", WrongState),
    (409, "dataset_in_use", DatasetInUse),
    (413, "payload_too_large", TooLarge),
    (422, "invalid_spec", InvalidSpec),
    (422, "idempotency_key_reused", KeyReused),
    (500, "internal_error", ServerError),
    (418, "teapot", ApiError),
]


@pytest.mark.parametrize(("status", "code", "kind"), KINDS)
def test_each_code_is_an_exception_of_its_own(status, code, kind):
    wrong = [{"pointer": "/lr", "code": "greater_than", "detail": "must be greater than 0, got -1"}]
    refusal = problem(status, code, "because", wrong)
    with faulty(refusal) as server, Client(server.url) as client, pytest.raises(kind) as caught:
        client.submit()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code, caught.value.detail) == (status, code, "because")
    assert caught.value.request_id == "r1"
    assert caught.value.names("/lr")
    assert str(caught.value) == "because: /lr: must be greater than 0, got -1"


def test_a_wrong_state_names_the_state_and_what_is_allowed(api):
    job = api.client.job(api.ended())
    with pytest.raises(WrongState) as caught:
        job.pause()
    assert caught.value.state == "succeeded"
    assert "delete" in caught.value.allowed


def test_every_exception_is_exported():
    import gradq

    kinds = {name for name, kind in vars(problems).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert kinds <= set(gradq.__all__)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[1]", b""])
def test_another_service_at_this_address_is_told_apart(body):
    with (
        faulty(answers(body)) as server,
        Client(server.url) as client,
        pytest.raises(BadAnswer, match="check the address"),
    ):
        client.version()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.submit(lr=0.1),
        lambda client: list(client.jobs()),
        lambda client: client.workers(),
        lambda client: client.job("job_1", fetch=False).wait(timeout=5),
        lambda client: list(client.job("job_1", fetch=False).watch()),
        lambda client: client.job("job_1", fetch=False).metrics(),
        lambda client: client.job("job_1", fetch=False).delete(),
    ],
)
def test_another_service_that_speaks_json_is_told_from_gradq(slept, call):
    foreign = answers({"status": "ok"})
    with faulty(*[foreign] * 10) as server, Client(server.url) as client, pytest.raises(BadAnswer, match="address"):
        call(client)
