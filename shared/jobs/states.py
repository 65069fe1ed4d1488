"""The states of a job, the moves between them, and the actions allowed in each.

The row holds one of these states. `cancelling` and `pausing` are only shown: a running job with a pending request.
"""

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
UNFINISHED = tuple(state for state in JobState if state not in TERMINAL)

ALLOWED_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: TERMINAL | {JobState.QUEUED, JobState.PAUSED},
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}

ALLOWED_ACTIONS: dict[str, tuple[str, ...]] = {  # by the status shown to clients; a refusal lists them
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
    """The status shown to clients: the state, or the pending request of a running job; a cancel takes precedence."""
    if state is JobState.RUNNING and cancel_requested:
        return "cancelling"
    if state is JobState.RUNNING and pause_requested:
        return "pausing"
    return state.value
