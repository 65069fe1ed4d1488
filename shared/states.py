"""The states of a job and the moves between them. The row holds one of these; wishes (`cancelling`) are only shown."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

ALLOWED_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: TERMINAL | {JobState.QUEUED},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


def shown_status(state: JobState, cancel_requested: bool) -> str:
    """What a client sees: the state, or `cancelling` while the wish stands on a running row."""
    if state is JobState.RUNNING and cancel_requested:
        return "cancelling"
    return state.value
