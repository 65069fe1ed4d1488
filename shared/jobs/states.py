"""The states of a job, the moves between them, and what a client may do in each. The row holds one of these states;
wishes (`cancelling`, `pausing`) are only shown."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

ALLOWED_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: TERMINAL | {JobState.QUEUED, JobState.PAUSED},
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}

ALLOWED_ACTIONS: dict[str, tuple[str, ...]] = {  # by what a client sees; a refusal names them
    "queued": ("cancel",),
    "running": ("cancel", "pause"),
    "cancelling": ("cancel",),
    "pausing": ("cancel", "pause", "resume"),
    "paused": ("cancel", "pause", "resume"),
    "succeeded": ("delete", "reproduce"),
    "failed": ("delete", "retry"),
    "cancelled": ("delete", "retry"),
}


def shown_status(state: JobState, cancel_requested: bool, pause_requested: bool = False) -> str:
    """What a client sees: the state, or the wish that stands on a running row. A wish to cancel outweighs the other."""
    if state is JobState.RUNNING and cancel_requested:
        return "cancelling"
    if state is JobState.RUNNING and pause_requested:
        return "pausing"
    return state.value
