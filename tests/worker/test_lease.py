"""A lease is kept while the database answers, and known to be lost when it does not, or says that it is another's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from support.store import claim_again, read, running, write
from support.waiting import wait_for

from shared.config import Settings
from shared.db.database import Database
from shared.errors import DatabaseAway
from shared.jobs import queue
from worker.lease import LeaseKeeper

LEASE_SECONDS = 3.0


class Moody:
    """A database in front of the real one. `mood` is what happens at each question."""

    def __init__(self, database: Database) -> None:
        self.database, self.mood, self.asked = database, lambda: None, 0

    @contextmanager
    def write(self) -> Iterator[Any]:
        self.asked += 1
        self.mood()
        with self.database.write() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Any]:
        self.asked += 1
        self.mood()
        with self.database.read() as session:
            yield session


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    """A coloured traceback with all its locals takes the better part of a second, and a lease is short."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()], cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.fixture
def moody(database: Database) -> Moody:
    return Moody(database)


@pytest.fixture
def keeper(moody: Moody, settings: Settings) -> Iterator[LeaseKeeper]:
    """Of a job that runs, with a short lease."""
    lease = running(moody.database, seconds=LEASE_SECONDS, max_attempts=5)
    brief = settings.model_copy(update={"lease_seconds": LEASE_SECONDS})
    with LeaseKeeper(moody, lease, brief) as keeper:  # type: ignore[arg-type]
        yield keeper
        moody.mood = lambda: None


def raising(error: Exception) -> Any:
    def mood() -> None:
        raise error

    return mood


def test_it_is_renewed_for_as_long_as_the_job_runs(moody: Moody, keeper: LeaseKeeper) -> None:
    before = read(moody.database, queue.next_expiry)
    wait_for(lambda: read(moody.database, queue.next_expiry) > before, 30, "a renewal")
    assert not keeper.is_lost()


def test_a_row_that_is_another_s_is_a_lost_lease(moody: Moody, keeper: LeaseKeeper) -> None:
    write(moody.database, queue.mark_lost, keeper.lease, "lost")
    claim_again(moody.database, keeper.lease.job_id)
    wait_for(keeper.is_lost, 30, "the end of the lease")


@pytest.mark.parametrize("error", [DatabaseAway("gone"), RuntimeError("nobody has seen this before")])
def test_a_question_that_fails_is_asked_again_until_the_lease_is_over(
    moody: Moody, keeper: LeaseKeeper, error: Exception
) -> None:
    moody.mood = raising(error)
    asked = moody.asked
    wait_for(lambda: moody.asked > asked + 1, 30, "two questions that fail")
    moody.mood = lambda: None
    before = read(moody.database, queue.next_expiry)
    wait_for(lambda: read(moody.database, queue.next_expiry) > before, 30, "a renewal")
    assert not keeper.is_lost()
    moody.mood = raising(error)
    wait_for(keeper.is_lost, 30, "the end of the lease")


def test_a_database_that_says_nothing_at_all_is_a_lost_lease_too(moody: Moody, keeper: LeaseKeeper) -> None:
    silence = threading.Event()
    moody.mood = lambda: silence.wait(30) and None
    try:
        wait_for(keeper.is_lost, 30, "the end of the lease")
    finally:
        silence.set()
