"""A clock that jumps is noticed; one that answers late, or ticks a little off, is not taken for one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from worker import clock_jumps
from worker.clock_jumps import ClockWatch


class Hands:
    """Our own clock and the database's, both set by hand."""

    def __init__(self) -> None:
        self.ours, self.theirs = 1000.0, datetime(2026, 1, 1, tzinfo=UTC)
        self.answer_seconds = 0.0

    def monotonic(self) -> float:
        return self.ours

    def ask(self) -> datetime:
        said = self.theirs
        self.go_on(self.answer_seconds)
        return said

    def go_on(self, seconds: float, jump: float = 0.0) -> None:
        self.ours += seconds
        self.theirs += timedelta(seconds=seconds + jump)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(clock_jumps.time, "monotonic", hands.monotonic)
    return hands


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 2.0, -2.0])
def test_after_a_jump_the_clock_is_not_trusted_until_every_lease_has_been_renewed(hands: Hands, jump: float) -> None:
    watch = ClockWatch(quiet_seconds=15)
    watch.look(hands.ask)
    hands.go_on(2)
    watch.look(hands.ask)
    assert watch.steady
    hands.go_on(2, jump)
    watch.look(hands.ask)
    assert not watch.steady
    for steady in (False, True):
        hands.go_on(8)
        watch.look(hands.ask)
        assert watch.steady is steady


def test_an_answer_that_is_long_under_way_is_no_jump(hands: Hands) -> None:
    watch = ClockWatch(quiet_seconds=15)
    for hands.answer_seconds in (0.0, 30.0, 0.0, 5.0):
        watch.look(hands.ask)
        assert watch.steady


def test_a_clock_that_is_slewed_is_no_jump(hands: Hands) -> None:
    watch = ClockWatch(quiet_seconds=15)
    for _ in range(20):
        watch.look(hands.ask)
        hands.go_on(2, 0.1)
    assert watch.steady
