"""How long the training itself takes, and how far it is."""

from __future__ import annotations

import time

from shared.events import Progress, Report
from shared.spec.job_spec import JobSpec
from worker.trainer.data.datasets import Data
from worker.trainer.step.state import State

REPORT_SECONDS = 0.5


class EpochClock:
    """Counts the seconds of training alone into the state: no evaluation, no checkpoint."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.go_on()

    def go_on(self) -> None:
        self.started, self.before = time.perf_counter(), self.state.epoch_seconds

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def pause(self) -> None:
        self.state.epoch_seconds = self.seconds()


class ProgressReporter:
    """At most two reports a second, however short a step is."""

    def __init__(self, spec: JobSpec, data: Data, report: Report) -> None:
        self.epochs, self.batch_size, self.report = spec.epochs, spec.batch_size, report
        self.total_steps = spec.epochs * len(data.train.order)
        self.next = time.monotonic()

    def maybe(self, state: State, clock: EpochClock) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + REPORT_SECONDS
        self._report(state, state.epoch, state.batch * self.batch_size / max(clock.seconds(), 1e-9))

    def done(self, state: State) -> None:
        """The last report: nothing is left to train, after the last epoch or before it by early stopping."""
        self.total_steps = state.step
        self._report(state, state.epoch - 1, state.history.column("epoch", "examples_per_second")[-1])

    def _report(self, state: State, epoch: int, speed: float) -> None:
        steps = {"step": state.step, "total_steps": self.total_steps}
        self.report(Progress(epoch=epoch, epochs=self.epochs, **steps, examples_per_second=speed))
