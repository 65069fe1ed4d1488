"""Heartbeats and live workers, on both databases."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import update
from support.store import OVER, heartbeat, read, write

from shared import workers
from shared.db.database import Database
from shared.db.tables import Worker, database_now
from shared.jobs.joblog import now


@pytest.fixture
def beat(database: Database) -> Callable[..., None]:
    """beat("w1", slots=2): write the heartbeat of a worker."""
    return functools.partial(heartbeat, database)


def live(database: Database, within: float = 60) -> list[str]:
    return sorted(worker.id for worker in read(database, workers.live_workers, within))


def test_a_worker_lives_as_long_as_it_beats(database: Database, beat: Callable[..., None]) -> None:
    beat("w1", free_slots=2)
    beat("w2")
    assert live(database) == ["w1", "w2"]
    assert live(database, within=OVER) == []
    beat("w1", free_slots=0, draining=True)
    assert live(database) == ["w1", "w2"]
    (worker,) = (w for w in read(database, workers.live_workers, 60) if w.id == "w1")
    assert (worker.free_slots, worker.draining) == (0, True)
    write(database, workers.deregister, "w1")
    assert live(database) == ["w2"]


def test_workers_not_seen_for_long_are_swept_away_and_the_others_stay(
    database: Database, beat: Callable[..., None]
) -> None:
    beat("old")
    beat("new")
    gone = update(Worker).where(Worker.id == "old").values(seen_at=database_now(-100))
    write(database, lambda session: session.execute(gone.execution_options(synchronize_session=False)))
    write(database, workers.sweep_workers, now() - timedelta(seconds=200))
    assert live(database, within=1000) == ["new", "old"]
    write(database, workers.sweep_workers, now() - timedelta(seconds=50))
    assert live(database, within=1000) == ["new"]


def test_a_heartbeat_from_before_the_clock_was_set_back_does_not_count(
    database: Database, beat: Callable[..., None]
) -> None:
    beat("dead")
    ahead = update(Worker).values(seen_at=database_now(3600)).execution_options(synchronize_session=False)
    write(database, lambda session: session.execute(ahead))
    assert live(database) == []
