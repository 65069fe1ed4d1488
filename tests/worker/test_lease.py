"""A lease is renewed while the database responds, survives while it does not, and is lost when another attempt owns the
row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.store import claim_again, read, running, write
from support.waiting import wait_for

from shared.config import Settings
from shared.db.database import Database
from shared.errors import DatabaseAway, LeaseLost
from shared.jobs import queue
from worker.lease import LeaseKeeper

LEASE_SECONDS = 3.0


class FaultyDatabase:
    """A database in front of the real one. `fault` is called before each transaction."""

    def __init__(self, database: Database) -> None:
        self.database, self.transactions = database, 0
        self.fault: Callable[[], object] = lambda: None

    @contextmanager
    def write(self) -> Iterator[Any]:
        self.transactions += 1
        self.fault()
        with self.database.write() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Any]:
        self.transactions += 1
        self.fault()
        with self.database.read() as session:
            yield session


@pytest.fixture
def faulty(database: Database) -> FaultyDatabase:
    return FaultyDatabase(database)


@pytest.fixture
def keeper(faulty: FaultyDatabase, settings: Settings) -> Iterator[LeaseKeeper]:
    """The keeper of a running job with a lease of LEASE_SECONDS."""
    lease = running(faulty.database, seconds=LEASE_SECONDS, max_attempts=5)
    short = settings.model_copy(update={"lease_seconds": LEASE_SECONDS})
    keeper = LeaseKeeper(faulty, lease, short)  # type: ignore[arg-type]
    keeper.start()
    yield keeper
    faulty.fault = lambda: None
    keeper.stop()


def raising(error: Exception) -> Callable[[], object]:
    def fault() -> None:
        raise error

    return fault


def test_it_is_renewed_while_the_job_runs(faulty: FaultyDatabase, keeper: LeaseKeeper) -> None:
    before = read(faulty.database, queue.next_expiry)
    wait_for(lambda: read(faulty.database, queue.next_expiry) > before, 30, "a renewal")
    assert not keeper.is_lost()


def test_the_lease_is_lost_when_another_attempt_owns_the_row(faulty: FaultyDatabase, keeper: LeaseKeeper) -> None:
    write(faulty.database, queue.mark_lost, keeper.lease, "lost")
    claim_again(faulty.database, keeper.lease.job_id)
    wait_for(keeper.is_lost, 30, "the end of the lease")


def test_a_database_that_is_away_costs_no_lease_however_long(faulty: FaultyDatabase, keeper: LeaseKeeper) -> None:
    faulty.fault = raising(DatabaseAway("gone"))
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1.5 * LEASE_SECONDS, 30, "the time of a lease and a half")
    assert not keeper.is_lost()
    assert list(read(faulty.database, queue.expired_leases)) == [keeper.lease]
    faulty.fault = lambda: None
    wait_for(lambda: not read(faulty.database, queue.expired_leases), 30, "a renewal")
    assert not keeper.is_lost()


def test_after_an_outage_the_lease_is_lost_if_another_attempt_owns_the_row_by_then(
    faulty: FaultyDatabase, keeper: LeaseKeeper
) -> None:
    faulty.fault = raising(DatabaseAway("gone"))
    write(faulty.database, queue.mark_lost, keeper.lease, "lost")
    claim_again(faulty.database, keeper.lease.job_id)
    before = faulty.transactions
    wait_for(lambda: faulty.transactions > before, 30, "a failed transaction")
    assert not keeper.is_lost()
    faulty.fault = lambda: None
    wait_for(keeper.is_lost, 30, "the end of the lease")


def test_a_worker_that_shuts_down_waits_for_a_database_no_longer_than_a_lease(
    faulty: FaultyDatabase, settings: Settings
) -> None:
    draining = threading.Event()
    short = settings.model_copy(update={"lease_seconds": 0.2})
    keeper = LeaseKeeper(faulty, running(faulty.database), short, draining)  # type: ignore[arg-type]
    faulty.fault = raising(DatabaseAway("gone"))
    threading.Timer(0.3, draining.set).start()
    with pytest.raises(LeaseLost):
        keeper.write(lambda session: None)
    assert draining.is_set()


def test_an_unknown_error_is_retried_until_the_lease_is_over(faulty: FaultyDatabase, keeper: LeaseKeeper) -> None:
    error = RuntimeError("an unknown error")
    faulty.fault = raising(error)
    before_faults = faulty.transactions
    wait_for(lambda: faulty.transactions > before_faults + 1, 30, "two failed transactions")
    faulty.fault = lambda: None
    before = read(faulty.database, queue.next_expiry)
    wait_for(lambda: read(faulty.database, queue.next_expiry) > before, 30, "a renewal")
    assert not keeper.is_lost()
    faulty.fault = raising(error)
    wait_for(keeper.is_lost, 30, "the end of the lease")


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "No space left on device"), MemoryError()])
def test_the_keeper_goes_on_after_any_error_and_renews(
    keeper: LeaseKeeper, faulty: FaultyDatabase, error: Exception
) -> None:
    faulty.fault = raising(error)
    before = faulty.transactions
    wait_for(lambda: faulty.transactions > before + 1, 20, "two failed rounds")
    faulty.fault = lambda: None
    renewed = keeper._renewed
    wait_for(lambda: keeper._renewed > renewed, 20, "a renewal")
    assert keeper.is_alive()
    assert not keeper.lost.is_set()
