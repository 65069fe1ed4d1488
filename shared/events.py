"""Events that a trainer sends to its supervisor over a pipe, as plain values. The supervisor writes the rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Series = Literal["epoch", "batch", "final"]
Level = Literal["info", "warning", "error"]

UNDRAWN = "undrawn.npz"  # a file of a finished run: what its pictures show, until they are drawn


@dataclass(frozen=True, kw_only=True)
class Event:
    at: float = field(default_factory=time.time)  # seconds since 1970, the trainer's clock


@dataclass(frozen=True)
class Metric(Event):
    """One point of the curve. `step` counts optimizer updates since the start of the job, across attempts."""

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
    """A complete, fsynced checkpoint file is at `path`."""

    path: str
    step: int
    epoch: int


@dataclass(frozen=True)
class Finished(Event):
    """The run is complete; all artifacts are in the run folder's `artifacts/`."""

    result: dict[str, Any]


@dataclass(frozen=True)
class Stopped(Event):
    """The run stopped on request between two steps, and its checkpoint is written."""

    step: int


@dataclass(frozen=True)
class Failed(Event):
    code: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""


Report = Callable[[Event], None]
