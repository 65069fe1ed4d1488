"""When a worker claims jobs, and when it claims none."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.store import job_of, submit
from support.waiting import wait_for

import worker.app
from shared.config import Settings
from shared.db.database import Database
from worker import start_failures
from worker.plan import Plan
from worker.runtime import Runtime
from worker.start_failures import StartFailures, is_exhausted
from worker.supervisor import Supervisor


class NoTrainers:
    """A launcher for which the system has no process left."""

    def __init__(self) -> None:
        self.tried = 0

    def start(self, plan: Plan) -> Any:
        self.tried += 1
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.fixture
def runtime(settings: Settings, new_sqlite: Callable[[str], Database]) -> Iterator[Runtime]:
    settings.make_state_dir()
    new_sqlite(settings.database).close()
    runtime = Runtime(settings, NoTrainers())  # type: ignore[arg-type]
    runtime.reconciler.schema_fits = True
    yield runtime
    runtime.stop()


def test_a_worker_that_cannot_start_one_job_claims_no_other_for_some_seconds(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [submit(runtime.database) for _ in range(3)]
    now = 1000.0
    monkeypatch.setattr(start_failures.time, "monotonic", lambda: now)
    for tried, seconds in ((1, 1.0), (2, 2.0), (3, 4.0)):
        runtime.run_queued_jobs()
        runtime.run_queued_jobs()  # a doorbell message
        runtime.poll()
        found = [job_of(runtime.database, job_id) for job_id in ids]
        assert [job.state for job in found] == ["queued"] * 3
        assert [job.failures for job in found] == [0] * 3
        assert sum(job.attempt for job in found) == tried
        now += seconds + 0.1


class Bell:
    """A broker that counts the messages sent through it."""

    rung = 0

    def ring(self) -> bool:
        self.rung += 1
        return True


@pytest.fixture
def bell(runtime: Runtime) -> Bell:
    bell = runtime.broker = Bell()  # type: ignore[assignment]
    return bell


def test_a_doorbell_message_is_answered_while_its_job_runs(
    runtime: Runtime, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that receives messages continues; one without a free slot is sent again, and no more are received."""
    runs, ends = threading.Semaphore(0), threading.Event()

    def run(supervisor: Supervisor) -> None:
        runs.release()
        assert ends.wait(20)

    monkeypatch.setattr(Supervisor, "run", run)
    freed: list[bool] = []
    runtime.pool.on_free.append(lambda: freed.append(runtime.takes_jobs()))
    slots = len(runtime.pool.slots)
    for number in range(slots):
        assert runtime.takes_jobs()
        submit(runtime.database)
        runtime.answer_doorbell()
        assert runs.acquire(timeout=20), number
    assert (runtime.takes_jobs(), bell.rung) == (False, 0)
    runtime.answer_doorbell()
    assert bell.rung == 1
    ends.set()
    wait_for(lambda: runtime.pool.free == slots and len(freed) >= slots, 20, "free slots")
    assert all(freed), "the slot is free before the calls"


def test_messages_are_left_to_others_by_a_worker_that_drains_or_cannot_store(runtime: Runtime, bell: Bell) -> None:
    assert runtime.takes_jobs()
    runtime.context.storage.outage = "disk_full"
    assert not runtime.takes_jobs()
    runtime.context.storage.outage = None
    runtime.drain()
    assert not runtime.takes_jobs()
    runtime.answer_doorbell()
    assert bell.rung == 1


def test_a_free_slot_ends_the_poll_for_messages() -> None:
    """Otherwise the next message would wait for it up to a second."""
    read = worker.app._wake_up_pipe()[0]
    for _ in range(100_000):  # more than the pipe takes
        worker.app._wake_up()
    assert select.select([read], [], [], 0)[0] == [read]
    while select.select([read], [], [], 0)[0]:
        os.read(read, 65536)


def test_pauses_of_several_slots_do_not_shorten_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(start_failures.time, "monotonic", lambda: now)
    failures = StartFailures()
    assert not failures.pausing
    for _ in range(3):
        failures.report("no process left")
    now += 3.9
    assert failures.pausing
    now += 0.2
    assert not failures.pausing


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.ENFILE, ""), True),
        (BlockingIOError(errno.EAGAIN, ""), True),
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("of a library"), False),
        (PermissionError(errno.EACCES, ""), False),
        (OSError(errno.ENOSPC, ""), False),
        (ValueError(), False),
    ],
    ids=repr,
)
def test_which_errors_say_that_the_system_has_nothing_left(error: Exception, exhausted: bool) -> None:
    assert is_exhausted(error) is exhausted
