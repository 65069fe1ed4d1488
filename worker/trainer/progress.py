"""Measures the time spent on training, and reports the progress."""

from __future__ import annotations

import time
from collections import deque

from shared.events import Progress, Report
from shared.spec.job_spec import JobSpec
from worker.trainer.data.datasets import Data
from worker.trainer.step.state import State

REPORT_SECONDS = 0.5
WARM_UP_STEPS = 5  # the first ones allocate memory, and one is recorded: they are up to a thousand times slower
FIRST_REPORT = 15  # the step of an attempt after which its speed is reported first, or earlier after REPORT_SECONDS
RECENT_REPORTS = 20  # reports over which the speed is measured, so 10 s if steps are shorter than REPORT_SECONDS


class EpochTimer:
    """Measures the seconds of an epoch spent on training, without evaluations and checkpoints, for `state`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.resume()

    def resume(self) -> None:
        """Continue to count, from the seconds in the state."""
        self.started, self.before = time.perf_counter(), self.state.epoch_seconds

    def seconds(self) -> float:
        """Seconds of training in this epoch so far; valid while the timer runs."""
        return self.before + time.perf_counter() - self.started

    def pause(self) -> None:
        """Store the seconds so far in the state."""
        self.state.epoch_seconds = self.seconds()


class Pace:
    """Steps per second of this attempt's recent steps, in training time: without evaluations, checkpoints, warm-up."""

    def __init__(self) -> None:
        self.marks: deque[tuple[int, float]] = deque(maxlen=RECENT_REPORTS)
        self.last: float | None = None

    def restart(self, step: int, seconds: float) -> None:
        """Measure from here on; until the next mark, `last` is what was measured before."""
        self.marks.clear()
        self.marks.append((step, seconds))

    def mark(self, step: int, seconds: float) -> None:
        """`step` and `seconds` of training at the same moment; only their differences count."""
        first, since = self.marks[0]
        if step > first and seconds > since:
            self.last = (step - first) / (seconds - since)
        self.marks.append((step, seconds))


class ProgressReporter:
    """Sends at most one progress event per `REPORT_SECONDS`: the first after a few steps at full speed."""

    def __init__(self, spec: JobSpec, data: Data, report: Report) -> None:
        self.epochs, self.batch_size, self.report = spec.epochs, spec.batch_size, report
        self.total_steps = spec.epochs * len(data.train.order)
        self.next = time.monotonic() + REPORT_SECONDS
        self.steps = 0  # of this attempt
        self.pace = Pace()

    def report_if_due(self, state: State, timer: EpochTimer) -> None:
        """To be called after each step, while `timer` runs."""
        self.steps += 1
        now = time.monotonic()
        starts = self.steps in (1, WARM_UP_STEPS)
        if now < self.next and not starts and self.steps != FIRST_REPORT:
            return
        seconds = state.training_seconds + timer.seconds()
        if starts:
            self.pace.restart(state.step, seconds)
        if now < self.next and self.steps != FIRST_REPORT:
            return
        self.next = now + REPORT_SECONDS
        self.pace.mark(state.step, seconds)
        self._report(state, state.epoch, (self.pace.last or 0.0) * self.batch_size)

    def report_end(self, state: State) -> None:
        """Report that no steps are left, after the last epoch or after early stopping."""
        self.total_steps = state.step
        self._report(state, state.epoch - 1, state.history.column("epoch", "examples_per_second")[-1])

    def _report(self, state: State, epoch: int, speed: float) -> None:
        """`speed`: examples per second; 0 while it is not known."""
        steps = {"step": state.step, "total_steps": self.total_steps}
        self.report(Progress(epoch=epoch, epochs=self.epochs, **steps, examples_per_second=speed))
