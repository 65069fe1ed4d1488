"""A long queue survives its broker, wiped, killed and restarted: every job ends, and none is done twice.

QUEUED is the number of jobs; `make faults` uses a thousand.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select
from support.service import Service
from support.waiting import wait_for

from shared.db.database import Database
from shared.db.tables import Attempt, EventRow, Job
from shared.jobs.states import TERMINAL

pytestmark = pytest.mark.long

QUEUED = int(os.environ.get("QUEUED", "24"))
SECONDS = 60 + 4 * QUEUED  # for all of them, on a busy machine


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path).start(workers=2)
    yield service
    service.close()


@pytest.mark.timeout(SECONDS + 120)
def test_queued_jobs_survive_a_broker_that_is_wiped_and_killed(service: Service) -> None:
    for _ in range(QUEUED):
        answer = service.http.post("/v1/gradient-checks", json={"architecture": "linear"})
        assert answer.status_code == 202, answer.text
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")

    def ended() -> int:
        with database.read() as session:
            return sum(state in TERMINAL for state in session.scalars(select(Job.state)))

    with Redis(unix_socket_path=str(service.socket)) as redis:
        redis.flushall()
    wait_for(lambda: ended() >= QUEUED // 4, SECONDS, "the first quarter, after FLUSHALL", every=0.5)
    assert service.broker is not None
    service.broker.kill()
    wait_for(lambda: ended() >= QUEUED // 2, SECONDS, "the second quarter, without a broker", every=0.5)
    service.start_broker()
    wait_for(lambda: ended() == QUEUED, SECONDS, "the rest, with a new broker", every=0.5)
    with database.read() as session:
        assert Counter(session.scalars(select(Job.state))) == {"succeeded": QUEUED}
        assert Counter(session.scalars(select(Attempt.outcome))) == {"succeeded": QUEUED}
        lines = session.scalars(select(EventRow.data).where(EventRow.type == "status"))
        assert sum(line["status"] == "succeeded" for line in lines) == QUEUED
    database.close()
