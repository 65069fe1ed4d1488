"""Measures the time spent on training, and reports the progress."""

from __future__ import annotations

import time

from shared.events import Progress, Report
from shared.spec.job_spec import JobSpec
from worker.trainer.data.datasets import Data
from worker.trainer.step.state import State

REPORT_SECONDS = 0.5


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


class ProgressReporter:
    """Sends at most one progress event per `REPORT_SECONDS`."""

    def __init__(self, spec: JobSpec, data: Data, report: Report) -> None:
        self.epochs, self.batch_size, self.report = spec.epochs, spec.batch_size, report
        self.total_steps = spec.epochs * len(data.train.order)
        self.next = time.monotonic()

    def report_if_due(self, state: State, timer: EpochTimer) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + REPORT_SECONDS
        self._report(state, state.epoch, state.batch * self.batch_size / max(timer.seconds(), 1e-9))

    def report_end(self, state: State) -> None:
        """Report that no steps are left, after the last epoch or after early stopping."""
        self.total_steps = state.step
        self._report(state, state.epoch - 1, state.history.column("epoch", "examples_per_second")[-1])

    def _report(self, state: State, epoch: int, speed: float) -> None:
        steps = {"step": state.step, "total_steps": self.total_steps}
        self.report(Progress(epoch=epoch, epochs=self.epochs, **steps, examples_per_second=speed))
