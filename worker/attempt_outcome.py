"""How an attempt ended: a pure function of what the supervisor saw. The supervisor writes the outcome to the row."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from shared import events
from shared.disks import disk_outage
from shared.jobs.retry_backoff import Cause

OUT_OF_MEMORY = (
    "the host ran out of memory and its kernel killed the trainer; "
    "try a smaller batch_size or network, or fewer slots on that worker"
)

LastEvent = events.Finished | events.Stopped | events.Failed


class StopReason(StrEnum):
    """Why a trainer was asked to stop."""

    CANCEL = "cancel"
    PAUSE = "pause"
    DEADLINE = "deadline"
    DRAIN = "drain"
    LOST = "lost"


class Interrupted(Exception):
    """The job is asked to stop while its files are fetched, or its results stored: no trainer runs."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True)
class Succeeded:
    """The job is done."""

    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job fails: another attempt would end the same way."""

    error: events.Failed


@dataclass(frozen=True)
class DeadlineExceeded:
    """The job fails: it took longer than its `max_seconds`."""


@dataclass(frozen=True)
class Released:
    """The attempt was stopped through no fault of the job.

    `queue.release` reads the requests on the row under its lock and cancels, pauses or requeues the job. The message
    and the attempt's outcome are those of a requeue.
    """

    message: str
    attempt_outcome: str
    wait_seconds: float = 0.0  # until the job may be claimed again


@dataclass(frozen=True)
class Lost:
    """The attempt failed and the job did not: `queue.mark_lost` requeues the job, up to its `max_attempts`.

    `folder`: the one whose disk took no file, if it is not the run folder. `elsewhere`: the outage is not of this
    worker's store or disks, and does not keep it from other jobs.
    """

    detail: str
    cause: Cause
    folder: Path | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class LeaseGone:
    """The job belongs to another attempt: this one writes nothing."""


AttemptOutcome = Succeeded | Failed | DeadlineExceeded | Released | Lost | LeaseGone

RELEASED = {
    # a cancel request cannot be withdrawn: `queue.release` finds it on the row and ends the job
    StopReason.CANCEL: Released("queued again: cancel request withdrawn", "cancelled"),
    StopReason.PAUSE: Released("queued again: pause request withdrawn", "paused"),
    StopReason.DRAIN: Released("handed back: the worker shuts down", "drained"),
}


def decide(ended: LastEvent | None, stop: StopReason | None, exit_code: int | None, oom_kill: bool) -> AttemptOutcome:
    """The outcome of an attempt whose trainer process is gone.

    `ended`: the trainer's last event, None if it sent none. `stop`: why it was asked to stop, None if it was not.
    `exit_code`: of its process, negative for a signal, None or 255 if the trainer server died first. `oom_kill`:
    whether the kernel counted an OOM kill in the last seconds.

    A trainer that finished or failed by itself counts as such, also after a request to stop.
    """
    if stop is StopReason.LOST:
        return LeaseGone()
    match ended:
        case events.Finished():
            return Succeeded(ended.result)
        case events.Failed(code="disk_full"):
            folder = ended.data.get("folder")
            return Lost(disk_outage(ended.message), "disk_full", Path(folder) if folder else None)
        case events.Failed(code="store_unavailable"):  # the store is the supervisor's: the trainer's are the mirrors
            return Lost(ended.message, "store_unavailable", elsewhere=True)
        case events.Failed():
            return Failed(ended)
    if stop is StopReason.DEADLINE:
        return DeadlineExceeded()
    if stop is not None:
        return RELEASED[stop]
    if exit_code == -signal.SIGKILL and oom_kill:
        return Failed(events.Failed(code="out_of_memory_host", message=OUT_OF_MEMORY))
    return Lost(how_it_ended(exit_code), "trainer_died")


def how_it_ended(exit_code: int | None) -> str:
    """Text for a trainer's exit code. A server that dies before its trainers cannot report theirs: None or 255."""
    if exit_code is None or exit_code == 255:
        return "the trainer process ended; its exit code is unknown, since the trainer server is gone too"
    if exit_code < 0:
        return f"the trainer process was killed by {signal.Signals(-exit_code).name}"
    return f"the trainer process ended with exit code {exit_code}"
