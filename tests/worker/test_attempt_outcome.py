"""The outcome for each combination of the trainer's last event, the reason to stop, the exit code and an OOM kill."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from shared import events
from worker.attempt_outcome import (
    AttemptOutcome,
    Failed,
    LastEvent,
    LeaseGone,
    Lost,
    Released,
    StopReason,
    Succeeded,
    decide,
)

LAST_EVENTS: dict[str, LastEvent | None] = {
    "none": None,
    "stopped": events.Stopped(step=7),
    "finished": events.Finished(result={"test_accuracy": 0.5}),
    "failed": events.Failed(code="diverged", message="nan at step 7"),
    "disk_full": events.Failed(code="disk_full", message="No space left on device"),
}
STOPS = (None, *StopReason)
EXIT_CODES = (0, 3, -9, -11, 255, None)

# per last event: no reason to stop, then the reasons in the order of StopReason; `exit`: see BY_EXIT
#             -            cancel              pause              deadline             drain               lost
BY_EVENT = {
    "none": ("exit", "released cancelled", "released paused", "deadline exceeded", "released drained", "lease gone"),
    "stopped": ("exit", "released cancelled", "released paused", "deadline exceeded", "released drained", "lease gone"),
    "finished": ("succeeded", "succeeded", "succeeded", "succeeded", "succeeded", "lease gone"),
    "failed": (*["failed diverged"] * 5, "lease gone"),
    "disk_full": (*["lost disk_full"] * 5, "lease gone"),
}
# (exit code, OOM kill); all others are lost by `trainer_died`
BY_EXIT = {(-9, True): "failed out_of_memory_host"}


def name_of(outcome: AttemptOutcome) -> str:
    match outcome:
        case Succeeded():
            return "succeeded"
        case Failed(error):
            return f"failed {error.code}"
        case Released(_, attempt_outcome):
            return f"released {attempt_outcome}"
        case Lost(_, cause):
            return f"lost {cause}"
        case LeaseGone():
            return "lease gone"
    return "deadline exceeded"


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("ended", LAST_EVENTS)
def test_the_outcome_of_each_combination(ended: str, stop: StopReason | None) -> None:
    expected = BY_EVENT[ended][STOPS.index(stop)]
    for exit_code, oom_kill in product(EXIT_CODES, (False, True)):
        if expected == "exit":
            of_this = BY_EXIT.get((exit_code or 0, oom_kill), "lost trainer_died")
        else:
            of_this = expected
        outcome = decide(LAST_EVENTS[ended], stop, exit_code, oom_kill)
        assert name_of(outcome) == of_this, (ended, stop, exit_code, oom_kill)


def test_the_table_has_every_last_event_and_every_reason_to_stop() -> None:
    assert {type(event) for event in LAST_EVENTS.values() if event} == set(get_args(LastEvent))
    assert {len(row) for row in BY_EVENT.values()} == {len(STOPS)}


def test_outcomes_carry_what_the_trainer_reported() -> None:
    finished, failed = LAST_EVENTS["finished"], LAST_EVENTS["failed"]
    assert decide(finished, None, 0, False) == Succeeded({"test_accuracy": 0.5})
    assert isinstance(failed, events.Failed)
    assert decide(failed, StopReason.CANCEL, 0, False) == Failed(failed)
    full = decide(LAST_EVENTS["disk_full"], None, 0, False)
    assert full == Lost("the disk is full: No space left on device", "disk_full")
    gone = events.Failed(code="disk_full", message="OSError: [Errno 5] Input/output error", data={"folder": "/data"})
    assert decide(gone, None, 0, False) == Lost(f"the disk cannot be used: {gone.message}", "disk_full", Path("/data"))
    mirror = events.Failed(code="store_unavailable", message="the mirror is away")
    assert decide(mirror, None, 0, False) == Lost("the mirror is away", "store_unavailable", elsewhere=True)


@pytest.mark.parametrize(
    ("exit_code", "detail"),
    [
        (-11, "the trainer process was killed by SIGSEGV"),
        (3, "the trainer process ended with exit code 3"),
        (255, "the trainer process ended; its exit code is unknown, since the trainer server is gone too"),
        (None, "the trainer process ended; its exit code is unknown, since the trainer server is gone too"),
    ],
)
def test_a_lost_attempt_says_how_its_trainer_ended(exit_code: int | None, detail: str) -> None:
    assert decide(None, None, exit_code, True) == Lost(detail, "trainer_died")
