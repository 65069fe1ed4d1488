"""A jump of the database's clock is detected; a slow answer or a clock that drifts is not mistaken for one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from worker import clock_jumps
from worker.clock_jumps import SETTLED_SECONDS, ClockWatch


class Clocks:
    """The process's monotonic clock and the database's, both set by the test."""

    def __init__(self) -> None:
        self.ours, self.theirs = 1000.0, datetime(2026, 1, 1, tzinfo=UTC)
        self.query_seconds = 0.0

    def monotonic(self) -> float:
        return self.ours

    def query(self) -> datetime:
        said = self.theirs
        self.advance(self.query_seconds)
        return said

    def advance(self, seconds: float, jump: float = 0.0) -> None:
        self.ours += seconds
        self.theirs += timedelta(seconds=seconds + jump)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(clock_jumps.time, "monotonic", clocks.monotonic)
    return clocks


def watch_of(clocks: Clocks) -> ClockWatch:
    """A watch whose first check was some time ago; its lease is 15 s."""
    watch = ClockWatch(15)
    watch.check(clocks.query)
    clocks.advance(SETTLED_SECONDS)
    return watch


def test_a_clock_is_not_trusted_at_once_when_the_process_starts(clocks: Clocks) -> None:
    """It may be wrong: the workers that live have renewed their leases by it after half of a lease."""
    watch = ClockWatch(15)
    watch.check(clocks.query)
    for seconds, steady, settled in ((0.0, False, False), (7.0, False, False), (0.5, True, False), (592.5, True, True)):
        clocks.advance(seconds)
        watch.check(clocks.query)
        assert (watch.steady, watch.settled) == (steady, settled)
    clocks.advance(1, 3600.0)
    watch.check(clocks.query)
    assert (watch.steady, watch.settled) == (False, False)


def test_an_outage_at_the_start_is_waited_for_as_any(clocks: Clocks) -> None:
    watch = ClockWatch(15)
    watch.distrust()
    watch.check(clocks.query)
    clocks.advance(14)
    assert not watch.steady


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 2.0, -2.0])
def test_after_a_jump_the_clock_is_not_trusted_until_every_lease_has_been_renewed(clocks: Clocks, jump: float) -> None:
    watch = watch_of(clocks)
    watch.check(clocks.query)
    clocks.advance(2)
    watch.check(clocks.query)
    assert watch.steady
    clocks.advance(2, jump)
    watch.check(clocks.query)
    assert not watch.steady
    for steady in (False, True):
        clocks.advance(8)
        watch.check(clocks.query)
        assert watch.steady is steady


def test_a_slow_query_is_not_a_jump(clocks: Clocks) -> None:
    watch = watch_of(clocks)
    for clocks.query_seconds in (0.0, 30.0, 0.0, 5.0):
        watch.check(clocks.query)
        assert watch.steady


def test_a_clock_that_is_slewed_is_not_a_jump(clocks: Clocks) -> None:
    watch = watch_of(clocks)
    for _ in range(20):
        watch.check(clocks.query)
        clocks.advance(2, 0.1)
    assert watch.steady
