"""What a trainer reports: plain values, sent over a pipe. Knows nothing of rows; the supervisor makes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Series = Literal["epoch", "batch", "final"]
Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Event:
    at: float = field(default_factory=time.time)  # seconds since 1970, the trainer's clock


@dataclass(frozen=True)
class Metric(Event):
    """One point of the curve. `step` counts optimizer updates since the job's start, across attempts."""

    series: Series
    step: int
    epoch: int
    values: dict[str, float]


@dataclass(frozen=True)
class Progress(Event):
    epoch: int
    epochs: int
    step: int
    total_steps: int
    examples_per_second: float


@dataclass(frozen=True)
class Log(Event):
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    level: Level = "info"


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A whole, fsynced checkpoint file lies at `path`."""

    path: str
    step: int
    epoch: int


@dataclass(frozen=True)
class Finished(Event):
    """The run is done; every artifact lies in the run folder's `artifacts/`."""

    result: dict[str, Any]


@dataclass(frozen=True)
class Stopped(Event):
    """Stopped on request at a step boundary, checkpoint written."""

    step: int


@dataclass(frozen=True)
class Failed(Event):
    code: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""


Report = Callable[[Event], None]
