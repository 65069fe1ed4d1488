"""The pace and the progress events of an attempt: what a client estimates the remaining time from."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from shared.events import Event, Progress
from shared.spec.job_spec import JobSpec
from worker.trainer import progress
from worker.trainer.progress import FIRST_REPORT, REPORT_SECONDS, WARM_UP_STEPS, EpochTimer, Pace, ProgressReporter

STEPS, BATCH = 1000, 10  # per epoch; examples


@dataclass
class Attempt:
    """Steps on a clock of its own. `epoch_seconds` and `step` may come from a checkpoint."""

    monkeypatch: pytest.MonkeyPatch
    step: int = 0
    epoch_seconds: float = 0.0
    training_seconds: float = 0.0
    epoch: int = 1
    now: float = 0.0
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now)
        self.monkeypatch.setattr(progress, "time", clock)
        data: Any = SimpleNamespace(train=SimpleNamespace(order=range(STEPS)))
        self.reporter = ProgressReporter(JobSpec(epochs=10, batch_size=BATCH), data, self.events.append)
        self.timer = EpochTimer(self)  # type: ignore[arg-type]

    def take(self, *seconds: float) -> Attempt:
        for duration in seconds:
            self.now += duration
            self.step += 1
            self.reporter.report_if_due(self, self.timer)  # type: ignore[arg-type]
        return self

    def evaluate(self, seconds: float) -> None:
        """The end of an epoch."""
        self.timer.pause()
        self.now += seconds
        self.training_seconds, self.epoch_seconds, self.epoch = self.training_seconds + self.epoch_seconds, 0.0, 2
        self.timer = EpochTimer(self)  # type: ignore[arg-type]

    def speeds(self) -> list[float]:
        return [event.examples_per_second for event in self.events if isinstance(event, Progress)]


WARM_UP = (0.3, 0.01, 0.01, 0.05)  # the first step loads libraries, the fourth is recorded


def test_the_first_speed_is_that_of_steps_at_full_speed(monkeypatch):
    attempt = Attempt(monkeypatch).take(*WARM_UP, *[0.001] * 30)
    assert attempt.speeds() == [pytest.approx(10_000)]
    first: Any = attempt.events[0]
    assert first.step == FIRST_REPORT


def test_a_warm_up_that_takes_long_is_reported_without_a_speed_and_left_out(monkeypatch):
    attempt = Attempt(monkeypatch).take(4.0)
    assert attempt.speeds() == [0.0]
    attempt.take(0.01, 0.01, 2.0, *[0.01] * 100)
    assert attempt.speeds()[-1] == pytest.approx(1000)


def test_steps_that_take_long_have_a_speed_from_the_second_on(monkeypatch):
    attempt = Attempt(monkeypatch).take(5.0, *[2.0] * 9)
    assert attempt.speeds() == [0.0, *[pytest.approx(5.0)] * 9]


def test_a_resumed_attempt_reports_its_own_pace(monkeypatch):
    """The checkpoint's seconds are those of another worker, or of a busier hour."""
    attempt = Attempt(monkeypatch, step=500, epoch_seconds=5000.0).take(*WARM_UP, *[0.001] * 600)
    assert attempt.speeds() == [pytest.approx(10_000)] * 2


def test_a_pace_that_changes_is_followed_within_ten_seconds(monkeypatch):
    attempt = Attempt(monkeypatch).take(*[0.01] * 1000)
    assert attempt.speeds()[-1] == pytest.approx(1000)
    attempt.take(*[0.1] * 140)
    assert attempt.speeds()[-1] == pytest.approx(100)


def test_evaluations_are_not_training(monkeypatch):
    attempt = Attempt(monkeypatch).take(*[0.01] * 200)
    attempt.evaluate(60.0)
    attempt.take(*[0.01] * 200)
    assert attempt.speeds()[-1] == pytest.approx(1000)


def test_reports_are_half_a_second_apart(monkeypatch):
    attempt = Attempt(monkeypatch).take(*[0.01] * 1000)
    assert len(attempt.events) == pytest.approx(10.0 / REPORT_SECONDS, abs=1)
    assert WARM_UP_STEPS < FIRST_REPORT


def test_a_clock_that_stands_still_is_no_division_by_zero(monkeypatch):
    pace = Pace()
    pace.restart(1, 1.0)
    pace.mark(2, 1.0)
    pace.mark(1, 2.0)
    assert pace.last is None
