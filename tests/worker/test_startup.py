"""What a worker and its `gradq up` tell each other at the start."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from support.waiting import wait_for

from worker import startup
from worker.startup import Step


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, int]]:
    """The end of `gradq up`, and the descriptor of the worker's."""
    monkeypatch.setattr(startup, "_started_by", [])
    monkeypatch.setattr(startup, "_reached", set())
    ours, theirs = socket.socketpair()
    with ours:
        yield ours, theirs.detach()


def waiting(fd: int) -> threading.Thread:
    thread = threading.Thread(target=startup.wait_for_turn, args=(fd,))
    thread.start()
    return thread


def test_a_worker_waits_for_its_turn_and_reports_once_all_steps_are_taken(pair: tuple[socket.socket, int]) -> None:
    ours, fd = pair
    worker = waiting(fd)
    worker.join(0.1)
    assert worker.is_alive()
    ours.shutdown(socket.SHUT_WR)
    wait_for(lambda: not worker.is_alive(), 30, "the worker's turn")
    ours.setblocking(False)
    for _ in range(2):
        startup.reached(Step.REGISTERED)  # each round of its maintenance
        with pytest.raises(BlockingIOError):
            ours.recv(100)
    startup.reached(Step.HANDLES_SIGNALS)
    startup.reached(Step.REGISTERED)
    assert ours.recv(100) == f"{os.getpid()}\n".encode()
    assert ours.recv(100) == b"", "it has closed its end"


def test_a_worker_that_is_started_again_after_the_start_does_not_wait(pair: tuple[socket.socket, int]) -> None:
    ours, fd = pair
    earlier = socket.socket(fileno=os.dup(fd))
    earlier.sendall(b"77\n")  # was not read
    ours.close()
    startup.wait_for_turn(fd)
    for step in Step:
        startup.reached(step)
    assert startup._started_by == []
    earlier.close()


def test_a_worker_without_gradq_up_reports_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_started_by", [])
    monkeypatch.setattr(startup, "_reached", set())
    for step in Step:
        startup.reached(step)
