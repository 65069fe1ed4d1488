"""Whether a part works is judged by its heartbeat or its answers, in rounds and not in seconds."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import wait_for

from gradq.local.liveness import SUCCESS, AnswerWatch, HeartbeatWatch, Request
from shared import heartbeat


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(heartbeat, "MEMORY", tmp_path)
    heartbeat.start(tmp_path / "state")
    yield tmp_path / "state"
    heartbeat.end()


def rounds(watch: HeartbeatWatch, count: int, pid: int | None = None) -> list[str]:
    """What the watch says in that many rounds."""
    said = (watch.round(os.getpid() if pid is None else pid) for _ in range(count))
    return [why for why in said if why is not None]


def test_a_worker_whose_loop_beats_is_left_alone(state: Path):
    watch = HeartbeatWatch(state, silent_rounds=10)
    for _ in range(20):
        assert rounds(watch, 9) == []
        heartbeat.beat()


def test_a_worker_whose_loop_no_longer_beats_is_replaced(state: Path):
    watch = HeartbeatWatch(state, silent_rounds=10)
    assert rounds(watch, 10) == []
    assert rounds(watch, 1) == ["shows no heartbeat"]


def test_the_time_of_a_suspended_machine_does_not_count(state: Path, monkeypatch: pytest.MonkeyPatch):
    watch = HeartbeatWatch(state, silent_rounds=10)
    rounds(watch, 5)
    now = heartbeat.time.monotonic()
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now + 1e6)  # it was suspended for days
    monkeypatch.setattr(heartbeat.time, "time", lambda: 0.0)
    assert rounds(watch, 5) == []
    heartbeat.beat()
    assert rounds(watch, 10) == []


def test_a_worker_that_was_started_again_has_its_time_anew(state: Path):
    watch = HeartbeatWatch(state, silent_rounds=10)
    rounds(watch, 10)
    assert rounds(watch, 1, pid=os.getpid() + 1) == []
    assert rounds(watch, 10) == []


def test_a_worker_without_a_heartbeat_is_not_judged(tmp_path: Path):
    assert rounds(HeartbeatWatch(tmp_path, silent_rounds=3), 100, pid=1) == []


@contextmanager
def server(serve: Callable[[socket.socket], None] | None) -> Iterator[tuple[str, int]]:
    """A listening socket whose connections are served; None: nobody accepts them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        ended = threading.Event()

        def run() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(5)
                    assert serve is not None
                    serve(connection)

        thread = threading.Thread(target=run)
        if serve is not None:
            thread.start()
        yield listener.getsockname()
        ended.set()
        if serve is not None:
            thread.join()


def said(watch: AnswerWatch, pid: int, times: int) -> list[str]:
    """What the watch says until it has judged so many requests."""
    found: list[str] = []
    judged = 0

    def judge() -> bool:
        nonlocal judged
        while watch._request is None:
            watch.round(pid)
        if (why := watch.round(pid)) is not None:
            found.append(why)
        judged += watch._request is None
        return judged >= times

    wait_for(judge, 30, f"{times} judgements")
    return found


def watching(address: tuple[str, int], **more: int) -> AnswerWatch:
    return AnswerWatch(address, **{"pause_rounds": 1, "answer_rounds": 500, "failures": 3, **more})


def answering(status: str) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        assert connection.recv(1000).startswith(b"GET /healthz HTTP/1.1\r\n")
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    return serve


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable", "429 Too Many Requests"])
def test_an_api_that_answers_is_left_alone(status: str):
    with server(answering(status)) as address:
        assert said(watching(address), 7, times=5) == []


def hangs_up(connection: socket.socket) -> None:
    connection.recv(1000)


def speaks_otherwise(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"+PONG\r\n")


@pytest.mark.parametrize("serve", [None, hangs_up, speaks_otherwise])
def test_an_api_that_does_not_answer_several_times_in_a_row_is_replaced(serve):
    with server(serve) as address:
        watch = watching(address, answer_rounds=3)
        assert said(watch, 7, times=2) == []
        assert said(watch, 7, times=1) == ["does not answer requests"]
        assert said(watch, 8, times=2) == []  # another process has its tries anew


def test_a_port_at_which_nobody_listens_is_no_answer():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert said(watching(unused.getsockname(), failures=2, answer_rounds=3), 7, times=2) == [
            "does not answer requests"
        ]


def test_one_answer_makes_up_for_earlier_failures():
    served = iter([hangs_up, hangs_up, answering("200 OK")] * 3)
    with server(lambda connection: next(served)(connection)) as address:
        assert said(watching(address), 7, times=9) == []


def test_no_round_waits_for_an_answer():
    released = threading.Event()

    def slow(connection: socket.socket) -> None:
        released.wait(60)

    with server(slow) as address:
        watch = watching(address, answer_rounds=1000)
        for _ in range(900):  # would take hours if a round waited
            watch.round(7)
        released.set()


def test_an_address_that_this_machine_does_not_have_is_no_fault_of_the_process() -> None:
    """A laptop that has left its network: the API still listens there, and a restart would not help."""
    watch = AnswerWatch(("192.0.2.1", 80), pause_rounds=1, answer_rounds=1, failures=2)
    assert [watch.round(pid=1) for _ in range(20)] == [None] * 20


def test_a_request_has_the_beginning_of_the_answer_and_never_waits():
    with server(answering("200 OK")) as address:
        request = Request(address)
        assert wait_for(request.answer, 30, "an answer") == SUCCESS
        request.close()
    with server(answering("503 Service Unavailable")) as address:
        request = Request(address)
        assert wait_for(request.answer, 30, "an answer") == b"HTTP/1.1 503"
        request.close()
    with server(None) as address:
        request = Request(address)
        assert [request.answer() for _ in range(3)] == [None, None, None]
        request.close()
    request = Request(address)  # where no program listens
    assert wait_for(lambda: [request.answer()] != [None] and [request.answer()], 30, "a refusal") == [b""]
    request.close()
