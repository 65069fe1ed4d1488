"""One round of a worker's reconciler: which jobs it requeues, which it leaves alone, and when the next round is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session
from support.store import OVER, claim, job_of, lines_of, running, submit
from support.waiting import wait_for

from shared import heartbeat, workers
from shared.artifacts import ArtifactStore, checkpoint_key
from shared.broker import Broker
from shared.config import Settings
from shared.db.database import Database
from shared.errors import DatabaseAway
from worker.context import WorkerContext
from worker.devices import CPU, SlotPool
from worker.reconciler import Reconciler, worker_row


@pytest.fixture
def polled() -> list[bool]:
    return []


@pytest.fixture
def reconciler(settings: Settings, database: Database, polled: list[bool]) -> Callable[[str], Reconciler]:
    settings.make_state_dir()

    def reconciler(host: str) -> Reconciler:
        pool, store = SlotPool([CPU]), ArtifactStore(settings.artifacts)
        context = WorkerContext(settings, database, store, None, 1, threading.Event())  # type: ignore[arg-type]
        row, broker = worker_row(settings, pool, host, 1, "0"), Broker("redis+socket:///missing.sock")
        return Reconciler(context, broker, pool, row, lambda: polled.append(True))

    return reconciler


def test_a_job_whose_lease_ran_out_is_queued_again_and_its_orphaned_files_are_removed(
    reconciler: Callable[[str], Reconciler], database: Database, settings: Settings, tmp_path: Any
) -> None:
    lease = running(database, seconds=OVER)
    store, file = ArtifactStore(settings.artifacts), tmp_path / "file"
    file.write_text("x")
    store.put(checkpoint_key(lease.job_id, 1, 50), file)
    reconciler("a").tick()
    assert job_of(database, lease.job_id).state == "queued"
    assert "did not renew the lease for 15 s" in lines_of(database, lease.job_id, "status")[-1].message
    assert store.keys_of(lease.job_id) == []


def test_a_job_whose_lease_holds_is_left_alone(reconciler: Callable[[str], Reconciler], database: Database) -> None:
    lease = running(database, seconds=60)
    reconciler("a").tick()
    assert job_of(database, lease.job_id).state == "running"


def test_one_of_two_leads_and_both_poll_for_jobs(
    reconciler: Callable[[str], Reconciler], database: Database, polled: list[bool]
) -> None:
    first, second = reconciler("a"), reconciler("b")
    first.tick()
    lease = running(database, seconds=OVER)
    second.tick()
    assert job_of(database, lease.job_id).state == "running"
    assert len(polled) == 2
    first.tick()
    assert job_of(database, lease.job_id).state == "queued"


def test_the_next_round_is_when_the_next_lease_runs_out_or_in_two_seconds(
    reconciler: Callable[[str], Reconciler], database: Database
) -> None:
    leader = reconciler("a")
    assert leader.tick() == 2
    running(database, seconds=60)
    assert leader.tick() == 2
    submit(database)
    claim(database, seconds=1)
    assert 0 < leader.tick() < 1.2


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_costs_no_job_its_attempt(
    reconciler: Callable[[str], Reconciler], database: Database, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    leader = reconciler("a")
    leader.tick()
    lease = running(database, seconds=OVER)  # expired according to the clock that jumps below
    right: Callable[[Session], datetime] = workers.clock
    monkeypatch.setattr(workers, "clock", lambda session: right(session) + timedelta(hours=hours))
    leader.tick()
    assert job_of(database, lease.job_id).state == "running"
    leader.clock.quiet_seconds = leader.clock._trusted_from = 0  # as if a lease period had passed
    leader.tick()
    assert job_of(database, lease.job_id).state == "queued"


@pytest.mark.parametrize(
    "error", [DatabaseAway("disk full"), OSError(28, "No space left on device"), MemoryError(), KeyError("x")]
)
def test_the_loop_goes_on_and_beats_after_any_error(
    reconciler: Callable[[str], Reconciler], error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(heartbeat, "MEMORY", tmp_path)
    heartbeat.start(tmp_path / "state")
    loop = reconciler("a")
    loop.pause = 0.01
    rounds: list[int] = []

    def tick() -> float:
        rounds.append(1)
        if len(rounds) < 4:
            raise error
        return 3600.0

    monkeypatch.setattr(loop, "tick", tick)
    loop.start()
    wait_for(lambda: len(rounds) == 4, 20, "four rounds")
    loop.stop()
    (beat,) = heartbeat.of_host(tmp_path / "state")
    heartbeat.end()
    assert (beat.rounds, beat.kinds) == (4, "cpu")
