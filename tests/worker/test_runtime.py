"""When a worker claims jobs, and when it claims none."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.store import job_of, submit

from shared.config import Settings
from shared.db.database import Database
from worker import start_failures
from worker.plan import Plan
from worker.runtime import Runtime
from worker.start_failures import StartFailures, is_exhausted


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
