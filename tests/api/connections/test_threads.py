"""Threads that are started once, of which the last idle one gets the next request."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest
from support.waiting import wait_for

from api.connections.threads import Threads

PATIENCE = 20.0


@pytest.fixture
def made() -> Iterator[Callable[[int], Threads]]:
    pools: list[Threads] = []

    def make(number: int) -> Threads:
        pools.append(Threads(number, "tested"))
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown()
    wait_for(lambda: alive() == 0, PATIENCE, "the threads to end")


def alive() -> int:
    return sum(thread.name.startswith("tested-") for thread in threading.enumerate())


def test_all_threads_are_started_at_once(made):
    made(7)
    assert alive() == 7


def test_requests_one_after_another_have_the_same_thread(made):
    pool = made(5)
    names: SimpleQueue[str] = SimpleQueue()
    found = set()
    for _ in range(20):
        pool.submit(lambda: names.put(threading.current_thread().name))
        found.add(names.get(timeout=PATIENCE))
        wait_for(lambda: len(pool._idle) == 5, PATIENCE, "an idle thread")
    assert found == {"tested-4"}


def test_requests_at_the_same_time_have_a_thread_each_and_the_others_wait(made):
    pool = made(3)
    begun: SimpleQueue[int] = SimpleQueue()
    go_on = threading.Event()

    def task(number: int) -> None:
        begun.put(number)
        go_on.wait(PATIENCE)

    for number in range(5):
        pool.submit(lambda number=number: task(number))
    assert {begun.get(timeout=PATIENCE) for _ in range(3)} == {0, 1, 2}
    assert begun.empty()
    go_on.set()
    assert {begun.get(timeout=PATIENCE) for _ in range(2)} == {3, 4}
    wait_for(lambda: len(pool._idle) == 3, PATIENCE, "idle threads")


def test_a_thread_survives_what_a_task_raises(made):
    pool = made(1)
    names: SimpleQueue[str] = SimpleQueue()

    def end() -> None:
        raise SystemExit

    pool.submit(end)
    pool.submit(lambda: names.put("served"))
    assert names.get(timeout=PATIENCE) == "served"


def test_an_idle_thread_keeps_no_task(made):
    class Task:
        def __call__(self) -> None:
            pass

    pool = made(1)
    task = Task()
    kept = weakref.ref(task)
    pool.submit(task)
    del task
    wait_for(lambda: kept() is None, PATIENCE, "the task to be forgotten")
    assert alive() == 1


def test_shutdown_may_be_called_by_a_signal_that_arrives_within_submit(made):
    pool = made(1)
    with pool._lock:
        pool.shutdown()
    wait_for(lambda: alive() == 0, PATIENCE, "the thread to end")
    assert not pool._idle


def test_shutdown_ends_idle_threads_now_and_the_others_after_their_tasks(made):
    pool = made(3)
    begun, go_on = threading.Event(), threading.Event()
    never = threading.Event()

    def task() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    pool.submit(task)
    assert begun.wait(PATIENCE)
    pool.shutdown(wait=True)
    wait_for(lambda: alive() == 1, PATIENCE, "the idle threads to end")
    pool.submit(never.set)
    go_on.set()
    wait_for(lambda: alive() == 0, PATIENCE, "the last thread to end")
    assert not never.is_set()


def test_those_that_have_started_end_when_the_system_starts_no_further_one(monkeypatch: pytest.MonkeyPatch) -> None:
    start, tries = threading.Thread.start, iter(range(100))

    def refuse(thread: threading.Thread) -> None:
        if next(tries) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Threads(8, "tested")
    wait_for(lambda: alive() == 0, PATIENCE, "the threads that started to end")
