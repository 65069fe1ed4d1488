"""Log lines wait in order while the database is away, and are written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from support.store import lines_of, running, write

from shared import events
from shared.config import Settings
from shared.db.database import Database
from shared.errors import DatabaseAway, LeaseLost
from shared.jobs import queue
from shared.jobs.joblog import Line
from worker.lease import LeaseKeeper
from worker.log_buffer import SAME_LINES, LogBuffer, Thinning, line_of


class Away:
    """A database whose next `failures` transactions fail, and of whose next `unanswered` commits the answer is lost."""

    def __init__(self, database: Database) -> None:
        self.database, self.failures, self.unanswered = database, 0, 0

    @contextmanager
    def write(self) -> Iterator[Any]:
        if self.failures:
            self.failures -= 1
            raise DatabaseAway("gone")
        with self.database.write() as session:
            yield session
        if self.unanswered:
            self.unanswered -= 1
            raise DatabaseAway("gone")


@pytest.fixture
def away(database: Database) -> Away:
    return Away(database)


@pytest.fixture
def keeper(away: Away, settings: Settings) -> LeaseKeeper:
    """The lease of a running job; its thread is not started."""
    return LeaseKeeper(away, running(away.database), settings)  # type: ignore[arg-type]


@pytest.fixture
def written(database: Database, keeper: LeaseKeeper) -> Callable[[], list[tuple[str, str]]]:
    """written(): (type, message) of each line in the log that this attempt's supervisor wrote."""
    return lambda: [
        (line.type, line.message) for line in lines_of(database, keeper.lease.job_id) if line.type != "status"
    ]


def test_lines_wait_in_order_while_the_database_is_away(
    away: Away, keeper: LeaseKeeper, written: Callable[[], list[tuple[str, str]]]
) -> None:
    buffer = LogBuffer(keeper)
    buffer.say("first")
    away.failures = 1
    buffer.flush()
    assert written() == []
    buffer.append(line_of(events.Metric(series="epoch", step=1, epoch=1, values={"train_loss": 0.25})))
    buffer.say("third", "warning")
    buffer.flush()
    buffer.flush()
    assert written() == [("log", "first"), ("metric", "step 1: train_loss 0.25"), ("warning", "third")]
    assert not keeper.lost.is_set()


@pytest.mark.parametrize("flush", [LogBuffer.flush, LogBuffer.flush_all])
def test_lines_of_a_commit_without_an_answer_are_not_written_again(
    away: Away,
    keeper: LeaseKeeper,
    written: Callable[[], list[tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    flush: Callable[[LogBuffer], None],
) -> None:
    monkeypatch.setattr("worker.lease.RETRY_SECONDS", 0.01)
    buffer = LogBuffer(keeper)
    buffer.say("first")
    buffer.say("again")
    buffer.append(line_of(events.Metric(series="epoch", step=1, epoch=1, values={"train_loss": 0.25})))
    away.unanswered = 1
    buffer.flush()
    buffer.say("again")
    away.failures = 1
    buffer.flush()
    for _ in range(2):
        flush(buffer)
    point = ("metric", "step 1: train_loss 0.25")
    assert written() == [("log", "first"), ("log", "again"), point, ("log", "again")]
    away.unanswered = 2
    buffer.say("last")
    buffer.flush_all()
    assert written()[4:] == [("log", "last")]


def test_a_line_has_the_time_at_which_it_was_said(
    away: Away, keeper: LeaseKeeper, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = LogBuffer(keeper)
    said = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
    monkeypatch.setattr("shared.jobs.joblog.now", lambda: said)
    buffer.say("first")
    monkeypatch.undo()
    buffer.flush()
    [line] = [line for line in lines_of(database, keeper.lease.job_id) if line.message == "first"]
    assert line.created_at == said


def test_flush_all_retries_until_the_database_is_back(
    away: Away, keeper: LeaseKeeper, written: Callable[[], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lease.RETRY_SECONDS", 0.01)
    buffer = LogBuffer(keeper)
    buffer.say("first")
    away.failures = 3
    buffer.flush_all()
    buffer.flush()
    assert written() == [("log", "first")]


def test_a_lease_of_another_attempt_is_noted_as_lost(
    database: Database, keeper: LeaseKeeper, written: Callable[[], list[tuple[str, str]]]
) -> None:
    write(database, queue.mark_lost, keeper.lease, "lost")
    buffer = LogBuffer(keeper)
    buffer.say("too late")
    buffer.flush()
    assert keeper.lost.is_set()
    with pytest.raises(LeaseLost):
        buffer.flush_all()
    assert written() == []


@pytest.mark.parametrize(
    ("lines", "written"), [(100, 101), (101, 101), (110, 102), (1000, 191), (10_000, 281), (100_000, 371)]
)
def test_repeated_lines_of_an_attempt_grow_with_the_logarithm_of_their_number(lines: int, written: int) -> None:
    thinning = Thinning()
    kept = [line for i in range(lines) for line in thinning.of(Line("warning", f"step {i}: no room", {}, "warning"))]
    assert len(kept) == written
    assert [line.message for line in kept[: SAME_LINES + 1]] == [
        *(f"step {i}: no room" for i in range(SAME_LINES)),
        "there were 100 lines like the one before; of the next, one in ten is kept, later fewer",
    ]
    assert SAME_LINES + sum(1 + line.data["lines_left_out"] for line in kept[SAME_LINES + 1 :]) <= lines


def test_points_and_changes_of_the_status_are_all_kept_and_other_lines_are_told_apart() -> None:
    thinning = Thinning()
    for type in ("metric", "status"):
        assert sum(len(thinning.of(Line(type, "step 1", {}))) for _ in range(1000)) == 1000
    assert all(len(thinning.of(Line("log", f"{chr(97 + i)} is new", {}))) == 1 for i in range(26))


def test_lines_that_all_differ_are_thinned_together_after_a_thousand_kinds() -> None:
    thinning = Thinning()
    different = ["".join(chr(97 + int(digit)) for digit in str(i)) for i in range(5000)]
    assert sum(len(thinning.of(Line("log", text, {}))) for text in different) < 1000 + 300


def test_the_log_that_is_written_is_thinned(keeper: LeaseKeeper, written: Callable[[], list[tuple[str, str]]]) -> None:
    buffer = LogBuffer(keeper)
    for i in range(1000):
        buffer.say(f"the checkpoint at step {i} could not be stored", "warning")
    buffer.flush()
    assert len(written()) == 191
    assert written()[-1] == (
        "warning",
        "the checkpoint at step 999 could not be stored (9 such lines before it are left out)",
    )


def test_flushing_all_ends_with_a_drain_although_the_other_thread_hangs_in_the_database(
    keeper: LeaseKeeper,
) -> None:
    """The lease keeper's thread has the lock while it writes, and SIGTERM waited for it without end."""
    buffer = LogBuffer(keeper)
    buffer.say("a line")
    keeper.seconds = 0.1
    keeper._draining.set()
    with (
        buffer._writing,
        ThreadPoolExecutor(1) as pool,
        pytest.raises(LeaseLost),
    ):  # the other thread has it
        pool.submit(buffer.flush_all).result(60)


def test_flushing_all_ends_when_the_lease_is_lost_and_waits_for_the_other_thread_otherwise(
    keeper: LeaseKeeper, written: Callable[[], list[tuple[str, str]]]
) -> None:
    buffer = LogBuffer(keeper)
    buffer.say("a line")
    with ThreadPoolExecutor(1) as pool:
        with buffer._writing:
            waits = pool.submit(buffer.flush_all)
        waits.result(60)
        assert written() == [("log", "a line")]
        buffer.say("another")
        keeper.lost.set()
        with buffer._writing, pytest.raises(LeaseLost):
            pool.submit(buffer.flush_all).result(60)
