"""The arguments of one attempt that are not part of the spec, and the outcome of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from worker.trainer.evaluate import Evaluation
from worker.trainer.gradients.table import Table
from worker.trainer.step.state import State


class StopRequested(Exception):
    """Raised between two steps, after the checkpoint is written, when `Run.stop_requested` returned true."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


@dataclass(frozen=True)
class Run:
    """Arguments of one attempt: the folder of its files, where it resumes, whether a stop is requested."""

    folder: Path
    resume: Path | None = None  # the checkpoint to resume from
    reported_step: int = -1  # the log holds the curve up to this step; a resumed run reports the later points again
    stop_requested: Callable[[], bool] = field(default=lambda: False)
    init_from: Path | None = None  # initial weights, unused if the run resumes from a checkpoint
    supervised: bool = False  # another process stores each reported checkpoint and deletes its file

    def check_stop(self) -> None:
        """Raises StopRequested, before the first step, if a stop is requested."""
        if self.stop_requested():
            raise StopRequested(0)


@dataclass(frozen=True)
class Outcome:
    """A finished run: its state, its evaluation on the test split and the first check of manual gradients."""

    state: State
    test: Evaluation
    gradient_check: Table | None
    stopped_early: bool
    untrained_accuracy: float | None = None  # of the initial weights, for a preset
