"""The doorbell message: one message on a real server; without a server, requests are still answered."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.broker_faults import FAULTS, RESPONSES, lying_server, trickling_server
from support.postgres import free_port
from support.redis_server import Server, redis_server
from support.waiting import wait_for

from shared.broker import DOORBELL, QUEUE, Broker, redis_url

PATIENCE = 5.0  # seconds on a busy machine; with Celery's defaults it would retry for much longer


@pytest.fixture
def server() -> Iterator[Server]:
    with redis_server() as started:
        yield started


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_a_ring_leaves_one_message_that_carries_no_job(server: Server) -> None:
    broker = Broker(server.url)
    assert broker.ring() is True
    (message,) = server.messages()
    assert message["headers"]["task"] == DOORBELL
    assert message["headers"]["argsrepr"] == "()"
    assert message["content-type"] == "application/json"
    assert [broker.ring() for _ in range(2)] == [True, True]
    assert len(server.messages()) == 3


def test_a_ring_is_heard_by_the_worker_s_own_task(server: Server) -> None:
    """The message's task is registered under that name, in the queue that workers read."""
    import worker.tasks

    assert worker.tasks.doorbell.name == DOORBELL
    assert worker.tasks.app.conf.task_default_queue == QUEUE


@pytest.mark.parametrize("place", ["missing socket", "dead socket", "closed port"])
def test_an_unreachable_broker_is_not_an_error_and_does_not_block_for_long(tmp_path: Path, place: str) -> None:
    url = f"redis+socket://{tmp_path}/s" if place != "closed port" else f"redis://127.0.0.1:{free_port()}/0"
    if place == "dead socket":
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(f"{tmp_path}/s")
    broker = Broker(url)
    answers: list[bool] = []
    for _ in range(2):
        assert seconds_of(lambda: answers.append(broker.ring())) < PATIENCE
    assert seconds_of(lambda: answers.append(broker.ping())) < PATIENCE
    assert answers == [False, False, False]


def test_a_server_that_came_back_is_rung_again_by_the_same_broker(server: Server) -> None:
    broker = Broker(server.url)
    assert broker.ring()
    server.process.kill()
    server.process.wait()
    assert broker.ring() is False
    again = Server(server.socket.parent)
    try:
        wait_for(broker.ring, 30, "the bell at the new server")
        assert len(again.messages()) == 1
    finally:
        again.close()


@pytest.mark.parametrize("known", [False, True], ids=["not yet connected", "connected"])
def test_a_frozen_server_does_not_block_the_caller(server: Server, known: bool) -> None:
    broker = Broker(server.url)
    if known:
        assert broker.ring()
    server.process.send_signal(signal.SIGSTOP)
    answers: list[bool] = []
    assert seconds_of(lambda: answers.append(broker.ring())) < PATIENCE
    assert seconds_of(lambda: answers.append(broker.ping())) < PATIENCE
    assert answers == [False, False]
    server.process.send_signal(signal.SIGCONT)
    wait_for(broker.ring, 30, "the bell once the server goes on")
    assert broker.ping()


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_takes_no_messages_is_not_an_error_is_explained_and_is_used_again_when_it_does(
    server: Server, name: str
) -> None:
    fault, broker = FAULTS[name], Broker(server.url)
    assert (broker.ring(), broker.fault()) == (True, None)
    fault.begin(server.client)
    rang = broker.ring()
    assert not rang or name == "bindings of another type", "kombu declares the bindings once per address"
    assert broker.ping() == (name != "password required"), "it responds"
    assert (broker.fault() or "").startswith(f"{fault.word}: Redis ")
    fault.end(server.client)
    assert (broker.ring(), broker.ping(), broker.fault()) == (True, True, None)


@pytest.mark.parametrize("name", RESPONSES)
def test_a_server_that_is_not_a_redis_is_not_an_error_and_is_explained_in_one_line(name: str) -> None:
    with lying_server(RESPONSES[name]) as url:
        broker = Broker(url)
        broker.ring()  # whether it returns False depends on the response: the server may accept everything
        fault = broker.fault()
        assert fault is not None
        assert fault.isprintable()
        assert name in fault or name.islower() or name in ("HTTP", "always OK")
        assert "127.0.0.1" not in fault


def test_the_check_of_the_broker_changes_nothing(server: Server) -> None:
    assert Broker(server.url).fault() is None
    assert server.client.keys() == []
    Broker(server.url).ring()
    before = server.messages()
    assert Broker(server.url).fault() is None
    assert server.messages() == before


def test_a_broker_opens_no_connection_before_the_first_ring(server: Server) -> None:
    def connections() -> int:
        return len(server.client.client_list())

    before = connections()
    broker = Broker(server.url)
    assert connections() == before
    broker.ring()
    assert connections() > before


def test_one_address_is_spelt_for_both_libraries() -> None:
    assert redis_url("redis+socket:///run/b.sock") == "unix:///run/b.sock"
    assert redis_url("redis://h:6379/1") == "redis://h:6379/1"


@pytest.mark.parametrize("piece", [b"+", b"$9", b"-", b"*1\r\n", b">", b"+x\r\n"])
@pytest.mark.parametrize("call", [Broker.ring, Broker.ping, Broker.fault])
def test_a_server_that_sends_a_byte_now_and_then_holds_no_call(piece: bytes, call: Callable[[Broker], object]) -> None:
    """Each read ended in time, and there was always another one."""
    answers: list[object] = []
    with trickling_server(piece, 0.1) as url:
        # in a daemon thread, so that a call that hangs fails the test and not the run
        thread = threading.Thread(target=lambda: answers.append(call(Broker(url))), daemon=True)
        thread.start()
        thread.join(30)
        assert len(answers) == 1
