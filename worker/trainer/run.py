"""What belongs to one attempt and not to the spec, and what a finished run returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.trainer.evaluate import Evaluation
from worker.trainer.step.state import State


class StopRequested(Exception):
    """Raised at a step boundary after the checkpoint, when `Run.stop` returned true."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


@dataclass(frozen=True)
class Run:
    """What belongs to this attempt and not to the spec: the folder of its files, where it resumes, when it stops."""

    folder: Path
    resume: Path | None = None  # the checkpoint to resume from
    reported_step: int = -1  # the log holds the curve up to here; a resumed run reports again from the next step on
    stop: Callable[[], bool] = field(default=lambda: False)
    init_from: Path | None = None  # weights to begin with, where there is no checkpoint to resume from


@dataclass(frozen=True)
class Outcome:
    """A finished run: its state, its figures on the test split, and the gradient check of a manual run."""

    state: State
    test: Evaluation
    gradient_check: dict[str, Any] | None
    stopped_early: bool
