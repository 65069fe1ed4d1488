"""One round of a worker's reconciler: which jobs it requeues, which it leaves alone, and when the next round is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session
from support.postgres import Postgres
from support.store import OVER, claim, claim_again, job_of, lines_of, read, running, submit, write
from support.waiting import wait_for

from shared import audit, heartbeat, idempotency, workers
from shared.artifacts import ArtifactStore
from shared.audit import HOST
from shared.broker import Broker
from shared.config import Settings
from shared.db import database as database_module
from shared.db import migrate
from shared.db.database import Database
from shared.db.schema_check import SchemaCheck
from shared.db.tables import AuditRow, IdempotencyKey, Job, database_now
from shared.errors import DatabaseAway
from shared.jobs import jobs, queue
from shared.spec.job_spec import KINDS
from worker import clock_jumps, freezes, leadership
from worker.clock_jumps import ClockWatch
from worker.context import WorkerContext
from worker.devices import CPU, SlotPool
from worker.lease import LeaseKeeper
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
        made = Reconciler(context, broker, pool, row, lambda: polled.append(True))
        made.clock.first_seconds = made.clock.settled_seconds = 0  # as if it ran for some minutes
        return made

    return reconciler


def test_a_job_whose_lease_ran_out_is_queued_again_and_its_files_are_left_to_the_sweep(
    reconciler: Callable[[str], Reconciler], database: Database
) -> None:
    """A store that is away takes minutes to fail, which no heartbeat may wait for."""
    lease = running(database, seconds=OVER)
    leader = reconciler("a")
    leader.tick()
    assert job_of(database, lease.job_id).state == "queued"
    assert "did not renew the lease for 15 s" in lines_of(database, lease.job_id, "status")[-1].message
    assert leader.context.lost_attempts.get_nowait() == (lease.job_id, 1)


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


def test_a_database_that_was_away_costs_no_job_its_attempt(
    reconciler: Callable[[str], Reconciler], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = reconciler("a")
    leader.tick()
    lease = running(database, seconds=OVER, max_attempts=1)  # it could not be renewed
    leader.failed(DatabaseAway("gone"))
    leader.tick()
    assert job_of(database, lease.job_id).state == "running", "its worker has a lease period to renew it"
    leader.clock._trusted_from = 0  # as if that had passed
    leader.tick()
    job = job_of(database, lease.job_id)
    assert (job.state, job.failures) == ("queued", 0)
    assert lines_of(database, lease.job_id, "status")[-1].data["reason"]["code"] == "database_away"
    claim_again(database, lease.job_id)
    over = update(Job).values(lease_until=database_now(-0.01)).execution_options(synchronize_session=False)
    write(database, lambda session: session.execute(over))
    leader.tick()
    assert job_of(database, lease.job_id).state == "failed", "a lease that ran out later is lost as ever"


class Frozen:
    """The monotonic clock as the reconciler reads it. `during`: 20 s have passed when that function returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = 0.0
        self._monkeypatch = monkeypatch
        now = lambda: time.monotonic() + self.lost
        monkeypatch.setattr(freezes, "time", SimpleNamespace(monotonic=now))
        monkeypatch.setattr(clock_jumps, "time", SimpleNamespace(monotonic=now))

    def during(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def frozen(*arguments: Any, **named: Any) -> Any:
            found = real(*arguments, **named)
            self._monkeypatch.setattr(owner, name, real)
            self.lost += 20.0
            return found

        self._monkeypatch.setattr(owner, name, frozen)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (workers, "heartbeat"),
        (leadership, "acquire_leadership"),
        (queue, "expired_leases"),
        (queue, "mark_expired"),
        (queue, "next_expiry"),
        (idempotency, "sweep"),
        (heartbeat, "beat"),
    ],
)
def test_a_database_or_a_worker_that_is_frozen_and_goes_on_costs_no_job_its_attempt(
    reconciler: Callable[[str], Reconciler], database: Database, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """No error is raised then: a statement, or whatever the worker did, took longer than a lease."""
    leader = reconciler("a")
    leader.clock.check(lambda: datetime.now(UTC))
    leader.clock._settled_from = 0
    if name == "mark_expired":
        dead = running(database, seconds=OVER)
    frozen = Frozen(monkeypatch)
    frozen.during(owner, name)
    monkeypatch.setattr(workers, "clock", lambda session: datetime.now(UTC) + timedelta(seconds=frozen.lost))
    if name in ("heartbeat", "acquire_leadership", "expired_leases"):  # it is noticed in the same round
        lease = running(database, seconds=OVER, max_attempts=1)  # nobody could renew it
        leader.round()
    else:
        leader.round()
        if name == "mark_expired":
            assert job_of(database, dead.job_id).state == "queued", "it was lost before"
            write(database, jobs.request_cancel, dead.job_id)
        lease = running(database, seconds=OVER, max_attempts=1)
        leader.round()
    assert job_of(database, lease.job_id).state == "running", "its worker has a lease period to renew it"
    frozen.lost += 16
    leader.freezes.step()
    leader.tick()
    job = job_of(database, lease.job_id)
    assert (job.state, job.failures) == ("queued", 0), "it did not"


@pytest.mark.long  # 15 s: two freezes, each followed by two lease periods
@pytest.mark.parametrize("silence_ms", [10_000, 500])  # the freeze ends before an error is raised, or after it
@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_postgresql_that_is_stopped_for_longer_than_a_lease_costs_no_job_its_attempt(
    reconciler: Callable[[str], Reconciler],
    database: Database,
    postgres: Postgres,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    silence_ms: int,
) -> None:
    monkeypatch.setattr(database_module, "SILENCE_MS", silence_ms)
    monkeypatch.setattr(database_module, "CONNECT_SECONDS", 2)
    database.close()  # new connections have that limit
    hasty = settings.model_copy(update={"lease_seconds": 1.5, "reconcile_seconds": 0.2})
    leases = [running(database, seconds=1.5, max_attempts=1) for _ in range(5)]
    leader = reconciler("a")
    leader.settings, leader.pause = hasty, 0.2
    leader.clock, leader.freezes = ClockWatch(1.5), freezes.FreezeWatch(0.75)
    with ExitStack() as stack:
        keepers = [LeaseKeeper(database, lease, hasty) for lease in leases]
        for keeper in keepers:
            keeper.start()
            stack.callback(keeper.stop)
        stack.callback(leader.stop)
        leader.start()
        wait_for(lambda: leader.leads and leader.clock.steady, 60, "the leader to requeue what has run out")
        with postgres.frozen():
            until = time.monotonic() + 3
            wait_for(lambda: time.monotonic() > until, 10, "two lease periods")
        wait_for(lambda: leader.leads and not leader._away and leader.clock.steady, 60, "the leader to trust leases")
        until = time.monotonic() + 1
        wait_for(lambda: time.monotonic() > until, 10, "some rounds more")
        assert [keeper.is_lost() for keeper in keepers] == [False] * 5  # `stop` sets it
    jobs_now = [job_of(database, lease.job_id) for lease in leases]
    assert [(job.state, job.attempt, job.failures) for job in jobs_now] == [("running", 1, 0)] * 5


def test_rounds_with_much_to_do_are_no_freeze_and_jobs_of_dead_workers_are_queued_again(
    reconciler: Callable[[str], Reconciler], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = reconciler("a")
    frozen = Frozen(monkeypatch)
    for owner, name in ((workers, "heartbeat"), (leadership, "acquire_leadership"), (queue, "expired_leases")):
        real = getattr(owner, name)

        def slow(*arguments: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
            frozen.lost += 5.0
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, slow)
    lease = running(database, seconds=OVER)
    monkeypatch.setattr(workers, "clock", lambda session: datetime.now(UTC) + timedelta(seconds=frozen.lost))
    leader.round()
    assert job_of(database, lease.job_id).state == "queued"


def test_a_lease_that_is_renewed_between_the_query_and_the_requeue_is_kept(
    reconciler: Callable[[str], Reconciler], database: Database
) -> None:
    leader = reconciler("a")
    lease = running(database, seconds=OVER)
    expired = leader.expired_leases()
    assert list(expired) == [lease]
    write(database, queue.renew, lease, 60)
    leader.requeue(expired)
    assert job_of(database, lease.job_id).state == "running"


@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_lease_whose_row_is_locked_is_left_to_the_next_round(
    reconciler: Callable[[str], Reconciler], database: Database
) -> None:
    """Its worker may wait for the same lock, to renew it."""
    leader = reconciler("a")
    lease = running(database, seconds=OVER)
    with database.write() as session:
        session.execute(select(Job.id).with_for_update())
        leader.tick()
    assert job_of(database, lease.job_id).state == "running"
    leader.tick()
    assert job_of(database, lease.job_id).state == "queued"


def test_one_message_is_sent_for_all_jobs_that_are_queued_again(
    reconciler: Callable[[str], Reconciler], database: Database
) -> None:
    """A broker that hangs takes a second for each."""
    leader = reconciler("a")
    rung: list[bool] = []
    leader.broker.ring = lambda: rung.append(True) or True  # type: ignore[method-assign, func-returns-value]
    leader.tick()
    assert rung == []
    leases = [running(database, seconds=OVER) for _ in range(3)]
    leader.tick()
    assert [job_of(database, lease.job_id).state for lease in leases] == ["queued"] * 3
    assert rung == [True]


def test_a_clock_that_is_far_ahead_for_a_moment_deletes_no_old_rows(
    reconciler: Callable[[str], Reconciler], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = reconciler("a")
    leader.tick()
    write(database, audit.note, HOST, "jobs.submit", "job_1", 202)
    held = write(database, idempotency.claim, "key", "fingerprint")
    assert isinstance(held, idempotency.Claim)
    write(database, idempotency.settle, held, idempotency.Settled(202, {}, "{}"))
    right: Callable[[Session], datetime] = workers.clock
    for days in (400, 400, 0):  # twice: also if it stays for longer than a lease period
        monkeypatch.setattr(workers, "clock", lambda session, days=days: right(session) + timedelta(days=days))
        leader.tick()
        leader.clock._trusted_from = leader.clock._settled_from = 0
        leader.tick()
    assert len(read(database, audit.page, audit.AuditFilter(), 9)) == 1
    assert isinstance(write(database, idempotency.claim, "key", "fingerprint"), idempotency.Settled)


def test_a_worker_that_starts_while_the_clock_is_far_ahead_takes_no_job_and_deletes_nothing(
    reconciler: Callable[[str], Reconciler], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database, audit.note, HOST, "jobs.submit", "job_1", 202)
    lease = running(database, seconds=60)
    monkeypatch.setattr(workers, "clock", lambda session: datetime.now(UTC) + timedelta(days=400))
    monkeypatch.setattr(queue, "_is_over", lambda _: Job.lease_until.is_not(None))  # as by that clock
    leader = reconciler("a")
    leader.clock.first_seconds, leader.clock.settled_seconds = 7.5, 600
    leader.tick()
    assert leader.leads
    assert job_of(database, lease.job_id).state == "running"
    assert len(read(database, audit.page, audit.AuditFilter(), 9)) == 1
    leader.clock._trusted_from = leader.clock._settled_from = 0
    leader.tick()
    assert job_of(database, lease.job_id).state == "queued", "this clock is what there is"
    assert read(database, audit.page, audit.AuditFilter(), 9) == []


def test_old_rows_are_deleted_by_a_clock_that_runs_steadily(
    reconciler: Callable[[str], Reconciler], database: Database, settings: Settings
) -> None:
    leader = reconciler("a")
    write(database, audit.note, HOST, "jobs.submit", "job_1", 202)
    old = update(AuditRow).values(at=database_now(-(settings.audit_days + 1) * 24 * 3600))
    write(database, lambda session: session.execute(old.execution_options(synchronize_session=False)))
    held = write(database, idempotency.claim, "key", "fingerprint")
    assert isinstance(held, idempotency.Claim)
    write(database, idempotency.settle, held, idempotency.Settled(202, {}, "{}"))
    expired = update(IdempotencyKey).values(until=database_now(-1)).execution_options(synchronize_session=False)
    write(database, lambda session: session.execute(expired))
    leader.tick()
    assert read(database, audit.page, audit.AuditFilter(), 9) == []
    assert read(database, lambda session: session.scalar(select(func.count()).select_from(IdempotencyKey))) == 0


def test_the_run_folders_of_this_worker_s_own_jobs_are_left_to_their_supervisors(
    reconciler: Callable[[str], Reconciler], settings: Settings
) -> None:
    leader = reconciler("a")
    for name in ("job_1-1", "job_2-1", ".probe-1"):
        (settings.runs_dir / name).mkdir(parents=True)
    leader.context.running.add("job_1-1")
    leader.tick()
    assert sorted(path.name for path in settings.runs_dir.iterdir()) == [".probe-1", "job_1-1"]


def test_an_outage_is_in_the_worker_s_row(reconciler: Callable[[str], Reconciler], database: Database) -> None:
    leader = reconciler("a")
    leader.tick()
    leader.context.storage.report("store_unavailable", "away")
    leader.tick()
    assert [worker.outage for worker in read(database, workers.live_workers, 60)] == ["store_unavailable"]


def at(database: Database, revision: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


@pytest.mark.parametrize("revision", [*migrate.known()[-2:-1], "0099"])
def test_while_the_schema_is_of_another_version_no_job_is_claimed_or_requeued_and_the_worker_says_so(
    reconciler: Callable[[str], Reconciler], database: Database, polled: list[bool], revision: str
) -> None:
    worker = reconciler("a")
    worker.tick()
    assert (worker.schema_fits, len(polled)) == (True, 1)
    lease = running(database, seconds=OVER)
    at(database, revision)
    try:
        worker.schema._found = (None, 0.0)
        with structlog.testing.capture_logs() as log:
            worker.tick()
            worker.tick()
        assert [line["event"] for line in log] == ["no jobs are taken"], "once"
        assert f"revision {revision}" in log[0]["error"]
        assert (worker.schema_fits, len(polled)) == (False, 1)
        assert job_of(database, lease.job_id).state == "running"
        with database.read() as session:
            (row,) = workers.live_workers(session, 60)
        assert row.draining, "clients see that it takes no jobs"
    finally:
        at(database, migrate.known()[-1])
    worker.schema._found = (None, 0.0)
    worker.tick()
    assert (worker.schema_fits, len(polled)) == (True, 2)
    assert job_of(database, lease.job_id).state == "queued"


def test_a_heartbeat_that_fails_on_another_schema_is_no_error(
    reconciler: Callable[[str], Reconciler], settings: Settings, tmp_path: Path
) -> None:
    worker, empty = reconciler("a"), Database(f"sqlite:///{tmp_path / 'empty.db'}")
    worker.database, worker.schema = empty, SchemaCheck(empty)
    assert worker.tick() == settings.reconcile_seconds
    assert not worker.schema_fits
    worker.start()
    worker.stop()


def test_the_row_names_the_kinds_of_jobs_and_the_state_of_the_broker(
    reconciler: Callable[[str], Reconciler], database: Database
) -> None:
    reconciler("a").tick()
    with database.read() as session:
        (row,) = workers.live_workers(session, 60)
    assert workers.job_kinds_of(row) == sorted(KINDS)
    assert set(workers.broker_of(row) or ()) == {"ok", "detail", "errors", "rejected"}


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
